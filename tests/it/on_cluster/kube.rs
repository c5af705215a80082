//! A cluster as its admin sees it: `kubectl`, `helm`, and the cables and plugs of its nodes.

use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{JoinHandle, spawn},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Deserializer, Value};

use crate::process::wait_until;

/// Where pods reach what the tests run.
pub const HOST: &str = "10.88.0.1";

/// Runs a command to its end, with this on its standard input; its output, or what it complained of.
fn output(command: &mut Command, input: &str) -> Result<String, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it is in the PATH");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads");
    let ended = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if ended.status.success() { Ok(text(&ended.stdout)) } else { Err(text(&ended.stderr)) }
}

pub fn try_kubectl(args: &[&str]) -> Result<String, String> {
    output(Command::new("kubectl").args(args), "")
}

pub fn kubectl(args: &[&str]) -> String {
    try_kubectl(args).unwrap_or_else(|said| panic!("kubectl {args:?}: {said}"))
}

pub fn json(args: &[&str]) -> Value {
    let text = kubectl(&[args, &["-o", "json"]].concat());
    serde_json::from_str(&text).expect("JSON")
}

pub fn apply(yaml: &str) {
    let applied = output(Command::new("kubectl").args(["apply", "-f", "-"]), yaml);
    applied.unwrap_or_else(|said| panic!("{said}\n{yaml}"));
}

/// By the eviction API, as a drain of its node does it, with a second of grace.
pub fn evict(namespace: &str, pod: &str) {
    let eviction = format!(
        "{{\"apiVersion\": \"policy/v1\", \"kind\": \"Eviction\", \
           \"metadata\": {{\"name\": \"{pod}\", \"namespace\": \"{namespace}\"}}, \
           \"deleteOptions\": {{\"gracePeriodSeconds\": 1}}}}"
    );
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
    let done =
        output(Command::new("kubectl").args(["create", "--raw", &path, "-f", "-"]), &eviction);
    done.unwrap_or_else(|said| panic!("{pod} is not evicted: {said}"));
}

pub fn try_helm(args: &[&str], values: &str) -> Result<String, String> {
    output(Command::new("helm").args(args), values)
}

/// `values` are read where the arguments say `-f -`.
pub fn helm(args: &[&str], values: &str) -> String {
    try_helm(args, values).unwrap_or_else(|said| panic!("helm {args:?}: {said}"))
}

/// As `tests/cluster/cluster` takes it.
pub fn cluster(args: &[&str]) {
    cluster_on("node1", args);
}

/// About the services of this node.
pub fn cluster_on(node: &str, args: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/cluster");
    let done = output(Command::new(script).args(args).env("K8S_NODE", node), "");
    done.unwrap_or_else(|said| panic!("cluster {args:?} on {node}: {said}"));
}

/// One pod of a release's workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub uid: String,
    pub node: String,
    pub ip: String,
    pub is_ready: bool,
    pub restarts: i64,
    /// When somebody asked for its end.
    pub told_to_go: Option<Timestamp>,
    /// How its container has ended.
    pub exit: Option<i64>,
    /// Why the one before that ended, and its exit code.
    pub before: Option<(String, i64)>,
}

impl Pod {
    fn of(object: &Value) -> Self {
        let (meta, status) = (&object["metadata"], &object["status"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let container = &status["containerStatuses"][0];
        let last = &container["lastState"]["terminated"];
        // What stands there is when its grace period ends.
        let told_to_go = meta["deletionTimestamp"].as_str().map(|end| {
            let grace = meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
            let end: Timestamp = end.parse().expect("a time");
            end - SignedDuration::from_secs(grace)
        });
        Self {
            name: text(&meta["name"]),
            uid: text(&meta["uid"]),
            node: text(&object["spec"]["nodeName"]),
            ip: text(&status["podIP"]),
            is_ready: container["ready"] == true,
            restarts: container["restartCount"].as_i64().unwrap_or(0),
            told_to_go,
            exit: container["state"]["terminated"]["exitCode"].as_i64(),
            before: last["exitCode"].as_i64().map(|code| (text(&last["reason"]), code)),
        }
    }
}

pub const WORKERS: &str = "app.kubernetes.io/component=worker";

pub fn pods(namespace: &str) -> Vec<Pod> {
    let all = json(&["-n", namespace, "get", "pods", "-l", WORKERS]);
    all["items"].as_array().expect("a list").iter().map(Pod::of).collect()
}

/// What became of every pod of a namespace since the watch began.
pub struct Watch {
    child: Child,
    seen: Arc<Mutex<BTreeMap<String, Pod>>>,
    reader: Option<JoinHandle<()>>,
}

impl Watch {
    pub fn start(namespace: &str) -> Self {
        let mut child = Command::new("kubectl")
            .args(["-n", namespace, "get", "pods", "-l", WORKERS, "--watch", "-o", "json"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it is in the PATH");
        let stdout = child.stdout.take().expect("it is piped");
        let seen = Arc::new(Mutex::new(BTreeMap::new()));
        let noted = seen.clone();
        let reader = spawn(move || {
            for object in
                Deserializer::from_reader(stdout).into_iter::<Value>().map_while(Result::ok)
            {
                let mut pod = Pod::of(&object);
                let mut noted = noted.lock().expect("no panic");
                // When it is gone, the moment of its end stands there instead.
                let told = noted.get(&pod.name).and_then(|before: &Pod| before.told_to_go);
                pod.told_to_go = told.or(pod.told_to_go);
                noted.insert(pod.name.clone(), pod);
            }
        });
        Self { child, seen, reader: Some(reader) }
    }

    pub fn seen(&self) -> Vec<Pod> {
        self.seen.lock().expect("no panic").values().cloned().collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
    }
}

/// Pids of the worker's own process in a pod, as this machine sees them.
fn processes_of(pod: &Pod) -> Vec<i32> {
    let uid = pod.uid.as_str();
    let numbered = std::fs::read_dir("/proc").expect("it is mounted").flatten();
    let pids = numbered.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let read = |pid: i32, file: &str| {
        let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    };
    pids.filter(|pid| {
        read(*pid, "cgroup").contains(uid)
            && read(*pid, "cmdline").contains("orchestrator-worker run")
    })
    .collect()
}

/// Leaves the container of a pod no more memory than it has, so that the kernel kills its largest process.
pub fn starve(pod: &Pod) {
    let pid = *processes_of(pod).first().expect("it has a process");
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives");
    let group = groups.lines().find_map(|line| line.split_once(":memory:")).expect("version 1").1;
    let file = |name: &str| format!("/sys/fs/cgroup/memory{group}/memory.{name}");
    wait_until("its memory is limited", || {
        let used = std::fs::read_to_string(file("usage_in_bytes")).ok()?;
        // The kernel refuses a limit that is below what it cannot take back.
        std::fs::write(file("limit_in_bytes"), used.trim()).ok()
    });
}

/// To the worker's own process in a pod.
pub fn signal(pod: &Pod, signal: Signal) {
    let pids = processes_of(pod);
    assert!(!pids.is_empty(), "{pod:?} has no process");
    for pid in pids {
        let pid = Pid::from_raw(pid).expect("not 0");
        kill_process(pid, signal).expect("it is there");
    }
}

/// Printed with every figure.
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

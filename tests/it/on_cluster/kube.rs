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
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};
use serde_json::{Deserializer, Value};
use tokio::{
    task::{JoinHandle as Task, block_in_place, spawn_blocking},
    time::Instant,
};

use crate::process::{CEILING, wait_until};

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

/// What they read where the arguments say `-f -`.
pub fn with_input(args: &[&str], input: &str) {
    let done = output(Command::new("kubectl").args(args), input);
    done.unwrap_or_else(|said| panic!("kubectl {args:?}: {said}\n{input}"));
}

pub fn apply(yaml: &str) {
    with_input(&["apply", "-f", "-"], yaml);
}

/// By the eviction API, as a drain of its node does it, with a second of grace.
pub fn evict(namespace: &str, pod: &str) {
    let eviction = format!(
        "{{\"apiVersion\": \"policy/v1\", \"kind\": \"Eviction\", \
           \"metadata\": {{\"name\": \"{pod}\", \"namespace\": \"{namespace}\"}}, \
           \"deleteOptions\": {{\"gracePeriodSeconds\": 1}}}}"
    );
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
    with_input(&["create", "--raw", &path, "-f", "-"], &eviction);
}

pub fn try_helm(args: &[&str], values: &str) -> Result<String, String> {
    output(Command::new("helm").args(args), values)
}

/// `values` are read where the arguments say `-f -`.
pub fn helm(args: &[&str], values: &str) -> String {
    try_helm(args, values).unwrap_or_else(|said| panic!("helm {args:?}: {said}"))
}

fn admins_config() -> Value {
    json(&["config", "view", "--raw"])
}

/// Of who is named so in a kubeconfig, or of the admin.
pub async fn config_of(user: Option<&Value>) -> Config {
    let mut config = block_in_place(admins_config);
    if let Some(user) = user {
        config["users"][0]["user"] = user.clone();
    }
    let config = Kubeconfig::from_yaml(&config.to_string()).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    Config::from_custom_kubeconfig(config, &options).await.expect("it is whole")
}

pub async fn as_admin() -> Client {
    Client::try_from(config_of(None).await).expect("a client")
}

/// As `tests/cluster/cluster` takes it.
pub fn cluster(args: &[&str]) {
    cluster_on("node1", args);
}

/// About the services of this node.
pub fn cluster_on(node: &str, args: &[&str]) {
    run_cluster(&[("K8S_NODE", node)], args);
}

/// With what the API server is to hold tokens against, by its file's name.
pub fn cluster_with(key: &str, args: &[&str]) {
    let config = admins_config();
    let ca = config["clusters"][0]["cluster"]["certificate-authority"].as_str().expect("a path");
    let key = Path::new(ca).with_file_name(key);
    run_cluster(&[("K8S_SA_KEY", key.to_str().expect("a text"))], args);
}

fn run_cluster(settings: &[(&str, &str)], args: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/cluster");
    let done = output(Command::new(script).args(args).envs(settings.iter().copied()), "");
    done.unwrap_or_else(|said| panic!("cluster {args:?}, {settings:?}: {said}"))
}

/// What the workers of a namespace in `tests/cluster/settings/audit.yaml` have asked the API server for, and how
/// often.
pub fn requests(namespace: &str) -> BTreeMap<String, usize> {
    let log = run_cluster(&[], &["logs", "audit", "1000000"]);
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    // A watch is told of at its beginning and at its end.
    let mut seen = BTreeMap::new();
    for line in lines.filter(|line| line["objectRef"]["namespace"] == namespace) {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let code = &line["responseStatus"]["code"];
        let what =
            format!("{} {}, {code}", text(&line["verb"]), text(&line["objectRef"]["resource"]));
        seen.entry(text(&line["auditID"])).or_insert(what);
    }
    let mut counts = BTreeMap::new();
    for what in seen.into_values() {
        *counts.entry(what).or_default() += 1;
    }
    counts
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

/// Of the worker's own process in a pod.
fn process_of(pod: &Pod) -> i32 {
    *processes_of(pod).first().unwrap_or_else(|| panic!("{pod:?} has no process"))
}

/// When the worker's own process in a pod ends, by whatever.
pub fn end_of(pod: &Pod) -> Task<Instant> {
    let pid = Pid::from_raw(process_of(pod)).expect("not 0");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("it is there");
    let ceiling = Timespec::try_from(CEILING).expect("not so long");
    spawn_blocking(move || {
        let mut ended = [PollFd::new(&process, PollFlags::IN)];
        assert_eq!(poll(&mut ended, Some(&ceiling)), Ok(1), "it ends");
        Instant::now()
    })
}

/// How many files it has open, sockets included.
pub fn descriptors(pod: &Pod) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", process_of(pod)));
    open.expect("it lives").count()
}

/// What of its memory is its own, in KiB.
pub fn memory(pod: &Pod) -> u64 {
    let path = format!("/proc/{}/status", process_of(pod));
    let status = std::fs::read_to_string(path).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    line.trim_end_matches("kB").trim().parse().expect("a number")
}

/// Leaves the container of a pod no more memory than it has, so that the kernel kills its largest process.
pub fn starve(pod: &Pod) {
    let pid = process_of(pod);
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

//! Scripts through a whole worker process, watched from outside: what it holds in memory, and what
//! it leaves open.

use serde_json::Value;

use super::*;
use crate::process::{Worker, json, wait_until};

/// A worker on an SQLite file, with a workflow to run.
struct Place {
    folder: TempDir,
    url: String,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}", folder.path().join("it.db").display());
        Self { folder, url }
    }

    /// A workflow of so many steps side by side.
    fn apply(&self, name: &str, steps: usize, script: &str) {
        let script = serde_json::to_string(script).expect("a text");
        let folder = self.folder.path().display();
        let step = |step| {
            format!(
                "- {{name: s{step}, mode: parallel, retries: 0, timeout: 10m, shell: {script}, \
                 env: {{DIR: '{folder}'}}}}\n"
            )
        };
        let steps: String = (0..steps).map(step).collect();
        let text = format!("name: {name}\nsteps:\n{steps}");
        let file = self.folder.path().join(format!("{name}.yaml"));
        fs::write(&file, text).expect("it can be written");
        json(&self.url, ["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
    }

    /// How it went.
    fn run(&self, name: &str) -> Value {
        json(&self.url, ["submit", name, "--wait"])
    }
}

fn open_files(worker: &Worker) -> usize {
    pids_in(Path::new(&format!("/proc/{}/fd", worker.pid()))).len()
}

/// Processes whose environment names the execution.
fn of_execution(execution: &str) -> usize {
    let mark = format!("ORCHESTRATOR_EXECUTION_ID={execution}");
    with_entry(&mark).len()
}

/// Numbers of kilobytes in lines such as `VmHWM:  1234 kB`.
fn peaks(text: &str) -> Vec<u64> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("VmHWM:"));
    let number = |line: &str| line.trim().trim_end_matches(" kB").parse().expect("a number");
    lines.map(number).collect()
}

#[test]
fn a_gigabyte_of_output_takes_no_memory_and_both_its_ends_are_kept() {
    let place = Place::new();
    let script = "worker=$(grep PPid /proc/$PPID/status | tr -dc 0-9)
        peaks() { grep -h VmHWM /proc/$worker/status /proc/$PPID/status; }
        peaks; head -c 1073741824 /dev/zero; echo; peaks; grep 'Max file size' /proc/self/limits";
    place.apply("flood", 1, script);
    let limits = [
        ("ORCHESTRATOR_WORKER__SHELL__LIMITS__FILE_SIZE", "1MiB"),
        ("ORCHESTRATOR_WORKER__SHELL__LIMITS__PROCESSES", "10"),
    ];
    let worker = Worker::start(&place.url, "a", &limits);
    let shown = place.run("flood");
    assert_eq!(shown["state"], "success", "{}", shown["error"]);
    let output = shown["steps"][0]["output"].as_str().expect("a text");
    assert!(output.len() <= 65_535 && output.contains(" bytes were cut here …]\n"));
    assert!(
        output.lines().last().is_some_and(|line| line.contains(" 1048576 ")),
        "its limits hold"
    );
    let peaks = peaks(output);
    let [worker_before, guardian_before, worker_after, guardian_after] = peaks[..] else {
        panic!("{peaks:?}")
    };
    println!("peaks in kB before and after a gigabyte: {peaks:?}");
    assert!(worker_after < worker_before + 16 * 1024, "{peaks:?}");
    assert!(guardian_after < guardian_before + 1024, "{peaks:?}");
    drop(worker);
}

#[test]
fn two_hundred_scripts_at_once_leave_neither_processes_nor_open_files() {
    const SCRIPTS: usize = 200;
    // Three lanes, of three files each.
    const CONNECTIONS: usize = 9;
    let place = Place::new();
    place.apply("one", 1, "true");
    let script = "touch \"$DIR/here.$ORCHESTRATOR_STEP_ID\"
        until [ -e \"$DIR/gate\" ]; do sleep 0.5; done; sleep 300 & echo met";
    place.apply("many", SCRIPTS, script);
    let at_once = [("ORCHESTRATOR_WORKER__STEP__AT_ONCE", "200")];
    let mut worker = Worker::start(&place.url, "a", &at_once);
    assert_eq!(place.run("one")["state"], "success");
    let before = open_files(&worker);

    let submitted = json(&place.url, ["submit", "many"]);
    let execution = submitted["execution"].as_str().expect("an id");
    let here = || {
        let entries = fs::read_dir(place.folder.path()).expect("readable").flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("here.")).count()
    };
    wait_until("all run at one time", || (here() == SCRIPTS).then_some(()));
    let (open, running) = (open_files(&worker), of_execution(execution));
    assert!(
        open >= before + 3 * SCRIPTS && running >= SCRIPTS,
        "{open} files, {running} processes"
    );
    fs::write(place.folder.path().join("gate"), "").expect("written");
    let shown = wait_until("all have ended", || {
        let shown = json(&place.url, ["show", execution]);
        (shown["state"] != "running").then_some(shown)
    });
    assert_eq!(shown["state"], "success", "{}", shown["error"]);
    let steps = shown["steps"].as_array().expect("steps");
    assert!(steps.iter().all(|step| step["output"] == "met\n"));
    assert_eq!(of_execution(execution), 0, "processes are left");
    // Further connections to the store, opened under load, are no leak.
    wait_until("no more files are open than before", || {
        (open_files(&worker) <= before + CONNECTIONS).then_some(())
    });
    println!("open files: {before} before, {open} meanwhile, {} afterwards", open_files(&worker));
    worker.signal(rustix::process::Signal::TERM);
    assert!(worker.wait().success());
}

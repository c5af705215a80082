//! Real workers that are set to run one execution of a template at a time.

use std::{fs, path::Path};

use rustix::process::Signal;

use crate::{
    contract::world::World,
    crash::Served,
    process::{Worker, json, wait_until},
};

macro_rules! one_per_template {
    ($module:ident, $subject:ty) => {
        mod $module {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn executions_of_one_template_never_overlap_though_a_worker_dies() {
                crate::one_per_template::executions_of_one_template_never_overlap_though_a_worker_dies::<
                    $subject,
                >()
                .await;
            }
        }
    };
}

one_per_template!(on_sqlite_file, crate::contract::sqlite::File);
one_per_template!(on_mysql, crate::mysql::Database<crate::mysql::MySql>);
one_per_template!(on_mariadb, crate::mysql::Database<crate::mysql::MariaDb>);

const EXECUTIONS: usize = 4;

/// Writes down when an execution begins and when it ends; the first of all waits for a gate.
fn workflow(folder: &Path) -> std::path::PathBuf {
    let file = folder.join("alone.yaml");
    let text = format!(
        r#"
name: alone
steps:
  - name: begin
    env: {{DIR: "{0}"}}
    shell: echo "begin $ORCHESTRATOR_EXECUTION_ID" >> "$DIR/log"
  - name: work
    depends_on: [begin]
    timeout: 10m
    env: {{DIR: "{0}"}}
    shell: until [ -e "$DIR/gate" ]; do sleep 0.05; done
  - name: end
    depends_on: [work]
    env: {{DIR: "{0}"}}
    shell: echo "end $ORCHESTRATOR_EXECUTION_ID" >> "$DIR/log"
"#,
        folder.display()
    );
    fs::write(&file, text).expect("it can be written");
    file
}

fn log(folder: &Path) -> Vec<String> {
    let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
    log.lines().map(str::to_owned).collect()
}

pub async fn executions_of_one_template_never_overlap_though_a_worker_dies<S: Served>() {
    let world = World::<S>::new().await;
    let (folder, url) = (tempfile::tempdir().expect("a folder"), world.subject.url());
    let file = workflow(folder.path());
    json(&url, ["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
    for _ in 0..EXECUTIONS {
        json(&url, ["submit", "alone"]);
    }
    let set = [("ORCHESTRATOR_WORKER__CLAIM__ONE_PER_TEMPLATE", "true")];
    let first = Worker::start(&url, "a", &set);
    wait_until("one has begun", || (log(folder.path()).len() == 1).then_some(()));
    let mut second = Worker::start(&url, "b", &set);
    second.wait_for("worker.started");
    first.signal(Signal::KILL);
    fs::write(folder.path().join("gate"), "").expect("it can be written");

    let ended = || {
        let listed = json(&url, ["list", "--state", "success"]);
        listed.as_array().is_some_and(|all| all.len() == EXECUTIONS).then_some(())
    };
    wait_until("all have ended", ended);
    let log = log(folder.path());
    assert_eq!(log.len(), 2 * EXECUTIONS, "each once: {log:?}");
    for pair in log.chunks(2) {
        assert_eq!(pair[0].replace("begin", "end"), pair[1], "none began in another: {log:?}");
    }
    second.signal(Signal::TERM);
    assert!(second.wait().success());
    let locks = json(&url, ["locks", "list"]);
    let left = locks.as_array().expect("a list").iter().filter_map(|lock| lock["key"].as_str());
    assert_eq!(left.filter(|key| key.starts_with("workflow_template:")).count(), 0);
}

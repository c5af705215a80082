//! A release from its installation to its end.

use std::{fs, path::Path};

use tokio::task::block_in_place;

use super::{
    kube::{apply, kubectl, seconds},
    stand::{RELEASE, Stand, image},
};
use crate::{nemesis::say, process::wait_until};

/// What the server cannot offer here: it has no certificate for its address.
const NO_TLS: &str = "config: {database: {tls: insecure}}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_release_is_installed_tested_upgraded_rolled_back_and_removed() {
    let stand = Stand::new("life").await;
    block_in_place(|| {
        let took = stand.install(NO_TLS);
        say(&format!("life: helm install until both pods were ready: {}", seconds(took)));
        let first = stand.ready(2);
        assert!(first.iter().all(|pod| pod.restarts == 0), "{first:?}");
        let tested = stand.helm(&["test", RELEASE, "--logs"]);
        assert!(tested.contains("Succeeded"), "{tested}");
        assert!(tested.contains("no problem"), "the doctor's words are in the log: {tested}");

        stand.install("config: {slots: 3, database: {tls: insecure}}\n");
        let second = stand.ready(2);
        assert!(second.iter().all(|pod| first.iter().all(|it| it.uid != pod.uid)), "new pods");
        stand.helm(&["rollback", RELEASE, "1", "--wait", "--timeout", "3m"]);
        let third = stand.ready(2);
        assert!(third.iter().all(|pod| pod.restarts == 0), "{third:?}");

        jobs_submit_from_within(&stand);
        rights_are_those_of_anybody(&stand);
        stand.helm(&["uninstall", RELEASE, "--wait", "--timeout", "3m"]);
        wait_until("the pods are gone", || stand.pods().is_empty().then_some(()));
        let kinds = "all,configmap,secret,serviceaccount,poddisruptionbudget,networkpolicy,role,rolebinding";
        let release = format!("app.kubernetes.io/instance={RELEASE}");
        let left = stand.kubectl(&["get", kinds, "-l", &release, "-o", "name"]);
        assert_eq!(left.trim(), "", "it leaves nothing behind");
    });
    assert_eq!(stand.one::<i64>("SELECT COUNT(*) FROM ow_meta").await, 1, "the tables stay");
    for (by, count) in [("job/submit-hello", 1), ("cronjob/submit-release", 1)] {
        let submitted = format!("SELECT COUNT(*) FROM workflow_executions WHERE created_by='{by}'");
        assert_eq!(stand.one::<i64>(&submitted).await, count, "{by}");
    }
}

/// What `deploy/submit` does in a cluster where the release and its Secret have these names.
fn jobs_submit_from_within(stand: &Stand) {
    let given = |file: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/submit").join(file);
        let mut text = fs::read_to_string(path).expect("it is there");
        for (theirs, ours) in [
            ("\nmetadata:\n  name:", format!("\nmetadata:\n  namespace: {}\n  name:", stand.name)),
            ("registry.example/orchestrator-worker:0.1.0", image()),
            ("name: orchestrator-database", "name: database".into()),
            ("name: worker-orchestrator-worker", format!("name: {RELEASE}")),
        ] {
            assert!(text.contains(theirs), "{file} has {theirs:?}");
            text = text.replace(theirs, &ours);
        }
        text
    };
    apply(&given("job.yaml"));
    // It waits, and ends as the workflow does.
    stand.kubectl(&["wait", "--for=condition=complete", "job/submit-hello", "--timeout=2m"]);
    apply(&given("cronjob.yaml").replace("[submit, release]", "[submit, hello-from-a-job]"));
    stand.kubectl(&["create", "job", "--from=cronjob/submit-release", "today"]);
    stand.kubectl(&["wait", "--for=condition=complete", "job/today", "--timeout=2m"]);
}

/// The chart gives its service account no rights, and its pods no token.
fn rights_are_those_of_anybody(stand: &Stand) {
    let may = |account: &str| {
        let who = format!("--as=system:serviceaccount:{}:{account}", stand.name);
        kubectl(&["-n", stand.name, "auth", "can-i", "--list", &who])
    };
    assert_eq!(may(RELEASE), may("default"));
    let pod = &stand.pods()[0].name;
    let token = "ls /var/run/secrets/kubernetes.io/serviceaccount 2>/dev/null || echo none";
    assert_eq!(stand.kubectl(&["exec", pod, "--", "sh", "-c", token]).trim(), "none");
    let user = stand.kubectl(&[
        "exec",
        pod,
        "--",
        "sh",
        "-c",
        "id -u; touch /x 2>/dev/null || echo read-only",
    ]);
    assert_eq!(user.split_whitespace().collect::<Vec<_>>(), ["65532", "read-only"]);
}

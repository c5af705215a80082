//! One story's namespace: a MySQL server that pods reach through a proxy, a Secret with its URL, a
//! volume in which steps write down what they do, and a release of the chart.
//!
//! **Invariant:** all of it ends with its handle.

use std::{net::IpAddr, sync::Arc, time::Duration};

use orchestrator_worker::adapters::mysql::{MySqlStore, Settings};
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, Row as _, mysql::MySqlRow, raw_sql};
use tokio::{
    sync::watch,
    task::{JoinSet, block_in_place},
    time::{Instant, sleep},
};

use super::kube::{HOST, Pod, apply, helm, kubectl, pods, try_helm, try_kubectl};
use crate::{
    instance::Instance,
    mysql::PASSWORD,
    nemesis::{
        history::violations,
        say, shown,
        workload::{Workload, ask, left, needs, rows},
    },
    process::wait_until,
    proxy::Proxy,
};

pub const RELEASE: &str = "w";
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/helm/orchestrator-worker");
const USER: &str = "worker";
/// A run that has not ended so long after its last disturbance never will.
const CEILING: Duration = Duration::from_secs(180);

pub struct Stand {
    /// Of the namespace and of the database.
    pub name: &'static str,
    pub proxy: Proxy,
    server: Instance,
    pub workload: Arc<Workload>,
}

/// The image that `tests/cluster/run` has loaded, as the chart takes it.
#[expect(
    clippy::disallowed_methods,
    reason = "tests/cluster/run speaks to tests by its environment"
)]
pub fn image() -> String {
    let image = std::env::var("ORCHESTRATOR_TEST_IMAGE");
    image.expect(
        "ORCHESTRATOR_TEST_IMAGE is not set; tests/cluster/run sets it, or leave on_cluster out",
    )
}

impl Stand {
    pub async fn new(name: &'static str) -> Self {
        let server = block_in_place(|| Instance::start("mysql"));
        let address = server.url.rsplit('@').next().map(|rest| rest.trim_end_matches('/'));
        let address = address.and_then(|it| it.parse().ok()).expect("an address");
        let host: IpAddr = HOST.parse().expect("an address");
        let proxy = Proxy::start_on(host, address).await;
        let stand = Self { name, proxy, server, workload: Arc::new(Workload::for_pods()) };
        stand
            .root(&format!(
                "CREATE DATABASE `{name}`; CREATE USER {USER} IDENTIFIED BY '{PASSWORD}'; \
                 GRANT ALL ON `{name}`.* TO {USER}"
            ))
            .await;
        block_in_place(|| {
            apply(&stand.objects());
            stand.set_secret(&stand.pods_url(), PASSWORD);
        });
        stand
    }

    /// Where the steps of pods write is one folder of this machine, whose nodes have its files.
    fn objects(&self) -> String {
        let (name, folder) = (self.name, self.workload.folder().display());
        format!(
            "apiVersion: v1
kind: Namespace
metadata: {{name: {name}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteMany]
  storageClassName: none
  claimRef: {{namespace: {name}, name: effects}}
  hostPath: {{path: \"{folder}\"}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: effects, namespace: {name}}}
spec:
  accessModes: [ReadWriteMany]
  storageClassName: none
  volumeName: {name}
  resources: {{requests: {{storage: 1Gi}}}}
"
        )
    }

    /// How pods reach the database.
    pub fn pods_url(&self) -> String {
        format!("mysql://{USER}:{PASSWORD}@{}/{}", self.proxy.address(), self.name)
    }

    /// How this test does.
    pub fn url(&self) -> String {
        format!("{}{}", self.server.url, self.name)
    }

    pub fn set_secret(&self, url: &str, password: &str) {
        apply(&format!(
            "apiVersion: v1
kind: Secret
metadata: {{name: database, namespace: {}}}
stringData: {{url: \"{url}\", password: \"{password}\"}}
",
            self.name
        ));
    }

    pub async fn root(&self, sql: &str) {
        let mut connection = MySqlConnection::connect(&self.server.url).await.expect("a server");
        raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.expect("it is done");
    }

    pub async fn exec(&self, sql: &str) {
        self.root(&format!("USE `{}`; {sql}", self.name)).await;
    }

    pub async fn one<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::MySql> + sqlx::Type<sqlx::MySql>,
    {
        ask(&self.url(), sql).await.expect("the tables")[0].get(0)
    }

    /// Waits until there is such a row.
    pub async fn until_row(&self, sql: &str) -> MySqlRow {
        let since = Instant::now();
        loop {
            if let Some(row) = ask(&self.url(), sql).await.expect("the tables").pop() {
                return row;
            }
            assert!(since.elapsed() < CEILING, "no row of {sql}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn control(&self) -> MySqlStore {
        let settings = Settings::new(SecretString::from(self.url()));
        MySqlStore::open(settings).await.expect("a store")
    }

    /// What a user has to give, and short times.
    fn values(&self, more: &str) -> String {
        let (repository, tag) =
            image().rsplit_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a tag");
        let folder = self.workload.folder().display();
        format!(
            "fullnameOverride: {RELEASE}
image: {{repository: {repository}, tag: {tag}, pullPolicy: Never}}
database: {{existingSecret: database}}
extraVolumes: [{{name: effects, persistentVolumeClaim: {{claimName: effects}}}}]
extraVolumeMounts: [{{name: effects, mountPath: \"{folder}\"}}]
rollout: {{minReadySeconds: 1}}
resources: {{requests: {{cpu: 10m}}}}
{more}"
        )
    }

    /// Installs or upgrades the release, and waits until all its pods are ready; how long it took.
    pub fn install(&self, more: &str) -> Duration {
        self.helm_release(more, &["--wait"])
    }

    /// As [`Stand::install`], without waiting for anything but its hooks.
    pub fn install_only(&self, more: &str) {
        self.helm_release(more, &[]);
    }

    fn helm_release(&self, more: &str, flags: &[&str]) -> Duration {
        let began = Instant::now();
        let words =
            ["-n", self.name, "upgrade", "--install", RELEASE, CHART, "-f", "-", "--timeout", "3m"];
        helm(&[&words, flags].concat(), &self.values(more));
        began.elapsed()
    }

    pub fn helm(&self, args: &[&str]) -> String {
        helm(&[&["-n", self.name], args].concat(), "")
    }

    pub fn kubectl(&self, args: &[&str]) -> String {
        kubectl(&[&["-n", self.name], args].concat())
    }

    /// What its worker has said so far.
    pub fn log(&self, pod: &Pod) -> String {
        try_kubectl(&["-n", self.name, "logs", &pod.name]).unwrap_or_default()
    }

    pub fn pods(&self) -> Vec<Pod> {
        pods(self.name)
    }

    /// Waits until exactly so many pods are there, all ready, and none of them is to go.
    pub fn ready(&self, count: usize) -> Vec<Pod> {
        wait_until("the pods are ready", || {
            let pods = self.pods();
            let is_ready = |pod: &Pod| pod.is_ready && pod.told_to_go.is_none();
            (pods.len() == count && pods.iter().all(is_ready)).then_some(pods)
        })
    }

    /// The templates of the workload, once the tables are there.
    pub async fn apply_workload(&self) {
        self.workload.apply(&self.control().await).await;
    }

    /// Keeps so many executions waiting or running until the handle is ended; each fifth is one of
    /// these templates in turn.
    pub async fn load(&self, under_way: i64, named: &'static [&'static str]) -> Load {
        let (over, is_over) = watch::channel(false);
        let (control, workload, url) = (self.control().await, self.workload.clone(), self.url());
        let mut submitting = JoinSet::new();
        submitting.spawn(async move {
            let mut random = rand::SeedableRng::seed_from_u64(7);
            let mut submitted = 0;
            let mut named = named.iter().cycle();
            while !*is_over.borrow() {
                for _ in left(&url).await.unwrap_or(under_way)..under_way {
                    submitted += 1;
                    let chosen = if submitted % 5 == 0 { named.next() } else { None };
                    let is_in = match chosen {
                        Some(template) => workload.submit(&control, template).await,
                        None => workload.submit_any(&control, &mut random).await,
                    };
                    assert!(is_in, "this test's own way to the database is undisturbed");
                }
                sleep(Duration::from_millis(200)).await;
            }
            submitted
        });
        Load { over, submitting }
    }

    /// Waits until every execution has ended, and holds what the steps wrote against the tables.
    pub async fn judge(&self) {
        let since = Instant::now();
        // Whatever is left then is a violation of its own.
        while left(&self.url()).await.unwrap_or(1) > 0 && since.elapsed() < CEILING {
            sleep(Duration::from_millis(200)).await;
        }
        let rows = rows(&self.url(), needs).await.expect("the tables");
        let found = violations(&self.workload.effects(), &rows);
        say(&format!(
            "{}: {} executions, {} violations",
            self.name,
            rows.executions.len(),
            found.len()
        ));
        assert_eq!(found, [], "{}", shown(&found));
        assert!(!rows.executions.is_empty());
    }
}

pub struct Load {
    over: watch::Sender<bool>,
    submitting: JoinSet<u32>,
}

impl Load {
    /// How many were submitted.
    pub async fn end(mut self) -> u32 {
        self.over.send_replace(true);
        self.submitting.join_next().await.expect("it runs").expect("no panic")
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        let name = self.name;
        try_helm(&["-n", name, "uninstall", RELEASE, "--no-hooks"], "").ok();
        try_kubectl(&[
            "-n",
            name,
            "delete",
            "pods",
            "--all",
            "--grace-period=1",
            "--wait=true",
            "--timeout=60s",
        ])
        .ok();
        try_kubectl(&["delete", "namespace", name, "--wait=false"]).ok();
        try_kubectl(&["delete", "persistentvolume", name, "--wait=false"]).ok();
    }
}

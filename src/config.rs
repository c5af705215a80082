//! Configuration: defaults, then a file, then the environment, then flags, each over the one
//! before, into one validated [`Config`].
//!
//! **Invariant:** whoever holds a [`Config`] checks nothing in it again, and nothing else in the
//! program reads our environment. A secret in it is never shown by `Debug` or in an error.
//!
//! Variables that other crates read themselves: `OTEL_*` and the proxies' variables (the exporter;
//! HTTP steps use no proxy), `NO_COLOR` and `COLUMNS` (help texts), `SSL_CERT_FILE` and
//! `SSL_CERT_DIR` (`rustls-native-certs`, for the database and for HTTP steps), `KUBERNETES_SERVICE_HOST` and
//! `_PORT` (`kube`, for the API server of a pod's cluster).

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::SecretString;
use url::Url;

use crate::{
    domain::{
        drain_contract::PodTerms,
        eligibility::Eligibility,
        id::Owner,
        lease::LeaseTerms,
        pod::{OwnPod, PodProcess},
        retention::Retention,
        retry::Backoff,
        trace::{Mode, Sampling},
    },
    orchestrator::LockConfig,
    telemetry,
};

mod check;
mod database;
mod error;
mod http;
mod layers;
mod listing;
mod settings;

pub use database::{MySql, Sqlite, Store, Tls};
pub use error::ConfigError;
pub use http::Http;
pub use layers::Flags;
pub use listing::Setting;

/// All settings, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The configuration file that was read, if there was one.
    pub file: Option<PathBuf>,
    pub store: Store,
    /// Where leases are kept, if not in the store.
    pub leases: Option<LockConfig>,
    pub worker: Worker,
    pub shell: Shell,
    pub http: Http,
    /// Where the admin port listens; `None` for `off`.
    pub admin: Option<SocketAddr>,
    /// Folders of running steps stand in here.
    pub state_dir: PathBuf,
    /// What the pod is given, if whoever made it says so.
    pub pod: Option<PodTerms>,
    /// Labels of the pods whose ends are watched.
    pub dead_owner_watch: Option<String>,
    /// Name of the pod that is marked as busy while this worker is.
    pub busy_marks: Option<String>,
    /// Name of the node that is watched.
    pub cordon_watch: Option<String>,
    /// Which `ReplicaSets` are watched.
    pub rollout_aware: Option<ReplicaSets>,
    /// The pod on which this worker tells, as events, what happens to it.
    pub events: Option<OwnPod>,
    pub log: Log,
    pub otlp: Otlp,
    /// How many traces an execution has.
    pub trace_mode: Mode,
    /// Kubernetes started this process.
    pub in_pod: bool,
    /// Tables and logs may have colours on a terminal.
    pub colour: bool,
    /// Who uses this program: recorded with what is applied and submitted.
    pub user: String,
}

/// Settings of the worker's loops.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    pub owner: Owner,
    /// The pod's process, with the pod's UID from `POD_UID`.
    pub process: PodProcess,
    /// Executions at one time.
    pub slots: usize,
    pub poll_interval: Duration,
    pub terms: LeaseTerms,
    /// Executions in one claim.
    pub claim_batch: usize,
    pub eligibility: Eligibility,
    pub unknown_after: Duration,
    pub drain_deadline: Duration,
    /// Steps of one execution at one time.
    pub steps_at_once: usize,
    pub backoff: Backoff,
    /// Unclean ends in a row after which an execution is failed.
    pub poison_claims: u32,
    pub retention: Retention,
    /// Take over what the orchestrator itself has left running.
    pub adopt_orphans: bool,
}

/// The `ReplicaSets` of a worker's Deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSets {
    pub labels: String,
    /// Of the one that this worker's pod is of.
    pub template_hash: String,
}

/// Settings of shell steps.
#[derive(Clone, Debug)]
pub struct Shell {
    /// Between TERM and KILL.
    pub grace: Duration,
    /// Variables of this process that shell steps see, those that are set.
    pub pass_env: BTreeMap<String, SecretString>,
    /// Store what a running step has printed, for whoever follows it.
    pub live_output: bool,
    pub limits: ShellLimits,
}

/// What a script may use; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShellLimits {
    /// Bytes of address space that each process may have.
    pub memory: Option<u64>,
    /// Processes at one time.
    pub processes: Option<u32>,
    /// Bytes of a file.
    pub file_size: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// In the words of `RUST_LOG`; `None` for the default of the command.
    pub filter: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON else.
    Auto,
    Text,
    Json,
}

/// Whether spans are sent anywhere. Where and how is in `OTEL_*`, which the exporter reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Otlp {
    pub enabled: bool,
    /// Host and port of the endpoint, where it is a URL.
    pub collector: Option<(String, u16)>,
    /// What is said of this process with its spans, beside what the environment says.
    pub resource: Vec<(&'static str, String)>,
    /// `None`: the environment asks for a sampler that there is not.
    pub sampling: Option<Sampling>,
    /// The environment says how often to send.
    pub paced: bool,
    /// The environment asks for another protocol than HTTP with protobuf.
    pub other_protocol: bool,
}

/// What surrounds the process, so that loading a configuration is a function of values.
#[derive(Clone, Debug)]
pub struct Surroundings {
    pub env: BTreeMap<String, String>,
    pub hostname: String,
    /// Six characters that tell two workers on one host apart.
    pub suffix: String,
    /// Where the default database stands.
    pub directory: PathBuf,
    /// The first of these that exists is the configuration file, unless one is named.
    pub files: Vec<PathBuf>,
}

impl Surroundings {
    /// Those of this process. Values that are not UTF-8 are taken as far as they are.
    pub fn of_this_process() -> Self {
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        Self {
            env: std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect(),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            suffix: format!("{:06x}", rand::random::<u32>() & 0x00ff_ffff),
            directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
            files: vec![
                PathBuf::from("./orchestrator-worker.yaml"),
                PathBuf::from("/etc/orchestrator-worker/config.yaml"),
            ],
        }
    }

    /// A variable that is set to something.
    fn var(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn in_pod(&self) -> bool {
        self.var("KUBERNETES_SERVICE_HOST").is_some()
    }
}

impl Config {
    /// Reads the configuration file and checks everything.
    ///
    /// # Errors
    ///
    /// Says in one sentence which key is wrong, where its value came from, and what to do.
    pub fn load(flags: &Flags, around: &Surroundings) -> Result<Self, ConfigError> {
        let layers = layers::load(flags, around)?;
        let (settings, origins) = (&layers.settings, &layers.origins);
        let worker = check::worker(settings, origins, around)?;
        let store = database::store(&layers, around)?;
        Ok(Self {
            leases: check::leases(settings, origins, &store)?,
            store,
            otlp: otlp(around, &worker.owner),
            worker,
            trace_mode: check::trace_mode(settings, origins)?,
            shell: check::shell(settings, origins, around)?,
            http: http::http(settings, origins, around)?,
            admin: check::admin(settings, origins, around.in_pod())?,
            pod: check::pod(settings, origins)?,
            busy_marks: check::busy_marks(settings, origins, around)?,
            cordon_watch: check::cordon_watch(settings, origins, around)?,
            rollout_aware: check::rollout_aware(settings, origins, around)?,
            events: check::events(settings, origins, around)?,
            dead_owner_watch: settings.pod.dead_owner_watch.clone().filter(|it| !it.is_empty()),
            state_dir: state_dir(settings.state_dir.as_deref(), around),
            log: check::log(settings, origins)?,
            in_pod: around.in_pod(),
            colour: around.var("NO_COLOR").is_none(),
            user: around.var("USER").unwrap_or("orchestrator-worker").into(),
            file: layers.file,
        })
    }
}

fn state_dir(setting: Option<&str>, around: &Surroundings) -> PathBuf {
    PathBuf::from(setting.or_else(|| around.var("TMPDIR")).unwrap_or("/tmp"))
}

fn otlp(around: &Surroundings, owner: &Owner) -> Otlp {
    let endpoint = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
        .iter()
        .find_map(|name| around.var(name));
    let is = |name, word| around.var(name).is_some_and(|value| value.eq_ignore_ascii_case(word));
    let off = is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none");
    Otlp {
        enabled: !off && endpoint.is_some(),
        collector: endpoint.and_then(host_and_port),
        resource: resource(around, owner),
        sampling: around.var("OTEL_TRACES_SAMPLER").map_or_else(
            || Some(Sampling::default()),
            |name| Sampling::parse(name, around.var("OTEL_TRACES_SAMPLER_ARG")),
        ),
        paced: around.var("OTEL_BSP_SCHEDULE_DELAY").is_some(),
        other_protocol: ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]
            .iter()
            .find_map(|name| around.var(name))
            .is_some_and(|protocol| protocol != "http/protobuf"),
    }
}

/// Who sends spans, as far as the environment does not say it in the words of OpenTelemetry.
fn resource(around: &Surroundings, owner: &Owner) -> Vec<(&'static str, String)> {
    let said = around.var("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let is_said = |name: &str| {
        let mut names = said.split(',').filter_map(|it| Some(it.split_once('=')?.0.trim()));
        names.any(|said| said == name)
            || (name == "service.name" && around.var("OTEL_SERVICE_NAME").is_some())
    };
    let known = [
        ("service.name", Some(telemetry::SERVICE)),
        ("service.version", Some(env!("CARGO_PKG_VERSION"))),
        ("service.instance.id", Some(owner.as_str())),
        ("k8s.pod.name", around.var("POD_NAME")),
        ("k8s.pod.uid", around.var("POD_UID")),
        ("k8s.namespace.name", around.var("POD_NAMESPACE")),
        ("k8s.node.name", around.var("NODE_NAME")),
    ];
    let missing = known.into_iter().filter(|(name, _)| !is_said(name));
    missing.filter_map(|(name, value)| Some((name, value?.to_owned()))).collect()
}

fn host_and_port(endpoint: &str) -> Option<(String, u16)> {
    let url = Url::parse(endpoint).ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']);
    Some((host.to_owned(), url.port_or_known_default()?))
}

/// The name under which this process owns leases: the pod's, else the configured one, else the
/// host's with a suffix.
fn owner_name(setting: Option<&str>, around: &Surroundings) -> String {
    let host = || {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
        let host: String = around.hostname.chars().take(200).map(plain).collect();
        format!("{host}-{}", around.suffix)
    };
    around.var("POD_NAME").or(setting).map_or_else(host, str::to_owned)
}

/// A path as it is shown to people.
fn shown(path: &Path) -> String {
    path.display().to_string()
}

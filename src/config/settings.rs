//! The settings as a user writes them, with their defaults.
//!
//! **Invariant:** this is the one list of keys: what is not a field here is refused, in the file
//! and in the environment.

use serde::{Deserialize, Serialize};

use crate::{
    domain::lock_table::LockTable,
    orchestrator::{EtcdLockConfig, LockConfig, RedisLockConfig},
};

/// A level of the configuration: fields with their defaults.
macro_rules! level {
    ($name:ident { $($(#[$attr:meta])* $field:ident: $type:ty = $default:expr),* $(,)? }) => {
        #[derive(Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$attr])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

level!(Settings {
    /// Name of this worker; a pod's own name comes first.
    name: Option<String> = None,
    /// Executions at one time.
    slots: usize = 10,
    poll_interval: String = "1s".into(),
    drain_deadline: String = "60s".into(),
    /// The system's temporary folder if it is not given.
    state_dir: Option<String> = None,
    lock: Lock = Lock::default(),
    claim: Claim = Claim::default(),
    step: Step = Step::default(),
    shell: Shell = Shell::default(),
    http: Http = Http::default(),
    poison: Poison = Poison::default(),
    retention: Retention = Retention::default(),
    database: Database = Database::default(),
    admin: Admin = Admin::default(),
    pod: Pod = Pod::default(),
    log: Log = Log::default(),
    trace: Trace = Trace::default(),
});

level!(Lock {
    /// Where leases are kept: `store` (`mysql` is the same where that is the database), `redis` or `etcd`.
    provider: String = LockConfig::STORE.into(),
    ttl: String = "30s".into(),
    renew_every: String = "5s".into(),
    /// What an orchestrator's MySQL database calls its lock table.
    table: String = LockTable::USUAL.into(),
    redis: RedisLockConfig = RedisLockConfig::default(),
    etcd: EtcdLockConfig = EtcdLockConfig::default(),
});

level!(Claim {
    /// As many as there are slots, at most 50, if it is not given.
    batch: Option<usize> = None,
    unknown_after: String = "10m".into(),
    /// Names of templates; no others are claimed if there are any.
    include: Option<Names> = None,
    /// Names of templates that are not claimed.
    exclude: Option<Names> = None,
    /// `hold` or `run`: rows that were a day old when the tables were first migrated.
    backlog: String = "hold".into(),
    /// Of each template one execution at a time, under the lock of the template.
    one_per_template: bool = false,
    /// Take over what the orchestrator itself has left running, its lock expired.
    adopt_orphans_of_go_service: bool = false,
});

level!(Step {
    /// Steps of one execution at one time.
    at_once: usize = 16,
    backoff: Backoff = Backoff::default(),
});

level!(Backoff { base: String = "1s".into(), cap: String = "60s".into() });

level!(Shell {
    grace: String = "2s".into(),
    pass_env: Option<Names> = None,
    /// What a running step has printed is stored every 2 s.
    live_output: bool = true,
    limits: ShellLimits = ShellLimits::default(),
});

level!(ShellLimits {
    /// Bytes of address space that each process of a script may have.
    memory: Option<String> = None,
    /// Processes of a script at one time.
    processes: Option<u32> = None,
    /// Bytes of each file that a script writes.
    file_size: Option<String> = None,
});

level!(Retention {
    /// How long executions are kept that ended like this; for good if it is not given.
    success: Option<String> = None,
    failed: Option<String> = None,
    cancelled: Option<String> = None,
});

level!(Http {
    timeout: HttpTimeout = HttpTimeout::default(),
    body: HttpBody = HttpBody::default(),
    deny_private: bool = false,
    allow: Option<Names> = None,
    deny: Option<Names> = None,
});

level!(HttpTimeout { connect: String = "5s".into() });

level!(HttpBody { sent: String = "1MiB".into(), read: String = "8MiB".into() });

level!(Poison { claims: u32 = 10 });

level!(Database {
    url: Option<String> = None,
    /// The password of the URL's user, read at every connect; none stands in the URL then.
    password_file: Option<String> = None,
    tls: String = "verify_identity".into(),
    time_offset: String = "+00:00".into(),
    single_writer: bool = false,
    pool: Pool = Pool::default(),
});

level!(Pool { lease: usize = 2, work: usize = 4 });

level!(Admin {
    /// `0.0.0.0:9400` in a pod and `127.0.0.1:9400` else, if it is not given.
    listen: Option<String> = None,
});

level!(Pod {
    /// What its `terminationGracePeriodSeconds` says, which a pod cannot read.
    termination_grace_period: Option<String> = None,
    /// How long its preStop hook takes.
    pre_stop: String = "0s".into(),
    /// Whether a disruption budget guards the workers' pods.
    disruption_budget: Option<bool> = None,
    /// Labels of the workers' pods, whose ends are watched with the Kubernetes API; not at all if none are
    /// given.
    dead_owner_watch: Option<String> = None,
    /// Say on the own pod, with the Kubernetes API, whether it is at work.
    busy_marks: bool = false,
    /// Stand by, with the Kubernetes API, while the own pod's node is to be emptied.
    cordon_watch: bool = false,
    /// Labels of the workers' `ReplicaSets`, which are watched with the Kubernetes API to stand by while pods of a
    /// newer one than the own are ready; not at all if none are given.
    rollout_aware: Option<String> = None,
    /// Tell on the own pod, as events of Kubernetes, what happens to it.
    events: bool = false,
});

level!(Trace {
    /// `continuous` or `linked`: one trace an execution, or one a lease.
    mode: String = "continuous".into(),
});

level!(Log {
    format: String = "auto".into(),
    filter: Option<String> = None,
});

/// A list, or in a variable names with commas between them.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "give a list of names, or names with commas between them")]
pub enum Names {
    List(Vec<String>),
    Text(String),
}

impl Names {
    pub fn to_list(&self) -> Vec<String> {
        match self {
            Self::List(names) => names.clone(),
            Self::Text(text) => text
                .split(',')
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty())
                .collect(),
        }
    }
}

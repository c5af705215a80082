//! Configuration as tables: what wins over what, and every refusal's sentence.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::PathBuf, time::Duration};

use orchestrator_worker::{
    config::{
        Config, ConfigError, Flags, LogFormat, Otlp, ShellLimits, Sqlite, Store, Surroundings, Tls,
    },
    domain::{
        egress::{Policy, Rule},
        pod::OwnPod,
        trace::{Mode, Sampling},
    },
};
use secrecy::ExposeSecret;
use tempfile::TempDir;

mod refusals;

/// A machine with a configuration file of this text, if it is not empty, and these variables.
struct Machine {
    around: Surroundings,
    folder: TempDir,
}

impl Machine {
    fn new(file: &str, env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("orchestrator-worker.yaml");
        if !file.is_empty() {
            fs::write(&path, file).expect("the file is written");
        }
        let around = Surroundings {
            env: env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            hostname: "host".into(),
            suffix: "abc123".into(),
            directory: "/here".into(),
            files: vec![path, folder.path().join("etc.yaml")],
        };
        Self { around, folder }
    }

    fn load(&self, flags: &Flags) -> Result<Config, ConfigError> {
        Config::load(flags, &self.around)
    }

    /// The sentence of the refusal, with the folder's name taken out.
    fn refusal(&self, flags: &Flags) -> String {
        let error = self.load(flags).expect_err("it is refused");
        error.to_string().replace(&format!("{}/", self.folder.path().display()), "")
    }
}

fn load(file: &str, env: &[(&str, &str)]) -> Config {
    Machine::new(file, env).load(&Flags::default()).expect("it is a configuration")
}

fn refusal(file: &str, env: &[(&str, &str)]) -> String {
    Machine::new(file, env).refusal(&Flags::default())
}

#[test]
fn defaults_are_those_of_the_table() {
    let config = load("", &[]);
    let worker = &config.worker;
    let secs = Duration::from_secs;
    assert_eq!((worker.slots, worker.claim_batch, worker.steps_at_once), (10, 10, 16));
    assert_eq!((worker.poll_interval, worker.drain_deadline), (secs(1), secs(60)));
    assert_eq!((worker.terms.ttl(), worker.terms.renew_every()), (secs(30), secs(5)));
    assert_eq!((worker.backoff.base, worker.backoff.cap), (secs(1), secs(60)));
    assert_eq!((worker.unknown_after, worker.poison_claims), (secs(600), 10));
    assert_eq!((config.shell.grace, config.shell.pass_env.len()), (secs(2), 0));
    assert!(config.shell.live_output);
    assert_eq!(config.shell.limits, ShellLimits::default());
    let http = &config.http;
    assert_eq!((http.connect_timeout, http.most_sent, http.most_read), (secs(5), 1 << 20, 8 << 20));
    assert_eq!((&http.policy, &http.api_server), (&Policy::default(), &None));
    assert_eq!(config.user, "orchestrator-worker");
    assert_eq!(config.admin, Some(address("127.0.0.1:9400")));
    assert_eq!(config.state_dir, PathBuf::from("/tmp"));
    assert_eq!((config.log.format, &config.log.filter), (LogFormat::Auto, &None));
    let Otlp { enabled, collector, sampling, paced, other_protocol, .. } = &config.otlp;
    assert_eq!((enabled, collector, paced, other_protocol), (&false, &None, &false, &false));
    assert_eq!((*sampling, config.trace_mode), (Some(Sampling::default()), Mode::Continuous));
    assert!(config.colour && !config.in_pod);
    assert!(config.file.is_none());
    let Store::Sqlite(Sqlite::File { path, by_default: true }) = &config.store else {
        panic!("not the default: {:?}", config.store);
    };
    assert_eq!(path, &PathBuf::from("/here/orchestrator.db"));
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
    let variable = [("ORCHESTRATOR_WORKER__SLOTS", "3")];
    let flag = Flags::default().with("--slots", "slots", Some(4));
    let none = Flags::default();
    for (file, env, flags, expected) in [
        ("", &[][..], &none, 10),
        ("slots: 2", &[], &none, 2),
        ("slots: 2", &variable, &none, 3),
        ("slots: 2", &variable, &flag, 4),
        ("", &[], &flag, 4),
    ] {
        let config = Machine::new(file, env).load(flags).expect("it is a configuration");
        assert_eq!(config.worker.slots, expected, "{file:?} {env:?} {flags:?}");
    }
}

#[test]
fn a_database_is_taken_from_flag_own_variable_known_variables_file_in_this_order() {
    let own = ("ORCHESTRATOR_WORKER__DATABASE__URL", "sqlite://own.db");
    let known = ("DATABASE_URL", "sqlite://known.db");
    let flag = Flags::default().with("--database-url", "database.url", Some("sqlite:flag.db"));
    let none = Flags::default();
    let file = "database:\n  url: sqlite://file.db";
    for (env, flags, expected) in [
        (&[][..], &none, "file.db"),
        (&[known], &none, "known.db"),
        (&[known, own], &none, "own.db"),
        (&[known, own], &flag, "flag.db"),
        // Whoever says clearly which database is meant is not bothered with other variables.
        (&[known, ("DB_HOST", "h")], &flag, "flag.db"),
    ] {
        let config = Machine::new(file, env).load(flags).expect("it is a configuration");
        assert_eq!(config.store.to_string(), format!("SQLite file {expected}"));
    }
}

/// No setting is left out.
const EVERY_KEY: &str = "
name: alpha
slots: 7
poll_interval: 250ms
drain_deadline: 5m
state_dir: /var/steps
lock:
  ttl: 20s
  renew_every: 4s
  table: locks
  provider: redis
  redis:
    url: 'rediss://worker@locks.example/3'
    password_file: /secrets/redis
    sentinels: ['redis://s1:26379', 'redis://s2:26379']
    sentinel_password_file: /secrets/sentinel
    master: locks
    key_prefix: 'ow:'
    timeout: 2s
    tls: {ca_file: /tls/ca.pem, certificate_file: /tls/tls.crt, key_file: /tls/tls.key}
  etcd:
    endpoints: ['https://e1:2379', 'https://e2:2379']
    user: worker
    password_file: /secrets/etcd
    key_prefix: /ow/
    timeout: 4s
    tls: {ca_file: /tls/ca.pem}
claim: {batch: 3, unknown_after: 1h}
step: {at_once: 5, backoff: {base: 2s, cap: 30s}}
shell:
  grace: 1s
  pass_env: [PATH, TOKEN]
  live_output: false
  limits: {memory: 512MiB, processes: 64, file_size: 2GiB}
http:
  timeout: {connect: 2s}
  body: {sent: 64KiB, read: 70000}
  deny_private: true
  allow: ['*.svc:80', '10.0.0.0/8']
  deny: [Example.COM]
poison: {claims: 4}
admin: {listen: '[::1]:9500'}
log: {format: json, filter: debug}
database:
  url: mysql://user@db.example:3307/orchestrator
  password_file: /secrets/password
  tls: insecure
  time_offset: '-03:30'
  single_writer: true
  pool: {lease: 1, work: 9}
";

#[test]
fn every_key_can_be_written_in_the_file_and_as_a_variable() {
    let variables = [
        ("NAME", "alpha"),
        ("SLOTS", "7"),
        ("POLL_INTERVAL", "250ms"),
        ("DRAIN_DEADLINE", "5m"),
        ("STATE_DIR", "/var/steps"),
        ("LOCK__TTL", "20s"),
        ("LOCK__RENEW_EVERY", "4s"),
        ("LOCK__TABLE", "locks"),
        ("LOCK__PROVIDER", "redis"),
        ("LOCK__REDIS__URL", "rediss://worker@locks.example/3"),
        ("LOCK__REDIS__PASSWORD_FILE", "/secrets/redis"),
        ("LOCK__REDIS__SENTINELS", "redis://s1:26379, redis://s2:26379"),
        ("LOCK__REDIS__SENTINEL_PASSWORD_FILE", "/secrets/sentinel"),
        ("LOCK__REDIS__MASTER", "locks"),
        ("LOCK__REDIS__KEY_PREFIX", "ow:"),
        ("LOCK__REDIS__TIMEOUT", "2s"),
        ("LOCK__REDIS__TLS__CA_FILE", "/tls/ca.pem"),
        ("LOCK__REDIS__TLS__CERTIFICATE_FILE", "/tls/tls.crt"),
        ("LOCK__REDIS__TLS__KEY_FILE", "/tls/tls.key"),
        ("LOCK__ETCD__ENDPOINTS", "https://e1:2379, https://e2:2379"),
        ("LOCK__ETCD__USER", "worker"),
        ("LOCK__ETCD__PASSWORD_FILE", "/secrets/etcd"),
        ("LOCK__ETCD__KEY_PREFIX", "/ow/"),
        ("LOCK__ETCD__TIMEOUT", "4s"),
        ("LOCK__ETCD__TLS__CA_FILE", "/tls/ca.pem"),
        ("CLAIM__BATCH", "3"),
        ("CLAIM__UNKNOWN_AFTER", "1h"),
        ("STEP__AT_ONCE", "5"),
        ("STEP__BACKOFF__BASE", "2s"),
        ("STEP__BACKOFF__CAP", "30s"),
        ("SHELL__GRACE", "1s"),
        ("SHELL__PASS_ENV", "PATH, TOKEN"),
        ("SHELL__LIVE_OUTPUT", "false"),
        ("SHELL__LIMITS__MEMORY", "512MiB"),
        ("SHELL__LIMITS__PROCESSES", "64"),
        ("SHELL__LIMITS__FILE_SIZE", "2GiB"),
        ("HTTP__TIMEOUT__CONNECT", "2s"),
        ("HTTP__BODY__SENT", "64KiB"),
        ("HTTP__BODY__READ", "70000"),
        ("HTTP__DENY_PRIVATE", "true"),
        ("HTTP__ALLOW", "*.svc:80, 10.0.0.0/8"),
        ("HTTP__DENY", "Example.COM"),
        ("POISON__CLAIMS", "4"),
        ("ADMIN__LISTEN", "[::1]:9500"),
        ("LOG__FORMAT", "json"),
        ("LOG__FILTER", "debug"),
        ("DATABASE__URL", "mysql://user@db.example:3307/orchestrator"),
        ("DATABASE__PASSWORD_FILE", "/secrets/password"),
        ("DATABASE__TLS", "insecure"),
        ("DATABASE__TIME_OFFSET", "-03:30"),
        ("DATABASE__SINGLE_WRITER", "true"),
        ("DATABASE__POOL__LEASE", "1"),
        ("DATABASE__POOL__WORK", "9"),
    ]
    .map(|(name, value)| (format!("ORCHESTRATOR_WORKER__{name}"), value));
    let env: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (&**name, *value)).collect();
    let passed = [("PATH", "/bin"), ("TOKEN", "t")];
    let by_file = Config { file: None, ..load(EVERY_KEY, &passed) };
    let by_variable = load("", &[&env[..], &passed].concat());
    assert_eq!(format!("{by_file:?}"), format!("{by_variable:?}"));
    assert_eq!(by_variable.shell.pass_env.len(), 2);
    let limits =
        ShellLimits { memory: Some(512 << 20), processes: Some(64), file_size: Some(2 << 30) };
    for shell in [&by_file.shell, &by_variable.shell] {
        assert_eq!((shell.live_output, shell.limits), (false, limits));
    }

    let secs = Duration::from_secs;
    let worker = &by_file.worker;
    assert_eq!(worker.owner.as_str(), "alpha");
    assert_eq!((worker.slots, worker.claim_batch, worker.steps_at_once), (7, 3, 5));
    assert_eq!(worker.poll_interval, Duration::from_millis(250));
    assert_eq!((worker.drain_deadline, worker.unknown_after), (secs(300), secs(3600)));
    assert_eq!((worker.terms.ttl(), worker.terms.renew_every()), (secs(20), secs(4)));
    assert_eq!((worker.backoff.base, worker.backoff.cap), (secs(2), secs(30)));
    assert_eq!(worker.poison_claims, 4);
    assert_eq!(by_file.shell.grace, secs(1));
    let http = &by_file.http;
    assert_eq!((http.connect_timeout, http.most_sent, http.most_read), (secs(2), 65_536, 70_000));
    let texts = |rules: &[Rule]| rules.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&http.policy.allow), ["*.svc:80", "10.0.0.0/8"]);
    assert_eq!(texts(&http.policy.deny), ["example.com"]);
    assert!(http.policy.deny_private && !http.policy.in_pod);
    assert_eq!(by_file.admin, Some(address("[::1]:9500")));
    assert_eq!(by_file.state_dir, PathBuf::from("/var/steps"));
    assert_eq!(
        (by_file.log.format, by_file.log.filter.as_deref()),
        (LogFormat::Json, Some("debug"))
    );
    let Store::MySql(mysql) = &by_file.store else { panic!("not MySQL: {:?}", by_file.store) };
    assert_eq!(mysql.server, "db.example:3307/orchestrator");
    assert_eq!((mysql.host.as_str(), mysql.port), ("db.example", 3307));
    assert_eq!(mysql.lock_table.as_str(), "locks");
    assert_eq!(mysql.password_file, Some(PathBuf::from("/secrets/password")));
    assert_eq!((mysql.tls, mysql.time_offset.as_str()), (Tls::Insecure, "-03:30"));
    assert_eq!((mysql.lease_lanes, mysql.work_lanes, mysql.single_writer), (1, 9, true));
}

#[test]
fn a_password_is_never_shown() {
    let config = load("", &[("DATABASE_URL", "mysql://user:hunter2@db.example/orchestrator")]);
    assert!(!format!("{config:?}").contains("hunter2"));
}

/// The file itself is not asked for here: it is read at every connect.
#[test]
fn a_password_stands_in_one_place() {
    let file = "database: {password_file: /secrets/password}";
    let of = |env: &[(&str, &str)]| match load(file, env).store {
        Store::MySql(mysql) => mysql.password_file,
        Store::Sqlite(_) => None,
    };
    let path = Some(PathBuf::from("/secrets/password"));
    assert_eq!(of(&[("DATABASE_URL", "mysql://u@db/x")]), path);
    let parts = [("DB_HOST", "db"), ("DB_USER", "u"), ("DB_NAME", "x")];
    assert_eq!(of(&parts), path);
    assert_eq!(of(&[("DATABASE_URL", "sqlite://x.db")]), None, "no store that has passwords");

    let twice = |holder: &str| {
        format!(
            "database.password_file (from orchestrator-worker.yaml) names a file with the \
             password, and {holder} holds one too; take one of them away"
        )
    };
    let with_password = [&parts[..], &[("DB_PASSWORD", "hunter2")]].concat();
    assert_eq!(refusal(file, &with_password), twice("DB_PASSWORD"));
    assert_eq!(
        refusal(file, &[("DATABASE_URL", "mysql://u:hunter2@db/x")]),
        twice("database.url (from DATABASE_URL)")
    );
}

#[test]
fn an_owner_is_the_pod_or_the_name_or_the_host_with_a_suffix() {
    let name = "name: alpha";
    for (file, env, expected) in [
        ("", &[][..], "host-abc123"),
        (name, &[], "alpha"),
        (name, &[("POD_NAME", "pod-0")], "pod-0"),
        (name, &[("POD_NAME", "")], "alpha"),
    ] {
        assert_eq!(load(file, env).worker.owner.as_str(), expected, "{file:?} {env:?}");
    }
    assert_eq!(load("", &[("POD_UID", "u-1")]).worker.process.uid(), "u-1");
    let mut odd = Machine::new("", &[]);
    odd.around.hostname = format!("~ü {}", "x".repeat(300));
    let owner = odd.load(&Flags::default()).expect("any host has a name").worker.owner;
    assert!(owner.as_str().starts_with("---xxx") && owner.as_str().ends_with("-abc123"));
}

#[test]
fn a_database_url_is_understood_in_each_form() {
    for (url, expected) in [
        ("sqlite://a/b.db", "SQLite file a/b.db"),
        ("sqlite:///a/b.db", "SQLite file /a/b.db"),
        ("sqlite:b.db", "SQLite file b.db"),
        ("memory:", "SQLite in memory"),
        ("sqlite::memory:", "SQLite in memory"),
        ("mysql://u:p@db/x", "MySQL db:3306/x"),
        ("mysql://u:p@[::1]:3307/x", "MySQL [::1]:3307/x"),
        ("mariadb://u@db/x", "MySQL db:3306/x"),
    ] {
        let config = load("", &[("DATABASE_URL", url)]);
        assert_eq!(config.store.to_string(), expected, "{url}");
    }
}

#[test]
fn the_variables_of_the_go_service_make_a_url_whatever_is_in_the_password() {
    let env = [
        ("DB_HOST", "db"),
        ("DB_USER", "o@x"),
        ("DB_PASSWORD", "p@s/s#%?:"),
        ("DB_NAME", "orchestrator"),
    ];
    let Store::MySql(mysql) = load("", &env).store else { panic!("not MySQL") };
    assert_eq!(mysql.url.expose_secret(), "mysql://o%40x:p%40s%2Fs%23%%3F%3A@db:3306/orchestrator");
    // The same again as a URL is no disagreement.
    let mut both = env.to_vec();
    both.push(("DATABASE_URL", "mysql://o%40x:p%40s%2fs%23%25%3F%3A@db/orchestrator"));
    assert_eq!(load("", &both).store.to_string(), "MySQL db:3306/orchestrator");
    // Kubernetes sets this for a service that is named "db".
    let link = load("", &[("DB_PORT", "tcp://10.0.0.1:3306")]);
    assert_eq!(link.store.to_string(), "SQLite file /here/orchestrator.db");
}

#[test]
fn variables_that_disagree_about_the_database_are_refused_by_name() {
    let url = ("DATABASE_URL", "mysql://u:p@db:3306/x");
    for (variable, value) in [
        ("DB_HOST", "other"),
        ("DB_PORT", "3307"),
        ("DB_USER", "root"),
        ("DB_PASSWORD", "hunter2"),
        ("DB_NAME", "y"),
    ] {
        assert_eq!(
            refusal("", &[url, (variable, value)]),
            format!(
                "DATABASE_URL and {variable} name different databases: unset one of them, or say \
                 which with --database-url"
            )
        );
    }
    let sqlite = [("DATABASE_URL", "sqlite://x.db"), ("DB_HOST", "db")];
    assert!(refusal("", &sqlite).starts_with("DATABASE_URL and DB_HOST name different"));
}

#[test]
fn identity_is_verified_unless_the_user_waives_it_by_name() {
    let url = ("DATABASE_URL", "mysql://u@db/x");
    for (word, expected) in [
        ("", Tls::VerifyIdentity),
        ("verify_identity", Tls::VerifyIdentity),
        ("insecure", Tls::Insecure),
    ] {
        let env = [url, ("ORCHESTRATOR_WORKER__DATABASE__TLS", word)];
        let Store::MySql(mysql) = load("", &env).store else { panic!("not MySQL") };
        assert_eq!(mysql.tls, expected, "{word}");
    }
}

#[test]
fn variables_for_shell_steps_are_passed_by_name_and_never_shown() {
    let file = "shell: {pass_env: [TOKEN, UNSET]}";
    let config = load(file, &[("TOKEN", "hunter2"), ("OTHER", "x")]);
    let passed: Vec<_> = config
        .shell
        .pass_env
        .iter()
        .map(|(name, value)| (&**name, value.expose_secret()))
        .collect();
    assert_eq!(passed, [("TOKEN", "hunter2")]);
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn in_a_pod_the_admin_port_is_open_a_database_must_be_named_and_it_may_ask_the_api() {
    let pod = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    assert_eq!(
        refusal("", &[pod]),
        "no database is configured, and in a pod there is no default: set DATABASE_URL (or \
         DB_HOST, DB_USER, DB_PASSWORD and DB_NAME) from a Secret"
    );
    let config = load("", &[pod, ("DATABASE_URL", "mysql://u@db/x")]);
    assert_eq!(config.admin, Some(address("0.0.0.0:9400")));
    assert!(config.in_pod && config.http.policy.in_pod);
    assert_eq!(config.http.api_server, Some(("10.0.0.1".into(), 443)));
    let port = ("KUBERNETES_SERVICE_PORT", "6443");
    let config = load("", &[pod, port, ("DATABASE_URL", "mysql://u@[::1]/x")]);
    assert_eq!(config.http.api_server, Some(("10.0.0.1".into(), 6443)));
    let Store::MySql(mysql) = config.store else { panic!("not MySQL") };
    assert_eq!((mysql.host.as_str(), mysql.port), ("::1", 3306));
    let marked = [pod, ("DATABASE_URL", "mysql://u@db/x"), ("POD_NAME", "worker-0")];
    assert_eq!(load("pod: {busy_marks: true}", &marked).busy_marks.as_deref(), Some("worker-0"));
    assert_eq!(load("", &marked).busy_marks, None);
    let placed = [pod, ("DATABASE_URL", "mysql://u@db/x"), ("NODE_NAME", "node-7")];
    assert_eq!(load("pod: {cordon_watch: true}", &placed).cordon_watch.as_deref(), Some("node-7"));
    assert_eq!(load("", &placed).cordon_watch, None);
    let rolled = [pod, ("DATABASE_URL", "mysql://u@db/x"), ("POD_TEMPLATE_HASH", "5d9f")];
    let sets = load("pod: {rollout_aware: app=w}", &rolled).rollout_aware.expect("it is set");
    assert_eq!((sets.labels.as_str(), sets.template_hash.as_str()), ("app=w", "5d9f"));
    assert_eq!(load("pod: {rollout_aware: ''}", &rolled).rollout_aware, None);
    let told = [&marked[..], &[("POD_UID", "u-1")]].concat();
    let own = OwnPod { name: "worker-0".into(), uid: "u-1".into() };
    assert_eq!(load("pod: {events: true}", &told).events, Some(own));
    assert_eq!(load("", &told).events, None);
    assert_eq!(load("admin: {listen: 'off'}", &[]).admin, None);
    assert_eq!(load("admin: {listen: 'localhost:1'}", &[]).admin, Some(address("127.0.0.1:1")));
}

#[test]
fn logs_and_spans_follow_the_well_known_variables() {
    assert_eq!(load("", &[("RUST_LOG", "debug")]).log.filter.as_deref(), Some("debug"));
    let file = "log: {filter: info}";
    assert_eq!(load(file, &[("RUST_LOG", "debug")]).log.filter.as_deref(), Some("debug"));
    assert!(!load("", &[("NO_COLOR", "1")]).colour);
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
    let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4318/v1/traces");
    let on = |env: &[(&str, &str)]| load("", env).otlp;
    assert!(on(&[endpoint]).enabled && on(&[traces]).enabled);
    let elsewhere = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://u:p@[::1]/v1/traces");
    assert_eq!(on(&[endpoint]).collector, Some(("c".into(), 4318)));
    assert_eq!(on(&[endpoint, elsewhere]).collector, Some(("::1".into(), 443)));
    assert_eq!(on(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4318")]).collector, None);
    assert!(!on(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]).enabled);
    assert!(!on(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]).enabled);
    let protocol = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let of_traces = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc");
    assert!(!on(&[endpoint, protocol]).other_protocol);
    assert!(on(&[endpoint, protocol, of_traces]).other_protocol);
    assert!(on(&[endpoint, ("OTEL_BSP_SCHEDULE_DELAY", "5000")]).paced);
    let sampling = |name, part| {
        on(&[endpoint, ("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", part)]).sampling
    };
    assert_eq!(sampling("traceidratio", "0.5"), Sampling::parse("traceidratio", Some("0.5")));
    assert_eq!(sampling("jaeger_remote", "0.5"), None, "there is none such");
}

#[test]
fn spans_say_who_sends_them_unless_the_environment_says_it() {
    let of = |env: &[(&str, &str)]| -> BTreeMap<&str, String> {
        load("name: mine", env).otlp.resource.into_iter().collect()
    };
    let alone = of(&[]);
    assert_eq!(
        alone.keys().copied().collect::<Vec<_>>(),
        ["service.instance.id", "service.name", "service.version"]
    );
    assert_eq!(alone["service.instance.id"], "mine");
    let pod = [
        ("POD_NAME", "worker-0"),
        ("POD_UID", "u-1"),
        ("POD_NAMESPACE", "jobs"),
        ("NODE_NAME", "n-7"),
    ];
    let in_pod = of(&pod);
    for (name, value) in [
        ("service.name", "orchestrator-worker"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", "worker-0"),
        ("k8s.pod.name", "worker-0"),
        ("k8s.pod.uid", "u-1"),
        ("k8s.namespace.name", "jobs"),
        ("k8s.node.name", "n-7"),
    ] {
        assert_eq!(in_pod[name], value, "{name}");
    }
    assert!(!of(&[("OTEL_SERVICE_NAME", "x")]).contains_key("service.name"));
    let said = ("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name=x,k8s.node.name=y");
    let said = of(&[pod[0], pod[3], said]);
    assert!(!said.contains_key("service.name") && !said.contains_key("k8s.node.name"));
    assert!(said.contains_key("k8s.pod.name"));
}

#[test]
fn an_execution_has_one_trace_or_one_a_lease_and_nothing_else() {
    assert_eq!(load("trace: {mode: linked}", &[]).trace_mode, Mode::Linked);
    let other = refusal("trace: {mode: both}", &[]);
    assert!(other.contains("trace.mode") && other.contains("continuous or linked"), "{other}");
}

#[test]
fn a_named_file_must_be_there_and_the_usual_ones_may_be_missing() {
    let machine = Machine::new("", &[]);
    let etc = machine.folder.path().join("etc.yaml");
    fs::write(&etc, "slots: 5").expect("the file is written");
    let config = machine.load(&Flags::default()).expect("it is a configuration");
    assert_eq!((config.worker.slots, config.file), (5, Some(etc)));

    let missing = Flags::default().with_file(Some(machine.folder.path().join("no.yaml")));
    assert_eq!(
        machine.refusal(&missing),
        "cannot read the configuration file no.yaml: No such file or directory (os error 2); \
         give another with --config"
    );
}

//! What is refused, and the sentence for each.

use super::refusal;

/// Settings that are refused, each with its whole sentence.
const IN_THE_FILE: [(&str, &str); 68] = [
    (
        "slots: abc",
        r#"slots (from orchestrator-worker.yaml) is "abc"; give a whole number, not negative"#,
    ),
    ("slots: -1", "slots (from orchestrator-worker.yaml) is -1; give a whole number, not negative"),
    ("slots: 0", "slots (from orchestrator-worker.yaml) is 0; it must be between 1 and 1000"),
    (
        "slots: [1]",
        "slots (from orchestrator-worker.yaml) is a list; give a whole number, not negative",
    ),
    (
        "slots: {a: 1}",
        r#"there is no setting "slots.a" (in orchestrator-worker.yaml); did you mean "slots"?"#,
    ),
    (
        "lock: 10s",
        "lock (from orchestrator-worker.yaml) is a group of settings: give a value to one of lock.etcd.*, lock.provider, lock.redis.*, lock.renew_every, lock.table, lock.ttl",
    ),
    (
        "lock: {tll: 10s}",
        r#"there is no setting "lock.tll" (in orchestrator-worker.yaml); did you mean "lock.ttl"?"#,
    ),
    (
        "ttl: 10s",
        r#"there is no setting "ttl" (in orchestrator-worker.yaml); did you mean "lock.ttl"?"#,
    ),
    (
        "lock.ttl: 10",
        r#"lock.ttl (from orchestrator-worker.yaml) is "10"; give a time with its unit, such as 250ms, 10s or 5m"#,
    ),
    (
        "lock: {ttl: 70s}",
        "lock.ttl is 70s; it must be between 8s and 60s (lock.ttl is from orchestrator-worker.yaml, lock.renew_every is its default)",
    ),
    (
        "lock: {renew_every: 11s}",
        "lock.ttl (30s) must be at least three times lock.renew_every (11s), so that a lost renewal does not lose the lease (lock.ttl is its default, lock.renew_every is from orchestrator-worker.yaml)",
    ),
    (
        "lock: {renew_every: 0s}",
        "lock.renew_every is zero; give a time such as 5s (lock.ttl is its default, lock.renew_every is from orchestrator-worker.yaml)",
    ),
    (
        "poll_interval: 2m",
        "poll_interval (from orchestrator-worker.yaml) is 2m; it must be between 50ms and 1m",
    ),
    (
        "pod: {busy_marks: true}",
        "pod.busy_marks (from orchestrator-worker.yaml) is true, and POD_NAME does not say which pod that is; set it from the field metadata.name, or give false",
    ),
    (
        "pod: {cordon_watch: true}",
        "pod.cordon_watch (from orchestrator-worker.yaml) is true, and NODE_NAME does not say which node that is; set it from the field spec.nodeName, or give false",
    ),
    (
        "pod: {rollout_aware: app=worker}",
        "pod.rollout_aware (from orchestrator-worker.yaml) names labels, and POD_TEMPLATE_HASH does not say which ReplicaSet is that of this pod; set it from the field metadata.labels['pod-template-hash'], or name none",
    ),
    (
        "pod: {events: true}",
        "pod.events (from orchestrator-worker.yaml) is true, and POD_NAME and POD_UID do not say which pod that is; set them from the fields metadata.name and metadata.uid, or give false",
    ),
    (
        "claim: {batch: 51}",
        "claim.batch (from orchestrator-worker.yaml) is 51; it must be between 1 and 50",
    ),
    (
        "claim: {backlog: walk}",
        r#"claim.backlog (from orchestrator-worker.yaml) is "walk"; give hold or run"#,
    ),
    (
        "claim: {include: [a, b], exclude: b}",
        r#"claim.exclude (from orchestrator-worker.yaml) names "b", which claim.include names too; take it out of one"#,
    ),
    (
        "step: {backoff: {base: 2m}}",
        "step.backoff.cap (its default) is 60s; it must not be less than step.backoff.base",
    ),
    (
        "retention: {failed: 1m}",
        "retention.failed (from orchestrator-worker.yaml) is 1m; it must be between 1h and 100years",
    ),
    (
        "poison: {claims: 0}",
        "poison.claims (from orchestrator-worker.yaml) is 0; it must be between 1 and 1000000",
    ),
    (
        "shell: {pass_env: 3}",
        "shell.pass_env (from orchestrator-worker.yaml) cannot be used; give a list of names, or names with commas between them",
    ),
    (
        "shell: {pass_env: [a=b]}",
        r#"shell.pass_env (from orchestrator-worker.yaml) holds "a=b", which cannot name a variable"#,
    ),
    (
        "shell: {grace: 2m}",
        "shell.grace (from orchestrator-worker.yaml) is 2m; it must be between 0s and 1m",
    ),
    (
        "shell: {live_output: perhaps}",
        r#"shell.live_output (from orchestrator-worker.yaml) is "perhaps"; give true or false"#,
    ),
    (
        "shell: {limits: {memory: 512M}}",
        r#"shell.limits.memory (from orchestrator-worker.yaml) is "512M"; give a number of bytes, such as 65536, 512KiB or 8MiB"#,
    ),
    (
        "shell: {limits: {memory: 1MiB}}",
        "shell.limits.memory (from orchestrator-worker.yaml) is 1MiB; it must be between 16MiB and 1024GiB",
    ),
    (
        "shell: {limits: {processes: 0}}",
        "shell.limits.processes (from orchestrator-worker.yaml) is 0; it must be between 1 and 100000",
    ),
    (
        "shell: {limits: {file_size: 1025GiB}}",
        "shell.limits.file_size (from orchestrator-worker.yaml) is 1025GiB; it must be between 1KiB and 1024GiB",
    ),
    (
        "http: {timeout: 5s}",
        "http.timeout (from orchestrator-worker.yaml) is a group of settings: give a value to one of http.timeout.connect",
    ),
    (
        "http: {timeout: {connect: 2m}}",
        "http.timeout.connect (from orchestrator-worker.yaml) is 2m; it must be between 1ms and 1m",
    ),
    (
        "http: {body: {sent: 1MB}}",
        r#"http.body.sent (from orchestrator-worker.yaml) is "1MB"; give a number of bytes, such as 65536, 512KiB or 8MiB"#,
    ),
    (
        "http: {body: {sent: -1}}",
        r#"http.body.sent (from orchestrator-worker.yaml) is "-1"; give a number of bytes, such as 65536, 512KiB or 8MiB"#,
    ),
    (
        "http: {body: {sent: 65MiB}}",
        "http.body.sent (from orchestrator-worker.yaml) is 65MiB; it must be between 1KiB and 64MiB",
    ),
    (
        "http: {body: {read: 1023}}",
        "http.body.read (from orchestrator-worker.yaml) is 1023; it must be between 1KiB and 1GiB",
    ),
    (
        "http: {body: {read: 99999999999999999999MiB}}",
        r#"http.body.read (from orchestrator-worker.yaml) is "99999999999999999999MiB"; give a number of bytes, such as 65536, 512KiB or 8MiB"#,
    ),
    (
        "http: {deny_private: perhaps}",
        r#"http.deny_private (from orchestrator-worker.yaml) is "perhaps"; give true or false"#,
    ),
    (
        "http: {allow: ['10.0.0.1/8']}",
        r#"http.allow (from orchestrator-worker.yaml) holds "10.0.0.1/8", which has bits beyond its length; write 10.0.0.0/8"#,
    ),
    (
        "http: {deny: [a.example, 'https://b.example/x']}",
        r#"http.deny (from orchestrator-worker.yaml) holds "https://b.example/x", which is a URL; give its host alone, with a port if you like"#,
    ),
    (
        "admin: {listen: 9400}",
        r#"admin.listen (from orchestrator-worker.yaml) is "9400"; give an address with a port, such as 127.0.0.1:9400 or [::]:9400, or off"#,
    ),
    (
        "log: {format: xml}",
        r#"log.format (from orchestrator-worker.yaml) is "xml"; give auto, text or json"#,
    ),
    (
        "name: '~x'",
        r#"a worker's name may hold printable ASCII only and not begin with '~'; change --name "~x" (the name comes from orchestrator-worker.yaml)"#,
    ),
    (
        "database: {single_writer: perhaps}",
        r#"database.single_writer (from orchestrator-worker.yaml) is "perhaps"; give true or false"#,
    ),
    (
        "{database: {url: 'mysql://u@db/x'}, lock: {table: 'a b'}}",
        r#"lock.table (from orchestrator-worker.yaml) is "a b"; it may have 1 to 64 letters of ASCII, digits and underscores, and not begin with ow_"#,
    ),
    (
        "{database: {url: 'mysql://u@db/x'}, lock: {table: steps}}",
        r#"lock.table (from orchestrator-worker.yaml) is "steps"; another table of the orchestrator is called so"#,
    ),
    (
        "lock: {provider: consul}",
        r#"lock.provider (from orchestrator-worker.yaml) is "consul"; give store, redis or etcd"#,
    ),
    (
        "lock: {provider: mysql}",
        "lock.provider (from orchestrator-worker.yaml) is mysql, and the database is SQLite file /here/orchestrator.db; give store",
    ),
    (
        "{lock: {provider: redis}, claim: {one_per_template: true}}",
        "claim.one_per_template (from orchestrator-worker.yaml) is true, and leases are kept outside the database, where templates have none (lock.provider); give false, or keep leases in the store",
    ),
    (
        "lock: {redis: {url: 'redis://:secret@h/'}}",
        "lock.redis.url (from orchestrator-worker.yaml) has a password in it; name a file that has it instead",
    ),
    (
        "lock: {redis: {url: 'http://h/'}}",
        "lock.redis.url (from orchestrator-worker.yaml) begins with http; give redis or rediss",
    ),
    (
        "lock: {etcd: {endpoints: []}}",
        "lock.etcd.endpoints (from orchestrator-worker.yaml) names nobody",
    ),
    (
        "lock: {etcd: {timeout: soon}}",
        r#"lock.etcd.timeout (from orchestrator-worker.yaml) cannot be used; invalid value: string "soon", expected a duration"#,
    ),
    (
        "lock: {table: locks}",
        "lock.table (from orchestrator-worker.yaml) is of MySQL databases, and this is an SQLite one; leave it out",
    ),
    (
        "database: {password_file: /secrets/password}",
        "database.password_file (from orchestrator-worker.yaml) is the password of a database that nobody names; set database.url too",
    ),
    (
        "database: {url: 'mysql://u@db/x', password_file: ''}",
        r#"database.password_file (from orchestrator-worker.yaml) is ""; give the path of a file"#,
    ),
    (
        "database: {url: 'mysql://u@db/x', tls: off}",
        r#"database.tls (from orchestrator-worker.yaml) is "off"; give verify_identity or insecure"#,
    ),
    (
        "database: {url: 'mysql://u@db/x', time_offset: 8}",
        r#"database.time_offset (from orchestrator-worker.yaml) is "8"; give hours and minutes, such as +08:00"#,
    ),
    (
        "database: {url: 'postgres://x'}",
        r#"database.url (from orchestrator-worker.yaml) begins with "postgres", a kind of store that this version does not know; give mysql://USER:PASSWORD@HOST:3306/NAME, sqlite://PATH or memory:"#,
    ),
    (
        "database: {url: x.db}",
        "database.url (from orchestrator-worker.yaml) has no scheme; give mysql://USER:PASSWORD@HOST:3306/NAME, sqlite://PATH or memory:",
    ),
    (
        "database: {url: 'sqlite://'}",
        "database.url (from orchestrator-worker.yaml) names no file; give sqlite://PATH, such as sqlite://orchestrator.db",
    ),
    (
        "database: {url: 'sqlite://x?mode=ro'}",
        "database.url (from orchestrator-worker.yaml) has parameters (?), which an SQLite file does not take; give sqlite://PATH alone",
    ),
    (
        "database: {url: 'mysql://u@db/'}",
        "database.url (from orchestrator-worker.yaml) names no database; give mysql://USER:PASSWORD@HOST:3306/NAME",
    ),
    (
        "database: {url: 'mysql:x'}",
        "database.url (from orchestrator-worker.yaml) names no host; give mysql://USER:PASSWORD@HOST:3306/NAME",
    ),
    (
        "database: {url: 'mysql://u:p#@db/x'}",
        "database.url (from orchestrator-worker.yaml) is not a URL of the form mysql://USER:PASSWORD@HOST:3306/NAME; write special characters of the password as percent codes (%40 for @, %23 for #, %2F for /)",
    ),
    (
        "slots: 1\nlock: {ttl: 9s",
        "the configuration file orchestrator-worker.yaml is not YAML with settings in it: while parsing a flow mapping, did not find expected ',' or '}' at byte 23 line 3 column 1; correct it there",
    ),
    (
        "- slots",
        "the configuration file orchestrator-worker.yaml is not YAML with settings in it: invalid type: sequence, expected a map; correct it there",
    ),
];

#[test]
fn each_wrong_setting_is_refused_in_one_sentence_that_names_key_and_origin() {
    for (file, sentence) in IN_THE_FILE {
        assert_eq!(refusal(file, &[]), sentence, "{file}");
    }
}

#[test]
fn each_wrong_variable_is_refused_under_its_own_name() {
    for (name, value, sentence) in [
        (
            "ORCHESTRATOR_WORKER__LOCK__TLL",
            "3s",
            r#"there is no setting "ORCHESTRATOR_WORKER__LOCK__TLL" (in the environment); did you mean "ORCHESTRATOR_WORKER__LOCK__TTL"?"#,
        ),
        (
            "ORCHESTRATOR_WORKER__SLOTS",
            "many",
            r#"slots (from ORCHESTRATOR_WORKER__SLOTS) is "many"; give a whole number, not negative"#,
        ),
        (
            "ORCHESTRATOR_WORKER__LOCK",
            "3s",
            "lock (from ORCHESTRATOR_WORKER__LOCK) is a group of settings: give a value to one of lock.etcd.*, lock.provider, lock.redis.*, lock.renew_every, lock.table, lock.ttl",
        ),
        (
            "RUST_LOG",
            "a=b=c",
            r#"log.filter (from RUST_LOG) is "a=b=c", which is no log filter (error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5); give a level such as debug, or parts such as orchestrator_worker=debug,warn"#,
        ),
        ("DB_PORT", "x", r#"DB_PORT (from the environment) is "x"; give a port such as 3306"#),
        (
            "DB_HOST",
            "db",
            "DB_HOST is set but DB_USER is not: a MySQL database needs DB_HOST, DB_USER and DB_NAME (DB_PORT is 3306 and DB_PASSWORD empty if not set), or one DATABASE_URL",
        ),
        (
            "POD_NAME",
            "a b",
            r#"a worker's name may hold printable ASCII only and not begin with '~'; change --name "a b" (the name comes from POD_NAME)"#,
        ),
    ] {
        assert_eq!(refusal("", &[(name, value)]), sentence, "{name}={value}");
    }
    let with_port = [("DB_HOST", "db:3306"), ("DB_USER", "u"), ("DB_NAME", "x")];
    assert_eq!(
        refusal("", &with_port),
        r#"DB_HOST (from the environment) is "db:3306"; give a host's name or address, without a port"#
    );
}

#[test]
fn a_password_is_in_no_refusal() {
    for url in
        ["mysql://u:hunter2#@db/x", "mysql://u:hunter2@db/", "sqlite://x?hunter2", "x://hunter2"]
    {
        let sentence = refusal("", &[("DATABASE_URL", url)]);
        assert!(!sentence.contains("hunter2"), "{sentence}");
        assert!(sentence.starts_with("database.url (from DATABASE_URL)"), "{sentence}");
    }
}

//! Facts and what is found in them, as tables.

use super::*;
use crate::domain::{
    definition::{Definition, RecordedStep},
    intake::Supported,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE_MS: i64 = 60_000;

fn view() -> View {
    View {
        backlog: Backlog::Hold,
        unknown_after: 600 * SECOND,
        retention: false,
        time_offset: Some("+00:00".into()),
        lock_table: LockTable::default(),
        drain_deadline: 60 * SECOND,
        pod: None,
    }
}

fn mysql() -> MySql {
    MySql {
        product: "MySQL",
        version: "9.7.0".into(),
        autocommit: "ON".into(),
        isolation: "READ-COMMITTED".into(),
        binlog_format: Some("ROW".into()),
        sync_binlog: Some(1),
        flush_log: Some(1),
        statements: Statements { used: 100, most: 16_382 },
        daylight_saving: None,
        engine_problem: None,
    }
}

/// All that there is, and a user who may do all of it.
fn tables() -> Tables {
    let all: BTreeSet<Verb> = [Verb::Select, Verb::Insert, Verb::Update].into();
    let columns = schema::COLUMNS
        .iter()
        .flat_map(|(table, columns)| columns.iter().map(move |column| format!("{table}.{column}")));
    let key = |(name, columns): (&str, &str)| (name.to_owned(), columns.to_owned());
    Tables {
        version: Some(1),
        oldest_reader: Some(1),
        columns: columns.map(|column| (column, all.clone())).collect(),
        keys: [
            ("workflow_executions.ow_poll", "status, ow_due, id"),
            ("workflow_executions.ow_held", "ow_owner, status"),
            ("distributed_locks.ow_expires", "expires_at"),
        ]
        .map(key)
        .into(),
        rights: Some(Rights {
            user: "'w'@'%'".into(),
            database: "`db`".into(),
            deletable: DELETED.map(str::to_owned).into(),
        }),
        ..Tables::default()
    }
}

fn facts() -> Facts {
    Facts {
        server: Ok(Server::MySql(mysql())),
        tables: Ok(tables()),
        clock: Ok(Clock::default()),
        round_trip: Ok(RoundTrip {
            acquire: SECOND / 100,
            renew: SECOND / 50,
            release: SECOND / 20,
        }),
        rows: Ok(Rows::default()),
        longest_step: Ok(None),
    }
}

fn diagnosed(facts: &Facts) -> Vec<Finding> {
    let findings = diagnose(facts, &view(), &Repaired::default());
    for finding in &findings {
        assert_eq!(finding.repair.is_none(), finding.verdict == Verdict::Ok, "{finding:?}");
    }
    findings
}

/// What is not well: check, verdict, and both sentences.
fn amiss(facts: &Facts) -> Vec<(&'static str, Verdict, String, String)> {
    let not_well = diagnosed(facts).into_iter().filter(|finding| finding.verdict != Verdict::Ok);
    not_well.map(|it| (it.check, it.verdict, it.found, it.repair.unwrap_or_default())).collect()
}

/// One thing is not well, and says so.
fn is(facts: &Facts, check: &str, verdict: Verdict, found: &str, repair: &str) {
    let all = amiss(facts);
    let [one] = &all[..] else { panic!("{all:?}") };
    assert_eq!((one.0, one.1), (check, verdict), "{one:?}");
    assert!(one.2.contains(found), "{found:?} is not in {one:?}");
    assert!(one.3.contains(repair), "{repair:?} is not in {one:?}");
}

use Verdict::{Problem, Warning};

#[test]
fn where_all_is_well_each_check_says_so_in_its_order() {
    let checks: Vec<&str> = diagnosed(&facts()).iter().map(|finding| finding.check).collect();
    let order = [
        "server", "schema", "indexes", "grants", "clock", "zone", "lock", "rows", "backlog",
        "locks", "drain",
    ];
    assert_eq!(checks, order);
    assert_eq!(amiss(&facts()), []);
    assert_eq!(repairs(&facts()), Repairs::default());
}

#[test]
fn a_server_that_may_lose_what_it_acknowledged_is_warned_of() {
    let with = |change: fn(&mut MySql)| {
        let mut server = mysql();
        change(&mut server);
        Facts { server: Ok(Server::MySql(server)), ..facts() }
    };
    let flush = with(|it| it.flush_log = Some(2));
    is(&flush, "server", Warning, "innodb_flush_log_at_trx_commit is 2", "commit=1");
    let sync = with(|it| it.sync_binlog = Some(0));
    is(&sync, "server", Warning, "sync_binlog is 0", "SET GLOBAL sync_binlog=1");
    let without_log = with(|it| (it.binlog_format, it.sync_binlog) = (None, Some(0)));
    assert_eq!(amiss(&without_log), [], "there is nothing to sync");
    let summer = with(|it| it.daylight_saving = Some("CEST".into()));
    is(&summer, "server", Warning, "time zone (CEST) has daylight saving", "UTC");
    let few = with(|it| it.statements = Statements { used: 16_200, most: 16_382 });
    is(&few, "server", Warning, "16200 of the 16382", "SET GLOBAL max_prepared_stmt_count");
    let none = with(|it| it.statements = Statements { used: 0, most: 0 });
    is(&none, "server", Problem, "max_prepared_stmt_count is 0", "SET GLOBAL");
    let engine =
        with(|it| it.engine_problem = Some("steps is kept by X; ALTER TABLE steps".into()));
    is(&engine, "server", Problem, "steps is kept by X", "ALTER TABLE steps");
}

#[test]
fn a_worker_is_cautious_of_each_kind_for_itself() {
    let kinds = |change: fn(&mut MySql)| {
        let mut server = mysql();
        change(&mut server);
        cautions(&Server::MySql(server)).into_iter().map(|it| it.kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(|_| ()), []);
    assert_eq!(kinds(|it| it.flush_log = Some(0)), [CautionKind::FlushLog]);
    assert_eq!(kinds(|it| it.sync_binlog = Some(1000)), [CautionKind::SyncBinlog]);
    let zone = kinds(|it| it.daylight_saving = Some("CET".into()));
    assert_eq!(zone, [CautionKind::DaylightSaving]);
    let all = kinds(|it| {
        (it.flush_log, it.sync_binlog) = (Some(2), Some(0));
        it.daylight_saving = Some("CET".into());
    });
    assert_eq!(all, CautionKind::ALL);
    let sqlite = Server::Sqlite { version: "3".into(), journal: "wal".into() };
    assert_eq!(cautions(&sqlite), []);
}

#[test]
fn a_store_that_does_not_answer_is_told_once_with_what_to_do() {
    let because = |text: &str| Unanswered::Because(text.into());
    let gone = Facts { server: Err(because("no answer; start it")), ..facts() };
    is(&gone, "server", Problem, "no answer", "start it");
    assert_eq!(diagnosed(&gone).len(), 1, "nothing else can be asked");

    let mut no_key = facts();
    no_key.round_trip = Err(because("no unique key; add it"));
    no_key.rows = Err(because("no unique key; add it"));
    is(&no_key, "lock", Problem, "no unique key", "add it");

    let pending = vec!["create table a".to_owned(), "b".into(), "c".into(), "d".into()];
    let empty = Facts {
        tables: Ok(Tables { pending, ..Tables::default() }),
        clock: Err(Unanswered::NotMigrated),
        round_trip: Err(Unanswered::NotMigrated),
        rows: Err(Unanswered::NotMigrated),
        longest_step: Err(Unanswered::NotMigrated),
        ..facts()
    };
    let found = "4 steps of the migration are not done: create table a, b, c and 1 more";
    is(&empty, "schema", Problem, found, "orchestrator-worker migrate");
    assert_eq!(repairs(&empty), Repairs { migrate: true, clean: false });
}

#[test]
fn what_a_repair_has_done_or_could_not_do_is_told() {
    let told = |repaired: &Repaired, check| {
        let all = diagnose(&facts(), &view(), repaired);
        all.into_iter().find(|finding| finding.check == check).expect("it is looked at")
    };
    let steps = vec!["create table ow_meta".to_owned()];
    let done = Repaired { migrated: Some(Ok(steps)), cleaned: Some(Ok(7)) };
    assert!(told(&done, "schema").found.ends_with("just migrated: create table ow_meta"));
    assert_eq!(told(&done, "locks").found, "just deleted: 7 expired lock rows");
    let failed = "a right is missing; grant it".to_owned();
    let not_done = Repaired { migrated: Some(Err(failed.clone())), cleaned: Some(Err(failed)) };
    let schema = told(&not_done, "schema");
    assert_eq!((schema.verdict, schema.repair.as_deref()), (Problem, Some("grant it")));
}

#[test]
fn a_column_or_a_key_that_is_gone_is_named() {
    let with = |change: fn(&mut Tables)| {
        let mut tables = tables();
        change(&mut tables);
        Facts { tables: Ok(tables), ..facts() }
    };
    let column = with(|it| drop(it.columns.remove("workflow_executions.ow_run")));
    is(&column, "schema", Problem, "dropped workflow_executions.ow_run", "SHOW CREATE TABLE");
    let held = "CREATE INDEX ow_held ON workflow_executions (ow_owner, status)";
    let key = with(|it| drop(it.keys.remove("workflow_executions.ow_held")));
    is(&key, "indexes", Problem, "workflow_executions has no ow_held", held);
    let other = with(|it| {
        it.keys.insert("workflow_executions.ow_held".into(), "status".into());
    });
    is(&other, "indexes", Problem, "is over (status)", held);
    let two = with(|it| it.lock_key_problem = Some("no unique key; add it".into()));
    is(&two, "indexes", Problem, "no unique key", "add it");
}

#[test]
fn each_missing_right_is_named_with_its_grant() {
    let with = |change: fn(&mut Tables)| {
        let mut tables = tables();
        change(&mut tables);
        Facts { tables: Ok(tables), ..facts() }
    };
    let revoke = |tables: &mut Tables, verb: Verb, of: &str| {
        let of = tables.columns.iter_mut().filter(|(column, _)| column.starts_with(of));
        for (_, verbs) in of {
            verbs.remove(&verb);
        }
    };
    let mut one = tables();
    revoke(&mut one, Verb::Update, "workflow_executions.error");
    let one = Facts { tables: Ok(one), ..facts() };
    let grant = "GRANT UPDATE (error) ON `db`.workflow_executions TO 'w'@'%'";
    is(&one, "grants", Problem, "UPDATE of error on workflow_executions", grant);
    let mut some = tables();
    revoke(&mut some, Verb::Insert, "distributed_locks.");
    let some = Facts { tables: Ok(some), ..facts() };
    let grant = "GRANT INSERT ON `db`.distributed_locks TO 'w'@'%'";
    is(&some, "grants", Problem, "INSERT on distributed_locks", grant);
    let delete = with(|it| it.rights.as_mut().expect("users").deletable.clear());
    is(&delete, "grants", Problem, "DELETE on distributed_locks", "GRANT DELETE ON");
    let retaining = View { retention: true, ..view() };
    let missing = diagnose(&delete, &retaining, &Repaired::default());
    assert_eq!(missing.iter().filter(|it| it.verdict == Problem).count(), 4, "{missing:?}");
    // More than a worker needs is nobody's business here, and what nobody writes needs no right.
    let mut least = tables();
    for unwritten in ["steps.", "workflow_templates.", "ow_meta.", "workflow_executions.ow_due"] {
        revoke(&mut least, Verb::Insert, unwritten);
        revoke(&mut least, Verb::Update, unwritten);
    }
    assert_eq!(amiss(&Facts { tables: Ok(least), ..facts() }), []);

    let mut hidden = tables();
    hidden.columns.retain(|column, _| !column.starts_with("ow_plans."));
    hidden.hidden = ["ow_plans".to_owned()].into();
    hidden.pending = vec!["create table ow_plans".into()];
    let hidden = Facts { tables: Ok(hidden), ..facts() };
    let all = amiss(&hidden);
    assert_eq!(all.iter().map(|it| it.0).collect::<Vec<_>>(), ["schema", "grants"], "{all:?}");
    assert!(all[1].3.starts_with("GRANT SELECT ON `db`.ow_plans TO"), "{all:?}");
    assert_eq!(repairs(&hidden), Repairs::default(), "nothing is made that may be there");
}

#[test]
fn a_difference_of_half_hours_is_a_zone_and_names_the_offset_to_set() {
    for (minutes, configured, offset) in [
        (0, "+00:00", None),
        (-4, "+00:00", None),
        (480, "+00:00", Some("+08:00")),
        (476, "+00:00", Some("+08:00")),
        (-300, "+00:00", Some("-05:00")),
        (-210, "+00:00", Some("-03:30")),
        (30, "+08:00", Some("+08:30")),
        (-480, "+08:00", Some("+00:00")),
        // Neither is any zone's.
        (492, "+00:00", None),
        (15, "+00:00", None),
        (420, "+08:00", None),
        (-60 * 24 * 3, "+00:00", None),
    ] {
        let clock = Clock { orchestrator_ms: Some(minutes * MINUTE_MS), ..Clock::default() };
        let view = View { time_offset: Some(configured.into()), ..view() };
        let found = clock::zone_findings(&clock, &view).remove(0);
        let refused = wrong_zone(clock.orchestrator_ms, configured);
        match offset {
            None => {
                assert_eq!(found.verdict, Verdict::Ok, "{minutes} {found:?}");
                assert_eq!(refused, None);
            }
            Some(offset) => {
                assert!(refused.is_some_and(|it| it.contains(offset) && it.contains("lock row")));
                assert_eq!(found.verdict, Problem, "{minutes} {found:?}");
                let set = format!("set database.time_offset to {offset} ");
                assert!(found.repair.is_some_and(|repair| repair.starts_with(&set)), "{set}");
            }
        }
    }
    let utc = View { time_offset: None, ..view() };
    let found = clock::zone_findings(&Clock::default(), &utc);
    assert_eq!(found, [Finding::ok("zone", "times are kept in UTC")]);
}

#[test]
fn clocks_that_differ_and_rows_of_the_future_are_told_in_numbers() {
    let with = |clock| Facts { clock: Ok(clock), ..facts() };
    let ahead = with(Clock { ahead_ms: 3_000, ..Clock::default() });
    is(&ahead, "clock", Warning, "is 3s ahead of this machine's", "NTP");
    let behind = with(Clock { ahead_ms: -90_000, ..Clock::default() });
    is(&behind, "clock", Warning, "is 1m 30s behind this machine's", "NTP");
    let future = with(Clock { future: 2, farthest: 7200 * SECOND, ..Clock::default() });
    let found = "2 pending executions created in the future, up to 2h 0m from now";
    is(&future, "zone", Warning, found, "database.time_offset");
}

#[test]
fn slow_locks_and_odd_rows_are_warned_of() {
    let slow = RoundTrip { acquire: SECOND, renew: SECOND, release: 2 * SECOND };
    let slow = Facts { round_trip: Ok(slow), ..facts() };
    is(&slow, "lock", Warning, "released in 2000 ms", "lock.ttl");
    let with = |rows| Facts { rows: Ok(rows), ..facts() };
    let unknown = with(Rows { unknown: 1, ..Rows::default() });
    is(&unknown, "rows", Warning, "1 execution with a status that is NULL", "(10m 0s)");
    let old = Rows { backlog: 3, oldest_backlog: 90_000 * SECOND, ..Rows::default() };
    is(&with(old), "backlog", Warning, "3 executions", "backlog release");
    let run = View { backlog: Backlog::Run, ..view() };
    let findings = diagnose(&with(old), &run, &Repaired::default());
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Ok), "{findings:?}");
    let expired = with(Rows { expired_locks: 1, ..Rows::default() });
    is(&expired, "locks", Warning, "1 expired lock row", "locks clean --expired");
    assert_eq!(repairs(&expired), Repairs { migrate: false, clean: true });
}

#[test]
fn a_collector_that_is_away_is_a_warning() {
    assert_eq!(export(&Export::Off).verdict, Verdict::Ok);
    assert_eq!(export(&Export::Reached("c:4318".into())).verdict, Verdict::Ok);
    let away = export(&Export::Unreached("c:4318".into(), "refused".into()));
    assert_eq!(away.verdict, Warning);
    assert!(away.found.starts_with("c:4318") && away.found.contains("refused"), "{away:?}");
}

#[test]
fn what_the_kubernetes_api_refuses_is_a_warning_that_names_the_value_which_allows_it() {
    let feature = Feature::DEAD_OWNER_WATCH;
    let fine = kubernetes(feature, &Allowed::Yes);
    assert_eq!((fine.verdict, fine.check, fine.repair), (Verdict::Ok, "kubernetes", None));
    let refused = kubernetes(feature, &Allowed::Refused("pods is forbidden".into()));
    assert_eq!(refused.verdict, Warning);
    assert_eq!(
        refused.found,
        "pod.dead_owner_watch is off, because the Kubernetes API refuses it: pods is forbidden"
    );
    assert_eq!(
        refused.repair.as_deref(),
        Some(
            "set kubernetes.deadOwnerWatch in the chart, or let the workers' account list and watch \
             pods of their namespace"
        )
    );
    let away = kubernetes(feature, &Allowed::Unreached("no answer within 5s".into()));
    assert!(away.verdict == Warning && away.found.ends_with("no answer within 5s"), "{away:?}");
}

fn step(id: &str) -> RecordedStep {
    RecordedStep {
        id: id.into(),
        name: Some(id.into()),
        executor_type: Some("func".into()),
        parameters: Some(r#"{"func":"noop"}"#.into()),
        timeout: Some(30),
        retries: Some(0),
        run_mode: Some("serial".into()),
        on_failure: Some("abort".into()),
        ..RecordedStep::default()
    }
}

fn found(steps: Vec<RecordedStep>, is_active: bool) -> Finding {
    let supported =
        Supported { kinds: ["func".to_owned()].into(), functions: ["noop".to_owned()].into() };
    let definition = Definition { template: "t".into(), name: "report".into(), steps };
    let (id, name) = ("t".into(), "report".into());
    template(&Stored { id, name, is_active, definition: Ok(definition) }, &supported)
}

#[test]
fn a_template_runs_or_runs_differently_or_is_refused_with_the_reason() {
    let ordered = |order, id: &str| RecordedStep { order: Some(order), ..step(id) };
    let after = |step: RecordedStep, id: &str| RecordedStep {
        dependencies: Some(format!("[{id:?}]")),
        ..step
    };
    for (steps, verdict, says) in [
        (vec![step("a"), step("b")], Verdict::Ok, "runs"),
        (vec![ordered(1, "a"), after(ordered(2, "b"), "a")], Verdict::Ok, "runs"),
        (vec![ordered(1, "a"), ordered(2, "b")], Warning, "`order`"),
        (
            vec![ordered(1, "a"), after(ordered(2, "b"), "a"), after(ordered(3, "c"), "a")],
            Warning,
            "`order`",
        ),
        (vec![RecordedStep { timeout: Some(0), ..step("a") }], Warning, "counts as 30 s"),
        (vec![RecordedStep { timeout: None, ..step("a") }], Warning, "counts as 30 s"),
        (vec![RecordedStep { timeout: Some(i64::MAX), ..step("a") }], Warning, "365 days"),
        (vec![RecordedStep { retries: None, ..step("a") }], Warning, "NULL count as 3"),
        (vec![RecordedStep { run_mode: None, ..step("a") }], Warning, "counts as serial"),
        (vec![RecordedStep { on_failure: None, ..step("a") }], Warning, "counts as abort"),
        (vec![RecordedStep { run_mode: Some("x".into()), ..step("a") }], Problem, "run_mode \"x\""),
        (vec![after(step("a"), "b"), after(step("b"), "a")], Problem, "circle"),
        (vec![after(step("a"), "b")], Problem, "not a step of this template"),
        (vec![RecordedStep { parameters: Some("[".into()), ..step("a") }], Problem, "JSON"),
        (vec![RecordedStep { parameters: None, ..step("a") }], Problem, "function \"a\" of step a"),
        (
            vec![RecordedStep { executor_type: Some("ssh".into()), ..step("a") }],
            Problem,
            "executor type \"ssh\" of step a",
        ),
    ] {
        let finding = found(steps.clone(), true);
        assert_eq!(finding.verdict, verdict, "{finding:?}");
        assert!(finding.found.contains(says), "{says:?} is not in {finding:?}");
        assert_eq!(finding.template.as_deref(), Some("report"));
        assert_eq!(
            found(steps, false).verdict,
            verdict.min(Warning),
            "an inactive one is no problem"
        );
    }
}

#[test]
fn a_template_that_cannot_be_read_is_refused() {
    let definition = Err("step x of its template does not exist any more".to_owned());
    let stored = Stored { id: "t".into(), name: String::new(), is_active: true, definition };
    let finding = template(&stored, &Supported::default());
    assert_eq!((finding.verdict, finding.template.as_deref()), (Problem, Some("t")));
    assert!(finding.found.contains("does not exist any more"), "{finding:?}");
}

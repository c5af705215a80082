//! What only SQLite's columns can hold, and what only a server's.

use orchestrator_worker::domain::definition::RecordedStep;

use super::{Becomes, Becomes::Success, Entry, failed, graph::after, noop, refused, shell, step};

/// A SQLite column holds any bytes, of any length.
pub fn sqlite() -> Vec<Entry> {
    let rows = |name, sql: &str, becomes| Entry::rows(name, &[sql], becomes);
    let execution = |name, columns: &str, becomes| {
        let sql = format!("UPDATE workflow_executions SET {columns} WHERE id='{{id}}'");
        Entry::rows(name, &[&sql], becomes)
    };
    let steps = |name, columns: &str, becomes| {
        let sql = format!("UPDATE steps SET {columns} WHERE id='{{e}}two'");
        Entry::rows(name, &[&sql], becomes)
    };
    let step_rows = |name, columns: &str, becomes| {
        let sql = format!(
            "UPDATE workflow_step_executions SET {columns} WHERE execution_id='{{id}}' \
             AND step_id='{{e}}two'"
        );
        Entry::rows(name, &[&sql], becomes)
    };
    let dangling = "UPDATE workflow_template_steps SET dependencies=CAST(X'5bff5d' AS TEXT) \
                    WHERE step_id='{e}two'";
    let no_dependencies = failed("the dependencies of step \"two\" are not a JSON array");
    let mut entries = vec![
        steps("a name that is no UTF-8", "name=CAST(X'ff' AS TEXT)", Success),
        steps(
            "a kind that is no UTF-8",
            "executor_type=CAST(X'c328' AS TEXT)",
            failed("executor type \"\u{fffd}(\" of step two"),
        ),
        steps(
            "parameters that are no UTF-8",
            "parameters=CAST(X'7bff7d' AS TEXT)",
            failed("the column parameters is not a JSON object: "),
        ),
        rows("dependencies that are no UTF-8", dangling, no_dependencies),
        step_rows(
            "a status that is no UTF-8",
            "status=CAST(X'ff' AS TEXT)",
            failed("step two has an unknown status \"\u{fffd}\""),
        ),
        step_rows("times that are none", "started_at='soon', finished_at=''", Success),
        execution("creation at no time", "created_at='soon', started_at='x'", Success),
        execution("updated at no time", "updated_at='zzz'", Success),
        execution("a time in bytes", "created_at=CAST(X'ff00' AS TEXT)", Success),
        execution(
            "a template that is no UTF-8",
            "template_id=CAST(X'ff' AS TEXT)",
            failed("its template \u{fffd} does not exist any more"),
        ),
        execution("a plan of two bytes", "ow_plan=X'abcd'", failed("is not in ow_plans any more")),
        execution(
            "a status in capitals of an execution",
            "status='PENDING', created_at={past}, updated_at={past}",
            failed("its status was \"PENDING\""),
        ),
    ];
    entries.extend(long_texts(&|| Success));
    let long = shell(&format!(": {}", "x".repeat(1 << 20)));
    entries.push(Entry::steps(
        "a megabyte of a script",
        vec![long],
        failed("step s failed: cannot start sh: Argument list too long"),
    ));
    entries.push(Entry::steps(
        "an id twice",
        vec![noop("a"), noop("b"), noop("a")],
        failed("stands twice in the template"),
    ));
    for (name, id) in [("a long id", "x".repeat(255)), ("an id of emoji", "🦀".into())] {
        entries.push(Entry::steps(name, vec![noop(&id)], refused("CHECK constraint failed")));
    }
    entries
}

/// A server's columns have a length, and its times need not be any.
pub fn servers() -> Vec<Entry> {
    let rows = |name, sql: &str, becomes| Entry::rows(name, &[sql], becomes);
    let execution = |name, columns: &str, becomes| {
        let sql = format!("UPDATE workflow_executions SET {columns} WHERE id='{{id}}'");
        Entry::rows(name, &[&sql], becomes)
    };
    let step_rows = |name, step: &str, columns: &str, becomes| {
        let sql = format!(
            "UPDATE workflow_step_executions SET {columns} WHERE execution_id='{{id}}' \
             AND step_id='{{e}}{step}'"
        );
        Entry::rows(name, &[&sql], becomes)
    };
    let mut entries = vec![
        execution("created at a zero date", "created_at='0000-00-00', updated_at=0", Success),
        execution("not before a zero date", "ow_not_before='0000-00-00'", Success),
        execution("begun at a zero date", "started_at='0000-00-00'", Success),
        execution("begun on no day", "started_at='2024-05-00'", Success),
        execution("begun on the 31st of February", "started_at='2024-02-31'", Success),
        execution("ended at a zero date", "finished_at='2024-00-00'", Success),
        step_rows("a step begun at a zero date", "one", "started_at=0", Success),
        step_rows("a later step begun on no day", "two", "started_at='2024-05-00'", Success),
        step_rows("a step begun on no such day", "two", "started_at='2024-02-31'", Success),
        step_rows("a step created at a zero date", "one", "created_at=0, updated_at=0", Success),
        execution("a status in capitals of an execution", "status='PENDING'", Success),
        rows(
            "a lock that expires at a zero date",
            "INSERT INTO distributed_locks(lock_key, owner, expires_at, updated_at) VALUES \
             ('workflow_execution:{id}', 'x', '0000-00-00', 0)",
            Success,
        ),
        rows(
            "the id of a template in capitals",
            "UPDATE workflow_executions SET template_id=UPPER(template_id) WHERE id='{id}'",
            failed("does not exist any more"),
        ),
        Entry::steps("an id of emoji", vec![noop("🦀"), after(noop("b"), r#"["{e}🦀"]"#)], Success),
        Entry::steps(
            "an id twice",
            vec![noop("a"), noop("b"), noop("a")],
            refused("Duplicate entry"),
        ),
        Entry::steps("a long id", vec![noop(&"x".repeat(255))], refused("Data too long")),
    ];
    entries.extend(long_texts(&|| refused("Data too long")));
    let long = shell(&format!(": {}", "x".repeat(1 << 20)));
    entries.push(Entry::steps("a megabyte of a script", vec![long], refused("Data too long")));
    entries
}

/// A megabyte where a server has room for 65,535 bytes.
fn long_texts(becomes: &dyn Fn() -> Becomes) -> Vec<Entry> {
    let long = "x".repeat(1 << 20);
    let parameters = format!(r#"{{"func":"noop","a":"{long}"}}"#);
    let dependencies = format!("[{}]", vec!["\"{e}b\""; 100_000].join(","));
    vec![
        Entry::steps(
            "a megabyte of parameters",
            vec![RecordedStep { parameters: Some(parameters), ..step("s") }],
            becomes(),
        ),
        Entry::steps(
            "a megabyte of dependencies",
            vec![after(noop("a"), &dependencies), noop("b")],
            becomes(),
        ),
    ]
}

//! Rows of executions, steps, locks and plans that every store can hold and no worker writes.

use orchestrator_worker::domain::definition::Definition;

use super::{
    Becomes,
    Becomes::{Success, Waits},
    Entry, failed,
};
use crate::process::is_soak;

pub fn entries() -> Vec<Entry> {
    let mut entries = executions();
    entries.extend(steps());
    entries.extend(templates());
    entries.extend(locks());
    entries.extend(plans());
    entries.extend(left_by_the_dead());
    entries
}

/// Sets columns of the execution.
fn set(columns: &str) -> String {
    format!("UPDATE workflow_executions SET {columns} WHERE id='{{id}}'")
}

/// Sets columns of the execution's row for a step.
fn set_step(step: &str, columns: &str) -> String {
    format!(
        "UPDATE workflow_step_executions SET {columns} WHERE execution_id='{{id}}' \
         AND step_id='{{e}}{step}'"
    )
}

fn executions() -> Vec<Entry> {
    let entry = |name, columns: &str, becomes| Entry::rows(name, &[&set(columns)], becomes);
    vec![
        entry("created in the year 9999", "created_at='9999-12-31 23:59:59'", Waits),
        entry("not before the year 9999", "ow_not_before='9999-12-31 23:59:59'", Waits),
        entry("the largest fence", "ow_fence=9000000000000000000", Waits),
        entry("begun and ended in the future", "started_at={soon}, finished_at={soon}", Success),
        entry("a duration below zero", "duration=-9223372036854775808", Success),
        entry("an error that is there already", "error='of nobody'", Success),
        entry("no times at all", "created_at=NULL, updated_at=NULL, started_at=NULL", Success),
        entry("a claim without an owner", "ow_claim='x', ow_owner_uid='y', ow_claims=7", Success),
        entry("a trace that is none", "ow_traceparent='00-nonsense'", Success),
        entry("a template with an empty id", "template_id=''", failed("its template  does not")),
        entry("a run at its end", "ow_run=4294967295", Success),
    ]
}

fn steps() -> Vec<Entry> {
    let entry = |name, step, columns: &str, becomes| {
        Entry::rows(name, &[&set_step(step, columns)], becomes)
    };
    let unknown = |word: &str| failed(&format!("step two has an unknown status {word:?}"));
    let foreign = "INSERT INTO workflow_step_executions(id, execution_id, step_id, status) VALUES \
                   ('{e}foreign', '{id}', 'elsewhere', 'running')";
    let gone = "DELETE FROM workflow_step_executions WHERE execution_id='{id}'";
    let orphaned =
        "UPDATE workflow_step_executions SET execution_id=NULL WHERE execution_id='{id}'";
    let old = set("created_at={past}");
    let attempts = "ow_attempt=4294967295, ow_key_gen=4294967295";
    let fails = "UPDATE steps SET parameters='{\"func\":\"fail\"}', retries=1 WHERE id='{e}one'";
    let attempt = "INSERT INTO ow_attempts(execution_id, step_execution_id, attempt, fence, owner, \
                   started_at, finished_at, outcome) SELECT execution_id, id, 1, 1, 'x', {past}, \
                   {past}, 'success' FROM workflow_step_executions WHERE execution_id='{id}'";
    vec![
        entry("a status in capitals", "two", "status='Success'", unknown("Success")),
        entry("a status with a blank", "two", "status='success '", unknown("success ")),
        entry("an empty status", "two", "status=''", unknown("")),
        entry("a status of an execution", "two", "status='cancelled'", unknown("cancelled")),
        entry("a status that is NULL", "two", "status=NULL", Success),
        entry("a step that was skipped", "one", "status='skipped'", Success),
        entry(
            "a step that failed for nothing",
            "one",
            "status='failed'",
            failed("step one failed"),
        ),
        entry("a step that nobody runs", "one", "status='running'", Success),
        entry("a later step that is done", "two", "status='success'", Success),
        entry("the largest fence of a step", "one", "ow_fence=9223372036854775807", Success),
        entry("retries below zero", "one", "retry_count=-9223372036854775808", Success),
        entry("more retries than there are", "one", "retry_count=9223372036854775807", Success),
        Entry::rows(
            "a failure at the last attempt there is",
            &[fails, &set_step("one", attempts)],
            failed("step one failed: it was asked to fail"),
        ),
        Entry::rows("attempts that nobody began", &[attempt], Success),
        Entry::rows("a row for a step of nothing", &[foreign], Success),
        Entry::rows("no step rows, and old", &[gone, &old], Success),
        Entry::rows("step rows of no execution", &[orphaned, &old], Success),
        Entry::rows(
            "a first row that is missing",
            &[
                "DELETE FROM workflow_step_executions WHERE step_id='{e}one'",
                &set_step("two", "status='success'"),
                &old,
            ],
            Success,
        ),
    ]
}

fn templates() -> Vec<Entry> {
    let link = "UPDATE workflow_template_steps SET step_id=NULL WHERE step_id='{e}two'";
    let twice = "INSERT INTO workflow_template_steps(id, template_id, step_id) VALUES \
                 ('{e}twice', '{e}t', '{e}two')";
    let rename =
        |columns: &str| format!("UPDATE workflow_templates SET {columns} WHERE id='{{e}}t'");
    vec![
        Entry::rows("a link that names no step", &[link], failed("of its template does not exist")),
        Entry::rows("a step twice", &[twice], failed("step \"two\" stands twice in the template")),
        Entry::rows(
            "very many steps in a circle",
            &circle().each_ref().map(String::as_str),
            failed("wait for each other in a circle"),
        ),
        Entry::rows("a template without a name", &[&rename("name=NULL")], Success),
        Entry::rows("a template half active", &[&rename("is_active=-1, name='\n'")], Success),
    ]
}

/// 10,000 steps, 100,000 in a soak, each of which waits for the next and the last for the first.
fn circle() -> [String; 2] {
    let most = if is_soak() { 9 } else { 0 };
    let steps = format!(
        "INSERT INTO steps(id, name, executor_type) \
         WITH d AS (SELECT 0 AS n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION \
         SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9) \
         SELECT CONCAT('{{e}}', a.n, b.n, c.n, e.n, f.n), 's', 'func' \
         FROM d a, d b, d c, d e, d f WHERE a.n<={most}"
    );
    let links = "INSERT INTO workflow_template_steps(id, template_id, step_id, dependencies) \
         SELECT id, '{e}t', id, CONCAT('[\"', COALESCE(LEAD(id) OVER (ORDER BY id), '{e}00000'), \
         '\"]') FROM steps WHERE id LIKE '{e}_____'";
    [steps, links.into()]
}

fn locks() -> Vec<Entry> {
    let lock = |owner: &str, expires: &str| {
        format!(
            "INSERT INTO distributed_locks(lock_key, owner, expires_at, created_at, updated_at, \
             ow_fence, ow_beat) VALUES ('workflow_execution:{{id}}', '{owner}', {expires}, NULL, \
             NULL, 9223372036854775807, 9223372036854775807)"
        )
    };
    vec![
        Entry::rows("the lock of one long gone", &[&lock("x", "{past}")], Success),
        Entry::rows("the lock of nobody", &[&lock("", "{past}")], Success),
        Entry::rows("a mark that never expires", &[&lock("~", "'9999-12-31 23:59:59'")], Success),
        Entry::rows("a lock that never expires", &[&lock("go-1", "'9999-12-31 23:59:59'")], Waits),
    ]
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a text takes all");
        text
    })
}

/// The execution names a plan of this text, which stands under the hash of `hashed`.
fn plan(name: &str, text: &str, hashed: &str, becomes: Becomes) -> Entry {
    let hash = hex(&Definition::hash(hashed).0);
    let insert = format!(
        "INSERT INTO ow_plans(sha256, plan, created_at) VALUES (X'{hash}', '{text}', {{now}})"
    );
    Entry::rows(name, &[&insert, &set(&format!("ow_plan=X'{hash}'"))], becomes)
}

fn plans() -> Vec<Entry> {
    let unreadable = || failed("its stored plan is not readable: ");
    let gone = || failed("the plan of its first claim is not in ow_plans any more");
    let good =
        r#"{"template":"t","name":"n","steps":[{"id":"a","name":"a","executor_type":"func"}]}"#;
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let nothing = set(&format!("ow_plan=X'{}'", "ab".repeat(32)));
    let step = |step: &str| format!(r#"{{"template":"t","name":"n","steps":[{step}]}}"#);
    let all = |name: &str, text: &str, becomes| plan(name, text, text, becomes);
    vec![
        Entry::rows("a plan that is not there", &[&nothing], gone()),
        plan("a plan under the hash of another", good, "of another", gone()),
        all("a plan of a word", "nonsense", unreadable()),
        all("an empty plan", "", unreadable()),
        all("a plan without steps", r#"{"template":"t"}"#, unreadable()),
        all("a plan whose step has a number for its id", &step(r#"{"id":1}"#), unreadable()),
        all("a deep plan", &deep, unreadable()),
        all("a plan of an unknown function", good, failed("function \"a\" of step a")),
        all(
            "a plan whose step says nothing",
            &step(r#"{"id":"","name":null,"executor_type":null}"#),
            failed("step \"\" cannot be run: it has no executor_type"),
        ),
    ]
}

/// What an owner leaves that does not live: handed back, or not renewed for the second of its lease.
fn left_by_the_dead() -> Vec<Entry> {
    let released = |more: &str| {
        set(&format!("status='running', ow_owner='~released', ow_fence=5, ow_claim='x'{more}"))
    };
    let owned = |more: &str| {
        set(&format!("status='running', ow_owner='ghost', ow_fence=5, ow_claim='x'{more}"))
    };
    let lock = "INSERT INTO distributed_locks(lock_key, owner, expires_at, updated_at, ow_fence) \
                VALUES ('workflow_execution:{id}', 'ghost', {soon}, {now}, 5)";
    let gone = "the plan of its first claim is not in ow_plans any more";
    let no_plan = format!(", ow_plan=X'{}'", "cd".repeat(32));
    let running = set_step("one", "status='running', ow_fence=5, ow_attempt=4294967295");
    let odd = set_step("two", "status='RUNNING', ow_fence=5");
    vec![
        Entry::rows("handed back without a lock or a plan", &[&released("")], Success),
        Entry::rows("handed back with a lost plan", &[&released(&no_plan)], failed(gone)),
        Entry::rows("handed back at its last attempt", &[&released(""), &running], Success),
        Entry::rows(
            "handed back with a status in capitals",
            &[&released(""), &odd],
            failed("step two has an unknown status \"RUNNING\""),
        ),
        Entry::rows(
            "left without a template",
            &[&owned(", template_id=NULL"), lock],
            failed("it names no template"),
        ),
        Entry::rows(
            "lost as often as can be counted",
            &[&owned(", ow_claims=4294967295"), lock],
            failed("its workers were lost 4294967295 times in a row"),
        ),
    ]
}

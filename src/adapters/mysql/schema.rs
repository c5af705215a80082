//! `migrate`: the orchestrator's tables where they are missing, and what the worker adds to them.
//!
//! **Invariant:** a step that has been done is never done again; nothing is dropped or rewritten; an
//! ALTER that meets a long transaction steps aside, because everybody else would wait behind it.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use super::{
    errors::Fault,
    facts, rows,
    session::{Entrance, Purpose, Session, fixed, made},
    work::{Work, run},
};
use crate::{
    adapters::lane::{Lanes, LanesSettings},
    ports::control::MigrationStep,
};

const FILES: [&str; 2] = [
    include_str!("../../../migrations/mysql/0001_orchestrator.sql"),
    include_str!("../../../migrations/mysql/0002_worker.sql"),
];

/// A trigger that stops writers who hold no claim. Its own file, because its text holds semicolons.
const GUARD: [Step<'static>; 2] = [
    Step {
        what: "create the trigger ow_guard on workflow_executions",
        unless: "trigger ow_guard",
        sql: include_str!("../../../migrations/mysql/guard.sql"),
    },
    // A worker may not see triggers.
    Step {
        what: "record the guard in ow_meta",
        unless: "guard ow_meta",
        sql: "UPDATE ow_meta SET guard=1 WHERE id=1",
    },
];

/// A key over a table of a hundred million rows takes its time.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// How often an ALTER steps aside, and for how long.
const PATIENCE: u32 = 30;
const ASIDE: Duration = Duration::from_secs(1);

/// What is to be there afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Tables,
    /// The trigger on tables that are there.
    Guard,
}

/// Does, or with `dry_run` only names, what is still to be done.
pub(super) async fn migrate(
    entrance: &Entrance,
    extent: Extent,
    dry_run: bool,
) -> Result<Vec<MigrationStep>, Fault> {
    let entrance = Entrance { purpose: Purpose::Migration, ..entrance.clone() };
    let lane = Lanes::start(entrance, LanesSettings::new("migrate", 1));
    run(&lane, LIMIT, Migration { extent, dry_run, done: Vec::new() }).await
}

/// A step of a migration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step<'f> {
    pub what: &'f str,
    /// What shows that it has been done: `table t`, `column t.c`, `key t.k`, `row t`; `lead t.c` is any
    /// key of a table that begins with that column, of which those made here have one.
    unless: &'f str,
    sql: &'f str,
}

impl Step<'_> {
    fn is_done(&self, there: &BTreeSet<String>) -> bool {
        let table = self.unless.strip_prefix("lead ").and_then(|name| name.split_once('.'));
        let comes_with_its_table =
            table.is_some_and(|(table, _)| !there.contains(&format!("table {table}")));
        there.contains(self.unless) || comes_with_its_table
    }
}

/// The steps of a migration file.
fn steps(file: &str) -> Vec<Step<'_>> {
    let announced = |part| {
        let (what, rest): (&str, &str) = str::split_once(part, "\n-- unless: ")?;
        let (unless, rest) = rest.split_once('\n')?;
        let (sql, _) = rest.split_once(";\n")?;
        Some(Step { what, unless, sql })
    };
    file.split("\n-- step: ").skip(1).filter_map(announced).collect()
}

struct Migration {
    extent: Extent,
    dry_run: bool,
    done: Vec<MigrationStep>,
}

#[async_trait]
impl Work for Migration {
    type Answer = Vec<MigrationStep>;

    async fn attempt(&mut self, session: &mut Session) -> Result<Vec<MigrationStep>, Fault> {
        if !self.dry_run {
            take_turn(session).await?;
        }
        let steps = match self.extent {
            Extent::Tables => pending(session).await?,
            Extent::Guard => guard_pending(session).await?,
        };
        for step in steps {
            let took = if self.dry_run { None } else { Some(carry_out(session, &step).await?) };
            let what = session.shared.lock_table.named(step.what).into_owned();
            self.done.push(MigrationStep { what, took });
        }
        if !self.dry_run {
            session
                .raw(
                    "DO RELEASE_LOCK(CONCAT('ow_migrate:', LEFT(SHA2(DATABASE(), 256), 40)))"
                        .into(),
                )
                .await?;
            session.shared.learn_facts(None);
        }
        Ok(std::mem::take(&mut self.done))
    }
}

/// What is still to be done; refuses tables that need a newer worker.
pub(super) async fn pending(session: &mut Session) -> Result<Vec<Step<'static>>, Fault> {
    let there = what_is_there(session).await?;
    if there.contains("row ow_meta") {
        facts::check_version(session).await?;
    }
    let all = FILES.into_iter().flat_map(steps);
    Ok(all.filter(|step| !step.is_done(&there)).collect())
}

async fn guard_pending(session: &mut Session) -> Result<Vec<Step<'static>>, Fault> {
    let there = what_is_there(session).await?;
    Ok(GUARD.into_iter().filter(|step| !there.contains(step.unless)).collect())
}

/// One migration at a time; the lock falls with the connection.
async fn take_turn(session: &mut Session) -> Result<(), Fault> {
    let ask = fixed(
        "SELECT CAST(GET_LOCK(CONCAT('ow_migrate:', LEFT(SHA2(DATABASE(), 256), 40)), 30) AS SIGNED)",
    );
    let answer = session.row(ask).await?.map(|row| rows::number(&row, 0)).transpose()?;
    if answer.flatten() == Some(1) {
        return Ok(());
    }
    Err(Fault::Busy("another migration of this database is running; wait for its end".into()))
}

async fn what_is_there(session: &mut Session) -> Result<BTreeSet<String>, Fault> {
    let found = session
        .rows(fixed(
            "SELECT CONCAT('table ', TABLE_NAME) FROM information_schema.TABLES \
             WHERE TABLE_SCHEMA=DATABASE() UNION ALL \
             SELECT CONCAT('column ', TABLE_NAME, '.', COLUMN_NAME) FROM \
             information_schema.COLUMNS WHERE TABLE_SCHEMA=DATABASE() UNION ALL \
             SELECT DISTINCT CONCAT('key ', TABLE_NAME, '.', INDEX_NAME) FROM \
             information_schema.STATISTICS WHERE TABLE_SCHEMA=DATABASE() UNION ALL \
             SELECT DISTINCT CONCAT('lead ', TABLE_NAME, '.', COLUMN_NAME) FROM \
             information_schema.STATISTICS WHERE TABLE_SCHEMA=DATABASE() AND SEQ_IN_INDEX=1 \
             UNION ALL SELECT CONCAT('trigger ', TRIGGER_NAME) FROM \
             information_schema.TRIGGERS WHERE TRIGGER_SCHEMA=DATABASE()",
        ))
        .await?;
    let lock_table = &session.shared.lock_table;
    let as_usual = |row| {
        let name: String = rows::name(row, 0)?;
        let (kind, thing) = name.split_once(' ').unwrap_or_default();
        Ok(lock_table.as_usual(thing).map(|thing| format!("{kind} {thing}")))
    };
    let there: Result<Vec<Option<String>>, Fault> = found.iter().map(as_usual).collect();
    let mut there: BTreeSet<String> = there?.into_iter().flatten().collect();
    for table in ["ow_primary", "ow_meta"] {
        if there.contains(&format!("table {table}")) {
            let ask = made(format!("SELECT id FROM {table} WHERE id=1"));
            if session.row(ask).await?.is_some() {
                there.insert(format!("row {table}"));
            }
        }
    }
    if there.contains("row ow_meta") {
        let ask = fixed("SELECT CAST(guard AS SIGNED) FROM ow_meta WHERE id=1");
        if session.row(ask).await?.map(|row| rows::number(&row, 0)).transpose()? == Some(Some(1)) {
            there.insert("guard ow_meta".into());
        }
    }
    Ok(there)
}

async fn carry_out(session: &mut Session, step: &Step<'_>) -> Result<Duration, Fault> {
    let began = Instant::now();
    let mut tries = 0;
    loop {
        tries += 1;
        match send(session, step).await {
            Ok(()) => return Ok(began.elapsed()),
            Err(fault) if fault.is_passing() && tries < PATIENCE => sleep(ASIDE).await,
            Err(fault) => return Err(fault.during(step.what)),
        }
    }
}

/// A statement that needs the primary's identity takes it as a value.
async fn send(session: &mut Session, step: &Step<'_>) -> Result<(), Fault> {
    if !step.sql.contains(":identity") {
        return session.raw(step.sql.into()).await;
    }
    let identity = session.server.identity.clone();
    session.matched_alone(made(step.sql.replace(":identity", "?")).bind(identity)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_of_the_files_is_a_step_that_can_be_recognised() {
        let all: Vec<Step<'_>> = FILES.into_iter().flat_map(steps).collect();
        let statements: usize = FILES.iter().map(|file| file.matches(";\n").count()).sum();
        assert_eq!(all.len(), statements);
        let marks: BTreeSet<&str> = all.iter().map(|step| step.unless).collect();
        assert_eq!(marks.len(), all.len(), "each has a mark of its own");
        for step in &all {
            let (kind, name) = step.unless.split_once(' ').expect("a kind and a name");
            assert!(["table", "column", "key", "lead", "row"].contains(&kind), "{step:?}");
            let own = name.rsplit('.').next().expect("a name");
            assert!(step.sql.contains(own), "{step:?}");
        }
    }

    #[test]
    fn a_key_that_comes_with_its_table_is_only_missing_from_tables_of_others() {
        let mut all = FILES.into_iter().flat_map(steps);
        let step = all.find(|step| step.unless.starts_with("lead ")).expect("there is one");
        let is_done =
            |there: &[&str]| step.is_done(&there.iter().map(ToString::to_string).collect());
        let table = "table workflow_step_executions";
        assert!(is_done(&[]));
        assert!(!is_done(&[table]));
        assert!(is_done(&[table, step.unless]));
    }

    #[test]
    fn every_alter_names_its_algorithm() {
        for step in FILES.into_iter().flat_map(steps) {
            assert!(!step.sql.contains("ALTER") || step.sql.contains("ALGORITHM="), "{step:?}");
        }
    }
}

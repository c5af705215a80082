//! What `doctor` goes by, part by part.
//!
//! **Invariant:** a part that this user may not ask, or that is not there, hinders no other; nothing
//! is left behind.

use sqlx::mysql::MySqlRow;

use super::count_old;
use crate::{
    adapters::{
        lane::Lanes,
        mysql::{
            errors::Fault,
            rows as cells,
            session::Entrance,
            survey,
            work::{WORK_LIMIT, run},
        },
    },
    domain::{
        doctor::{Answer, Circumstances, Facts, Rows},
        eligibility::Eligibility,
    },
    ports::control::ControlError,
};

mod clock;
mod longest_step;
mod round_trip;
mod server;
mod tables;
mod templates;
mod unknown;

pub(in crate::adapters::mysql) use templates::templates;

pub(in crate::adapters::mysql) async fn examine(lanes: &Lanes<Entrance>) -> Facts {
    Facts {
        server: answer(run(lanes, WORK_LIMIT, server::Ask).await),
        tables: answer(run(lanes, WORK_LIMIT, tables::Ask).await),
        clock: answer(run(lanes, WORK_LIMIT, clock::Ask).await),
        round_trip: answer(run(lanes, WORK_LIMIT, round_trip::Try::new()).await),
        rows: answer(rows(lanes).await),
        longest_step: answer(run(lanes, WORK_LIMIT, longest_step::Ask).await),
    }
}

pub(in crate::adapters::mysql) async fn circumstances(
    lanes: &Lanes<Entrance>,
) -> Result<Circumstances, Fault> {
    Ok(Circumstances {
        server: run(lanes, WORK_LIMIT, server::Ask).await?,
        orchestrator_ms: run(lanes, WORK_LIMIT, clock::AskOrchestrator).await?,
        longest_step: run(lanes, WORK_LIMIT, longest_step::Ask).await?,
    })
}

fn answer<T>(read: Result<T, Fault>) -> Answer<T> {
    read.map_err(|fault| ControlError::from(fault).into())
}

async fn rows(lanes: &Lanes<Entrance>) -> Result<Rows, Fault> {
    let queue = survey::queue(lanes, &Eligibility::default()).await?;
    Ok(Rows {
        due: queue.due,
        later: queue.later,
        running: queue.running,
        backlog: queue.backlog,
        oldest_backlog: queue.oldest_backlog,
        unknown: run(lanes, WORK_LIMIT, unknown::Count).await?,
        expired_locks: count_old(lanes).await?,
    })
}

/// Why a worker refuses to start, if it does for what was asked.
fn refusal<T>(asked: Result<T, Fault>) -> Result<Option<String>, Fault> {
    match asked {
        Ok(_) => Ok(None),
        Err(Fault::NotReady(sentence)) => Ok(Some(sentence)),
        Err(fault) => Err(fault),
    }
}

/// The number in the one row of a count.
fn count(row: Option<&MySqlRow>) -> Result<u64, Fault> {
    let row = row.ok_or_else(|| Fault::Unexpected("a count gave no row".into()))?;
    Ok(u64::try_from(cells::number(row, 0)?.unwrap_or(0)).unwrap_or(0))
}

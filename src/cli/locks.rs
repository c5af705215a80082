//! `locks`: the lock table as it is.

use clap::{Args, Subcommand};
use comfy_table::Cell;
use serde::Serialize;

use super::{
    OutputWord,
    exit::{Exit, Failure},
    output::{self, Rows},
    program::store,
    text,
    workers::{ago, millis},
};
use crate::{
    config::Config,
    domain::id::{ExecutionId, LockKey},
    ports::control::{LockFilter, LockRow},
};

/// List, show or clean lock rows.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker locks list --expired
  orchestrator-worker locks show 0197c2d4-5a3e-4c41-9c1e-0d6a5f2b7e11
  orchestrator-worker locks clean --expired --dry-run")]
pub struct LocksArgs {
    #[command(subcommand)]
    command: LocksCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum LocksCommand {
    List(LocksListArgs),
    Show(LocksShowArgs),
    Clean(LocksCleanArgs),
}

/// List lock rows, those that expire last first.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  orchestrator-worker locks list --owner pod-1")]
struct LocksListArgs {
    /// Only those of this owner.
    #[arg(long)]
    owner: Option<String>,
    /// Only those that have expired.
    #[arg(long)]
    expired: bool,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

/// Show one lock row.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  orchestrator-worker locks show 0197c2d4-5a3e-4c41-9c1e-0d6a5f2b7e11")]
struct LocksShowArgs {
    /// A lock key, or an execution's id.
    key: String,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

/// Delete lock rows that nobody needs any more: a minute past their expiry, marks that workers left and
/// whatever is no execution's lease. A lease is never deleted by time; workers do all this by
/// themselves every minute.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  orchestrator-worker locks clean --expired --dry-run")]
struct LocksCleanArgs {
    /// Those that have expired; said so that nobody deletes locks by mistake.
    #[arg(long, required = true)]
    expired: bool,
    /// Print the statement and how many rows it would delete, and delete nothing.
    #[arg(long)]
    dry_run: bool,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

#[derive(Serialize)]
struct CleanedJson {
    dry_run: bool,
    cleaned_count: u64,
    sql: String,
}

pub async fn locks(args: &LocksArgs, config: &Config) -> Result<Exit, Failure> {
    match &args.command {
        LocksCommand::List(args) => list(args, config).await,
        LocksCommand::Show(args) => show(args, config).await,
        LocksCommand::Clean(args) => clean(args, config).await,
    }
}

async fn list(args: &LocksListArgs, config: &Config) -> Result<Exit, Failure> {
    let filter = LockFilter {
        key: None,
        owner: args.owner.clone(),
        expired: args.expired,
        limit: args.limit,
    };
    let locks = store(config).await?.control.locks(&filter).await?;
    match args.output {
        OutputWord::Json => output::json(&locks)?,
        OutputWord::Table if locks.is_empty() => output::line("no such lock rows")?,
        OutputWord::Table => table(&locks, config)?,
    }
    Ok(Exit::Success)
}

fn table(locks: &[LockRow], config: &Config) -> Result<(), Failure> {
    let columns = ["EXECUTION OR KEY", "OWNER", "EXPIRES", "RENEWED"];
    let mut rows = Rows::new(config, &columns).whole(&[2, 3]);
    let of_executions = LockKey::of_execution(&ExecutionId::from("")).to_string();
    for lock in locks {
        rows.add([
            Cell::new(text::cell(lock.key.strip_prefix(&of_executions).unwrap_or(&lock.key), 250)),
            Cell::new(text::cell(&lock.owner, 250)),
            Cell::new(expiry(lock)),
            Cell::new(ago(lock.renewed_ago_ms)),
        ]);
    }
    rows.print()
}

fn expiry(lock: &LockRow) -> String {
    match lock.expires_in_ms {
        left @ 1.. => format!("in {}", text::took(millis(left))),
        past => ago(Some(-past)),
    }
}

async fn show(args: &LocksShowArgs, config: &Config) -> Result<Exit, Failure> {
    let control = store(config).await?.control;
    let of_execution = LockKey::of_execution(&ExecutionId::from(args.key.as_str())).to_string();
    for key in [args.key.clone(), of_execution] {
        let filter = LockFilter { key: Some(key), limit: 1, ..LockFilter::default() };
        if let Some(lock) = control.locks(&filter).await?.first() {
            one(lock, args.output)?;
            return Ok(Exit::Success);
        }
    }
    Err(Failure::NoLock(args.key.clone()))
}

fn one(lock: &LockRow, word: OutputWord) -> Result<(), Failure> {
    if word == OutputWord::Json {
        return output::json(lock);
    }
    output::fields([
        ("key", text::cell(&lock.key, 250)),
        ("owner", text::cell(&lock.owner, 250)),
        ("fence", lock.fence.to_string()),
        ("beat", lock.beat.to_string()),
        ("expires", expiry(lock)),
        ("renewed", ago(lock.renewed_ago_ms)),
        ("created", lock.created_at.map(|time| time.to_string()).unwrap_or_default()),
    ])
}

async fn clean(args: &LocksCleanArgs, config: &Config) -> Result<Exit, Failure> {
    let control = store(config).await?.control;
    let cleaned_count = control.clean_locks(args.dry_run).await?;
    let (dry_run, sql) = (args.dry_run, control.clean_locks_sql());
    match args.output {
        OutputWord::Json => output::json(&CleanedJson { dry_run, cleaned_count, sql })?,
        OutputWord::Table if dry_run => {
            output::line(&sql)?;
            output::line(&format!("-- would delete {cleaned_count} rows"))?;
        }
        OutputWord::Table => output::line(&format!("{cleaned_count} lock rows were deleted"))?,
    }
    Ok(Exit::Success)
}

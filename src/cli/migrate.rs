//! `migrate`: makes the tables what this version needs.

use clap::Args;
use comfy_table::Cell;
use serde::Serialize;

use super::{
    OutputWord, backlog,
    exit::{Exit, Failure},
    output::{self, Rows},
    program::must_stay,
    text,
};
use crate::{
    app,
    config::Config,
    ports::control::{BacklogSummary, MigrationStep},
};

/// Make the database's tables what this version needs.
///
/// Adds only what is missing, so that it can be run again, and while an orchestrator and older
/// workers use the database. An SQLite file is migrated whenever it is opened; a MySQL database
/// only by this command, run by a user who may create and alter tables.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker migrate --dry-run --database-url mysql://ADMIN:PASSWORD@HOST/NAME
  orchestrator-worker migrate --database-url mysql://ADMIN:PASSWORD@HOST/NAME")]
pub struct MigrateArgs {
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

#[derive(Serialize)]
struct Migrated {
    dry_run: bool,
    steps: Vec<Step>,
    backlog: Option<BacklogSummary>,
}

#[derive(Serialize)]
struct Step {
    what: String,
    took_ms: Option<u128>,
}

pub async fn migrate(args: &MigrateArgs, config: &Config) -> Result<Exit, Failure> {
    must_stay(config)?;
    let stores = app::connect(&config.store).await?;
    let steps = stores.control.migrate(args.dry_run).await?;
    // Before the first migration nothing says yet what is old.
    let backlog = if args.dry_run { None } else { Some(stores.control.backlog().await?) };
    match args.output {
        OutputWord::Json => output::json(&Migrated {
            dry_run: args.dry_run,
            steps: steps
                .into_iter()
                .map(|MigrationStep { what, took }| Step {
                    what,
                    took_ms: took.map(|took| took.as_millis()),
                })
                .collect(),
            backlog,
        })?,
        OutputWord::Table if steps.is_empty() => {
            output::line("nothing to do: the tables are what this version needs")?;
        }
        OutputWord::Table => {
            let columns = if args.dry_run { ["WOULD DO", ""] } else { ["DONE", "TOOK"] };
            let mut rows = Rows::new(config, &columns).whole(&[1]).right(&[1]);
            for MigrationStep { what, took } in steps {
                rows.add([Cell::new(what), Cell::new(took.map(text::took).unwrap_or_default())]);
            }
            rows.print()?;
        }
    }
    if let Some(held) = backlog.filter(|held| held.executions > 0) {
        eprintln!("note: {}", backlog::sentence(&held));
    }
    Ok(Exit::Success)
}

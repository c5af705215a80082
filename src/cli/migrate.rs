//! `migrate`: makes the tables what this version needs.

use clap::Args;
use comfy_table::Cell;
use percent_encoding::percent_decode_str;
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
    config::{Config, Store},
    domain::{doctor, retention::Retention},
    ports::control::{BacklogSummary, MigrationStep},
};

/// Make the database's tables what this version needs.
///
/// Adds only what is missing, so that it can be run again, and while an orchestrator and older
/// workers use the database. An SQLite file is migrated whenever it is opened; a MySQL database
/// only by this command, run by a user who may create and alter tables.
///
/// With --guard it also makes a trigger that stops what the orchestrator could do to executions that
/// workers hold or have ended: start them a second time, or end them late. It needs the right TRIGGER,
/// and runs as whoever made it: that user has to stay, or every update of an execution fails. `DROP
/// TRIGGER ow_guard` takes it away again.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker migrate --dry-run
  orchestrator-worker migrate --database-url mysql://ADMIN:PASSWORD@HOST/NAME
  orchestrator-worker migrate --print-grants --grant-to worker@10.0.0.%")]
pub struct MigrateArgs {
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Also make the trigger that stops writers who hold no claim.
    #[arg(long)]
    guard: bool,
    /// Print the statements that give a worker's user its rights, and do nothing; with `retention` set
    /// in the configuration those to delete what has ended are among them.
    #[arg(long, conflicts_with_all = ["dry_run", "guard"])]
    print_grants: bool,
    /// The user of --print-grants, as NAME or NAME@HOST.
    #[arg(
        long,
        value_name = "USER",
        default_value = "orchestrator-worker@%",
        requires = "print_grants"
    )]
    grant_to: String,
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
    if args.print_grants {
        return print_grants(args, config);
    }
    must_stay(config)?;
    let stores = app::connect(&config.store).await?;
    let mut steps = stores.control.migrate(args.dry_run).await?;
    if args.guard {
        steps.extend(stores.control.guard(args.dry_run).await?);
    }
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

/// Needs no connection: whoever runs the statements is not whoever asks for them.
fn print_grants(args: &MigrateArgs, config: &Config) -> Result<Exit, Failure> {
    let Store::MySql(mysql) = &config.store else { return Err(Failure::NoUsers) };
    let database = mysql.server.rsplit('/').next().unwrap_or_default();
    let database = percent_decode_str(database).decode_utf8_lossy().replace('`', "``");
    let (name, host) = args.grant_to.rsplit_once('@').unwrap_or((&args.grant_to, "%"));
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let user = format!("{}@{}", quoted(name), quoted(host));
    let retention = config.worker.retention != Retention::default();
    let database = format!("`{database}`");
    let grants = doctor::grants(&user, &database, retention, &mysql.lock_table);
    match args.output {
        OutputWord::Json => output::json(&grants)?,
        OutputWord::Table => {
            for grant in grants {
                output::line(&format!("{grant};"))?;
            }
        }
    }
    Ok(Exit::Success)
}

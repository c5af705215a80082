//! The command line: one file a command, what they print, and how they end.
//!
//! **Invariant:** results go to the standard output, everything else to the standard error; a
//! failure is one sentence and an exit code from [`exit`].

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::config::Flags;

mod apply;
mod backlog;
mod cancel;
mod config;
mod doctor;
mod documents;
pub mod exit;
mod explain;
mod graph;
mod list;
mod locks;
mod logs;
mod migrate;
mod output;
mod pause;
mod program;
mod retry;
mod run;
mod show;
mod submit;
mod text;
mod watch;
mod workers;
pub mod workflow_file;

pub use program::Program;

const AFTER_HELP: &str = "\
Examples:
  orchestrator-worker run --submit deploy/examples --until-idle
      Try it: apply and run all workflow files of a folder, then stop.
  orchestrator-worker run --database-url mysql://USER:PASSWORD@HOST/NAME
      Work on a MySQL database until stopped.
  orchestrator-worker apply -f release.yaml
  orchestrator-worker submit release --wait
      Put a workflow in and have it run by a worker that runs elsewhere.

Exit codes:
  0   done; with --until-idle, --wait, --watch or -f: everything succeeded
  1   it could not be done; the reason is on the standard error
      (doctor: something needs a person)
  2   the command line is wrong
  3   an execution failed (run --until-idle, --wait, --watch, logs -f)
  4   an execution was cancelled and none failed (the same)
  78  the configuration is wrong

Settings come from a YAML file (--config, else ./orchestrator-worker.yaml, else
/etc/orchestrator-worker/config.yaml), then from variables such as
ORCHESTRATOR_WORKER__LOCK__TTL=30s, then from flags. DATABASE_URL, the variables
DB_HOST, DB_PORT, DB_USER, DB_PASSWORD and DB_NAME, RUST_LOG, NO_COLOR and
OTEL_* are understood too. A password of MySQL may stand in a file of its own,
which is read at every connect: ORCHESTRATOR_WORKER__DATABASE__PASSWORD_FILE.";

/// Runs the workflows of an orchestrator's database, exactly as recorded.
#[derive(Clone, Debug, Parser)]
#[command(version = env!("ORCHESTRATOR_WORKER_VERSION"), after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Everywhere")]
struct Global {
    /// Configuration file (YAML).
    #[arg(long, global = true, value_name = "PATH")]
    config: Option<PathBuf>,
    // Not a comment of the field, because there a URL would have to be a link.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help = "The database: mysql://USER:PASSWORD@HOST/NAME, sqlite://PATH or memory: [default: \
                the SQLite file orchestrator.db in the working directory]"
    )]
    database_url: Option<String>,
    /// How logs look on the standard error [default: text on a terminal, else json]
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogWord>,
    /// Log more; twice for everything, SQL statements included but never their values.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogWord {
    Auto,
    Text,
    Json,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Migrate(migrate::MigrateArgs),
    Apply(apply::ApplyArgs),
    Submit(submit::SubmitArgs),
    List(list::ListArgs),
    Show(show::ShowArgs),
    Logs(logs::LogsArgs),
    Cancel(cancel::CancelArgs),
    Retry(retry::RetryArgs),
    Pause(pause::PauseArgs),
    Resume(pause::ResumeArgs),
    Backlog(backlog::BacklogArgs),
    Graph(graph::GraphArgs),
    Explain(explain::ExplainArgs),
    Locks(locks::LocksArgs),
    Workers(workers::WorkersArgs),
    Doctor(doctor::DoctorArgs),
    Config(config::ConfigArgs),
    Completions(documents::CompletionsArgs),
    Man(documents::ManArgs),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum OutputWord {
    /// For people.
    #[default]
    Table,
    /// For programs: times in UTC as RFC 3339.
    Json,
}

impl Cli {
    /// The settings among the flags.
    pub fn flags(&self) -> Flags {
        let global = &self.global;
        let format = global.log_format.map(|word| match word {
            LogWord::Auto => "auto",
            LogWord::Text => "text",
            LogWord::Json => "json",
        });
        let filter = match global.verbose {
            0 => None,
            1 => Some("warn,orchestrator_worker=debug"),
            _ => Some("debug,orchestrator_worker=trace,sqlx::query=trace"),
        };
        let flags = Flags::default()
            .with_file(global.config.clone())
            .with("--database-url", "database.url", global.database_url.as_ref())
            .with("--log-format", "log.format", format)
            .with("--verbose", "log.filter", filter);
        match &self.command {
            Command::Run(run) => run.flags(flags),
            Command::Migrate(_)
            | Command::Apply(_)
            | Command::Submit(_)
            | Command::List(_)
            | Command::Show(_)
            | Command::Logs(_)
            | Command::Cancel(_)
            | Command::Retry(_)
            | Command::Pause(_)
            | Command::Resume(_)
            | Command::Backlog(_)
            | Command::Graph(_)
            | Command::Explain(_)
            | Command::Locks(_)
            | Command::Workers(_)
            | Command::Doctor(_)
            | Command::Config(_)
            | Command::Completions(_)
            | Command::Man(_) => flags,
        }
    }

    fn is_run(&self) -> bool {
        matches!(self.command, Command::Run(_))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_argument_is_explained() {
        let mut cli = Cli::command();
        cli.build();
        cli.clone().debug_assert();
        each_is_explained(&cli);
    }

    fn each_is_explained(of: &clap::Command) {
        for command in of.get_subcommands().filter(|command| command.get_name() != "help") {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} says what it does");
            assert!(command.get_after_help().is_some(), "{name} has an example");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{name} {}", argument.get_id());
            }
            each_is_explained(command);
        }
    }

    #[test]
    fn every_example_of_the_help_can_be_typed() {
        let mut cli = Cli::command();
        cli.build();
        let nested = cli.get_subcommands().flat_map(clap::Command::get_subcommands);
        let helps = nested.chain(cli.get_subcommands()).chain([&cli]);
        let helps = helps.filter_map(clap::Command::get_after_help).map(ToString::to_string);
        let texts: Vec<String> = helps.collect();
        for line in texts.iter().flat_map(|text| text.lines()) {
            assert!(line.chars().count() <= 80, "this would be broken: {line}");
        }
        // What a command in `$(...)` prints is one word here; a variable has a value.
        let place = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let said = |text: &String| text.replace("$(", "X | ").replace("\"$TRACEPARENT\"", place);
        let texts: Vec<String> = texts.iter().map(said).collect();
        let lines = texts.iter().flat_map(|text| text.lines());
        let typed = lines.flat_map(|line| line.split(['|', '&', '>'])).map(str::trim);
        let mut count = 0;
        for line in typed.filter(|line| line.starts_with("orchestrator-worker ")) {
            count += 1;
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        assert!(count > 10, "{count} examples were found");
    }

    #[test]
    fn exit_codes_are_documented_as_they_are() {
        for exit in exit::Exit::ALL {
            let line = format!("\n  {:<4}", exit.code());
            assert!(AFTER_HELP.contains(&line), "{exit:?} is not in the help");
        }
    }
}

//! `config`: what this program would work with, and where each setting comes from.

use clap::{Args, Subcommand};
use comfy_table::Cell;

use super::{
    OutputWord,
    exit::{Exit, Failure},
    output::{self, Rows},
    text,
};
use crate::config::{Config, Setting};

/// Show or check the configuration.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker config show
  orchestrator-worker config check --config config.yaml && echo good")]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum ConfigCommand {
    Show(ConfigShowArgs),
    Check(ConfigCheckArgs),
}

/// Show every setting, its value, and where that comes from. Passwords are left out.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  ORCHESTRATOR_WORKER__LOCK__TTL=20s orchestrator-worker config show")]
struct ConfigShowArgs {
    /// Only what is not as it is by default.
    #[arg(long)]
    changed: bool,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

/// Say whether the configuration is right; exit 78 and one sentence if it is not. The database is not
/// asked.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  orchestrator-worker config check --config config.yaml")]
struct ConfigCheckArgs {}

/// The configuration was read and found right before any command is carried out.
pub fn config(args: &ConfigArgs, config: &Config, settings: &[Setting]) -> Result<Exit, Failure> {
    match &args.command {
        ConfigCommand::Check(_) => {
            let file = config.file.as_ref().map(|file| format!(" ({})", file.display()));
            output::line(&format!("the configuration is right{}", file.unwrap_or_default()))?;
        }
        ConfigCommand::Show(args) => show(args, config, settings)?,
    }
    Ok(Exit::Success)
}

fn show(args: &ConfigShowArgs, config: &Config, settings: &[Setting]) -> Result<(), Failure> {
    let shown: Vec<&Setting> =
        settings.iter().filter(|setting| !args.changed || setting.origin.is_some()).collect();
    match args.output {
        OutputWord::Json => output::json(&shown),
        OutputWord::Table if shown.is_empty() => output::line("everything is as it is by default"),
        OutputWord::Table => {
            let mut rows = Rows::new(config, &["SETTING", "VALUE", "FROM"]).whole(&[0]);
            for setting in shown {
                rows.add([
                    Cell::new(&setting.key),
                    Cell::new(text::cell(setting.value.as_deref().unwrap_or("not set"), 200)),
                    Cell::new(setting.origin.as_deref().unwrap_or("default")),
                ]);
            }
            rows.print()
        }
    }
}

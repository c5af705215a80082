//! `pause` and `resume`: keep executions from being claimed for a while.

use clap::Args;
use comfy_table::Cell;

use super::{
    OutputWord,
    exit::{Exit, Failure},
    output::{self, Rows},
    program::store,
    text,
};
use crate::{
    config::Config,
    ports::control::{Pausable, PauseChange, Paused},
};

/// Keep the executions of templates from being claimed, or list what is paused.
///
/// What runs already goes on; what is submitted meanwhile waits, and is claimed after `resume`.
/// Without a template and --all the pauses are listed. It holds for all workers, at once.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker pause release
  orchestrator-worker pause --all
  orchestrator-worker pause")]
pub struct PauseArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

/// Take pauses back: executions are claimed again.
///
/// `--all` takes the pause of all templates back; a template that was paused by its own name stays
/// paused until it is resumed by it.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker resume release
  orchestrator-worker resume --all")]
pub struct ResumeArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

#[derive(Clone, Debug, Args)]
struct WhichArgs {
    /// Templates; names or ids.
    #[arg(value_name = "TEMPLATE")]
    templates: Vec<String>,
    /// All templates.
    #[arg(long, conflicts_with = "templates")]
    all: bool,
}

impl WhichArgs {
    fn list(&self) -> Vec<Pausable> {
        if self.all {
            return vec![Pausable::All];
        }
        self.templates.iter().cloned().map(Pausable::Template).collect()
    }
}

pub async fn pause(args: &PauseArgs, config: &Config) -> Result<Exit, Failure> {
    let control = store(config).await?.control;
    let which = args.which.list();
    if which.is_empty() {
        return list(&control.paused().await?, args.output, config);
    }
    let mut changes = Vec::new();
    for one in &which {
        changes.push(control.pause(one).await?);
    }
    print(&changes, args.output, ["is paused", "was paused already"])
}

pub async fn resume(args: &ResumeArgs, config: &Config) -> Result<Exit, Failure> {
    let control = store(config).await?.control;
    let which = args.which.list();
    if which.is_empty() {
        return Err(Failure::NothingToResume);
    }
    let mut changes = Vec::new();
    for one in &which {
        changes.push(control.resume(one).await?);
    }
    let exit = print(&changes, args.output, ["is claimed again", "was not paused"])?;
    if !args.which.all && control.paused().await?.iter().any(|pause| pause.template.is_none()) {
        eprintln!("note: all templates are paused; `orchestrator-worker resume --all` ends that");
    }
    Ok(exit)
}

fn print(
    changes: &[PauseChange],
    word: OutputWord,
    [changed, unchanged]: [&str; 2],
) -> Result<Exit, Failure> {
    if word == OutputWord::Json {
        output::json(&changes)?;
        return Ok(Exit::Success);
    }
    for change in changes {
        let name = change.template_name.as_deref().unwrap_or("every template");
        let what = if change.changed { changed } else { unchanged };
        output::paragraph(&format!("{}: {what}", text::cell(name, 200)))?;
    }
    Ok(Exit::Success)
}

fn list(paused: &[Paused], word: OutputWord, config: &Config) -> Result<Exit, Failure> {
    match word {
        OutputWord::Json => output::json(&paused)?,
        OutputWord::Table if paused.is_empty() => output::line("nothing is paused")?,
        OutputWord::Table => {
            let mut rows = Rows::new(config, &["PAUSED", "SINCE (UTC)"]).whole(&[1]);
            for pause in paused {
                let id = pause.template.as_ref().map(ToString::to_string);
                let name = pause.template_name.clone().or(id);
                rows.add([
                    Cell::new(text::cell(&name.unwrap_or_else(|| "every template".into()), 200)),
                    Cell::new(pause.since.map_or_else(String::new, text::seconds)),
                ]);
            }
            rows.print()?;
        }
    }
    Ok(Exit::Success)
}

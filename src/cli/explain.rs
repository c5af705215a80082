//! `explain`: why an execution is not running, or what it is doing.

use clap::Args;
use serde::Serialize;

use super::{
    OutputWord,
    exit::{Exit, Failure},
    output,
    program::store,
    text,
};
use crate::{
    app,
    config::Config,
    domain::{
        explain::{View, explain},
        id::ExecutionId,
    },
    worker::poller::Poller,
};

/// Say why an execution is not running, or what it is doing, and what will happen next.
///
/// There is one reason, the first that would have to be mended. What is kept out by `claim.include`,
/// `claim.exclude` or `claim.backlog`, and which actions are known, is judged by the configuration and
/// the version of this command: run it with those of the workers.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker explain 0197c2d4-5a3e-4c41-9c1e-0d6a5f2b7e11
  orchestrator-worker explain 0197c2d4-5a3e-4c41-9c1e-0d6a5f2b7e11 --output json")]
pub struct ExplainArgs {
    /// The execution's id, as `submit` and `list` print it.
    execution: String,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

#[derive(Serialize)]
struct ExplainJson<'a> {
    execution: &'a str,
    template: &'a str,
    state: Option<&'a str>,
    owner: Option<&'a str>,
    reason: &'static str,
    because: &'a str,
    next: &'a str,
}

pub async fn run(args: &ExplainArgs, config: &Config) -> Result<Exit, Failure> {
    let control = store(config).await?.control;
    let facts = control.facts(&ExecutionId::from(args.execution.as_str())).await?;
    let view = View {
        supported: app::supported(config),
        eligibility: config.worker.eligibility.clone(),
        look_within: Poller::longest_pause(config.worker.poll_interval),
    };
    let explained = explain(&facts, &view);
    match args.output {
        OutputWord::Json => output::json(&ExplainJson {
            execution: &args.execution,
            template: &facts.template,
            state: facts.status.as_deref(),
            owner: Some(facts.owner.as_str()).filter(|owner| !owner.is_empty()),
            reason: explained.reason,
            because: &explained.because,
            next: &explained.next,
        })?,
        OutputWord::Table => {
            let state = super::list::state_word(facts.status.as_deref());
            let template = text::cell(&facts.template, 200);
            output::paragraph(&format!("{} ({template}) is {state}", args.execution))?;
            output::fields([
                ("because", text::cell(&explained.because, 1000)),
                ("next", text::cell(&explained.next, 1000)),
            ])?;
        }
    }
    Ok(Exit::Success)
}

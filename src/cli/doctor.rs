//! `doctor`: what is wrong, and what mends it.
//!
//! **Invariant:** a store that cannot be reached is one more thing that was found, and no failure of
//! the command.

use std::collections::BTreeSet;

use clap::Args;
use comfy_table::Cell;

use super::{
    OutputWord,
    exit::{Exit, Failure},
    output::{self, Rows},
    program::must_stay,
    text,
};
use crate::{
    app,
    config::{Config, Setting, Store},
    domain::{
        doctor::{self, Finding, Repaired, Verdict, View},
        lock_table::LockTable,
        retention::Retention,
    },
    ports::control::{Control, ControlError},
};

/// Look for what is wrong with the configuration, the database and its rows, and say what mends it.
///
/// Checks, in this order: where the settings came from; connection and server; schema, indexes and
/// grants (those of a worker); clock and zone; a lock that is acquired, renewed and released for trial,
/// and leaves nothing; executions of unknown status and backlog; expired lock rows; whether a drain has
/// the time that it takes; whether the server answers that keeps leases, if they are not in the database;
/// whether the OTLP endpoint takes connections; and whether the Kubernetes API allows what `pod.` settings want
/// of it. Run it as a worker's user, with a worker's settings.
///
/// It mends two things by itself, unless --dry-run is given: steps of the migration that are not done
/// (as `migrate`), and expired lock rows that nobody needs (as `locks clean`). All else is advice: a
/// person knows better whether a setting, a right or a row is meant as it is.
///
/// Exits with 0 if there is no problem, warnings or not, and with 1 if something needs a person. A
/// collector that is away is a warning, because it stops no work.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker doctor --dry-run
  orchestrator-worker doctor --templates --dry-run --output json")]
pub struct DoctorArgs {
    /// Say what would be mended, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Also say of every stored template whether it runs, runs differently than in the orchestrator, or
    /// is refused.
    #[arg(long)]
    templates: bool,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: OutputWord,
}

pub async fn run(
    args: &DoctorArgs,
    config: &Config,
    settings: &[Setting],
) -> Result<Exit, Failure> {
    must_stay(config)?;
    let mut findings = vec![of_config(config, settings)];
    match app::connect(&config.store).await {
        Ok(stores) => findings.extend(of_store(args, config, &*stores.control).await),
        Err(error) => findings.push(Finding::of_error("server", &error.to_string())),
    }
    if let Some(leases) = &config.leases {
        let answer = app::reach_leases(leases).await.map_err(|error| error.to_string());
        findings.push(doctor::leases(&leases.provider, &answer));
    }
    findings.push(doctor::export(&app::reach(config).await));
    let kubernetes = app::reach_kubernetes(config).await;
    findings.extend(kubernetes.iter().map(|(feature, it)| doctor::kubernetes(*feature, it)));
    match args.output {
        OutputWord::Json => output::json(&findings)?,
        OutputWord::Table => print(&findings, config)?,
    }
    let needs_a_person = findings.iter().any(|finding| finding.verdict == Verdict::Problem);
    Ok(if needs_a_person { Exit::Failure } else { Exit::Success })
}

/// Whoever gets here has settings that can be used.
fn of_config(config: &Config, settings: &[Setting]) -> Finding {
    let origins: BTreeSet<&str> =
        settings.iter().filter_map(|setting| setting.origin.as_deref()).collect();
    let origins: Vec<&str> = origins.into_iter().collect();
    let from = match origins.as_slice() {
        [] => "all settings are defaults".to_owned(),
        some => format!("settings from {}", some.join(", ")),
    };
    Finding::ok("config", format!("{}; {from}", config.store))
}

async fn of_store(args: &DoctorArgs, config: &Config, control: &dyn Control) -> Vec<Finding> {
    let mut facts = control.examine().await;
    let mut repaired = Repaired::default();
    let repairs = doctor::repairs(&facts);
    if !args.dry_run && repairs != doctor::Repairs::default() {
        repaired = repair(repairs, control).await;
        facts = control.examine().await;
    }
    let mut findings = doctor::diagnose(&facts, &view(config), &repaired);
    if args.templates {
        findings.extend(of_templates(config, control).await);
    }
    findings
}

async fn repair(repairs: doctor::Repairs, control: &dyn Control) -> Repaired {
    let told = |error: ControlError| error.to_string();
    let mut repaired = Repaired::default();
    if repairs.migrate {
        let done = control.migrate(false).await.map_err(told);
        repaired.migrated =
            Some(done.map(|steps| steps.into_iter().map(|step| step.what).collect()));
    }
    if repairs.clean {
        repaired.cleaned = Some(control.clean_locks(false).await.map_err(told));
    }
    repaired
}

fn view(config: &Config) -> View {
    let worker = &config.worker;
    let (time_offset, lock_table) = match &config.store {
        Store::MySql(mysql) => (Some(mysql.time_offset.clone()), mysql.lock_table.clone()),
        Store::Sqlite(_) => (None, LockTable::default()),
    };
    View {
        backlog: worker.eligibility.backlog,
        unknown_after: worker.unknown_after,
        retention: worker.retention != Retention::default(),
        time_offset,
        lock_table,
        drain_deadline: worker.drain_deadline,
        pod: config.pod.clone(),
    }
}

async fn of_templates(config: &Config, control: &dyn Control) -> Vec<Finding> {
    let supported = app::supported(config);
    match control.templates().await {
        Ok(stored) if stored.is_empty() => vec![Finding::ok("template", "none is stored")],
        Ok(stored) => stored.iter().map(|one| doctor::template(one, &supported)).collect(),
        // The schema has told it.
        Err(ControlError::NotMigrated) => Vec::new(),
        Err(error) => vec![Finding::of_error("template", &error.to_string())],
    }
}

fn print(findings: &[Finding], config: &Config) -> Result<(), Failure> {
    let mut rows = Rows::new(config, &["CHECK", "RESULT", "FOUND"]).whole(&[0, 1]);
    for finding in findings {
        let verdict = rows.verdict(finding.verdict);
        rows.add([Cell::new(finding.check), verdict, Cell::new(in_words(finding))]);
    }
    rows.print()?;
    output::line("")?;
    output::line(&summary(findings))
}

/// What mends it stands on a line of its own.
fn in_words(finding: &Finding) -> String {
    let template = finding.template.as_ref().map_or_else(String::new, |name| format!("{name}: "));
    let found = text::cell(&format!("{template}{}", finding.found), 1000);
    match &finding.repair {
        None => found,
        Some(repair) => format!("{found}\n→ {}", text::cell(repair, 2000)),
    }
}

fn summary(findings: &[Finding]) -> String {
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    match (count(Verdict::Problem), count(Verdict::Warning)) {
        (0, 0) => "all is well".into(),
        (0, warnings) => format!("no problem; warnings: {warnings}"),
        (problems, warnings) => format!("problems: {problems}; warnings: {warnings}"),
    }
}

//! Steps that are shell scripts, each under a guardian of its own.
//!
//! **Invariant:** a script never sees this process's environment, and nothing of it outlives the
//! attempt, its lease or this process, whichever ends first. The worker decides when an attempt
//! ends; the [`guardian`] sees to it that it does, even if the worker is frozen or dead.

mod environment;
mod folder;
mod guarded;
pub mod guardian;
mod leftover;
mod limits;
mod oom;
mod processes;
pub mod protocol;
mod tree;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use async_trait::async_trait;
use signal_hook::consts::SIGKILL;

use self::{
    environment::Environment,
    guarded::{Ended, Guarded},
    protocol::{End, Spec},
};
pub use self::{
    folder::remove_before as remove_folders_before, guardian::is_guarded_before, limits::Limits,
};
use super::unanswered;
use crate::{
    domain::{intake::Supported, pod::Life, step::Action},
    ports::runner::{Attempt, Code, Outcome, StepRunner},
};

/// This very program, even where its file was replaced since.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// How shell steps are run.
#[derive(Clone, Debug)]
pub struct ShellSettings {
    /// The program that stands guard when its first argument is [`guardian::WORD`].
    pub program: PathBuf,
    /// Between TERM and KILL when an attempt is stopped.
    pub grace: Duration,
    /// Where each attempt gets its folder, which is its `HOME` and `TMPDIR`; made if it is missing.
    pub state_dir: PathBuf,
    /// By which this process's guardians and folders are told from those of the one before it.
    pub life: Option<Life>,
    /// Further variables of this process that scripts may see, with their values.
    pub pass_env: BTreeMap<String, String>,
    pub limits: Limits,
    /// Tell what a script has printed while it runs.
    pub live_output: bool,
}

impl Default for ShellSettings {
    fn default() -> Self {
        Self {
            program: THIS_PROGRAM.into(),
            grace: Duration::from_secs(2),
            state_dir: std::env::temp_dir(),
            life: None,
            pass_env: BTreeMap::new(),
            limits: Limits::default(),
            live_output: true,
        }
    }
}

/// Runs `shell` steps: `sh -c script` in a fresh folder.
#[derive(Clone, Debug)]
pub struct ShellRunner {
    settings: ShellSettings,
    environment: Environment,
}

impl ShellRunner {
    pub fn new(settings: ShellSettings) -> Self {
        let environment = Environment::new(&settings.pass_env);
        Self { settings, environment }
    }

    fn spec(&self, attempt: &Attempt) -> Result<Spec, String> {
        let Action::Shell { script, env } = &attempt.step.action else {
            return Err(format!("a {} step is no script", attempt.step.action.kind()));
        };
        if self.settings.program.as_os_str() == THIS_PROGRAM && !guardian::was_called() {
            return Err(guardian::NOT_CALLED.to_owned());
        }
        let folder = self.new_folder()?;
        Ok(Spec {
            script: script.clone(),
            environment: self.environment.of_script(attempt, env, &folder),
            folder: folder.into(),
            grace: self.settings.grace,
            limits: self.settings.limits,
            deadline: (*attempt.halt.deadline.borrow()).into(),
        })
    }

    /// Only its name; the guardian makes the folder and removes it.
    fn new_folder(&self) -> Result<String, String> {
        let name = folder::name(self.settings.life.as_ref());
        std::path::absolute(&self.settings.state_dir)
            .ok()
            .and_then(|base| base.join(name).into_os_string().into_string().ok())
            .ok_or_else(|| {
                let base = self.settings.state_dir.display();
                format!("state_dir {base:?} is not a path in UTF-8; give another")
            })
    }
}

#[async_trait]
impl StepRunner for ShellRunner {
    fn supported(&self) -> Supported {
        Supported { kinds: ["shell".to_owned()].into(), ..Supported::default() }
    }

    async fn run(&self, attempt: Attempt) -> Outcome {
        if attempt.halt.stop.is_cancelled() || attempt.halt.kill.is_cancelled() {
            return Outcome::Stopped { output: None };
        }
        let spec = match self.spec(&attempt) {
            Ok(spec) => spec,
            Err(error) => return unanswered(error),
        };
        let kills = oom::kills();
        let guarded =
            match Guarded::start(&self.settings.program, self.settings.life.as_ref(), &spec) {
                Ok(guarded) => guarded,
                Err(error) => {
                    let program = self.settings.program.display();
                    return unanswered(format!("cannot start the guardian {program}: {error}"));
                }
            };
        let so_far = self.settings.live_output.then_some(attempt.so_far);
        let ended = guarded.until_ended(attempt.halt, spec.grace, so_far).await;
        if ended.end.is_none() {
            leftover::clear(ended.guardian, environment::marks(&spec), spec.folder.clone()).await;
        }
        outcome(ended, &spec.limits, || oom::reason(kills, oom::kills()))
    }
}

/// `memory` says whether the kernel has killed something meanwhile for want of it.
fn outcome(
    ended: Ended,
    limits: &Limits,
    memory: impl FnOnce() -> Option<&'static str>,
) -> Outcome {
    let Ended { end, began, halted, status, output, .. } = ended;
    let reason = match &end {
        Some(end) if !end.is_by(SIGKILL) => limits.reason(end),
        _ => memory().map(Into::into),
    };
    let reason = reason.unwrap_or_default();
    let error = match end {
        Some(End::Exited { code: 0 }) => {
            return Outcome::Success { output, code: Some(Code::Exit(0)) };
        }
        Some(End::Stopped) => return Outcome::Stopped { output: Some(output) },
        Some(End::Exited { code }) => {
            let error = format!("the script ended with exit code {code}{reason}").into();
            let code = Some(Code::Exit(code));
            return Outcome::Failed { error, output: Some(output), retry_after: None, code };
        }
        Some(End::Signaled { signal }) => {
            format!("the script was ended by {}{reason}", signal_name(signal))
        }
        Some(End::TooMany { processes }) => format!(
            "the script was killed because more than {processes} processes of it ran at one time \
             (shell.limits.processes)"
        ),
        Some(End::NotBegun { error }) => return unanswered(error),
        None if halted => return Outcome::Stopped { output: Some(output) },
        None if began => {
            format!(
                "the guardian of the script ended too early ({status}), and the script with \
                 it{reason}"
            )
        }
        None => format!("the guardian ended before the script began ({status}){reason}"),
    };
    // It had no say in its end: nobody knows how far it came.
    let error = error.into();
    Outcome::Unanswered { error, output: Some(output), retry_after: None, code: None }
}

/// `SIGKILL`, or the number of a signal without a name.
fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal)
        .map_or_else(|| format!("signal {signal}"), ToOwned::to_owned)
}

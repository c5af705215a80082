//! The program: guardian, command line, configuration, logs, runtime, exit code; in this order.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use orchestrator_worker::{
    cli::{
        Cli, Program,
        exit::{self, Failure},
    },
    config::Surroundings,
    telemetry,
};
use tokio::runtime;

/// What still blocks a thread when all is done is left behind after so long.
const LEFTOVERS: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    if let Some(code) = orchestrator_worker::guardian() {
        return code;
    }
    telemetry::install_tls();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::of_command_line(&error).into(),
    };
    if let Some(exit) = cli.print_document() {
        return exit.into();
    }
    let program = match Program::prepare(cli, Surroundings::of_this_process()) {
        Ok(program) => program,
        Err(failure) => return failure.report().into(),
    };
    let runtime = match runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::Runtime(error).report().into(),
    };
    let exit = runtime.block_on(program.execute());
    runtime.shutdown_timeout(LEFTOVERS);
    program.finish();
    exit.into()
}

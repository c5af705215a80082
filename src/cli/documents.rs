//! `completions` and `man`: what the command line knows of itself.
//!
//! **Invariant:** neither needs a configuration, so that a package can be built with them.

use std::io;

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{
    Cli, Command,
    exit::{Exit, Failure},
};

const NAME: &str = "orchestrator-worker";

/// Print what completes this command in a shell.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker completions bash > /etc/bash_completion.d/orchestrator
  orchestrator-worker completions zsh > ~/.zfunc/_orchestrator-worker")]
pub struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Print the manual page, all commands in one.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  orchestrator-worker man | man -l -
  orchestrator-worker man > /usr/local/share/man/man1/orchestrator-worker.1")]
pub struct ManArgs {}

impl Cli {
    /// Prints the document that is asked for, if one is.
    pub fn print_document(&self) -> Option<Exit> {
        let printed = match &self.command {
            Command::Completions(args) => completions(args.shell),
            Command::Man(_) => man(),
            _ => return None,
        };
        Some(match printed {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Failure::Print(error).report()
            }
            _ => Exit::Success,
        })
    }
}

fn completions(shell: Shell) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    io::Write::write_all(&mut io::stdout(), &script)
}

/// The program, then each of its commands.
fn man() -> io::Result<()> {
    let mut cli = Cli::command();
    cli.build();
    let mut page = Vec::new();
    Man::new(cli.clone()).render(&mut page)?;
    for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
        let title = format!("\n.SH \"{}\"\n", command.get_name().to_uppercase());
        page.extend(title.into_bytes());
        let man = Man::new(command.clone());
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
        if command.has_subcommands() {
            man.render_subcommands_section(&mut page)?;
        }
    }
    io::Write::write_all(&mut io::stdout(), &page)
}

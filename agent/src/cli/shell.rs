//! `ferrogate completions` and `ferrogate man`: for packages, and for those who install by hand. `ferrogate check-arguments`: for
//! documents.

use super::Cli;
use crate::output;
use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser as _};
use clap_complete::Shell;
use std::ffi::OsString;
use std::path::PathBuf;

/// For bash, for instance: ferrogate completions bash > /etc/bash_completion.d/ferrogate
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// Whose completions
    shell: Shell,
}

/// For instance: ferrogate man /usr/local/share/man/man1
#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// Write a page for each command here, `ferrogate.1` among them
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// `cargo xtask lint` gives it what the documents tell their readers to type.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// What comes after `ferrogate`
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ferrogate", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

pub(super) fn man(args: &ManArgs) -> Result<()> {
    let directory = &args.directory;
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make the directory {}", directory.display()))?;
    clap_mangen::generate_to(Cli::command(), directory)
        .with_context(|| format!("cannot write man pages to {}", directory.display()))
}

pub(super) fn check_arguments(args: &CheckArgs) -> Result<()> {
    let line = [OsString::from("ferrogate")].into_iter().chain(args.arguments.clone());
    match Cli::try_parse_from(line) {
        Err(error) if !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn every_shell_has_completions_of_every_command() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "ferrogate", &mut script);
            let script = String::from_utf8(script).expect("text");
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }

    #[test]
    fn arguments_are_checked_and_nothing_is_done() {
        let check = |line: &str| {
            let arguments = line.split_whitespace().map(OsString::from).collect();
            check_arguments(&CheckArgs { arguments })
        };
        for good in [
            "status --output json",
            "cleanup",
            "explain a/b:80 --from node",
            "--help",
            "-V",
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "stats",
            "status --out json",
            "explain",
            "explain a/b/c",
            "flows --limit many",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_command_has_a_man_page() {
        let directory = tempfile::tempdir().expect("a directory");
        let args = ManArgs {
            directory: directory.path().join("man1"),
        };
        man(&args).expect("pages");
        let page = std::fs::read_to_string(args.directory.join("ferrogate-explain.1")).expect("a page");
        assert!(
            page.contains("Draw the way") || page.contains("way of a connection"),
            "{page}"
        );
        let pages = std::fs::read_dir(&args.directory).expect("the directory").count();
        let cli = Cli::command();
        let shown = cli.get_subcommands().filter(|command| !command.is_hide_set()).count();
        assert!(pages > shown, "one a command, and ferrogate's own");
    }
}

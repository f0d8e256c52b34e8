//! `ferrogate doctor` and `ferrogate diff`: questions whose answer is an exit code too.

use super::query::Source;
use crate::admin::{Checkup, Diff, Error, Request, Severity};
use crate::doctor::{Doctor, Host};
use crate::kernel::with_program_names;
use crate::output;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::process::ExitCode;

/// How the answer is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Looks at hooks, tables, settings, firewall and ports, and says what is not as it should be, and what to do about it.
///
/// Exit code: 0 where nothing is wrong (notes do not count), 1 where something is, 2 where it cannot be told.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// How to print the findings
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    output: Format,

    #[command(flatten)]
    source: Source,
}

/// Compares the desired state with the kernel's tables, entry by entry.
///
/// Exit code: 0 where they are the same, 1 where they differ, 2 where it cannot be told.
#[derive(Args, Clone, Debug)]
pub struct DiffArgs {
    /// How to print the differences
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    output: Format,

    #[command(flatten)]
    source: Source,
}

pub(super) fn doctor(args: &DoctorArgs) -> Result<ExitCode> {
    let mut checkup: Checkup = match args.source.ask_agent(&Request::Doctor) {
        Err(Error::NotRunning { socket }) => without_agent(&socket.display().to_string()),
        answer => match answer {
            Ok(checkup) => checkup,
            Err(error) => return Ok(cannot_tell(&error.into())),
        },
    };
    for finding in checkup.findings.iter_mut().filter(|finding| finding.check == "hooks") {
        finding.what = with_program_names(&finding.what);
    }
    print(&checkup, args.output, output::doctor)?;
    let wrong = checkup
        .findings
        .iter()
        .any(|finding| finding.severity != Severity::Note);
    Ok(ExitCode::from(u8::from(wrong)))
}

/// What can be told of the host alone.
fn without_agent(socket: &str) -> Checkup {
    let mut doctor = Doctor::new("");
    doctor.found(
        Severity::Error,
        "agent",
        format!("no agent answers at {socket}: Services are served as they were when it stopped, and change no more"),
        "start it, or say where it is (--run-dir, --admin-socket); hooks and tables cannot be judged without it",
    );
    Host::default().examine(&mut doctor);
    doctor.done()
}

pub(super) fn diff(args: &DiffArgs) -> Result<ExitCode> {
    let diff: Diff = match args.source.ask_agent(&Request::Diff) {
        Ok(diff) => diff,
        Err(error) => return Ok(cannot_tell(&error.into())),
    };
    print(&diff, args.output, output::diff)?;
    let differs = !diff.differences.is_empty() || !diff.refused.is_empty();
    Ok(ExitCode::from(u8::from(differs)))
}

fn cannot_tell(error: &anyhow::Error) -> ExitCode {
    eprintln!("ferrogate: {error:#}");
    ExitCode::from(2)
}

fn print<T: Serialize>(value: &T, format: Format, page: impl FnOnce(&T) -> String) -> Result<()> {
    let text = match format {
        Format::Text => page(value),
        Format::Json => serde_json::to_string_pretty(value).context("cannot write the result as JSON")?,
    };
    output::print(&text)
}

//! `cargo xtask bench`: everything that is measured, in one run.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::build::{self, build};
use crate::{cmd, paths, setup};

#[derive(clap::Args)]
#[command(
    after_help = "Goals that are not met are results, not failures. Without --only, docs/benchmarks.md is written anew.\n\
                        Numbers of a busy machine are worth nothing: let nothing else run beside it."
)]
pub(crate) struct Args {
    /// Fewer and shorter rounds: below ten minutes in all
    #[arg(long)]
    quick: bool,
    /// Only rows with these numbers, or whose name contains such a text; a comma between two
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// With --only: write the rows into docs/benchmarks.md, beside those of earlier runs
    #[arg(long, requires = "only")]
    docs: bool,
    /// Write the results to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print the rows, and measure nothing
    #[arg(long)]
    list: bool,
}

/// Sets up, builds everything as it is released, and measures. Returns whether everything could be measured.
pub(crate) fn bench(args: &Args) -> Result<bool> {
    setup::setup(&setup::Args { peers: !args.list })?;
    build(&build::Args {
        release: true,
        bpf_only: false,
    })?;
    let mut command = cmd::as_root("env")?;
    command
        .arg(format!("FERROGATE_CACHE={}", paths::cache().display()))
        .arg(paths::target().join("release/bench"));
    if args.quick {
        command.arg("--quick");
    }
    if let Some(only) = &args.only {
        command.args(["--only", only]);
    }
    if args.docs || args.only.is_none() {
        command.arg("--docs").arg(paths::root().join("docs"));
    }
    if let Some(file) = &args.json {
        command.arg("--json").arg(std::path::absolute(file)?);
    }
    if args.list {
        command.arg("--list");
    }
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", cmd::shown(&command)))?;
    Ok(status.success())
}

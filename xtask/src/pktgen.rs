//! `cargo xtask pktgen`: the packet generator, built and started as root.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::{Result, bail};

use crate::{cmd, paths};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Arguments of the generator, --help among them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    rest: Vec<OsString>,
}

pub(crate) fn pktgen(args: &Args) -> Result<()> {
    cmd::run(cmd::cargo().args([
        "build",
        "--release",
        "--quiet",
        "--package",
        "ferrogate-tests",
        "--bin",
        "pktgen",
    ]))?;
    let mut program = cmd::as_root(paths::target().join("release/pktgen"))?;
    program.args(&args.rest);
    // In place of this process: signals and the exit code are the program's own.
    let error = program.exec();
    bail!("cannot start `{}`: {error}", cmd::shown(&program));
}

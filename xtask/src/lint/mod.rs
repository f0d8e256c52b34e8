//! `cargo xtask lint`: formatting, compilers' lints, documentation, and the rules of this house.

mod edges;
mod functions;
mod house;
mod source;

use anyhow::{Result, bail};

use crate::bpf::{self, Compiler};
use crate::{cmd, setup};

#[derive(clap::Args)]
pub(crate) struct Args {}

/// One check: its name, and what it does.
type Check = (&'static str, fn() -> Result<()>);

const CHECKS: &[Check] = &[
    ("formatting", format),
    ("directions between the crates", edges::check),
    ("house rules", house::check),
    ("clippy", clippy),
    ("clippy of the eBPF crate", clippy_bpf),
    ("documentation", documentation),
];

/// Runs every check, also after one has failed.
pub(crate) fn lint(_: &Args) -> Result<()> {
    setup::setup(&setup::Args { peers: false })?;
    // The agent embeds the object, so it has to be there for the checks to compile.
    bpf::build()?;
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        println!("[lint] {name}");
        if let Err(error) = check() {
            eprintln!("{error:#}");
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        bail!("lint: failed: {}", failed.join(", "));
    }
    println!("[lint] all is well");
    Ok(())
}

fn format() -> Result<()> {
    cmd::run(cmd::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    let mut cargo = cmd::cargo();
    cargo.args([
        "clippy",
        "--workspace",
        "--exclude",
        bpf::PACKAGE,
        "--all-targets",
        "--all-features",
        "--quiet",
    ]);
    cmd::run(cargo.args(["--", "-D", "warnings"]))
}

fn clippy_bpf() -> Result<()> {
    let Some(compiler) = Compiler::detect() else {
        bail!("no compiler for eBPF is installed: run `cargo xtask setup`");
    };
    cmd::run(compiler.clippy()?.args(["--quiet", "--", "-D", "warnings"]))
}

fn documentation() -> Result<()> {
    let mut cargo = cmd::cargo();
    cargo.args([
        "doc",
        "--workspace",
        "--exclude",
        bpf::PACKAGE,
        "--no-deps",
        "--all-features",
        "--quiet",
    ]);
    cmd::run(cargo.env("RUSTDOCFLAGS", "-D warnings"))
}

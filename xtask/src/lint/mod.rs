//! `cargo xtask lint`: formatting, compilers' lints, documentation, and the rules of this house.

mod dependencies;
mod documents;
mod edges;
mod functions;
mod house;
mod source;

use anyhow::{Result, bail};

use crate::bpf::{self, Compiler};
use crate::{cmd, docs, setup};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the checks whose name contains this: formatting, directions, dependencies, house, links, clippy, eBPF, documentation, reference, commands
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// One check.
struct Check {
    name: &'static str,
    /// Whether it compiles the user-space crates.
    compiles: bool,
    run: fn() -> Result<()>,
}

const CHECKS: &[Check] = &[
    Check {
        name: "formatting",
        compiles: false,
        run: format,
    },
    Check {
        name: "directions between the crates",
        compiles: false,
        run: edges::check,
    },
    Check {
        name: "dependencies",
        compiles: false,
        run: dependencies::check,
    },
    Check {
        name: "house rules",
        compiles: false,
        run: house::check,
    },
    Check {
        name: "links of the documents",
        compiles: false,
        run: documents::links,
    },
    Check {
        name: "clippy of the eBPF crate",
        compiles: false,
        run: clippy_bpf,
    },
    Check {
        name: "clippy of all other crates",
        compiles: true,
        run: clippy,
    },
    Check {
        name: "documentation",
        compiles: true,
        run: documentation,
    },
    Check {
        name: "reference",
        compiles: true,
        run: docs::check,
    },
    Check {
        name: "commands in the documents",
        compiles: true,
        run: documents::commands,
    },
];

/// Runs every check, also after one has failed.
pub(crate) fn lint(args: &Args) -> Result<()> {
    setup::setup(&setup::Args { peers: false })?;
    let only = args.only.as_deref().unwrap_or_default();
    let checks: Vec<&Check> = CHECKS.iter().filter(|check| check.name.contains(only)).collect();
    if checks.is_empty() {
        bail!("no check is called {only}; see `cargo xtask lint --help`");
    }
    if checks.iter().any(|check| check.compiles) {
        // The agent embeds the object, so it has to be there for the checks to compile.
        bpf::build()?;
    }
    let mut failed = Vec::new();
    for Check { name, run, .. } in checks {
        println!("[lint] {name}");
        if let Err(error) = run() {
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
    // The readers are developers: private items are documented and linked too.
    cargo.args([
        "doc",
        "--workspace",
        "--exclude",
        bpf::PACKAGE,
        "--no-deps",
        "--document-private-items",
    ]);
    cargo.args(["--all-features", "--quiet"]);
    cmd::run(cargo.env("RUSTDOCFLAGS", "-D warnings"))
}

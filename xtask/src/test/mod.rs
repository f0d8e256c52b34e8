//! `cargo xtask test`: every test, level by level, and one true closing line.

mod exec;
mod levels;
mod plan;
mod tally;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::{bpf, cmd, setup, vm};
use levels::{LEVELS, Level};
pub(crate) use tally::Tally;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which tests: unit (no root), kernel (programs in this kernel), packets (walks through namespaces), cluster (with a
    /// real API server), or all
    #[arg(long, default_value = "all", value_parser = ["unit", "kernel", "packets", "cluster", "all"])]
    level: String,
    /// Only tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Show every line of every test program
    #[arg(long, short)]
    verbose: bool,
}

/// Builds one integration test of the tests crate, and the binaries that it starts.
pub(crate) fn program(target: &str) -> Result<PathBuf> {
    plan::build_one(target)
}

/// Runs the chosen levels. The last line is always `N passed, N failed, N skipped` when tests ran: what is wrong is said
/// before it. Returns whether all is well; an error means that the tests could not be run.
pub(crate) fn test(args: &Args) -> Result<bool> {
    let levels: Vec<&Level> = LEVELS
        .iter()
        .filter(|level| args.level == "all" || level.name == args.level)
        .collect();
    setup::setup(&setup::Args {
        peers: levels.iter().any(|level| level.peers),
    })?;
    if levels.iter().any(|level| level.root) && !cmd::is_root() {
        // The password is asked for now, not after minutes of building.
        cmd::run(&mut cmd::as_root("true")?)?;
    }
    bpf::build()?;
    if levels.iter().any(|level| level.peers) {
        bpf::build_other()?;
    }
    let programs = plan::build(&levels)?;

    let mut rows = Vec::new();
    let mut total = Tally::default();
    for level in levels {
        println!("\n== {}: {} ==", level.name, level.about);
        let begun = Instant::now();
        let mut tally = Tally::default();
        for (program, run) in level.starts(&programs) {
            tally += exec::run(program, level, run, args.filter.as_deref(), args.verbose)?;
        }
        if level.oldest_kernel && args.filter.is_none() {
            let program = |name: &str| {
                let found = plan::executable(&programs, name);
                found.with_context(|| format!("the build left no test program {name}"))
            };
            tally += vm::test_oldest(program("verifier")?, program("operate")?, args.verbose)?;
        }
        if level.crates {
            tally += exec::doc_tests(args.filter.as_deref(), args.verbose)?;
        }
        rows.push(format!(
            "{:<8} {:>7.1} s  {}",
            level.name,
            begun.elapsed().as_secs_f64(),
            tally.line()
        ));
        total += tally;
    }

    if total.passed + total.failed == 0 {
        total
            .complaints
            .push("no test ran: does --filter match a test's name?".to_owned());
    }
    println!("\n{}", rows.join("\n"));
    for complaint in &total.complaints {
        println!("FAILED: {complaint}");
    }
    println!("{}", total.line());
    Ok(total.complaints.is_empty())
}

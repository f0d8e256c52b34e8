//! `cargo xtask setup`: everything that building, running and testing need, installed once.

mod apt;
mod go;
mod peers;
mod programs;
mod toolchain;

use anyhow::Result;

use crate::cmd;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also what the cluster tests need: Debian packages, and Kubernetes, CoreDNS and helm built from their Go modules
    #[arg(long)]
    pub(crate) peers: bool,
}

/// Says what is being done, in one form everywhere.
pub(crate) fn say(what: impl std::fmt::Display) {
    println!("[setup] {what}");
}

/// Installs what is missing. Silent and quick when nothing is.
pub(crate) fn setup(args: &Args) -> Result<()> {
    let mut missing = toolchain::missing_packages();
    missing.extend(programs::missing_packages(args.peers));
    apt::install(&missing)?;
    toolchain::install()?;
    if args.peers {
        peers::build()?;
    }
    Ok(())
}

/// Installs the programs that are missing of some: a program, the Debian package that has it, what it is for.
pub(crate) fn programs(wanted: &[(&str, &str, &'static str)]) -> Result<()> {
    let missing = wanted.iter().filter(|(program, _, _)| cmd::which(program).is_none());
    let packages: Vec<_> = missing
        .map(|(_, package, why)| apt::Package::new(package, why))
        .collect();
    apt::install(&packages)
}

/// The command `setup` itself: as [`setup`], and says so when all is there.
pub(crate) fn command(args: &Args) -> Result<()> {
    setup(args)?;
    say("everything is there");
    Ok(())
}

//! `cargo xtask build`: the eBPF object, then every user-space binary.

use anyhow::Result;

use crate::{bpf, cmd};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimised binaries: target/release/ferrogate, with the eBPF object inside
    #[arg(long)]
    pub(crate) release: bool,
    /// Build the eBPF object only: target/bpf/ferrogate.o
    #[arg(long)]
    pub(crate) bpf_only: bool,
}

pub(crate) fn build(args: &Args) -> Result<()> {
    bpf::build()?;
    if args.bpf_only {
        return Ok(());
    }
    let mut cargo = cmd::cargo();
    cargo.args([
        "build",
        "--workspace",
        "--bins",
        "--exclude",
        bpf::PACKAGE,
        "--exclude",
        "xtask",
    ]);
    if args.release {
        cargo.arg("--release");
    }
    cmd::run(&mut cargo)
}

//! `cargo xtask chaos`: faults under load for as long as wanted, in an order that a seed decides.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{bpf, cmd, paths, setup, test};

/// The test target: `tests/tests/faults.rs`.
const TARGET: &str = "faults";
const DOCUMENT: &str = "docs/reliability.md";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long faults go on, for each proxy
    #[arg(long, value_name = "N", default_value_t = 10)]
    minutes: u64,
    /// What decides their order and moments [default: from the clock]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Only faults whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// How pods are wired
    #[arg(long, default_value = "routed", value_parser = ["routed", "bridge", "bridge-nonf", "vxlan"])]
    layout: String,
    /// Whose faults, each in a cluster of its own
    #[arg(long, value_name = "PROXY[,PROXY]", default_value = "ferrogate,kube-proxy")]
    proxy: String,
    /// Connections held, UDP flows, new connections a second
    #[arg(long, value_names = ["CONNECTIONS", "FLOWS", "RATE"], num_args = 3)]
    load: Option<Vec<u32>>,
    /// An agent of another build, an earlier release above all: two more faults are an upgrade from it, and that it takes over in between
    #[arg(long, value_name = "FILE")]
    other_agent: Option<PathBuf>,
    /// Write the table into docs/reliability.md
    #[arg(long)]
    write: bool,
    /// Print the names of the faults, and do nothing
    #[arg(long)]
    list: bool,
}

/// Sets up, builds, and lets the faults happen. Returns whether ours lost nothing.
pub(crate) fn chaos(args: &Args) -> Result<bool> {
    setup::setup(&setup::Args { peers: true })?;
    bpf::build()?;
    bpf::build_other()?;
    let program = test::program(TARGET)?;
    let mut command = cmd::as_root("env")?;
    command
        .arg(format!("FERROGATE_CACHE={}", paths::cache().display()))
        .arg(program);
    command.args(["--minutes", &args.minutes.to_string()]);
    command.args(["--layout", &args.layout, "--proxy", &args.proxy]);
    if let Some(seed) = args.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if let Some(filter) = &args.filter {
        command.args(["--filter", filter]);
    }
    if let Some(load) = &args.load {
        command.arg("--load").args(load.iter().map(u32::to_string));
    }
    if let Some(agent) = &args.other_agent {
        command.arg("--other-agent").arg(std::path::absolute(agent)?);
    }
    if args.write {
        command.arg("--document").arg(paths::root().join(DOCUMENT));
    }
    if args.list {
        command.arg("--list");
    }
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", cmd::shown(&command)))?;
    Ok(status.success())
}

//! `cargo xtask conformance`: what a Service can say, side by side with kube-proxy.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{bpf, cmd, paths, setup, test};

/// The test targets: `tests/tests/conformance.rs` and `tests/tests/random.rs`.
const TARGET: &str = "conformance";
const RANDOM: &str = "random";

#[derive(clap::Args)]
#[command(after_help = "The cases are data: tests/src/conformance/cases, whose README.md describes their form.")]
pub(crate) struct Args {
    /// Only cases whose name or title contains one of these
    #[arg(long, value_name = "TEXT[,TEXT]")]
    filter: Option<String>,
    /// How pods are wired
    #[arg(long, default_value = "routed", value_parser = ["routed", "bridge", "bridge-nonf", "vxlan"])]
    layout: String,
    /// Whether Ferrogate translates at sockets
    #[arg(long, default_value = "all", value_parser = ["all", "off"])]
    socket_edge: String,
    /// Only one of the proxies
    #[arg(long, value_parser = ["ours", "kube-proxy"])]
    only: Option<String>,
    /// Write every question and answer to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print the names of the cases, and run none
    #[arg(long)]
    list: bool,
    /// Instead of the cases, this many random sequences of changes, compared with kube-proxy after each
    #[arg(long, value_name = "N", conflicts_with_all = ["filter", "only", "json", "list"])]
    random: Option<u64>,
    /// The first random sequence's seed [default: from the clock]
    #[arg(long, value_name = "SEED", requires = "random")]
    seed: Option<u64>,
    /// Changes in each random sequence
    #[arg(long, value_name = "N", requires = "random", default_value_t = 10)]
    steps: u32,
}

/// Sets up, builds, and runs the cases. Returns whether ours passed all.
pub(crate) fn conformance(args: &Args) -> Result<bool> {
    setup::setup(&setup::Args { peers: true })?;
    bpf::build()?;
    let program = test::program(if args.random.is_some() { RANDOM } else { TARGET })?;
    let mut command = cmd::as_root("env")?;
    command
        .arg(format!("FERROGATE_CACHE={}", paths::cache().display()))
        .arg(program);
    command.args(["--layout", &args.layout]);
    if let Some(sequences) = args.random {
        command.args([
            "--sequences",
            &sequences.to_string(),
            "--steps",
            &args.steps.to_string(),
        ]);
        command.args(
            args.seed
                .iter()
                .flat_map(|seed| ["--seed".to_owned(), seed.to_string()]),
        );
    } else {
        command.args(["--socket-edge", &args.socket_edge]);
    }
    let named = [("--filter", &args.filter), ("--only", &args.only)];
    for (option, value) in named {
        command.args(value.iter().flat_map(|value| [option, value]));
    }
    if let Some(path) = &args.json {
        command.arg("--json").arg(std::path::absolute(path)?);
    }
    if args.list {
        command.arg("--list");
    }
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", cmd::shown(&command)))?;
    Ok(status.success())
}

//! `ferrogate sock-destroy-helper`.

use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Clone, Debug)]
pub struct HelperArgs {
    /// Listen at this Unix socket for agents with --sock-destroy-helper; without it, serve the agent that started this
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

pub(super) fn run(args: &HelperArgs) -> Result<()> {
    crate::stuck::run_helper(args.socket.as_deref())
}

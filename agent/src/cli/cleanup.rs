//! `ferrogate cleanup`.

use super::query::{STATE_DIR, Source};
use crate::admin::{self, Request, Status};
use crate::{kernel, kube_proxy, output};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::path::{Path, PathBuf};

/// Connections that Ferrogate translates break; Services work again once another proxy, or the agent, runs.
#[derive(Args, Clone, Debug)]
pub struct CleanupArgs {
    /// Clean up even while an agent, or kube-proxy, is running, and whatever connections break
    #[arg(long)]
    force: bool,

    /// Instead of Ferrogate, take the rules of kube-proxy off this node, once no connection goes through them any more
    #[arg(long)]
    kube_proxy: bool,

    /// The agent's state directory
    #[arg(long, value_name = "DIR", env = "FERROGATE_STATE_DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,

    #[command(flatten)]
    source: Source,
}

pub(super) fn run(args: &CleanupArgs) -> Result<()> {
    if args.kube_proxy {
        let removed = kube_proxy::remove_rules(args.force)?;
        return output::print(&match removed.as_slice() {
            [] => "kube-proxy has no rules here.".to_owned(),
            removed => format!("Removed {}.", removed.join(", ")),
        });
    }
    let socket = args.source.socket();
    if !args.force {
        refuse_while_running(&socket)?;
    }
    let report =
        kernel::cleanup(&args.state_dir).with_context(|| format!("cannot clean up {}", args.state_dir.display()))?;
    if !args.force {
        remove_run_files(&socket, &args.source.run_dir)?;
    }
    output::print(&report.to_string())
}

fn refuse_while_running(socket: &Path) -> Result<()> {
    match admin::ask::<Status>(socket, &Request::Status) {
        Err(admin::Error::NotRunning { .. }) => Ok(()),
        Ok(Status {
            pid: Some(pid), node, ..
        }) => bail!(
            "the agent of node {node} (pid {pid}) is running and would go on without its programs; stop it first, or give \
             --force"
        ),
        Ok(_) | Err(_) => bail!("an agent holds {}; stop it first, or give --force", socket.display()),
    }
}

/// Removes the socket that a killed agent left, and the run directory if nothing else is in it.
fn remove_run_files(socket: &Path, run_dir: &Path) -> Result<()> {
    use std::io::ErrorKind::{DirectoryNotEmpty, NotFound};
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", socket.display()));
        }
        _ => {}
    }
    match std::fs::remove_dir(run_dir) {
        Err(error) if !matches!(error.kind(), NotFound | DirectoryNotEmpty) => {
            Err(error).with_context(|| format!("cannot remove {}", run_dir.display()))
        }
        _ => Ok(()),
    }
}

//! What the commands that ask a running agent have in common.

use crate::admin::{self, Request};
use crate::output;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

pub(crate) const STATE_DIR: &str = "/sys/fs/bpf/ferrogate";
pub(crate) const RUN_DIR: &str = "/run/ferrogate";

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum OutputFormat {
    /// For people
    Table,
    /// For programs
    Json,
}

/// The agent that is asked.
#[derive(Args, Clone, Debug)]
pub(super) struct Source {
    /// The agent's admin socket [default: RUN_DIR/admin.sock]
    #[arg(long, value_name = "PATH", env = "FERROGATE_ADMIN_SOCKET")]
    admin_socket: Option<PathBuf>,

    /// The agent's run directory
    #[arg(long, value_name = "DIR", env = "FERROGATE_RUN_DIR", default_value = RUN_DIR)]
    pub(super) run_dir: PathBuf,
}

impl Source {
    pub(super) fn socket(&self) -> PathBuf {
        admin_socket(self.admin_socket.as_deref(), &self.run_dir)
    }

    /// Asks the running agent for what the maps alone do not tell.
    pub(super) fn ask_agent<T: DeserializeOwned>(&self, request: &Request) -> Result<T, admin::Error> {
        admin::ask(&self.socket(), request)
    }
}

#[derive(Args, Clone, Debug)]
pub struct QueryArgs {
    /// How to print the result
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    pub output: OutputFormat,

    #[command(flatten)]
    source: Source,

    /// The agent's state directory; its pinned maps are read when no agent runs
    #[arg(long, value_name = "DIR", env = "FERROGATE_STATE_DIR", default_value = STATE_DIR)]
    pub state_dir: PathBuf,
}

/// The admin socket: the option, else its place in the run directory.
pub(super) fn admin_socket(option: Option<&Path>, run_dir: &Path) -> PathBuf {
    option.map_or_else(|| run_dir.join("admin.sock"), Path::to_owned)
}

impl QueryArgs {
    pub(super) fn socket(&self) -> PathBuf {
        self.source.socket()
    }

    /// Asks the running agent; without one, `fallback` reads the pinned maps and a note says so on standard error.
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        request: &Request,
        fallback: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<T> {
        let socket = self.socket();
        match admin::ask(&socket, request) {
            Err(admin::Error::NotRunning { .. }) => {
                let answer = fallback(&self.state_dir).with_context(|| {
                    format!(
                        "no agent answers at {}, and its state in {} cannot be read",
                        socket.display(),
                        self.state_dir.display()
                    )
                })?;
                let place = self.state_dir.display();
                eprintln!(
                    "Note: no agent answers at {}; this is read from the maps in {place}.",
                    socket.display()
                );
                Ok(answer)
            }
            answer => Ok(answer?),
        }
    }

    /// Prints `value` as JSON, or as `table` draws it.
    pub(super) fn print<T: Serialize>(&self, value: &T, table: impl FnOnce(&T) -> String) -> Result<()> {
        let text = match self.output {
            OutputFormat::Json => serde_json::to_string_pretty(value).context("cannot write the result as JSON")?,
            OutputFormat::Table => table(value),
        };
        output::print(&text)
    }
}

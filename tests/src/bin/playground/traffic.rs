//! Clients that keep asking, one process a path.
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::Sender;
use std::thread;

use anyhow::{Context, Result};
use ferrogate_tests::rig::Process;
use ferrogate_tests::wire::Attempt;

use crate::cluster::Cluster;
use crate::path::Path;

/// A client waits this long for its connection and its answer, in milliseconds.
const TIMEOUT: u64 = 1000;

/// What a client met, and on which path.
pub(crate) struct Event {
    pub(crate) path: usize,
    pub(crate) attempt: Attempt,
}

/// A `testpod load`, which ends when this is dropped.
pub(crate) struct Traffic {
    process: Process,
    input: ChildStdin,
}

impl Traffic {
    /// Starts a client of the path; every attempt is sent to `events` under the number `index`.
    pub(crate) fn start(
        cluster: &Cluster,
        (index, path): (usize, &Path),
        rate: u32,
        events: Sender<Event>,
    ) -> Result<Self> {
        let mut command = path.place(cluster).testpod_command()?;
        command.args(["load", &format!("--rate={rate}")]);
        command.args(path.request(1).timeout_ms(TIMEOUT).arguments());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = Process::start(path.name, command)?;
        let input = process.stdin().context("standard input of a client")?;
        let output = process.stdout().context("standard output of a client")?;
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let Ok(attempt) = serde_json::from_str(&line) else {
                    continue;
                };
                if events.send(Event { path: index, attempt }).is_err() {
                    return;
                }
            }
        });
        Ok(Self { process, input })
    }

    /// Attempts a second from now on; 0 pauses.
    pub(crate) fn set_rate(&mut self, rate: u32) -> Result<()> {
        writeln!(self.input, "{rate}").context("a client ended")
    }

    /// Whether it is still there.
    pub(crate) fn runs(&mut self) -> Result<bool> {
        Ok(self.process.ended()?.is_none())
    }
}

/// A client for every path.
pub(crate) fn start_all(cluster: &Cluster, paths: &[Path], rate: u32, events: &Sender<Event>) -> Result<Vec<Traffic>> {
    let start = |numbered| Traffic::start(cluster, numbered, rate, events.clone());
    paths.iter().enumerate().map(start).collect()
}

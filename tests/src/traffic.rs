//! Traffic that goes on while something else happens, and whether any of it was lost.
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::rig::{Place, Process};
use crate::wire::{Attempt, ProbeRequest, TickReport};

fn piped(mut command: Command) -> Command {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A TCP connection that is asked all the time.
#[derive(Debug)]
pub struct Ticking {
    name: String,
    process: Process,
}

impl Ticking {
    /// Returns once it was answered.
    pub fn start(place: &Place, name: &str, to: SocketAddr) -> Result<Self> {
        let mut command = piped(place.testpod_command()?);
        command.args(["tick".to_owned(), format!("--to={to}")]);
        let mut process = Process::start("tick", command)?;
        process
            .wait_for_error_line("connected")
            .with_context(|| format!("{name} to {to}"))?;
        Ok(Self {
            name: format!("{name} to {to}"),
            process,
        })
    }

    /// Fails when it was not answered all the time, each time within `patience`.
    pub fn end(mut self, patience: Duration) -> Result<TickReport> {
        drop(self.process.stdin());
        let (_, output, errors) = self.process.output()?;
        let report: TickReport =
            serde_json::from_str(&output).with_context(|| format!("{}: {output} {errors}", self.name))?;
        ensure!(
            report.failure.is_none() && Duration::from_millis(report.longest_ms) < patience,
            "{}: {report:?}",
            self.name
        );
        Ok(report)
    }
}

/// New connections or sockets at a steady rate.
#[derive(Debug)]
pub struct Load {
    name: String,
    process: Process,
    attempts: JoinHandle<Vec<Attempt>>,
}

impl Load {
    /// This many a second, to the addresses of the request in turn.
    pub fn start(place: &Place, name: &str, request: &ProbeRequest, rate: u32) -> Result<Self> {
        let mut command = piped(place.testpod_command()?);
        command
            .arg("load")
            .arg(format!("--rate={rate}"))
            .args(request.arguments());
        let mut process = Process::start("load", command)?;
        let output = process.stdout().context("standard output is a pipe")?;
        let attempts = thread::spawn(move || {
            // The last line may be cut off: the program ends with its input, whatever it is doing.
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            lines.filter_map(|line| serde_json::from_str(&line).ok()).collect()
        });
        Ok(Self {
            name: format!("{name} to {:?} over {:?}", request.to, request.protocol),
            process,
            attempts,
        })
    }

    /// All attempts; fails when one of them did.
    pub fn end(mut self) -> Result<Vec<Attempt>> {
        drop(self.process.stdin());
        let attempts = self.attempts.join().map_err(|_| anyhow!("the reader panicked"))?;
        let (_, _, errors) = self.process.output()?;
        ensure!(!attempts.is_empty(), "{}: nothing was asked: {errors}", self.name);
        let lost: Vec<_> = attempts.iter().filter(|attempt| attempt.failure.is_some()).collect();
        ensure!(
            lost.is_empty(),
            "{}: {} of {} lost: {:?}",
            self.name,
            lost.len(),
            attempts.len(),
            lost[0]
        );
        Ok(attempts)
    }
}

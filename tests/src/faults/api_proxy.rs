//! The `testpod api-proxy` of a node.
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};

use crate::rig::{Place, Process};
use crate::wire::api::Weather;

/// Where it answers, in its node's network namespace.
pub(super) const LISTEN: &str = "127.0.0.1:6080";

/// A way to the API server that can be made bad.
pub(super) struct ApiProxy {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _process: Process,
}

impl ApiProxy {
    pub(super) fn start(place: &Place, kubeconfig: &Path, directory: &Path) -> Result<Self> {
        let log = std::fs::File::create(directory.join("api-proxy.log"))?;
        let mut command = place.testpod_command()?;
        command
            .args(["api-proxy", "--listen", LISTEN, "--kubeconfig"])
            .arg(kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut process = Process::start("api-proxy", command)?;
        let (input, output) = process.stdin().zip(process.stdout()).context("pipes")?;
        let mut proxy = Self {
            input,
            output: BufReader::new(output),
            _process: process,
        };
        proxy.expect("ready")?;
        Ok(proxy)
    }

    /// Returns when it holds.
    pub(super) fn set(&mut self, weather: Weather) -> Result<()> {
        writeln!(self.input, "{}", serde_json::to_string(&weather)?)?;
        self.expect("done")
    }

    fn expect(&mut self, word: &str) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(
            line.trim() == word,
            "the way to the API server said {line:?}, not {word}"
        );
        Ok(())
    }
}

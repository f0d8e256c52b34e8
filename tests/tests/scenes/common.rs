//! What the scenes share: waiting, the kernel's tables, connections that live long.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ferrogate_tests::binaries;
use ferrogate_tests::rig::{Place, Process, Rig};
use ferrogate_tests::wire::TickReport;
use serde::Deserialize;

/// A machine with much else to do is slow, not wrong.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until the answer is yes.
pub(crate) fn eventually(what: &str, mut question: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !question()? {
        if Instant::now() > deadline {
            bail!("not within {PATIENCE:?}: {what}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A frontend: protocol, address (none: a NodePort, on every node address), family, port.
pub(crate) type Frontend = (String, Option<IpAddr>, String, u16);

/// Frontends and where they lead.
pub(crate) type Tables = BTreeMap<Frontend, BTreeSet<SocketAddr>>;

#[derive(Deserialize)]
struct Row {
    protocol: String,
    family: String,
    frontends: Vec<FrontendRow>,
    endpoints: Vec<EndpointRow>,
}

#[derive(Deserialize)]
struct FrontendRow {
    address: Option<IpAddr>,
    port: u16,
}

#[derive(Deserialize)]
struct EndpointRow {
    address: SocketAddr,
}

/// What a node's kernel has: the pinned maps, read past the agent.
pub(crate) fn kernel_tables(rig: &Rig, node: u8) -> Result<Tables> {
    let node = rig.node(node);
    let mut command = Command::new(binaries::workspace("ferrogate")?);
    command
        .args(["services", "--output", "json", "--state-dir"])
        .arg(&node.bpffs);
    // Nobody listens there.
    command.arg("--admin-socket").arg(node.directory.join("none.sock"));
    let output = command.output().context("ferrogate services")?;
    let rows: Vec<Row> = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("ferrogate services: {}", String::from_utf8_lossy(&output.stderr)))?;
    let mut tables = Tables::new();
    for row in rows {
        let endpoints: BTreeSet<_> = row.endpoints.iter().map(|endpoint| endpoint.address).collect();
        for frontend in row.frontends {
            let key = (
                row.protocol.clone(),
                frontend.address,
                row.family.clone(),
                frontend.port,
            );
            tables.insert(key, endpoints.clone());
        }
    }
    Ok(tables)
}

/// A TCP connection that is asked all the time.
pub(crate) struct Ticking {
    name: String,
    process: Process,
}

impl Ticking {
    /// Returns once it was answered.
    pub(crate) fn start(place: &Place, name: &str, to: SocketAddr) -> Result<Self> {
        let mut command = place.testpod_command()?;
        command.args(["tick".to_owned(), format!("--to={to}")]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Process::start("tick", command)?;
        process
            .wait_for_error_line("connected")
            .with_context(|| format!("{name} to {to}"))?;
        Ok(Self {
            name: format!("{name} to {to}"),
            process,
        })
    }

    /// Fails when it was not answered all the time, each time within a second.
    pub(crate) fn end(mut self) -> Result<TickReport> {
        drop(self.process.stdin());
        let (_, output, errors) = self.process.output()?;
        let report: TickReport =
            serde_json::from_str(&output).with_context(|| format!("{}: {output} {errors}", self.name))?;
        ensure!(
            report.failure.is_none() && report.longest_ms < 1000,
            "{}: {report:?}",
            self.name
        );
        Ok(report)
    }
}

//! What the scenes share: waiting, and the kernel's tables.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use ferrogate_tests::binaries;
use ferrogate_tests::rig::Rig;
use ferrogate_tests::wait;
use serde::Deserialize;

/// A machine with much else to do is slow, not wrong.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until the answer is yes.
pub(crate) fn eventually(what: &str, question: impl FnMut() -> Result<bool>) -> Result<()> {
    wait::eventually(PATIENCE, what, question)
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

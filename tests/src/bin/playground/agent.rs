//! What the agents say about themselves, by the command that people use: `ferrogate status` and `ferrogate services`.
use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use ferrogate_tests::binaries;
use ferrogate_tests::rig::Rig;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// What the playground reads of `ferrogate status --output json`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Status {
    pub(crate) last_apply: Option<Apply>,
    pub(crate) reasons: Vec<Reason>,
}

/// The last write to the maps.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Apply {
    pub(crate) generation: u64,
    /// Of planning and writing.
    pub(crate) apply_microseconds: u64,
    pub(crate) operations: u64,
}

/// One of the datapath's counters.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Reason {
    pub(crate) reason: String,
    pub(crate) count: u64,
    pub(crate) drop: bool,
    pub(crate) description: String,
}

/// What the playground reads of a row of `ferrogate services --output json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ServiceRow {
    pub(crate) name: String,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// A backend of a Service port.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Endpoint {
    #[expect(dead_code, reason = "shown by Debug when an agent does not serve what it should")]
    address: SocketAddr,
}

/// Asks the agent of a node.
pub(crate) fn status(rig: &Rig, node: u8) -> Result<Status> {
    json(rig, node, "status")
}

/// Asks the agent of a node for its Services.
pub(crate) fn services(rig: &Rig, node: u8) -> Result<Vec<ServiceRow>> {
    json(rig, node, "services")
}

/// What `ferrogate <command>` prints for people on a node.
pub(crate) fn table(rig: &Rig, node: u8, command: &[&str]) -> Result<String> {
    ferrogate(rig, node, command)
}

fn json<T: DeserializeOwned>(rig: &Rig, node: u8, command: &str) -> Result<T> {
    let output = ferrogate(rig, node, &[command, "--output", "json"])?;
    serde_json::from_str(&output).with_context(|| format!("what ferrogate {command} printed"))
}

fn ferrogate(rig: &Rig, node: u8, command: &[&str]) -> Result<String> {
    let node = rig.node(node);
    let program = binaries::workspace("ferrogate")?;
    let (state, run) = (node.bpffs.to_string_lossy(), node.directory.to_string_lossy());
    let mut arguments = command.to_vec();
    arguments.extend(["--state-dir", &*state, "--run-dir", &*run]);
    node.place.run(&program.to_string_lossy(), arguments)
}

/// The datapath's counters of every node, to see what happened between two moments.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters(Vec<BTreeMap<String, u64>>);

impl Counters {
    /// Reads them now.
    pub(crate) fn read(rig: &Rig) -> Result<Self> {
        let read = |node| -> Result<_> {
            let reasons = status(rig, node)?.reasons.into_iter();
            Ok(reasons.map(|reason| (reason.reason, reason.count)).collect())
        };
        Ok(Self((1..=rig.options.nodes).map(read).collect::<Result<_>>()?))
    }

    /// By how much a counter of a node (counted from 1) grew since `before`.
    pub(crate) fn grown(&self, before: &Self, node: u8, reason: &str) -> u64 {
        let of = |counters: &Self| -> u64 {
            let node = counters.0.get(usize::from(node) - 1);
            node.and_then(|node| node.get(reason)).copied().unwrap_or(0)
        };
        of(self) - of(before)
    }

    /// The same over all nodes.
    pub(crate) fn grown_anywhere(&self, before: &Self, reason: &str) -> u64 {
        (1..=self.0.len() as u8)
            .map(|node| self.grown(before, node, reason))
            .sum()
    }
}

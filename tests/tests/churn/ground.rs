//! What the scenes stand on: a rig, traffic in it, and what the agent of node 1 holds.
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use ferrogate_tests::binaries;
use ferrogate_tests::rig::{Family, FerrogateOptions, Layout, Options, Place, Proxy, Rig, SocketEdge};
use ferrogate_tests::traffic::{Load, Ticking};
use ferrogate_tests::wait;
use ferrogate_tests::walks::cell::Target;
use ferrogate_tests::walks::fixture::{self, CLIENT_PODS};
use ferrogate_tests::wire::{ProbeRequest, Protocol};
use serde_json::Value;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) fn boot(layout: Layout, socket_edge: SocketEdge, more: &[&str]) -> Result<Rig> {
    let mut rig = fixture::boot(Options {
        layout,
        proxy: Proxy::Ferrogate(FerrogateOptions {
            socket_edge,
            more: more.iter().map(|option| (*option).to_owned()).collect(),
            ..FerrogateOptions::default()
        }),
        ..Options::default()
    })?;
    fixture::wait_ready(&mut rig, PATIENCE)?;
    Ok(rig)
}

pub(crate) fn eventually(what: &str, question: impl FnMut() -> Result<bool>) -> Result<()> {
    wait::eventually(PATIENCE, what, question)
}

/// Connections that last, and new ones all the time, on ways that nothing is to disturb.
pub(crate) struct Traffic {
    ticking: Vec<Ticking>,
    loads: Vec<Load>,
}

impl Traffic {
    /// `outside`: also by way of node 1's uplink.
    pub(crate) fn start(rig: &Rig, outside: bool) -> Result<Self> {
        let pod = &rig.pod(CLIENT_PODS[0]).place;
        let mut ways: Vec<(&str, &Place, &str, Target)> = vec![("pod", pod, "local", Target::ClusterIp)];
        if outside {
            ways.extend([
                ("pod", pod, "remote", Target::ClusterIp),
                ("node", &rig.node(1).place, "remote", Target::ClusterIp),
                ("outside", &rig.outside, "local", Target::NodePort(1)),
                ("outside", &rig.outside, "remote", Target::NodePort(1)),
            ]);
        }
        let mut traffic = Self {
            ticking: Vec::new(),
            loads: Vec::new(),
        };
        for (name, place, service, target) in ways {
            for family in Family::BOTH {
                let to = fixture::address(rig, service, target, family);
                traffic.ticking.push(Ticking::start(place, name, to)?);
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    let request = ProbeRequest::new(protocol, to).timeout_ms(2000);
                    traffic.loads.push(Load::start(place, name, &request, 10)?);
                }
            }
        }
        Ok(traffic)
    }

    /// Nothing was lost, and nobody waited long.
    pub(crate) fn end(self) -> Result<()> {
        for connection in self.ticking {
            connection.end(Duration::from_secs(1))?;
        }
        self.loads.into_iter().try_for_each(|load| load.end().map(drop))
    }
}

/// What the agent of node 1 holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Holdings {
    /// Interfaces with programs, by name: role and number of programs.
    pub(crate) interfaces: BTreeMap<String, (String, usize)>,
    pins: usize,
    descriptors: usize,
}

pub(crate) fn holdings(rig: &Rig) -> Result<Holdings> {
    let node = rig.node(1);
    let mut command = Command::new(binaries::workspace("ferrogate")?);
    command
        .args(["status", "--output", "json", "--run-dir"])
        .arg(&node.directory);
    command.arg("--state-dir").arg(&node.bpffs);
    let output = command.output().context("ferrogate status")?;
    let status: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("ferrogate status: {}", String::from_utf8_lossy(&output.stderr)))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let interfaces = status["interfaces"].as_array().context("interfaces")?.iter();
    let interfaces = interfaces.map(|interface| {
        let hooks = interface["hooks"].as_array().map_or(0, Vec::len);
        (text(&interface["name"]), (text(&interface["role"]), hooks))
    });
    let process = Path::new("/proc").join(status["pid"].to_string()).join("fd");
    Ok(Holdings {
        interfaces: interfaces.collect(),
        pins: files(&node.bpffs)?,
        descriptors: fs::read_dir(process)?.count(),
    })
}

/// Files below a directory.
fn files(directory: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() {
            files(&entry.path())?
        } else {
            1
        };
    }
    Ok(count)
}

//! The load: a `testpod siege` on every edge.
use std::net::SocketAddr;
use std::process::{ChildStdin, Stdio};

use anyhow::{Context, Result};

use crate::rig::{Family, Place, Process, Rig};
use crate::walks::cell::Target;
use crate::walks::fixture::{self, CLIENT_PODS, THREE};
use crate::wire::siege::{SiegeReport, SiegeRequest};

/// How much load, over all edges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Load {
    pub connections: u32,
    pub flows: u32,
    /// New connections a second.
    pub rate: u32,
    pub interval_ms: u64,
}

impl Load {
    /// What the short test holds.
    pub(super) const SHORT: Self = Self {
        connections: 216,
        flows: 72,
        rate: 60,
        interval_ms: 250,
    };
    /// What `cargo xtask chaos` holds.
    pub(super) const LONG: Self = Self {
        connections: 1008,
        flows: 144,
        rate: 504,
        interval_ms: 1000,
    };
}

/// A kind of client, by the edge that translates for it when Ferrogate is the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Edge {
    PodSocket,
    NodeSocket,
    Pod,
    Node,
    UplinkLocal,
    UplinkTransit,
}

impl Edge {
    pub(super) const ALL: [Self; 6] = [
        Self::PodSocket,
        Self::NodeSocket,
        Self::Pod,
        Self::Node,
        Self::UplinkLocal,
        Self::UplinkTransit,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::PodSocket => "socket edge, a pod",
            Self::NodeSocket => "socket edge, the node",
            Self::Pod => "pod edge",
            Self::Node => "node edge",
            Self::UplinkLocal => "uplink, backend on the node",
            Self::UplinkTransit => "uplink, backend on another node",
        }
    }

    /// The Service that its clients use, the address they know it by, and the pods that may answer.
    fn service(self) -> (&'static str, Target, &'static [&'static str]) {
        match self {
            Self::UplinkLocal => ("local", Target::NodePort(1), &["a"]),
            Self::UplinkTransit => ("remote", Target::NodePort(1), &["b"]),
            Self::PodSocket | Self::NodeSocket | Self::Pod | Self::Node => {
                (THREE, Target::ClusterIp, &["t1", "t2", "t3"])
            }
        }
    }

    /// Where its clients run. Below the node's cgroup there is the socket edge, elsewhere not.
    fn command(self, rig: &Rig) -> Result<std::process::Command> {
        let pod = &rig.pod(CLIENT_PODS[0]).place;
        let node = &rig.node(1).place;
        let apart = |place: &Place| Ok::<_, anyhow::Error>(place.sibling(rig.lease.cgroup("apart")?));
        match self {
            Self::PodSocket => pod.testpod_command(),
            Self::NodeSocket => node.testpod_command(),
            // In another pod than the socket edge's clients: a port that both use would be one connection to an endpoint that
            // they share.
            Self::Pod => apart(&rig.pod("a").place)?.testpod_command(),
            Self::Node => apart(node)?.testpod_command(),
            Self::UplinkLocal | Self::UplinkTransit => rig.outside.testpod_command(),
        }
    }

    /// The addresses of both families.
    pub(super) fn addresses(self, rig: &Rig) -> [SocketAddr; 2] {
        let (service, target, _) = self.service();
        Family::BOTH.map(|family| fixture::address(rig, service, target, family))
    }
}

/// Load that runs.
pub(super) struct Siege {
    processes: Vec<(Edge, Process, Option<ChildStdin>)>,
}

impl Siege {
    /// Starts the load and waits until every held connection and flow was answered.
    pub(super) fn lay(rig: &Rig, load: Load) -> Result<Self> {
        let share = |whole: u32| whole / Edge::ALL.len() as u32;
        let mut processes = Vec::new();
        for edge in Edge::ALL {
            let (_, _, pods) = edge.service();
            let request = SiegeRequest {
                to: edge.addresses(rig).to_vec(),
                connections: share(load.connections),
                flows: share(load.flows),
                rate: share(load.rate),
                interval_ms: load.interval_ms,
                timeout_ms: 8000,
                pods: pods.iter().map(|pod| (*pod).to_owned()).collect(),
            };
            let mut command = edge.command(rig)?;
            command.arg("siege").args(request.arguments());
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut process = Process::start("siege", command)?;
            let input = process.stdin();
            processes.push((edge, process, input));
        }
        for (edge, process, _) in &mut processes {
            process
                .wait_for_error_line("held")
                .with_context(|| format!("the load of the {}", edge.name()))?;
        }
        Ok(Self { processes })
    }

    /// Ends the load; every held connection asks once more before.
    pub(super) fn lift(self) -> Result<Vec<(Edge, SiegeReport)>> {
        let mut processes = self.processes;
        for (_, _, input) in &mut processes {
            drop(input.take());
        }
        let reports = processes.into_iter().map(|(edge, process, _)| {
            let (status, output, errors) = process.output()?;
            let report = serde_json::from_str(&output)
                .with_context(|| format!("the load of the {}: {status} {output} {errors}", edge.name()))?;
            Ok((edge, report))
        });
        reports.collect()
    }
}

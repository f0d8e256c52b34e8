//! Pods: a namespace wired to its node, or the node's own, with a `testpod serve` inside.
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use super::addresses::Pair;
use super::lease::Lease;
use super::machine::{Node, tail};
use super::objects::{self, Endpoint, NAMESPACE};
use super::process::{Place, Process};

/// What to run, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    pub name: String,
    pub node: u8,
    /// The value of its label `app`, which Services select.
    pub app: String,
    pub namespace: String,
    /// In the node's own network namespace, at the node's addresses.
    pub host_network: bool,
    /// Ports, of TCP, UDP and SCTP, that its `testpod serve` listens on; none for a pod that runs something else.
    pub ports: Vec<u16>,
    /// It runs `testpod web` instead, at the same ports of TCP.
    pub web: bool,
}

impl PodSpec {
    /// A pod whose label `app` is its name and that serves at port 8080.
    pub fn new(name: &str, node: u8) -> Self {
        Self {
            name: name.to_owned(),
            node,
            app: name.to_owned(),
            namespace: NAMESPACE.to_owned(),
            host_network: false,
            ports: vec![8080],
            web: false,
        }
    }

    pub fn app(self, app: &str) -> Self {
        Self {
            app: app.to_owned(),
            ..self
        }
    }

    pub fn ports(self, ports: &[u16]) -> Self {
        Self {
            ports: ports.to_vec(),
            ..self
        }
    }

    /// Serves HTTP, and ends as a well-behaved application does.
    pub fn web(self) -> Self {
        Self { web: true, ..self }
    }

    pub fn namespace(self, namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            ..self
        }
    }

    pub fn host_network(self) -> Self {
        Self {
            host_network: true,
            ..self
        }
    }
}

/// A pod that runs.
#[derive(Debug)]
pub struct Pod {
    pub spec: PodSpec,
    pub place: Place,
    pub addresses: Pair,
    pub(crate) ready: bool,
    pub(crate) terminating: bool,
    pub(crate) server: Option<Process>,
}

impl Pod {
    pub(crate) fn endpoint(&self, node: &Node) -> Endpoint {
        Endpoint {
            pod: self.spec.name.clone(),
            node: node.name.clone(),
            addresses: self.addresses,
            ready: self.ready,
            terminating: self.terminating,
        }
    }

    pub(crate) fn object(&self, node: &Node) -> Value {
        let spec = &self.spec;
        objects::pod(
            &self.endpoint(node),
            &spec.namespace,
            &spec.app,
            spec.host_network,
            node.address.v4.into(),
        )
    }

    /// Starts `testpod serve` (or `web`) at the pod's own addresses and waits until it listens.
    pub(crate) fn start_server(&mut self, lease: &Lease) -> Result<()> {
        if self.spec.ports.is_empty() {
            return Ok(());
        }
        let log = lease.directory().join(format!("pod-{}.log", self.spec.name));
        fs::write(&log, "")?;
        let mut command = self.place.testpod_command()?;
        let server = if self.spec.web { "web" } else { "serve" };
        command.args([server, "--name", &self.spec.name]);
        command.args(
            self.addresses
                .both()
                .iter()
                .map(|address| format!("--listen={address}")),
        );
        command.args(self.spec.ports.iter().map(|port| format!("--port={port}")));
        let mut server = self.place.spawn(&self.spec.name, command, &log)?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::read_to_string(&log)?.trim() != "ready" {
            if server.ended()?.is_some() || Instant::now() > deadline {
                bail!("pod {} does not serve: {}", self.spec.name, tail(&log));
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.server = Some(server);
        Ok(())
    }
}

//! From probes to single questions.
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::addresses::Public;
use super::case::{Case, Probe, See, Side, Word, name_of};
use super::cluster::Cluster;
use super::objects::standing;
use super::target::{Kind, Target};
use crate::rig::{Family, Layout, addresses};
use crate::wire::Protocol;
use crate::wire::ask::{Ask, Reach};

/// Of the numbers below 256, which the API server gives out when it has no others left.
const UNUSED: u16 = 200;
const DNS_PORT: u16 = 53;
const LOCALHOST: &str = "a NodePort is at 127.0.0.1 and ::1 through the socket edge only";

const NO_HAIRPIN_MODE: &str = "kube-proxy needs hairpin mode on the bridge port of a pod that asks itself";
const SAME_BRIDGE: &str = "kube-proxy needs bridge-nf-call-iptables=1 for backends on the same bridge";

/// What is known of a Service: fields stay as they were when the Service loses them, so that what is gone can be asked for.
#[derive(Clone, Debug, Default)]
pub struct Known {
    addresses: BTreeMap<Family, IpAddr>,
    /// Name, protocol, port.
    ports: Vec<(String, String, u16)>,
    /// NodePorts by name of the Service port.
    node_ports: BTreeMap<String, u16>,
    health_port: Option<u16>,
}

impl Known {
    /// Takes in what the API server says of the Service now.
    pub fn learn(&mut self, service: &Value) {
        let spec = &service["spec"];
        let ips = spec["clusterIPs"].as_array().into_iter().flatten();
        for address in ips.filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok()) {
            self.addresses.insert(Family::of(address), address);
        }
        self.ports.clear();
        for port in spec["ports"].as_array().into_iter().flatten() {
            let name = port["name"].as_str().unwrap_or("").to_owned();
            let number = |field: &str| port[field].as_u64().and_then(|number| u16::try_from(number).ok());
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            if let Some(node_port) = number("nodePort") {
                self.node_ports.insert(name.clone(), node_port);
            }
            self.ports.push((name, protocol, number("port").unwrap_or(0)));
        }
        let health = spec["healthCheckNodePort"].as_u64().filter(|port| *port != 0);
        self.health_port = health.and_then(|port| u16::try_from(port).ok()).or(self.health_port);
    }

    pub fn cluster_ip(&self, family: Family) -> Option<IpAddr> {
        self.addresses.get(&family).copied()
    }

    /// (name, number) of the port that a target means.
    fn port(&self, wanted: Option<&str>, protocol: Protocol) -> Result<(String, u16)> {
        let number = wanted.and_then(|wanted| wanted.parse::<u16>().ok());
        let mut fitting = self.ports.iter().filter(|(_, p, _)| p == protocol.kubernetes());
        let found = match (wanted, number) {
            (None, _) => fitting.next(),
            (_, Some(number)) => fitting.find(|(_, _, port)| *port == number),
            (Some(name), None) => self.ports.iter().find(|(port, _, _)| port == name),
        };
        match (found, number) {
            (Some((name, _, port)), _) => Ok((name.clone(), *port)),
            // A port that the Service does not have, or not any more.
            (None, Some(number)) => Ok((format!("{number}"), number)),
            (None, None) => bail!("no {} port {wanted:?}", protocol.kubernetes()),
        }
    }
}

/// One question, and where it comes from.
#[derive(Clone, Debug)]
pub struct Question {
    /// Indexes: the case in its batch, the probe in its step.
    pub case: usize,
    pub probe: usize,
    pub client: String,
    pub target: Target,
    pub protocol: Protocol,
    pub family: Family,
    pub ask: Ask,
    /// A limit that the documents name: nothing is asked.
    pub limit: Option<&'static str>,
}

impl Question {
    /// In words.
    pub fn text(&self) -> String {
        let protocol = match self.target.kind {
            Kind::Ping(_) => "ICMP",
            _ => self.protocol.kubernetes(),
        };
        let family = match self.family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        };
        format!("{} -> {} {protocol} {family}", self.client, self.target.text)
    }
}

/// Everything that a probe asks.
pub fn questions(
    cluster: &Cluster,
    case: (usize, &Case),
    probe: (usize, &Probe),
    known: &BTreeMap<String, Known>,
) -> Result<Vec<Question>> {
    let mut questions = Vec::new();
    let (case_index, case) = case;
    let (probe_index, probe) = probe;
    for client in &probe.clients() {
        for target in &probe.to {
            // Pings and health checks have one protocol.
            let protocols = match target.kind {
                Kind::Ping(_) | Kind::Health(_) => &probe.protocol[..1],
                _ => &probe.protocol[..],
            };
            for protocol in protocols {
                for family in &probe.family {
                    let builder = Builder {
                        cluster,
                        case,
                        probe,
                        known,
                        client,
                        target,
                        protocol: *protocol,
                        family: *family,
                    };
                    let ask = builder
                        .ask()
                        .with_context(|| format!("{client} -> {} {protocol:?} {family:?}", target.text))?;
                    questions.push(Question {
                        case: case_index,
                        probe: probe_index,
                        client: client.clone(),
                        target: target.clone(),
                        protocol: *protocol,
                        family: *family,
                        ask,
                        limit: builder.limit(),
                    });
                }
            }
        }
    }
    Ok(questions)
}

struct Builder<'a> {
    cluster: &'a Cluster,
    case: &'a Case,
    probe: &'a Probe,
    known: &'a BTreeMap<String, Known>,
    client: &'a str,
    target: &'a Target,
    protocol: Protocol,
    family: Family,
}

impl Builder<'_> {
    fn ask(&self) -> Result<Ask> {
        let see = self.probe.sight(self.cluster.side, self.cluster.socket_edge).see;
        let timeout_ms = timeout_ms(see);
        if let Some(name) = &self.probe.resume {
            return Ok(Ask::Resume {
                name: self.held(name),
                timeout_ms,
            });
        }
        match &self.target.kind {
            Kind::Ping(kind) => Ok(Ask::Ping {
                to: self.address(kind)?,
                timeout_ms,
            }),
            Kind::Health(node) => Ok(Ask::Get {
                to: self.health(*node)?,
                path: "/".to_owned(),
                timeout_ms,
            }),
            Kind::Name(name) => Ok(Ask::Resolve {
                server: (addresses::cluster_ip(addresses::DNS).get(self.family), DNS_PORT).into(),
                name: self.absolute(name),
                protocol: self.protocol,
                ipv6: self.family == Family::V6,
                timeout_ms,
            }),
            _ => self.reach(see, timeout_ms),
        }
    }

    fn reach(&self, see: &See, timeout_ms: u64) -> Result<Ask> {
        let (at_least, at_most) = match see {
            See::All(pods) if self.probe.pause_ms > 0 => (pods.len() as u32, 30),
            See::All(pods) => (2 * pods.len() as u32 + 1, 80),
            See::One { .. } => (6, 6),
            See::Some { .. } => (4, 4),
            See::Word(Word::Unsteady) => (4, 4),
            See::Word(_) | See::Status(_) => (1, 1),
        };
        let reach = Reach {
            to: SocketAddr::new(self.address(&self.target.kind)?, self.port()?),
            protocol: self.protocol,
            at_least,
            at_most,
            wanted: see.wanted(),
            unconnected: self.probe.unconnected,
            source_port: self.probe.source_port,
            pause_ms: self.probe.pause_ms,
            timeout_ms,
        };
        Ok(match &self.probe.hold {
            Some(name) => Ask::Hold {
                name: self.held(name),
                reach,
            },
            None => Ask::Reach(reach),
        })
    }

    fn limit(&self) -> Option<&'static str> {
        match self.cluster.side {
            Side::KubeProxy => self.rivals_limit(),
            Side::Ours if self.cluster.socket_edge => None,
            Side::Ours => self.limit_without_sockets(),
        }
    }

    /// Pods that answer, as the probe says.
    fn pods(&self) -> &[String] {
        match &self.probe.see {
            See::All(pods) | See::One { one: pods } | See::Some { some: pods } => pods,
            See::Word(_) | See::Status(_) => &[],
        }
    }

    /// What kube-proxy cannot do where pods are on a bridge.
    fn rivals_limit(&self) -> Option<&'static str> {
        let layout = self.cluster.rig.options.layout;
        let client = self.cluster.pods.get(self.client)?;
        if layout == Layout::Routed || matches!(self.target.kind, Kind::Pod(_) | Kind::Node(_) | Kind::Name(_)) {
            return None;
        }
        let names = || self.pods().iter().map(|pod| name_of(pod));
        let neighbour = |pod: &str| {
            let pod = self.cluster.pods.get(pod);
            pod.is_some_and(|pod| pod.node == client.node && !pod.host)
        };
        if names().any(|pod| pod == self.client) {
            Some(NO_HAIRPIN_MODE)
        } else if layout == (Layout::Bridge { netfilter: false }) && names().any(neighbour) {
            Some(SAME_BRIDGE)
        } else {
            None
        }
    }

    /// What ours cannot do without its socket edge: packets from and to a loopback address never leave the device that they belong to.
    fn limit_without_sockets(&self) -> Option<&'static str> {
        matches!(self.target.kind, Kind::Localhost).then_some(LOCALHOST)
    }

    /// One name for each connection of a probe.
    fn held(&self, name: &str) -> String {
        let (case, target) = (&self.case.name, &self.target.text);
        format!("{case}/{name}/{target}/{:?}/{:?}", self.protocol, self.family)
    }

    /// `web.` is below the case's namespace in the cluster's domain, `a.b.` is absolute.
    fn absolute(&self, name: &str) -> String {
        match name.strip_suffix('.') {
            Some(absolute) => absolute.to_owned(),
            None => format!("{name}.{}.svc.cluster.local", self.case.name),
        }
    }

    fn known(&self) -> Result<&Known> {
        match &self.target.service {
            Some(name) => self.known.get(name).with_context(|| format!("no Service {name}")),
            None => self.known.values().next().context("no Service"),
        }
    }

    fn address(&self, kind: &Kind) -> Result<IpAddr> {
        let (number, family) = (self.case.number, self.family);
        Ok(match kind {
            Kind::ClusterIp => {
                let address = self.known()?.addresses.get(&family);
                *address.with_context(|| format!("no ClusterIP of family {family:?}"))?
            }
            Kind::Unused => addresses::cluster_ip(UNUSED).get(family),
            Kind::NodePort(node) | Kind::Node(node) => self.cluster.rig.node(*node).address.get(family),
            Kind::Localhost if family == Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Kind::Localhost => Ipv6Addr::LOCALHOST.into(),
            Kind::Vip(index) => Public::LoadBalancer.address(number, *index, family),
            Kind::External(index) => Public::External.address(number, *index, family),
            Kind::Forbidden(index) => Public::Forbidden.address(number, *index, family),
            Kind::Pod(name) => standing(&self.cluster.pods, name)?.addresses.get(family),
            Kind::Ping(_) | Kind::Health(_) | Kind::Name(_) => bail!("{} has no address here", self.target.text),
        })
    }

    fn port(&self) -> Result<u16> {
        let wanted = self.target.port.as_deref();
        match &self.target.kind {
            Kind::Pod(_) | Kind::Node(_) | Kind::Unused => {
                Ok(wanted.map_or(Ok(super::cluster::TARGET_PORTS[0]), str::parse)?)
            }
            Kind::NodePort(_) | Kind::Localhost => {
                let known = self.known()?;
                let name = match known.port(wanted, self.protocol) {
                    Ok((name, _)) => name,
                    // A Service without this port now: the name it had is the protocol's.
                    Err(_) => wanted.map_or_else(|| self.protocol.kubernetes().to_lowercase(), str::to_owned),
                };
                let port = known.node_ports.get(&name).copied();
                // A node port that the Service had once is known by its number.
                port.or(name.parse().ok())
                    .with_context(|| format!("no node port {name}"))
            }
            _ => match self.known()?.port(wanted, self.protocol) {
                Ok((_, number)) => Ok(number),
                Err(_) if wanted.is_none() => Ok(80),
                Err(error) => Err(error),
            },
        }
    }

    fn health(&self, node: u8) -> Result<SocketAddr> {
        let port = self.known()?.health_port.context("no healthCheckNodePort")?;
        Ok((self.cluster.rig.node(node).address.get(self.family), port).into())
    }
}

/// A silence is waited for only where it is expected; a refusal of kube-proxy may come with the second SYN, after a second.
fn timeout_ms(see: &See) -> u64 {
    match see {
        See::Word(Word::Dropped | Word::Unsteady) => 900,
        See::Word(_) => 2500,
        _ => 2000,
    }
}

//! `ferrogate explain`: a Service's path as this node's programs take it, with the reasons of who decided.
//!
//! Nothing is decided here. Endpoints and addresses are [`Index`]'s, what is programmed is [`Planner`]'s, and which set a policy
//! allows is `ferrogate_common`'s, where the programs have it from too.

mod client;
mod endpoints;
mod unknown;
mod ways;

#[cfg(test)]
mod tests;

pub(crate) use client::{Client, find as find_client};
pub(crate) use unknown::{Wanted, service as find_service};

use crate::admin::{Explained, Explanation, PortExplanation, RefusalCount, Unknown};
use crate::kernel::Counted;
use crate::views;
use ferrogate_common::{Algorithm, Config, FrontendKey, FrontendKind, Reason, service_flags, trace_edge};
use ferrogate_control::{
    HintsUsed, Index, Planner, PortExplained, PortView, RefusalReason, ServiceExplained, ServiceName,
};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// What the kernel and the run loop know beside the objects.
#[derive(Default, Debug)]
pub(crate) struct Facts {
    pub(crate) node: String,
    pub(crate) config: Option<Config>,
    /// Edges that are on, by name.
    pub(crate) edges: Vec<String>,
    /// An XDP program is on an uplink.
    pub(crate) xdp: bool,
    /// Addresses on which NodePorts answer.
    pub(crate) node_addresses: Vec<IpAddr>,
    /// `--cluster-cidr`.
    pub(crate) cluster_networks: Vec<IpNet>,
    /// By index into `SERVICES`.
    pub(crate) counted: BTreeMap<u32, Counted>,
    /// Forward flows by frontend and backend.
    pub(crate) flows: BTreeMap<(FrontendKey, SocketAddr), u64>,
    /// By label.
    pub(crate) reasons: BTreeMap<&'static str, u64>,
    /// What keeps the agent from knowing or writing, one sentence each.
    pub(crate) troubles: Vec<String>,
}

impl Facts {
    fn flags(&self) -> u32 {
        self.config.map_or(0, |config| config.flags)
    }

    fn edge(&self, name: &str) -> bool {
        self.edges.iter().any(|edge| edge == name)
    }
}

/// The explanation of a Service that is known.
pub(crate) fn explain(
    index: &Index,
    planner: &Planner,
    facts: &Facts,
    (name, port): (&ServiceName, Option<&str>),
    client: &Client,
) -> Explained {
    let mut explanation = Explanation {
        node: facts.node.clone(),
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        client: client.to_string(),
        notes: notes(index, name),
        ..Explanation::default()
    };
    match index.explain(name) {
        None => {
            return Explained::Unknown(Unknown {
                why: format!("there is no Service {name} any more"),
                near: vec![],
            });
        }
        Some(Err(why)) => explanation.nothing = Some(why.to_string()),
        Some(Ok(service)) => {
            explanation.kind = service.kind.name().to_owned();
            let wanted = |one: &&PortExplained| port.is_none_or(|port| unknown::is_called(one, port));
            let ports = service.ports.iter().filter(wanted);
            let ports = ports.map(|port| explain_port(planner, facts, (&service, port), client));
            explanation.ports = ports.collect();
            if explanation.ports.is_empty() {
                return Explained::Unknown(unknown::port(name, &service, port.unwrap_or_default()));
            }
            explanation.notes.extend(more_notes(&service));
        }
    }
    explanation.notes.extend(facts.troubles.iter().cloned());
    Explained::Service(Box::new(explanation))
}

fn notes(index: &Index, name: &ServiceName) -> Vec<String> {
    index.notices_of(name).iter().map(ToString::to_string).collect()
}

fn more_notes(service: &ServiceExplained) -> Vec<String> {
    let mut notes = Vec::new();
    for address in &service.proxied {
        notes.push(format!(
            "load balancer address {address} has ipMode Proxy: it is not programmed, and clients in the cluster go out to the \
             load balancer too"
        ));
    }
    let has_address = |port: &PortExplained| {
        port.desired
            .frontends
            .values()
            .any(|kind| *kind == FrontendKind::LoadBalancer)
    };
    let waits = service.kind.name() == "LoadBalancer" && service.proxied.is_empty();
    if waits && !service.ports.iter().any(has_address) {
        notes.push(
            "no load balancer address is in its status yet: the cloud's controller (or MetalLB and its like) sets one"
                .to_owned(),
        );
    }
    if let Some(port) = service.health_check_node_port {
        notes.push(format!(
            "load balancers ask port {port} of each node whether it has endpoints (healthCheckNodePort)"
        ));
    }
    notes
}

fn explain_port(
    planner: &Planner,
    facts: &Facts,
    (service, port): (&ServiceExplained, &PortExplained),
    client: &Client,
) -> PortExplanation {
    let desired = &port.desired;
    let programmed = planner.ports().find(|view| *view.name == desired.name);
    let of_port = planner.refused().filter(|refusal| refusal.port == desired.name);
    let refused: Vec<&RefusalReason> = of_port.map(|refusal| &refusal.reason).collect();
    let is_same =
        |other: &&PortExplained| other.desired.name.family != desired.name.family && other.port_name == port.port_name;
    let flags = desired.flags;
    let policy = |bit: u32| if flags & bit != 0 { "Local" } else { "Cluster" }.to_owned();
    let is_external = |kind: &FrontendKind| kind.has_port() && *kind != FrontendKind::ClusterIp;
    let external = desired.frontends.values().any(is_external);
    let flows = flows_of(facts, port);
    let counted = programmed.and_then(|view| facts.counted.get(&view.id));
    let view = View {
        facts,
        port,
        other_family: service
            .ports
            .iter()
            .filter(is_same)
            .map(|other| other.endpoints.len())
            .sum(),
        programmed: programmed.as_ref(),
        client,
    };
    PortExplanation {
        port: desired.name.port,
        name: port.port_name.clone(),
        protocol: desired.name.protocol.name().to_owned(),
        family: desired.name.family.to_string(),
        id: programmed.map(|view| view.id),
        algorithm: Algorithm::of(flags).name().to_owned(),
        affinity_seconds: Some(flags >> service_flags::AFFINITY_SHIFT).filter(|seconds| *seconds != 0),
        internal_policy: policy(service_flags::INTERNAL_LOCAL),
        external_policy: if external {
            policy(service_flags::EXTERNAL_LOCAL)
        } else {
            String::new()
        },
        source_ranges: desired.source_ranges.iter().map(ToString::to_string).collect(),
        restricted: flags & service_flags::SOURCE_RANGES != 0,
        hints: match &port.hints {
            HintsUsed::None => None,
            HintsUsed::Node => Some(format!("hints give this node ({}) endpoints of its own", facts.node)),
            HintsUsed::Zone(zone) => Some(format!("hints keep clients of zone {zone} in their zone")),
        },
        ways: ways::ways(&view, &refused),
        endpoints: endpoints::endpoints(&view, &flows),
        connections: counted.map_or(0, Counted::connections),
        socket_connections: counted.map_or(0, |counted| counted.socket),
        refusals: counted
            .into_iter()
            .flat_map(|counted| &counted.refusals)
            .map(|((reason, edge), count)| RefusalCount {
                reason: reason.label().to_owned(),
                edge: trace_edge::name(*edge).to_owned(),
                count: *count,
            })
            .collect(),
        traffic: counted.and_then(views::traffic),
        flows: flows.values().sum(),
        refused: refused.iter().map(ToString::to_string).collect(),
    }
}

/// All that is known of one port.
struct View<'a> {
    facts: &'a Facts,
    port: &'a PortExplained,
    /// Endpoints that the port has in the other family.
    other_family: usize,
    programmed: Option<&'a PortView<'a>>,
    client: &'a Client,
}

impl View<'_> {
    /// How often the programs had this reason: for the port, or for any while it is not programmed.
    fn counted(&self, reason: Reason) -> u64 {
        match self.programmed {
            Some(port) => {
                let counted = self.facts.counted.get(&port.id);
                counted.map_or(0, |counted| counted.refused(Some(reason)))
            }
            None => self.facts.reasons.get(reason.label()).copied().unwrap_or_default(),
        }
    }
}

/// Flows of the port by backend.
fn flows_of(facts: &Facts, port: &PortExplained) -> BTreeMap<SocketAddr, u64> {
    let mut flows = BTreeMap::new();
    let own = |key: &FrontendKey| port.desired.frontends.contains_key(key);
    for ((_, backend), count) in facts.flows.iter().filter(|((key, _), _)| own(key)) {
        *flows.entry(*backend).or_default() += count;
    }
    flows
}

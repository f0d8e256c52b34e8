//! The ways in: each address, the edge that translates there, and what comes of it.

use super::client::Client;
use super::endpoints::state;
use super::{Facts, View};
use crate::admin::Way;
use crate::scope::PodScope;
use ferrogate_common::{
    BackendSet, Frontend, FrontendKey, FrontendKind, Protocol, Reason, Service, config_flags, service_flags,
};
use ferrogate_control::{EndpointExplained, Family, Outside, Place, RefusalReason};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// From the farthest address to the nearest.
const ORDER: [FrontendKind; 4] = [
    FrontendKind::LoadBalancer,
    FrontendKind::ExternalIp,
    FrontendKind::NodePort,
    FrontendKind::ClusterIp,
];

pub(super) fn ways(view: &View<'_>, refused: &[&RefusalReason]) -> Vec<Way> {
    let mut ways = Vec::new();
    for wanted in ORDER {
        let frontends = view.port.desired.frontends.iter().filter(|(_, kind)| **kind == wanted);
        for (key, kind) in frontends {
            ways.extend(
                clients(view, *kind)
                    .iter()
                    .map(|who| way(view, who, (key, *kind), refused)),
            );
        }
    }
    ways
}

/// Whose way to tell of: of the client that was asked about, or of those whom the address is for.
fn clients(view: &View<'_>, kind: FrontendKind) -> Vec<Who> {
    let who = |label: &'static str, client: Client| Who { label, client };
    let pods = || {
        let client = Client::Pod {
            name: String::new(),
            addresses: vec![],
            scope: None,
        };
        who("pods, this node", client)
    };
    let outside = || who("outside", Client::Outside(None));
    match view.client {
        Client::Any if kind == FrontendKind::ClusterIp => {
            let mut all = vec![pods()];
            all.extend((view.facts.flags() & config_flags::EXTERNAL_CLUSTER_IP != 0).then(outside));
            all
        }
        Client::Any if view.port.desired.flags & service_flags::EXTERNAL_LOCAL != 0 => vec![outside(), pods()],
        Client::Any => vec![outside()],
        Client::Pod { .. } => vec![who("this pod", view.client.clone())],
        Client::Node => vec![who("this node", Client::Node)],
        Client::Outside(_) => vec![who("outside", view.client.clone())],
    }
}

struct Who {
    label: &'static str,
    client: Client,
}

impl Who {
    /// Its address in this family.
    fn address(&self, family: Family) -> Option<IpAddr> {
        let of_family = |ip: &&IpAddr| Family::of(&(**ip).into()) == family;
        match &self.client {
            Client::Pod { addresses, .. } => addresses.iter().find(of_family).copied(),
            Client::Outside(address) => address.as_ref().filter(of_family).copied(),
            Client::Any | Client::Node => None,
        }
    }

    /// Whether it counts as inside the cluster.
    fn is_internal(&self, facts: &Facts) -> bool {
        match &self.client {
            Client::Outside(Some(address)) => facts.cluster_networks.iter().any(|net| net.contains(address)),
            Client::Outside(None) => false,
            Client::Any | Client::Pod { .. } | Client::Node => true,
        }
    }
}

fn way(view: &View<'_>, who: &Who, (key, kind): (&FrontendKey, FrontendKind), refused: &[&RefusalReason]) -> Way {
    let desired = &view.port.desired;
    let family = desired.name.family;
    let internal = who.is_internal(view.facts);
    let service = Service {
        range: 0,
        flags: desired.flags,
        reserved: 0,
    };
    let set = service.allowed_set(&Frontend::new(0, kind), internal);
    let edge = edge(view, &who.client, kind);
    let addresses = if key.address == key.address.unspecified() {
        let own = view.facts.node_addresses.iter().copied();
        own.filter(|ip| Family::of(&(*ip).into()) == family).collect()
    } else {
        vec![key.address.ip()]
    };
    let programmed = view.programmed.is_some_and(|port| port.frontends.contains_key(key));
    let judged = if !programmed {
        Err((None, not_programmed(key, refused)))
    } else if edge.name.is_empty() {
        Err((None, "untranslated: the edge of such clients is off".to_owned()))
    } else {
        judge(view, who, kind, internal, set)
    };
    let (works, reason, outcome) = match judged {
        Ok(outcome) => (true, None, outcome),
        Err((reason, outcome)) => (false, reason, outcome),
    };
    Way {
        client: who.label.to_owned(),
        kind: kind.name().to_owned(),
        addresses,
        port: key.port.get(),
        edge: edge.name.to_owned(),
        hooks: edge.hooks.into_iter().map(str::to_owned).collect(),
        edge_why: edge.why.map(str::to_owned),
        set: set_name(set).to_owned(),
        source: if works {
            source(view, who, internal, set)
        } else {
            String::new()
        },
        works,
        outcome,
        counted: reason.map(|reason| view.counted(reason)),
        reason: reason.map(|reason| reason.label().to_owned()),
    }
}

/// Why a frontend is not in the tables: what was refused of it, or of its port.
fn not_programmed(key: &FrontendKey, refused: &[&RefusalReason]) -> String {
    let of_key = refused.iter().find(|reason| match reason {
        RefusalReason::FrontendTaken { key: taken, .. } | RefusalReason::FrontendsFull { key: taken, .. } => {
            taken == key
        }
        _ => true,
    });
    match of_key {
        Some(reason) => format!("not programmed: {reason}"),
        None => "not programmed: it is not written (yet)".to_owned(),
    }
}

fn set_name(set: BackendSet) -> &'static str {
    match set {
        BackendSet::Cluster => "Cluster",
        BackendSet::Local => "Local",
    }
}

/// What comes of a connection, in the order in which the programs ask (`datapath/src/flow.rs`, `choose_backend`).
fn judge(
    view: &View<'_>,
    who: &Who,
    kind: FrontendKind,
    internal: bool,
    set: BackendSet,
) -> Result<String, (Option<Reason>, String)> {
    let desired = &view.port.desired;
    let guarded = kind == FrontendKind::LoadBalancer && desired.flags & service_flags::SOURCE_RANGES != 0;
    let mut only = String::new();
    if guarded {
        let ranges: Vec<String> = desired.source_ranges.iter().map(ToString::to_string).collect();
        let ranges = if ranges.is_empty() {
            "nobody".to_owned()
        } else {
            ranges.join(", ")
        };
        let refused = match who.client {
            Client::Node if desired.flags & service_flags::NODE_ALLOWED == 0 => Some("this node's address".to_owned()),
            Client::Node => None,
            _ => match who.address(desired.name.family) {
                Some(address) if !desired.source_ranges.iter().any(|net| net.contains(&address)) => {
                    Some(address.to_string())
                }
                Some(_) => None,
                None => {
                    only = format!(", for clients in {ranges} only");
                    None
                }
            },
        };
        if let Some(refused) = refused {
            let why = format!("dropped: loadBalancerSourceRanges ({ranges}) exclude {refused}");
            return Err((Some(Reason::SourceRange), why));
        }
    }
    if kind == FrontendKind::ClusterIp && !internal && view.facts.flags() & config_flags::EXTERNAL_CLUSTER_IP == 0 {
        let why = "dropped: ClusterIPs answer clients inside the cluster only (--external-cluster-ip)";
        return Err((Some(Reason::ExternalClusterIp), why.to_owned()));
    }
    let used = |one: &&EndpointExplained| match set {
        BackendSet::Cluster => one.cluster.is_in() && !one.drained,
        BackendSet::Local => one.local.is_some_and(Place::is_in),
    };
    let count = view.port.endpoints.iter().filter(used).count();
    if count > 0 {
        let plural = if count == 1 { "" } else { "s" };
        return Ok(format!("{count} endpoint{plural}{only}"));
    }
    let empty = desired.cluster.is_empty() && desired.local.is_empty();
    if empty {
        let why = format!("refused: {}", why_none(view));
        return Err((Some(Reason::NoEndpoints), why));
    }
    let policy = if kind == FrontendKind::ClusterIp {
        "internal"
    } else {
        "external"
    };
    let why = format!("dropped: {policy}TrafficPolicy Local, and {}", why_none_here(view));
    Err((Some(Reason::NoLocalEndpoints), why))
}

/// Why no endpoint is usable: `no ready endpoint: 2 terminating, 1 not ready`.
fn why_none(view: &View<'_>) -> String {
    if !view.port.endpoints.is_empty() {
        return format!("no ready endpoint: {}", tally(view, |_| true));
    }
    match view.port.without_port {
        0 if view.other_family > 0 => format!(
            "no {} endpoints; the port's {} in the other family cannot serve here",
            view.port.desired.name.family, view.other_family
        ),
        0 => "no endpoints: no pod matches the selector, or the EndpointSlices are missing".to_owned(),
        others => format!(
            "none of {others} endpoints has a port {:?} of {}: the pods lack the targetPort's name",
            view.port.port_name, view.port.desired.name.protocol
        ),
    }
}

fn why_none_here(view: &View<'_>) -> String {
    let here = |one: &EndpointExplained| one.endpoint.local;
    let node = &view.facts.node;
    if view.port.endpoints.iter().any(here) {
        return format!("{node} has no ready endpoint: {}", tally(view, here));
    }
    let others = view.port.endpoints.iter().filter(|one| one.cluster.is_in()).count();
    format!("{node} has no endpoint; {others} on other nodes")
}

fn tally(view: &View<'_>, wanted: impl Fn(&EndpointExplained) -> bool) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for one in view.port.endpoints.iter().filter(|one| wanted(one)) {
        let called = match one.cluster {
            Place::Out(Outside::OtherZone) => "for other zones",
            Place::Out(Outside::OtherNode) => "for other nodes",
            _ => state(one),
        };
        *counts.entry(called).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let counts: Vec<String> = counts
        .iter()
        .map(|(called, count)| format!("{count} {called}"))
        .collect();
    counts.join(", ")
}

/// Whose address the pod sees.
fn source(view: &View<'_>, who: &Who, internal: bool, set: BackendSet) -> String {
    let own = "the client's own address";
    let source = match &who.client {
        Client::Node => "this node's address",
        Client::Pod { addresses, .. } => {
            let itself = |one: &EndpointExplained| addresses.contains(&one.endpoint.address.ip());
            if view.port.endpoints.iter().any(itself) {
                "the pod's own address; the node's where the pod reaches itself"
            } else {
                own
            }
        }
        Client::Any | Client::Outside(_) => {
            let always = view.facts.flags() & config_flags::SNAT_ALWAYS != 0;
            let direct = view.facts.flags() & config_flags::DSR != 0 && !internal;
            let used = view
                .port
                .endpoints
                .iter()
                .filter(|one| one.cluster.is_in() && !one.drained);
            let (here, away): (Vec<_>, Vec<_>) = used.partition(|one| one.endpoint.local);
            match (here.is_empty(), away.is_empty()) {
                _ if set == BackendSet::Local => own,
                _ if always && !internal => "this node's address (--snat always)",
                (_, true) => own,
                _ if direct => "the client's own address, at pods elsewhere too (--dsr)",
                (true, false) => "this node's address",
                (false, false) => "the client's own address at pods of this node, else this node's",
            }
        }
    };
    source.to_owned()
}

/// An edge and its programs, those for requests first; no name where nobody translates.
struct Edge {
    name: &'static str,
    hooks: Vec<&'static str>,
    why: Option<&'static str>,
}

/// The edge that translates (`datapath/src/socket.rs`, `choose`; the packet edges take what it leaves).
fn edge(view: &View<'_>, client: &Client, kind: FrontendKind) -> Edge {
    let left = match client {
        Client::Outside(_) => None,
        Client::Node => Some(left_by_sockets(view, client, kind, true)),
        Client::Any | Client::Pod { .. } => Some(left_by_sockets(view, client, kind, false)),
    };
    let why = match left {
        Some(None) => return sockets(view),
        Some(Some(why)) => Some(why),
        None => None,
    };
    let (name, hooks) = match client {
        Client::Outside(_) => {
            let xdp = view.facts.xdp.then_some("uplink_xdp");
            (
                "uplink",
                xdp.into_iter().chain(["uplink_ingress", "uplink_egress"]).collect(),
            )
        }
        Client::Node => ("node", vec!["uplink_egress", "uplink_ingress"]),
        Client::Any | Client::Pod { .. } => ("pod", vec!["pod_ingress", "pod_egress"]),
    };
    if !view.facts.edge(name) {
        return Edge {
            name: "",
            hooks: vec![],
            why,
        };
    }
    let redirects = view.facts.flags() & config_flags::REDIRECT != 0 && name != "node";
    let here = redirects && view.port.endpoints.iter().any(|one| one.endpoint.local);
    let past =
        here.then_some("to pods of this node past its stack, and back by their pod_ingress (--forwarding redirect)");
    Edge {
        name,
        hooks,
        why: why.or(past),
    }
}

/// Why the socket edge leaves a client's connections to the others; `None`: it takes them.
fn left_by_sockets(view: &View<'_>, client: &Client, kind: FrontendKind, of_node: bool) -> Option<&'static str> {
    let (facts, flags) = (view.facts, view.port.desired.flags);
    let scope = match client {
        Client::Pod { scope, .. } => *scope,
        _ => None,
    };
    if !facts.edge("socket") {
        return Some("the socket edge is off");
    }
    if view.port.desired.name.protocol == Protocol::Sctp {
        return Some("the socket edge has no SCTP");
    }
    if scope == Some(PodScope::Off) {
        return Some("the pod opted out of the socket edge");
    }
    if !of_node && facts.flags() & config_flags::SOCKETS_OF_NODE != 0 {
        return Some("--socket-edge node leaves pods to the pod edge");
    }
    let guarded = kind == FrontendKind::LoadBalancer && flags & service_flags::SOURCE_RANGES != 0;
    if guarded && !(of_node && flags & service_flags::NODE_ALLOWED != 0) {
        return Some("source ranges are judged by packets");
    }
    let pod_edge = facts.flags() & config_flags::POD_EDGE != 0 && !of_node && scope.is_none();
    let needs = if flags >> service_flags::AFFINITY_SHIFT != 0 {
        "ClientIP affinity needs the pod's address"
    } else {
        "the algorithm needs the pod's address"
    };
    (pod_edge && flags & service_flags::NEEDS_CLIENT != 0).then_some(needs)
}

fn sockets(view: &View<'_>) -> Edge {
    let name = &view.port.desired.name;
    let hooks = match (name.protocol, name.family) {
        (Protocol::Udp, Family::V4) => vec!["connect4", "sendmsg4", "recvmsg4"],
        (Protocol::Udp, Family::V6) => vec!["connect6", "sendmsg6", "recvmsg6"],
        (_, Family::V4) => vec!["connect4", "getpeername4"],
        (_, Family::V6) => vec!["connect6", "getpeername6"],
    };
    Edge {
        name: "socket",
        hooks,
        why: None,
    }
}

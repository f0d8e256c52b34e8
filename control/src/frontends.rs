//! Which of a Service's addresses are programmed on this node, and who may use them.

use crate::ingest::{PortModel, ServiceModel};
use crate::names::Family;
use crate::notice::NoticeKind;
use ferrogate_common::{Address, FrontendKey, FrontendKind, Port, service_flags};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What the node itself has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeNetwork {
    /// The address that the node's own connections come from, in each family.
    pub primary: Vec<IpAddr>,
    /// Every address of its interfaces, but those that a service proxy put there.
    pub addresses: BTreeSet<IpAddr>,
}

impl NodeNetwork {
    pub(crate) fn has(&self, address: &Address) -> bool {
        self.addresses.contains(&address.ip())
    }

    /// The ClusterIPs that something else on this node answers.
    pub(crate) fn notices(&self, model: &ServiceModel) -> Vec<NoticeKind> {
        let cluster_ips = model
            .addresses
            .iter()
            .filter(|(address, kind)| *kind == FrontendKind::ClusterIp && self.has(address));
        cluster_ips
            .map(|(address, _)| NoticeKind::LocalClusterIp { address: address.ip() })
            .collect()
    }
}

/// Every address of a port; of two kinds for one address, the first counts (ClusterIP, load balancer, external IP).
///
/// A ClusterIP that is an address of the node itself is left alone: somebody, such as a local DNS cache, answers there.
pub(crate) fn frontends(
    model: &ServiceModel,
    port: &PortModel,
    family: Family,
    node: &NodeNetwork,
) -> BTreeMap<FrontendKey, FrontendKind> {
    let mut frontends = BTreeMap::new();
    // One of the ports speaks for the addresses themselves.
    let first = model.ports.first().is_some_and(|first| std::ptr::eq(first, port));
    let own = |(address, _): &&(Address, FrontendKind)| Family::of(address) == family;
    for &(address, kind) in model.addresses.iter().filter(own) {
        let local = node.has(&address);
        let alone = match (kind, local) {
            (FrontendKind::ClusterIp, true) => Some(FrontendKind::Foreign),
            (FrontendKind::ClusterIp, false) => Some(FrontendKind::Address),
            // The kernel answers for its own.
            (_, true) => None,
            (_, false) => Some(FrontendKind::Vip),
        };
        if alone != Some(FrontendKind::Foreign) {
            frontends
                .entry(FrontendKey::new(address, Port::new(port.port), port.protocol))
                .or_insert(kind);
        }
        if let Some(alone) = alone.filter(|_| first) {
            frontends.entry(FrontendKey::address_alone(address)).or_insert(alone);
        }
    }
    if let Some(node_port) = port.node_port {
        let key = FrontendKey::new(family.unspecified(), Port::new(node_port), port.protocol);
        frontends.insert(key, FrontendKind::NodePort);
    }
    frontends
}

/// The bits of [`service_flags`] and the networks by which a load balancer's addresses are guarded.
///
/// Where the node is let in, so are the addresses themselves: a node that has one of them uses it as its source, as kube-proxy
/// knows (`pkg/proxy/nftables/proxier.go`).
pub(crate) fn source_ranges(model: &ServiceModel, family: Family, node: &NodeNetwork) -> (u32, BTreeSet<IpNet>) {
    let is_own = |(address, kind): &&(Address, FrontendKind)| {
        *kind == FrontendKind::LoadBalancer && Family::of(address) == family
    };
    let mut addresses = model.addresses.iter().filter(is_own).peekable();
    let Some(ranges) = model.source_ranges.of(family).filter(|_| addresses.peek().is_some()) else {
        return (0, BTreeSet::new());
    };
    let mut networks: BTreeSet<IpNet> = ranges.collect();
    let mut flags = service_flags::SOURCE_RANGES;
    if networks
        .iter()
        .any(|net| node.primary.iter().any(|own| net.contains(own)))
    {
        flags |= service_flags::NODE_ALLOWED;
        networks.extend(addresses.map(|(address, _)| IpNet::from(address.ip())));
    }
    (flags, networks)
}

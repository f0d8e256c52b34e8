//! Why a Service is programmed as it is: the decisions of [`Index::compile`], each with its reason.

use super::{Index, Slices};
use crate::desired::{DesiredPort, Endpoint};
use crate::ingest::{Number, PortModel, ServiceKind, ServiceModel, Unprogrammed};
use crate::names::{Family, ServiceName};
use crate::notice::NoticeKind;
use crate::select::{Place, Rule, Topology};
use ferrogate_common::service_flags;
use std::collections::HashMap;
use std::net::IpAddr;

/// A Service that is programmed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceExplained {
    pub kind: ServiceKind,
    /// Bits of [`service_flags`]: policies, affinity, algorithm.
    pub flags: u32,
    pub health_check_node_port: Option<u16>,
    /// Addresses of load balancers of `ipMode: Proxy`: not programmed, clients of this node go out to them too.
    pub proxied: Vec<IpAddr>,
    /// Each port in each family that the Service has.
    pub ports: Vec<PortExplained>,
}

/// One Service port in one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortExplained {
    /// What the planner is told.
    pub desired: DesiredPort,
    /// `spec.ports[].name`; empty for the only one.
    pub port_name: String,
    /// `spec.ports[].nodePort`.
    pub node_port: Option<u16>,
    /// In order of address and port.
    pub endpoints: Vec<EndpointExplained>,
    /// Endpoints of this family in slices without a port of this name and protocol.
    pub without_port: usize,
    pub hints: HintsUsed,
}

/// Which topology hints decide the Cluster set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HintsUsed {
    /// None: there are none, or not on every ready endpoint, or none is for us.
    None,
    /// Those for our node.
    Node,
    /// Those for our zone.
    Zone(String),
}

/// One endpoint, and whether clients are sent to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointExplained {
    pub endpoint: Endpoint,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// The pod's name; its namespace is the Service's.
    pub pod: Option<String>,
    pub node: Option<String>,
    pub zone: Option<String>,
    /// Zones that hints give it to.
    pub zone_hints: Vec<String>,
    pub weight: u16,
    /// In the Cluster set.
    pub cluster: Place,
    /// In the Local set; none where no policy of the Service is Local.
    pub local: Option<Place>,
    /// It has weight 0 while others have more: in its place, but given no new connections.
    pub drained: bool,
}

impl Index {
    /// All Services that are known, programmed or not.
    pub fn service_names(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    /// Why the Service is programmed as it is, or not at all; `None` for one that is not known.
    pub fn explain(&self, name: &ServiceName) -> Option<Result<ServiceExplained, Unprogrammed>> {
        let service = self.services.get(name)?;
        let model = match &service.model {
            Ok(model) => model,
            Err(why) => return Some(Err(why.clone())),
        };
        let names = self.names.by_number();
        let families = Family::ALL.into_iter().filter(|family| model.has(*family));
        let ports = families.flat_map(|family| model.ports.iter().map(move |port| (port, family)));
        Some(Ok(ServiceExplained {
            kind: model.kind,
            flags: model.flags,
            health_check_node_port: model.health_check_node_port,
            proxied: model.proxied.clone(),
            ports: ports
                .map(|(port, family)| self.explain_port(name, model, port, family, &names))
                .collect(),
        }))
    }

    /// What the operator must know of one Service as it is now.
    pub fn notices_of(&self, name: &ServiceName) -> Vec<NoticeKind> {
        let own = self.services.get(name).into_iter().flat_map(|service| &service.notices);
        let slices = self.slices.get(name).into_iter().flat_map(Slices::iter);
        own.chain(slices.flat_map(|slice| &slice.notices)).cloned().collect()
    }

    /// Where a pod is, as the endpoints say that have it: the address of each family, and the name of the node.
    pub fn find_pod(&self, namespace: &str, pod: &str) -> Option<(Vec<IpAddr>, Option<String>)> {
        let names = self.names.by_number();
        let of_namespace = self.slices.iter().filter(|(name, _)| *name.namespace == *namespace);
        let endpoints = of_namespace.flat_map(|(_, slices)| slices.iter().flat_map(|slice| &slice.model.endpoints));
        let mut addresses: Vec<IpAddr> = Vec::new();
        let mut node = None;
        for endpoint in endpoints.filter(|endpoint| endpoint.pod.as_deref() == Some(pod)) {
            let address = endpoint.address.ip();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
            node = endpoint.node.and_then(|node| names.get(&node)).map(ToString::to_string);
        }
        (!addresses.is_empty()).then_some((addresses, node))
    }

    fn explain_port(
        &self,
        name: &ServiceName,
        model: &ServiceModel,
        port: &PortModel,
        family: Family,
        names: &HashMap<Number, &str>,
    ) -> PortExplained {
        let desired = self.port(name, model, port, family);
        let candidates = self.candidates(name, model, port, family);
        let topology = candidates.topology(self.zone);
        let any_local = model.flags & (service_flags::INTERNAL_LOCAL | service_flags::EXTERNAL_LOCAL) != 0;
        let text = |number: Option<Number>| number.and_then(|number| names.get(&number)).map(ToString::to_string);
        let places = candidates.places(Rule::Cluster(topology));
        let endpoints = places.zip(candidates.places(Rule::Local));
        let endpoints = endpoints.map(|((endpoint, found, cluster), (_, _, local))| EndpointExplained {
            endpoint,
            ready: found.ready,
            serving: found.serving,
            terminating: found.terminating,
            pod: found.pod.as_deref().map(str::to_owned),
            node: text(found.node),
            zone: text(found.zone),
            zone_hints: found.zone_hints.iter().filter_map(|hint| text(Some(*hint))).collect(),
            weight: candidates.weight(found),
            cluster,
            local: any_local.then_some(local),
            drained: cluster.is_in() && !desired.cluster.contains(&endpoint),
        });
        PortExplained {
            endpoints: endpoints.collect(),
            without_port: self.without_port(name, port, family),
            hints: match topology {
                Topology::Everywhere => HintsUsed::None,
                Topology::OurNode => HintsUsed::Node,
                Topology::Zone(zone) => HintsUsed::Zone(text(Some(zone)).unwrap_or_default()),
            },
            port_name: port.name.to_string(),
            node_port: port.node_port,
            desired,
        }
    }

    fn without_port(&self, name: &ServiceName, port: &PortModel, family: Family) -> usize {
        let slices = self.slices.get(name).into_iter().flat_map(Slices::iter);
        let slices = slices.map(|slice| &slice.model).filter(|slice| slice.family == family);
        let has = |slice: &crate::ingest::SliceModel| {
            slice
                .ports
                .iter()
                .any(|entry| entry.name == port.name && entry.protocol == port.protocol)
        };
        slices
            .filter(|slice| !has(slice))
            .map(|slice| slice.endpoints.len())
            .sum()
    }
}

//! Which endpoints a service port uses on this node: the rules of Kubernetes' `pkg/proxy/topology.go` (1.36).
//!
//! * Cluster set: the ready endpoints that topology leaves; when there is none, all that are serving and terminating.
//! * Local set: the same rule over this node's endpoints alone; topology does not apply.
//! * Topology: node mode when every ready endpoint has node hints and one of them names our node; else zone mode
//!   under the same rule for our zone; else no filter.

use crate::desired::Endpoint;
use crate::ingest::{EndpointModel, Names, NodeHint, Number, PortModel, Selection, ServiceModel, SliceModel};
use crate::names::Family;
use ferrogate_common::Port;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// The endpoints of one service port in one family, by address (network order) and port (host order), duplicates
/// collapsed.
pub(crate) struct Candidates<'a> {
    selection: &'a Selection,
    names: &'a Names,
    endpoints: BTreeMap<([u8; 16], u16), &'a EndpointModel>,
}

/// Which ready endpoints the Cluster set is taken from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Topology {
    Everywhere,
    OurNode,
    Zone(Number),
}

/// One of the two sets of endpoints, and what it is taken by.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    Cluster(Topology),
    Local,
}

/// Whether an endpoint is in a set, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// It is ready.
    Ready,
    /// It is terminating and still serving, and no endpoint is ready.
    LastResort,
    Out(Outside),
}

impl Place {
    pub fn is_in(self) -> bool {
        !matches!(self, Self::Out(_))
    }
}

/// Why an endpoint is in no set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Outside {
    NotReady,
    /// It would still serve, but others are ready.
    Terminating,
    /// It serves no more.
    Ended,
    /// Hints give it to other zones.
    OtherZone,
    /// Hints give it to other nodes.
    OtherNode,
    /// It is on another node, and the set is of this one's.
    NotLocal,
}

impl<'a> Candidates<'a> {
    /// The merge of a Service's slices for one of its ports. Slices carry numbers, so that a named targetPort may be
    /// another number in each of them.
    pub(crate) fn merge(
        service: &'a ServiceModel,
        port: &PortModel,
        family: Family,
        slices: impl Iterator<Item = &'a SliceModel>,
        names: &'a Names,
    ) -> Self {
        let mut endpoints: BTreeMap<([u8; 16], u16), &EndpointModel> = BTreeMap::new();
        for slice in slices.filter(|slice| slice.family == family) {
            let numbers = slice
                .ports
                .iter()
                .filter(|entry| entry.name == port.name && entry.protocol == port.protocol);
            for number in numbers.map(|entry| entry.port) {
                for endpoint in &slice.endpoints {
                    match endpoints.entry((endpoint.address.octets(), number)) {
                        Entry::Vacant(free) => {
                            free.insert(endpoint);
                        }
                        Entry::Occupied(mut taken) if precedence(endpoint) > precedence(taken.get()) => {
                            taken.insert(endpoint);
                        }
                        Entry::Occupied(_) => {}
                    }
                }
            }
        }
        Self {
            selection: &service.selection,
            names,
            endpoints,
        }
    }

    /// The Cluster set for a node in this zone, each endpoint with its weight.
    pub(crate) fn cluster(&self, zone: Option<Number>) -> Vec<(Endpoint, u16)> {
        self.members(Rule::Cluster(self.topology(zone)))
    }

    /// The Local set.
    pub(crate) fn local(&self) -> Vec<(Endpoint, u16)> {
        self.members(Rule::Local)
    }

    fn members(&self, rule: Rule) -> Vec<(Endpoint, u16)> {
        let places = self.places(rule).filter(|(_, _, place)| place.is_in());
        places
            .map(|(endpoint, model, _)| (endpoint, self.weight(model)))
            .collect()
    }

    /// Every endpoint and its place in a set: the ready ones that the rule admits, or, when there is none, those that are
    /// serving and terminating.
    pub(crate) fn places(&self, rule: Rule) -> impl Iterator<Item = (Endpoint, &'a EndpointModel, Place)> {
        let one_is_ready = self.endpoints.values().any(|model| model.ready && rule.admits(model));
        self.endpoints.iter().map(move |(&(_, port), &model)| {
            let endpoint = Endpoint {
                address: model.address,
                port: Port::new(port),
                local: model.local,
            };
            (endpoint, model, rule.place(model, one_is_ready))
        })
    }

    pub(crate) fn weight(&self, model: &EndpointModel) -> u16 {
        self.selection.weight(model, self.names)
    }

    pub(crate) fn topology(&self, zone: Option<Number>) -> Topology {
        let mut all_have_nodes = true;
        let mut all_have_zones = true;
        let mut one_for_our_node = false;
        let mut one_for_our_zone = false;
        for endpoint in self.endpoints.values().filter(|endpoint| endpoint.ready) {
            all_have_nodes &= endpoint.node_hint != NodeHint::Absent;
            one_for_our_node |= endpoint.node_hint == NodeHint::Ours;
            all_have_zones &= !endpoint.zone_hints.is_empty();
            one_for_our_zone |= zone.is_some_and(|zone| endpoint.zone_hints.contains(&zone));
        }
        match zone {
            _ if all_have_nodes && one_for_our_node => Topology::OurNode,
            Some(zone) if all_have_zones && one_for_our_zone => Topology::Zone(zone),
            _ => Topology::Everywhere,
        }
    }
}

impl Rule {
    fn admits(self, endpoint: &EndpointModel) -> bool {
        match self {
            Self::Cluster(topology) => topology.admits(endpoint),
            Self::Local => endpoint.local,
        }
    }

    fn place(self, endpoint: &EndpointModel, one_is_ready: bool) -> Place {
        let mine = match self {
            Self::Cluster(_) => true,
            Self::Local => endpoint.local,
        };
        if !mine {
            Place::Out(Outside::NotLocal)
        } else if endpoint.ready && self.admits(endpoint) {
            Place::Ready
        } else if !one_is_ready && endpoint.serving && endpoint.terminating {
            Place::LastResort
        } else {
            Place::Out(self.why_out(endpoint))
        }
    }

    fn why_out(self, endpoint: &EndpointModel) -> Outside {
        match self {
            Self::Cluster(Topology::OurNode) if endpoint.ready => Outside::OtherNode,
            Self::Cluster(Topology::Zone(_)) if endpoint.ready => Outside::OtherZone,
            _ if endpoint.terminating && endpoint.serving => Outside::Terminating,
            _ if endpoint.terminating => Outside::Ended,
            _ => Outside::NotReady,
        }
    }
}

impl Topology {
    fn admits(self, endpoint: &EndpointModel) -> bool {
        match self {
            Self::Everywhere => true,
            Self::OurNode => endpoint.node_hint == NodeHint::Ours,
            Self::Zone(zone) => endpoint.zone_hints.contains(&zone),
        }
    }
}

/// Which of two entries for one address and port counts: a local one, then the one in the better state.
fn precedence(endpoint: &EndpointModel) -> (bool, bool, bool) {
    (endpoint.local, endpoint.ready, endpoint.serving)
}

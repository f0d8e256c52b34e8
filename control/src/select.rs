//! Which endpoints a service port uses on this node: the rules of Kubernetes' `pkg/proxy/topology.go` (1.36).
//!
//! * Cluster set: the ready endpoints that topology leaves; when there is none, all that are serving and terminating.
//! * Local set: the same rule over this node's endpoints alone; topology does not apply.
//! * Topology: node mode when every ready endpoint has node hints and one of them names our node; else zone mode
//!   under the same rule for our zone; else no filter.

use crate::desired::Endpoint;
use crate::ingest::{EndpointModel, Names, NodeHint, PortModel, Selection, ServiceModel, SliceModel};
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

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Topology {
    Everywhere,
    OurNode,
    Zone(u32),
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
    pub(crate) fn cluster(&self, zone: Option<u32>) -> Vec<(Endpoint, u16)> {
        let topology = self.topology(zone);
        self.usable(|endpoint| topology.admits(endpoint), |_| true)
    }

    /// The Local set.
    pub(crate) fn local(&self) -> Vec<(Endpoint, u16)> {
        self.usable(|endpoint| endpoint.local, |endpoint| endpoint.local)
    }

    /// The ready endpoints of the one kind, or, when there is none, the serving and terminating ones of the other.
    fn usable(
        &self,
        preferred: impl Fn(&EndpointModel) -> bool,
        last_resort: impl Fn(&EndpointModel) -> bool,
    ) -> Vec<(Endpoint, u16)> {
        let ready = self.collect(|endpoint| endpoint.ready && preferred(endpoint));
        if !ready.is_empty() {
            return ready;
        }
        self.collect(|endpoint| endpoint.serving && endpoint.terminating && last_resort(endpoint))
    }

    fn collect(&self, wanted: impl Fn(&EndpointModel) -> bool) -> Vec<(Endpoint, u16)> {
        let wanted = self.endpoints.iter().filter(|(_, endpoint)| wanted(endpoint));
        let weighed = |(&(_, port), model): (&([u8; 16], u16), &&EndpointModel)| {
            let endpoint = Endpoint {
                address: model.address,
                port: Port::new(port),
                local: model.local,
            };
            (endpoint, self.selection.weight(model, self.names))
        };
        wanted.map(weighed).collect()
    }

    fn topology(&self, zone: Option<u32>) -> Topology {
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

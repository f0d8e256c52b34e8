//! Which endpoints a Service port has on a node, worked out from the objects alone: nothing of the agent's code is used.
//!
//! The rules are Kubernetes' own: `pkg/proxy/topology.go` and `pkg/proxy/endpointslicecache.go` (1.36).
use std::collections::BTreeMap;

use super::pool::Backend;
use super::spec::{Attachment, Endpoint, Port, Service};
use crate::rig::Family;

/// A backend and the port it is reached at.
pub(super) type Target = (Backend, u16);

/// Who works the endpoints out: they differ where one address and port is listed twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Party {
    KubeProxy,
    Ferrogate,
}

/// The endpoints of a Service port in one family, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoints {
    pub(super) all: BTreeMap<Target, Endpoint>,
    /// Slices contradict each other in a way that leaves kube-proxy's choice to the order of a Go map.
    pub(super) contradictory: bool,
}

/// A node, as far as endpoints are chosen by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) node: u8,
    pub(super) zone: u8,
}

impl Endpoint {
    pub(super) fn is_ready(&self) -> bool {
        self.ready != Some(false)
    }

    pub(super) fn is_serving(&self) -> bool {
        self.serving != Some(false)
    }

    pub(super) fn is_terminating(&self) -> bool {
        self.terminating == Some(true)
    }

    /// By what the slice says, which may be nothing.
    pub(super) fn is_local(&self, node: u8) -> bool {
        self.with_node && self.backend.node() == Some(node)
    }
}

impl Endpoints {
    pub(super) fn of(service: &Service, port: &Port, family: Family, party: Party, node: u8) -> Self {
        let mut listed: BTreeMap<Target, Vec<&Endpoint>> = BTreeMap::new();
        let mut slices: Vec<_> = service.slices.iter().filter(|slice| slice.family == family).collect();
        slices.sort_by_key(|slice| &slice.name);
        for slice in slices {
            if slice.fqdn || slice.attachment != Attachment::Label {
                continue;
            }
            let ours = slice
                .ports
                .iter()
                .filter(|p| p.name == port.name && p.protocol == port.protocol);
            for number in ours.filter_map(|p| p.port) {
                for endpoint in &slice.endpoints {
                    listed.entry((endpoint.backend, number)).or_default().push(endpoint);
                }
            }
        }
        let mut contradictory = false;
        let mut all = BTreeMap::new();
        for (target, entries) in listed {
            let (entry, clear) = match party {
                Party::KubeProxy => one_that_is_not_terminating(&entries),
                Party::Ferrogate => (best(&entries, node), true),
            };
            contradictory |= !clear;
            all.insert(target, entry.clone());
        }
        Self { all, contradictory }
    }

    /// Whether there is anything to send to, anywhere.
    pub(super) fn any(&self) -> bool {
        self.all
            .values()
            .any(|e| e.is_ready() || (e.is_serving() && e.is_terminating()))
    }

    /// The Cluster set of a node.
    pub(super) fn cluster(&self, view: View) -> Vec<Target> {
        let ready: Vec<_> = self.all.values().filter(|endpoint| endpoint.is_ready()).collect();
        let node = |endpoint: &Endpoint| endpoint.nodes.contains(&view.node);
        let zone = |endpoint: &Endpoint| endpoint.zones.contains(&view.zone);
        let by_node = ready.iter().all(|e| !e.nodes.is_empty()) && ready.iter().any(|e| node(e));
        let by_zone = ready.iter().all(|e| !e.zones.is_empty()) && ready.iter().any(|e| zone(e));
        self.usable(
            |endpoint| match (by_node, by_zone) {
                (true, _) => node(endpoint),
                (false, true) => zone(endpoint),
                (false, false) => true,
            },
            |_| true,
        )
    }

    /// The Local set of a node.
    pub(super) fn local(&self, view: View) -> Vec<Target> {
        self.usable(
            |endpoint| endpoint.is_local(view.node),
            |endpoint| endpoint.is_local(view.node),
        )
    }

    fn usable(&self, preferred: impl Fn(&Endpoint) -> bool, last_resort: impl Fn(&Endpoint) -> bool) -> Vec<Target> {
        let ready = self.targets(|endpoint| endpoint.is_ready() && preferred(endpoint));
        if !ready.is_empty() {
            return ready;
        }
        self.targets(|endpoint| endpoint.is_serving() && endpoint.is_terminating() && last_resort(endpoint))
    }

    fn targets(&self, wanted: impl Fn(&Endpoint) -> bool) -> Vec<Target> {
        self.all
            .iter()
            .filter(|(_, endpoint)| wanted(endpoint))
            .map(|(target, _)| *target)
            .collect()
    }
}

/// kube-proxy: the last one that is not terminating, in whatever order the slices come; and whether the order matters.
fn one_that_is_not_terminating<'a>(entries: &[&'a Endpoint]) -> (&'a Endpoint, bool) {
    let staying: Vec<_> = entries
        .iter()
        .copied()
        .filter(|entry| !entry.is_terminating())
        .collect();
    let candidates = if staying.is_empty() { entries } else { &staying };
    let alike = |a: &Endpoint, b: &Endpoint| {
        (a.is_ready(), a.is_serving(), a.with_node, &a.zones, &a.nodes)
            == (b.is_ready(), b.is_serving(), b.with_node, &b.zones, &b.nodes)
    };
    (
        candidates[0],
        candidates.iter().all(|other| alike(candidates[0], other)),
    )
}

/// Ferrogate: the local one, then the one in the better state, then the first.
fn best<'a>(entries: &[&'a Endpoint], node: u8) -> &'a Endpoint {
    let rank = |endpoint: &Endpoint| (endpoint.is_local(node), endpoint.is_ready(), endpoint.is_serving());
    let mut best = entries[0];
    for entry in &entries[1..] {
        if rank(entry) > rank(best) {
            best = entry;
        }
    }
    best
}

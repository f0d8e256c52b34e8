//! Events into the index: what is known, and whether it is enough to act on.

mod pods;

pub(crate) use pods::PodFacts;

use super::pending::Pending;
use crate::scope::Wanted;
use crate::source::{Change, Event, Health, ObjectName};
use ferrogate_control::{Changes, HealthCheck, Index, NodeChanges, NodeNetwork, Notice, Options, ServiceName};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use pods::Pods;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// Taint of a Node that the cluster autoscaler is about to delete (its `utils/taints`).
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// The objects of one kind.
#[derive(Default, Debug)]
struct Known {
    /// By their names, and whether the list that is being read has them so far.
    names: HashMap<ObjectName, bool>,
    /// A list is being read.
    listing: bool,
    /// A list was read to its end.
    synced: bool,
    /// Those that cannot be read, and why.
    unreadable: BTreeMap<ObjectName, String>,
}

impl Known {
    /// Takes the change's names into account. Returns what is gone.
    fn track<K: kube::Resource>(&mut self, change: &Change<K>) -> Vec<ObjectName> {
        match change {
            Change::Restart => {
                self.listing = true;
                self.names.values_mut().for_each(|listed| *listed = false);
                vec![]
            }
            Change::Listed(object) | Change::Applied(object) => {
                let name = ObjectName::of(object.as_ref());
                self.unreadable.remove(&name);
                self.names.insert(name, true);
                vec![]
            }
            Change::Unreadable(name, why) => {
                self.unreadable.insert(name.clone(), why.clone());
                self.names.insert(name.clone(), true);
                vec![]
            }
            Change::Deleted(name) => {
                self.unreadable.remove(name);
                self.names
                    .remove_entry(name)
                    .map(|(name, _)| name)
                    .into_iter()
                    .collect()
            }
            Change::Complete => {
                self.synced = true;
                if !std::mem::take(&mut self.listing) {
                    return vec![];
                }
                let gone: Vec<_> = self
                    .names
                    .extract_if(|_, listed| !*listed)
                    .map(|(name, _)| name)
                    .collect();
                for name in &gone {
                    self.unreadable.remove(name);
                }
                gone
            }
        }
    }

    /// One sentence for each object that cannot be read.
    fn problems(&self, kind: &str) -> impl Iterator<Item = String> {
        self.unreadable
            .iter()
            .map(move |(name, why)| format!("{kind} {name} cannot be read, what was known of it holds: {why}"))
    }
}

/// The object that a change brings, if it brings one.
fn object<K>(change: &Change<K>) -> Option<&K> {
    match change {
        Change::Listed(object) | Change::Applied(object) => Some(object),
        Change::Restart | Change::Complete | Change::Deleted(_) | Change::Unreadable(..) => None,
    }
}

/// The desired state as far as the source has told it.
#[derive(Debug)]
pub(crate) struct State {
    index: Index,
    node_name: String,
    services: Known,
    slices: Known,
    node: Known,
    cidrs: Known,
    /// Networks of each ServiceCIDR.
    service_cidrs: BTreeMap<ObjectName, Vec<IpNet>>,
    pods: Pods,
    health: Option<Health>,
    /// Whether the Node is there to stay, as it was last seen; `None`: there is none.
    node_stays: Option<bool>,
    /// Having no Node says nothing.
    node_optional: bool,
    pending: Pending,
    /// The node's own addresses, once its Node was seen.
    node_addresses: Option<Vec<IpAddr>>,
}

impl State {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            node_name: options.node_name.clone(),
            index: Index::new(options),
            services: Known::default(),
            slices: Known::default(),
            node: Known::default(),
            cidrs: Known::default(),
            service_cidrs: BTreeMap::new(),
            pods: Pods::default(),
            health: None,
            node_stays: None,
            node_optional: false,
            pending: Pending::default(),
            node_addresses: None,
        }
    }

    /// For a source whose Node may be missing: a machine without a cluster.
    pub(crate) fn without_node(self) -> Self {
        Self {
            node_optional: true,
            ..self
        }
    }

    /// Takes an event in. Returns what the operator should be told, each once.
    pub(crate) fn take(&mut self, event: &Event) -> Vec<Notice> {
        let was_synced = self.is_synced();
        let mut notices = vec![];
        match event {
            Event::Service(change) => {
                notices.extend(
                    object(change)
                        .into_iter()
                        .flat_map(|service| self.index.apply_service(service)),
                );
                for gone in self.services.track(change) {
                    self.index.delete_service(&gone.namespace, &gone.name);
                }
            }
            Event::Slice(change) => {
                notices.extend(
                    object(change)
                        .into_iter()
                        .flat_map(|slice| self.index.apply_slice(slice)),
                );
                for gone in self.slices.track(change) {
                    self.index.delete_slice(&gone.namespace, &gone.name);
                }
            }
            Event::Node(change) => {
                let gone = self.node.track(change);
                if gone.iter().any(|gone| gone.name == self.node_name) {
                    self.node_stays = None;
                }
                gone.iter().for_each(|gone| self.index.delete_node(&gone.name));
                object(change).into_iter().for_each(|node| self.take_node(node));
            }
            Event::ServiceCidr(change) => {
                if let Some(cidr) = object(change) {
                    let texts = cidr
                        .spec
                        .as_ref()
                        .and_then(|spec| spec.cidrs.as_deref())
                        .unwrap_or_default();
                    let networks = texts.iter().filter_map(|text| text.parse().ok()).collect();
                    self.service_cidrs.insert(ObjectName::of(cidr), networks);
                }
                for gone in self.cidrs.track(change) {
                    self.service_cidrs.remove(&gone);
                }
            }
            Event::Pod(change) => self.pods.take(change, &self.node_name),
            Event::Health(health) => self.health = Some(health.clone()),
        }
        let index = &self.index;
        self.pending
            .note(event, |namespace, name| index.is_marked(namespace, name));
        if !was_synced && self.is_synced() {
            // What an earlier run left in the kernel and nobody claims now has to go.
            self.index.mark_all();
        }
        notices
    }

    /// A Node that is gone changes nothing: endpoints and addresses are as they were.
    fn take_node(&mut self, node: &Node) {
        self.index.apply_node(node);
        if node.metadata.name.as_ref() != Some(&self.node_name) {
            return;
        }
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
        let going = taints
            .unwrap_or_default()
            .iter()
            .any(|taint| taint.key == TO_BE_DELETED);
        self.node_stays = Some(node.metadata.deletion_timestamp.is_none() && !going);
        let addresses = node
            .status
            .as_ref()
            .and_then(|status| status.addresses.as_ref())
            .into_iter()
            .flatten();
        let internal = addresses.filter(|address| address.type_ == "InternalIP");
        self.node_addresses = Some(internal.filter_map(|address| address.address.parse().ok()).collect());
    }

    /// Whether all Services and all slices are known: nothing may be written, let alone deleted, before.
    pub(crate) fn is_synced(&self) -> bool {
        self.services.synced && self.slices.synced
    }

    /// The networks that ClusterIPs are taken from, once they are listed.
    pub(crate) fn service_cidrs(&self) -> Option<BTreeSet<IpNet>> {
        let networks = self.service_cidrs.values().flatten().copied();
        self.cidrs.synced.then(|| networks.collect())
    }

    /// Whether the Node was looked for: its zone and addresses matter, but are not worth waiting for without end.
    pub(crate) fn knows_node(&self) -> bool {
        self.node.synced
    }

    /// Whether load balancers may send new connections to this node: not when it is being deleted, or has no Node.
    /// Until that is known they may.
    pub(crate) fn node_is_eligible(&self) -> bool {
        self.node_stays.unwrap_or(self.node_optional || !self.knows_node())
    }

    /// What load balancers may ask about the service.
    pub(crate) fn health_check(&self, name: &ServiceName) -> Option<HealthCheck> {
        self.index.health_check(name)
    }

    /// Changes that are not written yet.
    pub(super) fn pending(&mut self) -> &mut Pending {
        &mut self.pending
    }

    /// What the pods of this node ask of the socket edge, when that has changed and all of them are known.
    pub(crate) fn new_pod_scopes(&mut self) -> Option<Wanted> {
        self.pods.news()
    }

    /// The objects as they are known.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// A pod of this node.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<&PodFacts> {
        self.pods.get(namespace, name)
    }

    /// Single objects that cannot be read.
    pub(crate) fn unreadable_objects(&self) -> Vec<String> {
        let services = self.services.problems("Service");
        let slices = self.slices.problems("EndpointSlice");
        let pods = self.pods.problems();
        let others = self.node.problems("Node").chain(self.cidrs.problems("ServiceCIDR"));
        services.chain(slices).chain(others).chain(pods).collect()
    }

    /// What the source cannot read of the desired state as a whole: nobody knows which objects it is about.
    pub(crate) fn unreadable(&self) -> &[String] {
        match &self.health {
            Some(Health::Partial(problems)) => problems,
            _ => &[],
        }
    }

    /// Why the source is away, if it is.
    pub(crate) fn away(&self) -> Option<&str> {
        match &self.health {
            Some(Health::Away(why)) => Some(why),
            _ => None,
        }
    }

    pub(crate) fn node_addresses(&self) -> Option<&[IpAddr]> {
        self.node_addresses.as_deref()
    }

    /// The node's own addresses. Returns what the operator should be told.
    pub(crate) fn set_node_network(&mut self, node: NodeNetwork) -> Vec<Notice> {
        self.index.set_node_network(node)
    }

    /// Asks for a full comparison next time.
    pub(crate) fn mark_all(&mut self) {
        self.index.mark_all();
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.index.is_dirty()
    }

    /// What changed since the last call.
    pub(crate) fn compile(&mut self) -> Changes {
        self.index.compile()
    }

    /// Asks for a comparison of the nodes that addresses belong to.
    pub(crate) fn mark_nodes(&mut self) {
        self.index.mark_nodes();
    }

    /// What changed of the nodes that addresses belong to.
    pub(crate) fn take_nodes(&mut self) -> Option<NodeChanges> {
        self.index.take_nodes()
    }

    /// All that the operator should know of the objects as they are.
    pub(crate) fn notices(&self) -> Vec<Notice> {
        self.index.notices()
    }
}

#[cfg(test)]
mod tests;

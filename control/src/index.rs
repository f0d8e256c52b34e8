//! The model of all Services and slices, and which of them changed.

mod explain;

pub use explain::{EndpointExplained, HintsUsed, PortExplained, ServiceExplained};

use crate::desired::{Changes, DesiredPort};
use crate::frontends::{NodeNetwork, frontends, source_ranges};
use crate::health::HealthCheck;
use crate::ingest::{self, Names, Number, PortModel, ServiceModel, SliceModel, SourceRanges, Unprogrammed};
use crate::names::{Family, PortName, ServiceName};
use crate::nodes::{NodeChanges, Nodes};
use crate::notice::{Notice, NoticeKind};
use crate::select::Candidates;
use crate::slots::{MAGLEV_TABLE_SIZE, slots};
use ferrogate_common::service_flags;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Label of a Node that names its zone (`k8s.io/api/core/v1.LabelTopologyZone`).
const ZONE: &str = "topology.kubernetes.io/zone";

/// What changes how objects are read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Name of our Node: endpoints with this nodeName are local.
    pub node_name: String,
    /// Ranges that `spec.externalIPs` may be in; others are refused. Empty: all are.
    pub external_ips: Vec<IpNet>,
    /// Value of the label `service.kubernetes.io/service-proxy-name` of our Services; `None`: those without the label.
    pub proxy_name: Option<String>,
    /// Slots of a Maglev table, a prime.
    pub maglev_table_size: u16,
    /// Other nodes may hand packets over, or have them handed over: all Nodes count, and every service needs its Local set.
    pub dsr: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            external_ips: Vec::new(),
            proxy_name: None,
            maglev_table_size: MAGLEV_TABLE_SIZE,
            dsr: false,
        }
    }
}

/// A compact copy of every Service and EndpointSlice, fed by apply and delete, and the set of services that changed
/// since the last [`Index::compile`].
#[derive(Debug)]
pub struct Index {
    options: Options,
    names: Names,
    /// Our zone.
    zone: Option<Number>,
    node: NodeNetwork,
    services: BTreeMap<ServiceName, Box<Noted<Result<ServiceModel, Unprogrammed>>>>,
    /// By the Service they belong to, then by their own name: services may be seen after their slices.
    slices: BTreeMap<ServiceName, Slices>,
    /// Slice (namespace and name) to the Service it belongs to.
    owners: HashMap<ServiceName, ServiceName>,
    dirty: BTreeSet<ServiceName>,
    full: bool,
    nodes: Nodes,
}

/// A model and the notices it came with.
#[derive(PartialEq, Eq, Debug)]
struct Noted<T> {
    model: T,
    notices: Vec<NoticeKind>,
}

/// The slices of one Service in the order of their names. Most have one: a map would keep room for eleven.
#[derive(Default, Debug)]
struct Slices(Vec<(Arc<str>, Noted<SliceModel>)>);

impl Slices {
    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(own, _)| (**own).cmp(name))
    }

    fn get(&self, name: &str) -> Option<&Noted<SliceModel>> {
        self.find(name).ok().map(|place| &self.0[place].1)
    }

    fn insert(&mut self, name: Arc<str>, slice: Noted<SliceModel>) {
        match self.find(&name) {
            Ok(place) => self.0[place].1 = slice,
            Err(place) => {
                self.0.reserve_exact(1);
                self.0.insert(place, (name, slice));
            }
        }
    }

    fn remove(&mut self, name: &str) {
        if let Ok(place) = self.find(name) {
            self.0.remove(place);
            self.0.shrink_to_fit();
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Noted<SliceModel>> {
        self.0.iter().map(|(_, slice)| slice)
    }
}

impl Index {
    pub fn new(options: Options) -> Self {
        Self {
            options,
            names: Names::default(),
            zone: None,
            node: NodeNetwork::default(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            owners: HashMap::new(),
            dirty: BTreeSet::new(),
            full: false,
            nodes: Nodes::default(),
        }
    }

    /// A Service as it is now. Returns the notices that its last version did not have.
    pub fn apply_service(&mut self, object: &Service) -> Vec<Notice> {
        let Some(name) = name_of(&object.metadata) else {
            return vec![unnamed(&object.metadata)];
        };
        let name = self.known(name);
        let (model, mut notices) = ingest::service(object, &self.options);
        notices.extend(model.iter().flat_map(|model| self.node.notices(model)));
        let old = self.services.get(&name);
        let news = news(&name, &notices, old.map(|old| old.notices.as_slice()));
        if old.map_or(model.is_ok(), |old| old.model != model) {
            self.dirty.insert(name.clone());
        }
        self.services.insert(name, Box::new(Noted { model, notices }));
        news
    }

    /// The Service is gone.
    pub fn delete_service(&mut self, namespace: &str, name: &str) {
        let name = ServiceName::new(namespace, name);
        if self.services.remove(&name).is_some_and(|old| old.model.is_ok()) {
            self.dirty.insert(name);
        }
    }

    /// A slice as it is now. Returns the notices that its last version did not have.
    pub fn apply_slice(&mut self, object: &EndpointSlice) -> Vec<Notice> {
        let Some(mut slice_name) = name_of(&object.metadata) else {
            return vec![unnamed(&object.metadata)];
        };
        let Some((mut model, notices)) = ingest::slice(object, &self.options, &mut self.names) else {
            self.remove_slice(&slice_name);
            return Vec::new();
        };
        model.service = self.known(model.service);
        let service = model.service.clone();
        slice_name.namespace = service.namespace.clone();
        if self.owners.get(&slice_name).is_some_and(|owner| *owner != service) {
            self.remove_slice(&slice_name);
        }
        let slices = self.slices.entry(service.clone()).or_default();
        let old = slices.get(&slice_name.name);
        let news = news(&service, &notices, old.map(|old| old.notices.as_slice()));
        let changed = old.is_none_or(|old| old.model != model);
        if changed && self.options.dsr {
            self.nodes.follow(&model.endpoints);
        }
        slices.insert(slice_name.name.clone(), Noted { model, notices });
        self.owners.insert(slice_name, service.clone());
        if changed {
            self.mark(service);
        }
        news
    }

    /// The same name, of which there is one copy.
    fn known(&self, name: ServiceName) -> ServiceName {
        let of_service = self.services.get_key_value(&name).map(|(known, _)| known);
        let of_slices = || self.slices.get_key_value(&name).map(|(known, _)| known);
        of_service.or_else(of_slices).cloned().unwrap_or(name)
    }

    /// The slice is gone.
    pub fn delete_slice(&mut self, namespace: &str, name: &str) {
        self.remove_slice(&ServiceName::new(namespace, name));
    }

    /// A Node as it is now. Of other nodes than ours only the addresses count.
    pub fn apply_node(&mut self, object: &Node) {
        if self.options.dsr
            && let Some(name) = &object.metadata.name
        {
            let number = self.names.number(name);
            self.nodes.apply(number, object);
        }
        if object.metadata.name.as_ref() != Some(&self.options.node_name) {
            return;
        }
        let zone = object.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE));
        let zone = zone.filter(|zone| !zone.is_empty()).map(|zone| self.names.number(zone));
        if zone == self.zone {
            return;
        }
        self.zone = zone;
        let hinted = |slice: &Noted<SliceModel>| slice.model.endpoints.iter().any(|one| !one.zone_hints.is_empty());
        let with_hints = self.slices.iter().filter(|(_, slices)| slices.iter().any(hinted));
        let names: Vec<_> = with_hints.map(|(name, _)| name.clone()).collect();
        names.into_iter().for_each(|name| self.mark(name));
    }

    /// The Node is gone.
    pub fn delete_node(&mut self, name: &str) {
        if let Some(number) = self.names.find(name) {
            self.nodes.remove(number);
        }
    }

    /// What changed since the last call of the nodes that endpoints' and nodes' own addresses belong to; `None`: nothing.
    pub fn take_nodes(&mut self) -> Option<NodeChanges> {
        if !self.options.dsr || !self.nodes.is_dirty() {
            return None;
        }
        let own = self.names.find(&self.options.node_name);
        let slices = self.slices.values().flat_map(Slices::iter);
        Some(self.nodes.take(own, slices.map(|slice| &*slice.model.endpoints)))
    }

    /// The node's own addresses as they are now. Returns what is new for the operator.
    pub fn set_node_network(&mut self, node: NodeNetwork) -> Vec<Notice> {
        if self.node == node {
            return Vec::new();
        }
        let old = std::mem::replace(&mut self.node, node);
        let moved: BTreeSet<_> = old
            .addresses
            .symmetric_difference(&self.node.addresses)
            .copied()
            .collect();
        let mut new_notices = Vec::new();
        for (name, service) in &mut self.services {
            let Ok(model) = &service.model else { continue };
            let mut has_moved = model.addresses.iter().any(|(address, _)| moved.contains(&address.ip()));
            has_moved |= old.primary != self.node.primary && model.source_ranges != SourceRanges::default();
            if !has_moved {
                continue;
            }
            self.dirty.insert(name.clone());
            let mut notices = service.notices.clone();
            notices.retain(|kind| !matches!(kind, NoticeKind::LocalClusterIp { .. }));
            notices.extend(self.node.notices(model));
            new_notices.extend(news(name, &notices, Some(&service.notices)));
            service.notices = notices;
        }
        new_notices
    }

    /// After a list of everything: what is not in it is gone. The next [`Index::compile`] names every service, so
    /// that the planner can remove what an earlier run left. Returns the notices that are new.
    pub fn replace_all<S, E>(&mut self, services: S, slices: E) -> Vec<Notice>
    where
        S: IntoIterator<Item: Borrow<Service>>,
        E: IntoIterator<Item: Borrow<EndpointSlice>>,
    {
        let mut news = Vec::new();
        let mut seen = HashSet::new();
        for object in services {
            news.extend(self.apply_service(object.borrow()));
            seen.extend(name_of(&object.borrow().metadata));
        }
        let gone: Vec<_> = self
            .services
            .keys()
            .filter(|name| !seen.contains(*name))
            .cloned()
            .collect();
        gone.iter()
            .for_each(|name| self.delete_service(&name.namespace, &name.name));
        seen.clear();
        for object in slices {
            news.extend(self.apply_slice(object.borrow()));
            seen.extend(name_of(&object.borrow().metadata));
        }
        let gone: Vec<_> = self
            .owners
            .keys()
            .filter(|name| !seen.contains(*name))
            .cloned()
            .collect();
        gone.iter().for_each(|name| self.remove_slice(name));
        self.mark_all();
        news
    }

    /// Makes the next [`Index::compile`] name every service: for the reconciliation at a period.
    pub fn mark_all(&mut self) {
        self.full = true;
        self.mark_nodes();
    }

    /// Makes the next [`Index::take_nodes`] name them all.
    pub fn mark_nodes(&mut self) {
        self.nodes.mark_all();
    }

    /// Whether [`Index::compile`] has anything to say.
    pub fn is_dirty(&self) -> bool {
        self.full || !self.dirty.is_empty()
    }

    /// The desired state of the services that changed since the last call, or of all after [`Index::replace_all`].
    pub fn compile(&mut self) -> Changes {
        let dirty = std::mem::take(&mut self.dirty);
        if std::mem::take(&mut self.full) {
            let services = self.services.iter().filter(|(_, service)| service.model.is_ok());
            return Changes {
                full: true,
                services: services.map(|(name, _)| (name.clone(), self.ports(name))).collect(),
            };
        }
        Changes {
            full: false,
            services: dirty
                .into_iter()
                .map(|name| (name.clone(), self.ports(&name)))
                .collect(),
        }
    }

    /// Whether the service changed since the last [`Index::compile`].
    pub fn is_marked(&self, namespace: &str, name: &str) -> bool {
        self.dirty.contains(&ServiceName::new(namespace, name))
    }

    /// What load balancers may ask this node about the service, if it has a `healthCheckNodePort`.
    pub fn health_check(&self, name: &ServiceName) -> Option<HealthCheck> {
        let model = self.services.get(name)?.model.as_ref().ok()?;
        let slices = self.slices.get(name).into_iter().flat_map(Slices::iter);
        HealthCheck::of(model, slices.map(|slice| &slice.model))
    }

    /// Everything the operator must know of the objects as they are now.
    pub fn notices(&self) -> Vec<Notice> {
        let of_services = self.services.iter().map(|(name, service)| (name, &service.notices));
        let slices = self
            .slices
            .iter()
            .flat_map(|(name, slices)| slices.iter().map(move |slice| (name, slice)));
        let of_slices = slices.map(|(name, slice)| (name, &slice.notices));
        let notice = |(name, kinds): (&ServiceName, &Vec<NoticeKind>)| {
            let service = name.clone();
            kinds.clone().into_iter().map(move |kind| Notice {
                service: service.clone(),
                kind,
            })
        };
        of_services.chain(of_slices).flat_map(notice).collect()
    }

    fn remove_slice(&mut self, slice_name: &ServiceName) {
        let Some(service) = self.owners.remove(slice_name) else {
            return;
        };
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(&slice_name.name);
            if slices.0.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.mark(service);
    }

    /// Marks a service dirty, if it is one that is programmed.
    fn mark(&mut self, name: ServiceName) {
        if self.services.get(&name).is_some_and(|service| service.model.is_ok()) {
            self.dirty.insert(name);
        }
    }

    /// The desired ports of one service, none when it has nothing to program.
    fn ports(&self, name: &ServiceName) -> Vec<DesiredPort> {
        let Some(model) = self.services.get(name).and_then(|service| service.model.as_ref().ok()) else {
            return Vec::new();
        };
        let families = Family::ALL.into_iter().filter(|family| model.has(*family));
        families
            .flat_map(|family| model.ports.iter().map(move |port| self.port(name, model, port, family)))
            .collect()
    }

    fn candidates<'a>(
        &'a self,
        name: &ServiceName,
        model: &'a ServiceModel,
        port: &PortModel,
        family: Family,
    ) -> Candidates<'a> {
        let slices = self.slices.get(name).into_iter().flat_map(Slices::iter);
        Candidates::merge(model, port, family, slices.map(|slice| &slice.model), &self.names)
    }

    fn port(&self, name: &ServiceName, model: &ServiceModel, port: &PortModel, family: Family) -> DesiredPort {
        let candidates = self.candidates(name, model, port, family);
        let slots = |endpoints| slots(model.selection.algorithm, self.options.maglev_table_size, endpoints);
        let any_local =
            self.options.dsr || model.flags & (service_flags::INTERNAL_LOCAL | service_flags::EXTERNAL_LOCAL) != 0;
        let (guard, source_ranges) = source_ranges(model, family, &self.node);
        DesiredPort {
            name: PortName {
                service: name.clone(),
                port: port.port,
                protocol: port.protocol,
                family,
            },
            created: model.created,
            frontends: frontends(model, port, family, &self.node),
            flags: model.flags | guard,
            source_ranges,
            cluster: slots(candidates.cluster(self.zone)),
            local: if any_local {
                slots(candidates.local())
            } else {
                Vec::new()
            },
        }
    }
}

/// The namespace of an object; one from a file that names none is in `default`, as kubectl has it.
pub(crate) fn namespace_of(metadata: &ObjectMeta) -> &str {
    metadata
        .namespace
        .as_deref()
        .filter(|namespace| !namespace.is_empty())
        .unwrap_or("default")
}

fn name_of(metadata: &ObjectMeta) -> Option<ServiceName> {
    let name = metadata.name.as_deref().filter(|name| !name.is_empty())?;
    Some(ServiceName::new(namespace_of(metadata), name))
}

fn unnamed(metadata: &ObjectMeta) -> Notice {
    Notice {
        service: ServiceName::new(namespace_of(metadata), ""),
        kind: NoticeKind::Unnamed,
    }
}

/// The notices that were not there before.
fn news(service: &ServiceName, notices: &[NoticeKind], before: Option<&[NoticeKind]>) -> Vec<Notice> {
    let before = before.unwrap_or_default();
    let new = notices.iter().filter(|kind| !before.contains(kind));
    let notice = |kind: &NoticeKind| Notice {
        service: service.clone(),
        kind: kind.clone(),
    };
    new.map(notice).collect()
}

//! What each proxy is to do for a client, worked out from the objects.
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ipnet::IpNet;

use super::pool::{Backend, Client, Source};
use super::rules::Rule;
use super::select::{Endpoints, Party, Target, View};
use super::spec::{Ingress, Kind, Lane, Service};
use crate::batch::SocketKind;
use crate::rig::addresses::{NODE_BASE, lan};
use crate::rig::{Family, SocketEdge};
use crate::wire::Protocol;

/// Which address of a Service port is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Door {
    ClusterIp,
    /// The ClusterIP at a port that the Service does not have.
    NoSuchPort,
    /// At this node's address.
    NodePort(u8),
    /// One of the lane's further addresses, by number: a load balancer's, or an external one.
    Extra(u8),
}

/// One thing to ask: who, which port of which Service, by which address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Walk {
    pub(super) client: Client,
    pub(super) service: usize,
    pub(super) port: usize,
    pub(super) family: Family,
    pub(super) door: Door,
    pub(super) socket: SocketKind,
}

/// What is to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// One of these answers, and sees one of these sources.
    Reach {
        targets: BTreeMap<Target, BTreeSet<Source>>,
        /// Some of the endpoints that may be chosen cannot be reached.
        may_fail: bool,
    },
    Refused,
    Dropped,
    /// The call fails on the client's own host.
    NotPermitted,
    /// Not reached, one way or another: nobody's address.
    Unreached,
    /// Cannot be told.
    Anything,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expectation {
    pub(super) outcome: Outcome,
    /// Why this is not what the other proxy does, where it is not.
    pub(super) rules: BTreeSet<Rule>,
    /// The set it chooses from is the whole reason for what is reached: round robin must come to each of them.
    pub(super) set: Vec<Target>,
}

/// How Ferrogate runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) socket_edge: SocketEdge,
    pub(super) snat_always: bool,
    pub(super) external_cluster_ip: bool,
    /// `--cluster-cidr` with the pods' networks.
    pub(super) cluster_cidr: bool,
}

/// Everything an expectation depends on.
pub(super) struct Scene<'a> {
    pub(super) lane: &'a Lane,
    pub(super) profile: Profile,
    /// The zones of nodes 1 and 2.
    pub(super) zones: [u8; 2],
}

impl Walk {
    pub(super) fn to(&self, lane: &Lane) -> SocketAddr {
        let service = &lane.services[self.service];
        let port = &service.ports[self.port];
        match self.door {
            Door::ClusterIp => SocketAddr::new(service.cluster_address(self.family), port.port),
            Door::NoSuchPort => SocketAddr::new(service.cluster_address(self.family), NO_SUCH_PORT),
            Door::NodePort(node) => SocketAddr::new(lan(NODE_BASE + node).get(self.family), port.node_port),
            Door::Extra(number) => SocketAddr::new(lane.address(number, self.family), port.port),
        }
    }

    pub(super) fn protocol(&self, lane: &Lane) -> Protocol {
        lane.services[self.service].ports[self.port].protocol
    }

    /// The node that translates.
    pub(super) fn entry(&self) -> u8 {
        match self.door {
            Door::NodePort(node) => node,
            _ => self.client.node(),
        }
    }

    fn is_cluster_ip(&self) -> bool {
        matches!(self.door, Door::ClusterIp | Door::NoSuchPort)
    }

    /// The client and the node that translates are the same place.
    fn is_at_home(&self) -> bool {
        self.client.node() == self.entry() && !matches!(self.client, Client::Outside(_))
    }
}

/// No Service of any lane has it.
const NO_SUCH_PORT: u16 = 4999;

impl Scene<'_> {
    pub(super) fn expect(&self, walk: &Walk, party: Party) -> Expectation {
        let mut expectation = self.semantics(walk, party);
        let on_the_way_out = party == Party::KubeProxy
            && matches!(walk.client, Client::Node(_))
            && !matches!(walk.door, Door::NodePort(_))
            && walk.protocol(self.lane) == Protocol::Udp;
        if on_the_way_out && matches!(expectation.outcome, Outcome::Refused | Outcome::Dropped) {
            expectation.outcome = Outcome::NotPermitted;
            expectation.rules.insert(Rule::TakenOnTheWayOut);
        }
        expectation
    }

    fn semantics(&self, walk: &Walk, party: Party) -> Expectation {
        let service = &self.lane.services[walk.service];
        if party == Party::KubeProxy && self.lane.relabelled.values().any(|index| *index == walk.service) {
            return Expectation::by(Outcome::Anything, Rule::RelabelledSlice);
        }
        if party == Party::KubeProxy && service.headless_label && service.is_programmed_but_for_headless(walk.family) {
            return Expectation::by(Outcome::Anything, Rule::HeadlessLabel);
        }
        if !self.is_open(walk) {
            return Expectation::plain(Outcome::Unreached);
        }
        if Self::is_refused_source(service, walk) {
            return Expectation::plain(Outcome::Dropped);
        }
        if party == Party::Ferrogate
            && walk.is_cluster_ip()
            && matches!(walk.client, Client::Outside(_))
            && !self.profile.external_cluster_ip
        {
            return Expectation::by(Outcome::Dropped, Rule::ClusterIpFromOutside);
        }
        if walk.door == Door::NoSuchPort {
            return Expectation::plain(Outcome::Refused);
        }
        let port = &service.ports[walk.port];
        let endpoints = Endpoints::of(service, port, walk.family, party, walk.entry());
        if endpoints.contradictory {
            return Expectation::by(Outcome::Anything, Rule::ContradictorySlices);
        }
        let (local, rule) = self.is_local(service, walk, party);
        let mut expectation = self.choose(walk, party, service, &endpoints, local);
        expectation.rules.extend(rule);
        let other = Endpoints::of(service, port, walk.family, party.other(), walk.entry());
        if other.all != endpoints.all {
            expectation.rules.insert(Rule::ContradictorySlices);
        }
        expectation
    }

    /// Whether the Service has this address at all.
    pub(super) fn is_open(&self, walk: &Walk) -> bool {
        let service = &self.lane.services[walk.service];
        service.is_programmed(walk.family)
            && match walk.door {
                Door::ClusterIp | Door::NoSuchPort => true,
                Door::NodePort(_) => service.has_node_ports(),
                Door::Extra(number) => {
                    let is_virtual = |entry: &Ingress| match *entry {
                        Ingress::Address {
                            number: at,
                            family,
                            proxied,
                        } => (at, family, proxied) == (number, walk.family, false),
                        Ingress::Hostname => false,
                    };
                    service.external_ips.contains(&(number, walk.family))
                        || (service.kind == Kind::LoadBalancer && service.ingress.iter().any(is_virtual))
                }
            }
    }

    /// The loadBalancerSourceRanges that restrict this walk's address.
    fn restriction(service: &Service, walk: &Walk) -> Option<Vec<IpNet>> {
        let Door::Extra(number) = walk.door else {
            return None;
        };
        let balanced = service.kind == Kind::LoadBalancer && !service.external_ips.contains(&(number, walk.family));
        let ranges = service
            .source_ranges
            .iter()
            .filter_map(|range| range.trim().parse().ok());
        let ranges: Vec<IpNet> = ranges
            .filter(|range: &IpNet| Family::of(range.addr()) == walk.family)
            .collect();
        let open = ranges.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0);
        (balanced && !open).then_some(ranges)
    }

    /// Whether loadBalancerSourceRanges keep this client out.
    fn is_refused_source(service: &Service, walk: &Walk) -> bool {
        let source = walk.client.addresses().get(walk.family);
        Self::restriction(service, walk).is_some_and(|ranges| !ranges.iter().any(|range| range.contains(&source)))
    }

    /// Whether the socket edge leaves pods to the pod edge: where the client's address decides.
    fn needs_client(service: &Service, walk: &Walk) -> bool {
        service.affinity.is_some() || Self::restriction(service, walk).is_some()
    }

    /// Whether policy Local decides, and why the two proxies may differ about it.
    fn is_local(&self, service: &Service, walk: &Walk, party: Party) -> (bool, Option<Rule>) {
        if walk.is_cluster_ip() {
            return (service.internal_local, None);
        }
        let external_local = service.external_local && service.is_externally_accessible();
        if walk.is_at_home() {
            return (false, None);
        }
        match (walk.client, party) {
            (Client::Pod(_), _) if !external_local => (false, None),
            (Client::Pod(_), Party::KubeProxy) => (false, None),
            (Client::Pod(_), Party::Ferrogate) if self.profile.cluster_cidr => (false, None),
            (Client::Pod(_), Party::Ferrogate) => (true, Some(Rule::PodAtOtherNode)),
            (Client::Node(_) | Client::Outside(_), _) => (external_local, None),
        }
    }

    fn choose(&self, walk: &Walk, party: Party, service: &Service, endpoints: &Endpoints, local: bool) -> Expectation {
        let entry = walk.entry();
        let view = View {
            node: entry,
            zone: self.zones[usize::from(entry) - 1],
        };
        let set = if local {
            endpoints.local(view)
        } else {
            endpoints.cluster(view)
        };
        if set.is_empty() {
            let outcome = if endpoints.any() {
                Outcome::Dropped
            } else {
                Outcome::Refused
            };
            return Expectation::plain(outcome);
        }
        let mut expectation = Expectation::plain(Outcome::Anything);
        let (mut targets, mut may_fail) = (BTreeMap::new(), false);
        for target in &set {
            let is_local = endpoints.all[target].is_local(entry);
            let (source, rule) = match party {
                Party::KubeProxy => kube_proxy(walk, service, target.0, is_local),
                Party::Ferrogate => self.ferrogate(walk, service, target.0, is_local, local),
            };
            may_fail |= rule == Some(Rule::HairpinWithoutNodeName);
            expectation.rules.extend(rule);
            match source {
                Some(source) => drop(targets.insert(*target, BTreeSet::from([walk.normal(source)]))),
                None => may_fail = true,
            }
        }
        expectation.outcome = if targets.is_empty() {
            Outcome::Unreached
        } else {
            Outcome::Reach { targets, may_fail }
        };
        expectation.set = set;
        expectation
    }

    /// The source that a backend sees through Ferrogate; none where it cannot be reached.
    fn ferrogate(
        &self,
        walk: &Walk,
        service: &Service,
        backend: Backend,
        is_local: bool,
        local_set: bool,
    ) -> (Option<Source>, Option<Rule>) {
        let entry = walk.entry();
        let sockets = self.profile.socket_edge == SocketEdge::All;
        match walk.client {
            Client::Pod(node) if walk.is_at_home() => {
                let at_the_socket = sockets && walk.socket != SocketKind::Bound && !Self::needs_client(service, walk);
                match (backend == Backend::Client(node), at_the_socket) {
                    (true, true) => (Some(Source::Client), Some(Rule::HairpinAtTheSocket)),
                    (true, false) => (Some(Source::Node(entry)), None),
                    (false, _) => (Some(Source::Client), Some(Rule::PodKeepsAddress)),
                }
            }
            Client::Node(node) if walk.is_at_home() => {
                if backend == Backend::Host(node) && !sockets && !matches!(walk.door, Door::NodePort(_)) {
                    return (Some(Source::Other), Some(Rule::OwnHostNetworkAsFromTheService));
                }
                (Some(Source::Client), None)
            }
            _ => {
                let internal = self.profile.cluster_cidr && matches!(walk.client, Client::Pod(_));
                let keeps = !self.profile.snat_always || local_set || internal || backend == Backend::Host(entry);
                if !is_local || !keeps {
                    let unnamed = !is_local && backend.node() == Some(entry);
                    return (
                        Some(Source::Node(entry)),
                        unnamed.then_some(Rule::BackendWithoutNodeName),
                    );
                }
                let rule = if walk.is_cluster_ip() {
                    Rule::OutsideKeepsAddressLocally
                } else {
                    Rule::LocalBackendSeesClient
                };
                (Some(Source::Client), Some(rule))
            }
        }
    }
}

/// The source that a backend sees through kube-proxy; none where it cannot be reached.
fn kube_proxy(walk: &Walk, service: &Service, backend: Backend, is_local: bool) -> (Option<Source>, Option<Rule>) {
    let entry = walk.entry();
    let is_pod = matches!(walk.client, Client::Pod(_));
    let masquerades = if walk.is_cluster_ip() {
        !is_pod
    } else if service.external_local {
        walk.client == Client::Node(entry)
    } else {
        true
    };
    if masquerades {
        // What stays on the node's own host network never passes postrouting.
        let source = if backend == Backend::Host(entry) {
            Source::Client
        } else {
            Source::Node(entry)
        };
        return (Some(source), None);
    }
    if is_pod && !walk.is_at_home() && backend.node() != Some(entry) {
        return (None, Some(Rule::BypassedReplies));
    }
    if walk.client == Client::Pod(entry) && backend == Backend::Client(entry) {
        return (
            Some(Source::Node(entry)),
            (!is_local).then_some(Rule::HairpinWithoutNodeName),
        );
    }
    (Some(Source::Client), None)
}

impl Walk {
    /// A process's own address is one of its node's.
    pub(super) fn normal(&self, source: Source) -> Source {
        match (self.client, source) {
            (Client::Node(own), Source::Node(node)) if own == node => Source::Client,
            _ => source,
        }
    }
}

impl Party {
    pub(super) const BOTH: [Party; 2] = [Party::KubeProxy, Party::Ferrogate];

    fn other(self) -> Self {
        match self {
            Party::KubeProxy => Party::Ferrogate,
            Party::Ferrogate => Party::KubeProxy,
        }
    }
}

impl Expectation {
    fn plain(outcome: Outcome) -> Self {
        Self {
            outcome,
            rules: BTreeSet::new(),
            set: Vec::new(),
        }
    }

    fn by(outcome: Outcome, rule: Rule) -> Self {
        Self {
            rules: BTreeSet::from([rule]),
            ..Self::plain(outcome)
        }
    }
}

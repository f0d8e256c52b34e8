//! Taking over tables that an earlier run left.

use super::ranges::Ranges;
use super::{Limits, Planner, Programmed};
use crate::desired::{DesiredPort, Endpoint};
use ferrogate_common::{Backend, Frontend, FrontendKey, FrontendKind, NetworkKey, Service, SlotRange, backend_flags};
use litemap::{Entry, LiteMap};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What the kernel's tables hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// All of `FRONTENDS`.
    pub frontends: Vec<(FrontendKey, Frontend)>,
    /// Of `SERVICES`, at least the elements that `frontends` name.
    pub services: BTreeMap<u32, Service>,
    /// Of `SLOTS`, the range of each of these services that is not empty: its base, and the ids in it.
    pub slots: BTreeMap<u32, Vec<u32>>,
    /// Of `BACKENDS`, every element with a `generation` or `last_generation` other than 0.
    pub backends: BTreeMap<u32, Backend>,
    /// Of `NETWORKS`, every key but those of [`NetworkKey::CLUSTER`].
    pub networks: Vec<NetworkKey>,
    /// NodePort span of `CONFIG`.
    pub node_ports: (u16, u16),
}

/// Live backends of one service.
type Backends = Vec<(Endpoint, u32)>;

impl Planner {
    /// A planner for tables that hold this already: ids and ranges stay, and what is right is not written again.
    /// Ports find their entries by the frontends they have. What does not hang together (the earlier run ended within
    /// a plan) is taken down by the first plan.
    pub fn restore(limits: Limits, snapshot: Snapshot) -> Self {
        let mut planner = Self::new(limits);
        planner.unsettled = true;
        planner.node_port_span = snapshot.node_ports;
        let mut backends = planner.restore_backends(&snapshot);
        let mut networks = planner.restore_networks(&snapshot);
        for (id, frontends) in planner.restore_frontends(&snapshot) {
            planner.service_ids.reserve(id, 1);
            let live = backends.remove(&id).unwrap_or_default();
            let mut port = planner.restore_port(id, frontends, live, &snapshot);
            port.networks = networks.remove(&id).unwrap_or_default();
            planner.unclaimed.insert(id, Box::new(port));
        }
        planner
            .stray_backends
            .extend(backends.into_values().flatten().map(|(_, id)| id));
        planner.stray_backends.sort_unstable();
        planner.stray_networks.extend(networks.into_values().flatten());
        planner
    }

    /// Gives each desired port that is new to this run the entries it had in the last one: those with most of its
    /// frontends, and, where two ports claim one frontend, most of its endpoints.
    pub(super) fn adopt(&mut self, open: &[&DesiredPort]) {
        if self.unclaimed.is_empty() {
            return;
        }
        let mut claims = Vec::new();
        for (order, port) in open
            .iter()
            .enumerate()
            .filter(|(_, port)| !self.ports.contains_key(&port.name))
        {
            let mut shared: BTreeMap<u32, usize> = BTreeMap::new();
            let own = port.frontends.iter().filter(|(_, kind)| **kind != FrontendKind::Vip);
            for id in own.filter_map(|(key, _)| self.frontends.get(key)) {
                *shared.entry(*id).or_default() += 1;
            }
            for (id, frontends) in shared {
                if let Some(old) = self.unclaimed.get(&id) {
                    let endpoints = port
                        .cluster
                        .iter()
                        .filter(|endpoint| old.backends.contains_key(endpoint))
                        .count();
                    claims.push((Reverse((frontends, endpoints)), order, id));
                }
            }
        }
        claims.sort_unstable();
        for (_, order, id) in claims {
            let name = &open[order].name;
            if !self.ports.contains_key(name)
                && let Some(old) = self.unclaimed.remove(&id)
            {
                self.owners.insert(id, name.clone());
                self.ports.insert(name.clone(), old);
            }
        }
    }

    /// Live backends by service; ids and generations are noted.
    fn restore_backends(&mut self, snapshot: &Snapshot) -> HashMap<u32, Backends> {
        let mut live: HashMap<u32, Backends> = HashMap::new();
        for (&id, backend) in snapshot.backends.range(1..self.limits.backends.max(1)) {
            let index = id as usize;
            if self.generations.len() <= index {
                self.generations.resize(index + 1, 0);
            }
            self.generations[index] = backend.last_generation.max(backend.generation);
            if backend.generation != 0 && self.backend_ids.reserve(id, 1) {
                let endpoint = Endpoint {
                    address: backend.address,
                    port: backend.port,
                    local: backend.flags & backend_flags::LOCAL != 0,
                };
                live.entry(backend.service).or_default().push((endpoint, id));
            }
        }
        live
    }

    /// Source ranges by service.
    fn restore_networks(&mut self, snapshot: &Snapshot) -> BTreeMap<u32, BTreeSet<NetworkKey>> {
        let mut networks: BTreeMap<u32, BTreeSet<NetworkKey>> = BTreeMap::new();
        for key in &snapshot.networks {
            networks.entry(key.set).or_default().insert(*key);
        }
        self.networks = networks.values().map(BTreeSet::len).sum();
        networks
    }

    /// Frontends by service; those that make no sense become strays.
    fn restore_frontends(&mut self, snapshot: &Snapshot) -> BTreeMap<u32, LiteMap<FrontendKey, FrontendKind>> {
        let mut services: BTreeMap<u32, LiteMap<FrontendKey, FrontendKind>> = BTreeMap::new();
        for &(key, value) in &snapshot.frontends {
            self.frontends.insert(key, value.service);
            self.count_node_port(&key, true);
            match FrontendKind::from_number(value.kind) {
                Some(kind) if value.service < self.limits.services => {
                    services.entry(value.service).or_default().insert(key, kind);
                }
                _ => self.stray_frontends.push(key),
            }
        }
        services
    }

    fn restore_port(
        &mut self,
        id: u32,
        frontends: LiteMap<FrontendKey, FrontendKind>,
        live: Backends,
        snapshot: &Snapshot,
    ) -> Programmed {
        let service = snapshot.services.get(&id);
        let own: BTreeSet<u32> = live.iter().map(|(_, id)| *id).collect();
        let found = service.and_then(|service| sound_range(service, &own, snapshot, &mut self.slots));
        let (range, slots) = found.map_or((None, Vec::new()), |(range, slots)| (Some(range), slots));
        let used: BTreeSet<u32> = slots.iter().copied().collect();
        let mut backends = LiteMap::new();
        // Those in the range first: should one endpoint have two entries, the one in use stays.
        let (first, second): (Backends, Backends) = live.into_iter().partition(|(_, id)| used.contains(id));
        for (endpoint, id) in first.into_iter().chain(second) {
            match backends.entry(endpoint) {
                Entry::Vacant(free) => {
                    free.insert(id);
                }
                Entry::Occupied(_) => self.stray_backends.push(id),
            }
        }
        let is_local_only = |id: &u32| {
            let backend = snapshot.backends.get(id);
            backend.is_some_and(|backend| backend.flags & backend_flags::LOCAL_ONLY != 0)
        };
        Programmed {
            id,
            local_only: backends.values().copied().filter(is_local_only).collect(),
            flags: service.map(|service| service.flags),
            range,
            slots,
            backends,
            frontends,
            networks: BTreeSet::new(),
            shared: BTreeSet::new(),
        }
    }
}

/// A service's range, taken from the free ones, and its content; none when it does not hang together.
fn sound_range(
    service: &Service,
    own: &BTreeSet<u32>,
    snapshot: &Snapshot,
    free: &mut Ranges,
) -> Option<(SlotRange, Vec<u32>)> {
    let range = SlotRange::unpack(service.range);
    if range.is_empty() {
        return Some((range, Vec::new()));
    }
    let slots = snapshot.slots.get(&range.base)?;
    let sound = slots.len() == range.len() as usize && slots.iter().all(|id| own.contains(id));
    (sound && free.reserve(range.base, range.len())).then(|| (range, slots.clone()))
}

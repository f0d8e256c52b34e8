//! One service port, brought to its desired state; and the writes of one round.

use super::plan::{Op, RefusalReason};
use super::{Planner, Programmed};
use crate::desired::{DesiredPort, Endpoint};
use crate::names::{Family, PortName};
use ferrogate_common::{
    Address, Backend, Frontend, FrontendKey, FrontendKind, NetworkKey, SlotRange, V4_PREFIX, backend_flags,
};
use ipnet::IpNet;
use litemap::LiteMap;
use std::collections::BTreeSet;

/// The writes of one round, by kind, and what can be used again after it.
#[derive(Default)]
pub(super) struct Round {
    stray_networks: Vec<Op>,
    backends: Vec<Op>,
    publications: Vec<Op>,
    slots: Vec<Op>,
    networks: Vec<Op>,
    counters: Vec<Op>,
    flags: Vec<Op>,
    flips: Vec<Op>,
    puts: Vec<Op>,
    deletes: Vec<Op>,
    flips_away: Vec<Op>,
    networks_gone: Vec<Op>,
    retirements: Vec<Op>,
    freed: Freed,
}

/// Out of use, but perhaps still in a reader's hands.
#[derive(Debug, Default)]
pub(super) struct Freed {
    pub(super) frontends: Vec<FrontendKey>,
    pub(super) services: Vec<u32>,
    pub(super) backends: Vec<u32>,
    pub(super) ranges: Vec<SlotRange>,
    /// How many entries of `NETWORKS`: these need no grace period.
    pub(super) networks: usize,
}

impl Freed {
    pub(super) fn is_empty(&self) -> bool {
        self.frontends.is_empty() && self.services.is_empty() && self.backends.is_empty() && self.ranges.is_empty()
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.frontends.extend(other.frontends);
        self.services.extend(other.services);
        self.backends.extend(other.backends);
        self.ranges.extend(other.ranges);
    }
}

impl Round {
    pub(super) fn delete(&mut self, keys: Vec<FrontendKey>) {
        self.deletes.extend(keys.iter().map(|&key| Op::DeleteFrontend { key }));
        self.freed.frontends.extend(keys);
    }

    pub(super) fn retire(&mut self, ids: Vec<u32>) {
        self.retirements.extend(ids.iter().map(|&id| Op::RetireBackend { id }));
        self.freed.backends.extend(ids);
    }

    pub(super) fn delete_stray_networks(&mut self, keys: Vec<NetworkKey>) {
        self.freed.networks += keys.len();
        let deletes = keys.into_iter().map(|key| Op::DeleteNetwork { key });
        self.stray_networks.extend(deletes);
    }

    fn delete_networks(&mut self, keys: impl Iterator<Item = NetworkKey>) {
        let before = self.networks_gone.len();
        self.networks_gone.extend(keys.map(|key| Op::DeleteNetwork { key }));
        self.freed.networks += self.networks_gone.len() - before;
    }

    /// Whether the round puts something into `FRONTENDS`.
    pub(super) fn has_puts(&self) -> bool {
        !self.puts.is_empty()
    }

    /// Appends the writes in their order. What was freed must not be used again before a grace period.
    pub(super) fn emit(self, node_ports: Option<(u16, u16)>, ops: &mut Vec<Op>) -> Freed {
        // First of all: nothing leads to them, and one of the new services may get the id that they are for.
        ops.extend(self.stray_networks);
        ops.extend(self.backends);
        ops.extend(self.publications);
        ops.extend(self.slots);
        ops.extend(self.networks);
        ops.extend(self.counters);
        ops.extend(self.flags);
        ops.extend(self.flips);
        ops.extend(node_ports.map(|(min, max)| Op::SetNodePorts { min, max }));
        ops.extend(self.puts);
        ops.extend(self.deletes);
        ops.extend(self.flips_away);
        ops.extend(self.networks_gone);
        ops.extend(self.retirements);
        self.freed
    }

    pub(super) fn put(&mut self, key: FrontendKey, value: Frontend) {
        self.puts.push(Op::PutFrontend { key, value });
    }

    fn write_backend(&mut self, id: u32, endpoint: &Endpoint, flags: u16, service: u32, generation: u32) {
        let value = Backend {
            address: endpoint.address,
            port: endpoint.port,
            flags,
            generation: 0,
            service,
            last_generation: generation,
        };
        self.backends.push(Op::WriteBackend { id, value });
        self.publications.push(Op::PublishBackend { id, generation });
    }
}

fn backend_flags_of(endpoint: &Endpoint, in_cluster_set: bool) -> u16 {
    let local = if endpoint.local { backend_flags::LOCAL } else { 0 };
    local | if in_cluster_set { 0 } else { backend_flags::LOCAL_ONLY }
}

impl Planner {
    /// Brings one port as near to its desired state as this round can. Returns what is missing, none when it is there.
    pub(super) fn reach(&mut self, desired: &DesiredPort, round: &mut Round) -> Vec<RefusalReason> {
        let mut refused = Vec::new();
        let programmed = self.ports.remove(&desired.name);
        let puts = self.puts(desired, programmed.as_deref(), &mut refused);
        let known = programmed.is_some();
        let mut port = match programmed {
            Some(port) => port,
            None if puts.is_empty() => return refused,
            None => match self.service_ids.allocate(1) {
                Some(id) => Box::new(Programmed {
                    id,
                    ..Programmed::default()
                }),
                None => {
                    return vec![RefusalReason::ServicesFull {
                        limit: self.limits.services,
                    }];
                }
            },
        };
        if let Err(reason) = self.endpoints(desired, &mut port, round) {
            refused.push(reason);
            if !known {
                self.service_ids.free(port.id, 1);
                return refused;
            }
        }
        if let Err(reason) = self.source_ranges(desired, &mut port, round) {
            refused.push(reason);
        }
        if port.flags != Some(desired.flags) {
            port.flags = Some(desired.flags);
            let (id, flags) = (port.id, desired.flags);
            round.flags.push(Op::WriteServiceFlags { id, flags });
        }
        self.frontends(desired, &mut port, puts, round);
        self.share(desired, &mut port);
        if !known {
            round.counters.push(Op::ResetCounters { id: port.id });
            self.owners.insert(port.id, desired.name.clone());
        }
        self.ports.insert(desired.name.clone(), port);
        refused
    }

    /// Takes a port's tables apart.
    pub(super) fn remove(&mut self, name: &PortName, round: &mut Round) {
        if let Some(port) = self.ports.remove(name) {
            self.unshare(name, port.shared.iter().copied());
            self.dismantle(*port, round);
        }
    }

    pub(super) fn dismantle(&mut self, port: Programmed, round: &mut Round) {
        round.delete(port.frontends.keys().copied().collect());
        let (id, range) = (port.id, SlotRange::default());
        round.flips_away.push(Op::Flip { id, range });
        round.delete_networks(port.networks.into_iter());
        round.retire(port.backends.values().copied().collect());
        round.freed.ranges.extend(port.range.filter(|range| !range.is_empty()));
        round.freed.services.push(id);
    }

    /// The desired frontends that can be put now; why the others cannot.
    fn puts(
        &self,
        desired: &DesiredPort,
        port: Option<&Programmed>,
        refused: &mut Vec<RefusalReason>,
    ) -> Vec<(FrontendKey, FrontendKind)> {
        let mut room = (self.limits.frontends as usize).saturating_sub(self.frontends.len());
        let mut puts = Vec::new();
        for (&key, &kind) in &desired.frontends {
            if port.is_some_and(|port| port.frontends.get(&key) == Some(&kind)) {
                continue;
            }
            if let Some(id) = self.frontends.get(&key) {
                if kind == FrontendKind::Vip {
                    // Whoever has it, it says the same.
                    continue;
                }
                let holder = self.owners.get(id).cloned();
                refused.push(RefusalReason::FrontendTaken { key, holder });
            } else if room == 0 {
                let limit = self.limits.frontends;
                refused.push(RefusalReason::FrontendsFull { limit, key });
            } else {
                room -= 1;
                puts.push((key, kind));
            }
        }
        puts
    }

    /// New backends, a new range if the old one says something else, and the flip. All or nothing.
    fn endpoints(
        &mut self,
        desired: &DesiredPort,
        port: &mut Programmed,
        round: &mut Round,
    ) -> Result<(), RefusalReason> {
        let count = |set: &[Endpoint]| {
            let endpoints = set.len();
            u16::try_from(endpoints).map_err(|_| RefusalReason::TooManyEndpoints { endpoints })
        };
        let (cluster, local) = (count(&desired.cluster)?, count(&desired.local)?);
        let wanted: BTreeSet<Endpoint> = desired.cluster.iter().chain(&desired.local).copied().collect();
        let new: Vec<Endpoint> = wanted
            .iter()
            .filter(|one| !port.backends.contains_key(one))
            .copied()
            .collect();
        let ids = self.allocate_backends(new.len())?;
        port.backends.extend(new.iter().copied().zip(ids.iter().copied()));
        let slots: Vec<u32> = desired
            .cluster
            .iter()
            .chain(&desired.local)
            .map(|endpoint| port.backends[endpoint])
            .collect();

        let kept = port
            .range
            .filter(|range| (range.cluster, range.local) == (cluster, local) && port.slots == slots);
        if kept.is_none() {
            let Some(base) = self.slots.allocate(slots.len() as u32) else {
                port.backends.retain(|endpoint, _| !new.contains(endpoint));
                ids.into_iter().for_each(|id| self.backend_ids.free(id, 1));
                let wanted = slots.len() as u32;
                return Err(RefusalReason::SlotsFull {
                    limit: self.slots.size(),
                    wanted,
                });
            };
            let range = SlotRange { base, cluster, local };
            if !slots.is_empty() {
                let ids = slots.clone();
                round.slots.push(Op::WriteSlots { base, ids });
            }
            round.flips.push(Op::Flip { id: port.id, range });
            round
                .freed
                .ranges
                .extend(port.range.replace(range).filter(|range| !range.is_empty()));
            port.slots = slots;
        }
        let members: BTreeSet<&Endpoint> = desired.cluster.iter().collect();
        for (endpoint, id) in new.iter().zip(ids) {
            let generation = self.next_generation(id);
            let flags = backend_flags_of(endpoint, members.contains(endpoint));
            round.write_backend(id, endpoint, flags, port.id, generation);
            if flags & backend_flags::LOCAL_ONLY != 0 {
                port.local_only.insert(id);
            }
        }
        for (endpoint, &id) in port.backends.iter().filter(|(endpoint, _)| wanted.contains(endpoint)) {
            let flags = backend_flags_of(endpoint, members.contains(endpoint));
            let changed = if flags & backend_flags::LOCAL_ONLY != 0 {
                port.local_only.insert(id)
            } else {
                port.local_only.remove(&id)
            };
            if changed {
                let port = endpoint.port;
                round.flags.push(Op::WriteBackendFlags { id, port, flags });
            }
        }
        let gone = take(&mut port.backends, |endpoint, _| !wanted.contains(endpoint));
        let gone: Vec<u32> = gone.map(|(_, id)| id).collect();
        port.local_only.retain(|id| !gone.contains(id));
        round.retire(gone);
        Ok(())
    }

    /// The networks whose sources may use the load balancer's addresses. All or nothing; without room the old ones stay.
    fn source_ranges(
        &mut self,
        desired: &DesiredPort,
        port: &mut Programmed,
        round: &mut Round,
    ) -> Result<(), RefusalReason> {
        let wanted: BTreeSet<NetworkKey> = desired
            .source_ranges
            .iter()
            .map(|net| network_key(port.id, *net))
            .collect();
        let new: Vec<NetworkKey> = wanted.difference(&port.networks).copied().collect();
        if self.networks + new.len() > self.limits.networks as usize {
            return Err(RefusalReason::NetworksFull {
                limit: self.limits.networks,
                wanted: new.len() as u32,
            });
        }
        let gone = port.networks.difference(&wanted).copied();
        self.networks += new.len();
        round.delete_networks(gone);
        round.networks.extend(new.into_iter().map(|key| Op::PutNetwork { key }));
        port.networks = wanted;
        Ok(())
    }

    fn allocate_backends(&mut self, count: usize) -> Result<Vec<u32>, RefusalReason> {
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            match self.backend_ids.allocate(1) {
                Some(id) => ids.push(id),
                None => {
                    ids.into_iter().for_each(|id| self.backend_ids.free(id, 1));
                    let limit = self.backend_ids.size();
                    return Err(RefusalReason::BackendsFull {
                        limit,
                        wanted: count as u32,
                    });
                }
            }
        }
        Ok(ids)
    }

    /// Grows at each use of the id; never 0, which means not in use.
    fn next_generation(&mut self, id: u32) -> u32 {
        let index = id as usize;
        if self.generations.len() <= index {
            self.generations.resize(index + 1, 0);
        }
        self.generations[index] = self.generations[index].wrapping_add(1).max(1);
        self.generations[index]
    }

    /// Frontends that go, and those that can come. One whose kind changes goes now and comes in the next round.
    fn frontends(
        &mut self,
        desired: &DesiredPort,
        port: &mut Programmed,
        puts: Vec<(FrontendKey, FrontendKind)>,
        round: &mut Round,
    ) {
        let gone = take(&mut port.frontends, |key, kind| {
            desired.frontends.get(key) != Some(kind)
        });
        round.delete(gone.map(|(key, _)| key).collect());
        for (key, kind) in puts {
            let value = Frontend::new(port.id, kind);
            round.put(key, value);
            port.frontends.insert(key, kind);
            self.frontends.insert(key, port.id);
            self.count_node_port(&key, true);
        }
    }
}

/// Removes the entries that are meant.
fn take<K: Copy + Ord, V: Copy>(
    map: &mut LiteMap<K, V>,
    is_meant: impl Fn(&K, &V) -> bool,
) -> impl Iterator<Item = (K, V)> {
    let mut taken = Vec::new();
    map.retain(|key, value| {
        let meant = is_meant(key, value);
        if meant {
            taken.push((*key, *value));
        }
        !meant
    });
    taken.into_iter()
}

/// The key of a network in a service's set.
fn network_key(service: u32, net: IpNet) -> NetworkKey {
    let address = Address::from(net.addr());
    let mapped = if Family::of(&address) == Family::V4 {
        V4_PREFIX
    } else {
        0
    };
    NetworkKey::new(service, address, mapped + u32::from(net.prefix_len()))
}

//! The tables in memory: what a plan does to them, and whether they hang together at every step.

mod dump;

use crate::planner::{Limits, Op, Snapshot};
use ferrogate_common::{Backend, Frontend, FrontendKey, NetworkKey, Service, SlotRange, service_flags};
use std::collections::{BTreeMap, BTreeSet};

/// `FRONTENDS`, `SERVICES`, `SLOTS`, `BACKENDS` and the NodePort span, as the kernel would have them. `Display`
/// prints them for people and goldens.
#[derive(Clone, Debug)]
pub struct MemoryTables {
    limits: Limits,
    frontends: BTreeMap<FrontendKey, Frontend>,
    services: BTreeMap<u32, Service>,
    slots: BTreeMap<u32, u32>,
    backends: BTreeMap<u32, Backend>,
    networks: BTreeSet<NetworkKey>,
    node_ports: (u16, u16),
    recent: Recent,
    /// The same of before the grace period that is running.
    waiting: Recent,
}

/// What went out of use since the last grace period: a reader may still hold it, so nothing of it may be written.
#[derive(Clone, Default, Debug)]
struct Recent {
    /// Elements of the hash table: any key put now could be given one of them.
    frontends: BTreeSet<FrontendKey>,
    services: BTreeSet<u32>,
    backends: BTreeSet<u32>,
    ranges: Vec<SlotRange>,
}

/// A write that no plan may contain, or tables in which a look-up would dangle.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    #[error("{table} has no entry {index} (size {size})")]
    OutOfBounds { table: &'static str, index: u64, size: u32 },
    #[error("{table} entry {index} was freed and is written again before a grace period")]
    NoGrace { table: &'static str, index: u32 },
    #[error("frontend {key:?} is put while deleted frontends have had no grace period")]
    FrontendNoGrace { key: FrontendKey },
    #[error("frontend {key:?} is put, but is there")]
    FrontendExists { key: FrontendKey },
    #[error("frontend {key:?} is deleted, but is not there")]
    FrontendMissing { key: FrontendKey },
    #[error("FRONTENDS is full ({size})")]
    FrontendsFull { size: u32 },
    #[error("backend {id} is written while it is in use")]
    BackendInUse { id: u32 },
    #[error("backend {id}: generation {generation} does not follow what was written")]
    Generation { id: u32, generation: u32 },
    #[error("{length} slots from {base} are written while service {service} uses some of them")]
    SlotsInUse { base: u32, length: u32, service: u32 },
    #[error("frontend {key:?} leads to service {service}, which was never written")]
    NoService { key: FrontendKey, service: u32 },
    #[error("slot {slot} of service {service} was never written")]
    NoSlot { service: u32, slot: u32 },
    #[error("slot {slot} of service {service} names backend {backend}, which is not in use")]
    DeadBackend { service: u32, slot: u32, backend: u32 },
    #[error("slot {slot} of service {service} names backend {backend}, which is service {owner}'s")]
    ForeignBackend {
        service: u32,
        slot: u32,
        backend: u32,
        owner: u32,
    },
    #[error("the ranges of services {first} and {second} overlap")]
    Overlap { first: u32, second: u32 },
    #[error("network {key:?} is put, but is there")]
    NetworkExists { key: NetworkKey },
    #[error("network {key:?} is deleted, but is not there")]
    NetworkMissing { key: NetworkKey },
    #[error("NETWORKS is full ({size})")]
    NetworksFull { size: u32 },
    #[error("service {service} comes into use with source ranges of another before it")]
    StaleNetworks { service: u32 },
    #[error("NodePort {port} is outside of the span {span:?}")]
    NodePortSpan { port: u16, span: (u16, u16) },
}

impl MemoryTables {
    /// Empty tables of these sizes.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            frontends: BTreeMap::new(),
            services: BTreeMap::new(),
            slots: BTreeMap::new(),
            backends: BTreeMap::new(),
            networks: BTreeSet::new(),
            node_ports: (0, 0),
            recent: Recent::default(),
            waiting: Recent::default(),
        }
    }

    pub fn frontends(&self) -> &BTreeMap<FrontendKey, Frontend> {
        &self.frontends
    }

    /// Elements that were ever written.
    pub fn services(&self) -> &BTreeMap<u32, Service> {
        &self.services
    }

    /// Elements that were ever written.
    pub fn backends(&self) -> &BTreeMap<u32, Backend> {
        &self.backends
    }

    /// Backend ids by slot; elements that were ever written.
    pub fn slots(&self) -> &BTreeMap<u32, u32> {
        &self.slots
    }

    /// Members of the services' sets.
    pub fn networks(&self) -> &BTreeSet<NetworkKey> {
        &self.networks
    }

    /// Lowest and highest NodePort.
    pub fn node_ports(&self) -> (u16, u16) {
        self.node_ports
    }

    /// What an agent would read back from the kernel.
    pub fn snapshot(&self) -> Snapshot {
        let services: BTreeMap<u32, Service> = self.used_services().collect();
        let ranges = services
            .values()
            .map(|service| SlotRange::unpack(service.range))
            .filter(|range| !range.is_empty());
        let ids = |range: SlotRange| {
            self.slots
                .range(range.base..)
                .take(range.len() as usize)
                .map(|(_, id)| *id)
        };
        Snapshot {
            frontends: self.frontends.iter().map(|(key, value)| (*key, *value)).collect(),
            slots: ranges.map(|range| (range.base, ids(range).collect())).collect(),
            services,
            backends: self.backends.clone(),
            networks: self.networks.iter().copied().collect(),
            node_ports: self.node_ports,
        }
    }

    /// Makes one write, if a plan may contain it here.
    pub fn apply(&mut self, op: &Op) -> Result<(), Violation> {
        match op {
            Op::WriteBackend { id, value } => self.write_backend(*id, value)?,
            Op::PublishBackend { id, generation } => self.publish_backend(*id, *generation)?,
            Op::RetireBackend { id } => {
                if let Some(backend) = self.backends.get_mut(id) {
                    backend.generation = 0;
                }
                self.recent.backends.insert(*id);
            }
            Op::WriteBackendFlags { id, flags, .. } => {
                if let Some(backend) = self.backends.get_mut(id) {
                    backend.flags = *flags;
                }
            }
            Op::WriteSlots { base, ids } => self.write_slots(*base, ids)?,
            Op::ResetCounters { id } | Op::WriteServiceFlags { id, .. }
                if self.held().iter().any(|held| held.services.contains(id)) =>
            {
                return Err(Violation::NoGrace {
                    table: "SERVICES",
                    index: *id,
                });
            }
            // Counters are the programs'.
            Op::ResetCounters { .. } => {}
            Op::WriteServiceFlags { id, flags } => self.service_mut(*id)?.flags = *flags,
            Op::Flip { id, range } => {
                let old = std::mem::replace(&mut self.service_mut(*id)?.range, range.pack());
                // What an unfinished plan left in an element that nothing leads to is in no reader's hands.
                let used = self.frontends.values().any(|value| value.service == *id);
                self.recent.ranges.extend(used.then(|| SlotRange::unpack(old)));
            }
            Op::PutFrontend { key, value } => self.put_frontend(*key, *value)?,
            Op::DeleteFrontend { key } => self.delete_frontend(*key)?,
            Op::PutNetwork { key } => self.put_network(*key)?,
            Op::DeleteNetwork { key } if self.networks.remove(key) => {}
            Op::DeleteNetwork { key } => return Err(Violation::NetworkMissing { key: *key }),
            Op::SetNodePorts { min, max } => self.node_ports = (*min, *max),
            Op::Grace => (self.recent, self.waiting) = Default::default(),
        }
        Ok(())
    }

    /// A grace period begins, and writes go on meanwhile: see [`crate::Planner::begin_grace`].
    pub fn begin_grace(&mut self) {
        self.waiting = std::mem::take(&mut self.recent);
    }

    /// It has passed.
    pub fn end_grace(&mut self) {
        self.waiting = Recent::default();
    }

    /// What out of use a reader may still hold.
    fn held(&self) -> [&Recent; 2] {
        [&self.recent, &self.waiting]
    }

    /// Makes all writes, checking the tables after each.
    pub fn apply_all(&mut self, ops: &[Op]) -> Result<(), Violation> {
        ops.iter().try_for_each(|op| self.apply(op).and_then(|()| self.check()))
    }

    /// Whether every look-up ends where it should:
    /// * a frontend's service was written, and a NodePort's number is within the span;
    /// * a service's range lies within `SLOTS` and overlaps no other's;
    /// * its slots name backends that are in use and its own.
    pub fn check(&self) -> Result<(), Violation> {
        let mut used = BTreeSet::new();
        for (&key, value) in &self.frontends {
            let service = value.service;
            if !self.services.contains_key(&service) {
                return Err(Violation::NoService { key, service });
            }
            used.insert(service);
            let (port, span) = (key.port.get(), self.node_ports);
            if key.address == key.address.unspecified() && !(span.0..=span.1).contains(&port) {
                return Err(Violation::NodePortSpan { port, span });
            }
        }
        let mut ranges = Vec::new();
        for (id, service) in self.services.iter().filter(|(id, _)| used.contains(id)) {
            let range = SlotRange::unpack(service.range);
            self.check_range(*id, range)?;
            ranges.extend((!range.is_empty()).then_some((range.base, range.len(), *id)));
        }
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            if pair[0].0 + pair[0].1 > pair[1].0 {
                let (first, second) = (pair[0].2, pair[1].2);
                return Err(Violation::Overlap { first, second });
            }
        }
        Ok(())
    }

    fn check_range(&self, service: u32, range: SlotRange) -> Result<(), Violation> {
        let end = u64::from(range.base) + u64::from(range.len());
        bounded("SLOTS", end.saturating_sub(1), self.limits.slots.max(1))?;
        for slot in range.base..end as u32 {
            let &backend = self.slots.get(&slot).ok_or(Violation::NoSlot { service, slot })?;
            match self.backends.get(&backend) {
                Some(entry) if entry.generation != 0 && entry.service == service => {}
                Some(entry) if entry.generation != 0 => {
                    let owner = entry.service;
                    return Err(Violation::ForeignBackend {
                        service,
                        slot,
                        backend,
                        owner,
                    });
                }
                _ => return Err(Violation::DeadBackend { service, slot, backend }),
            }
        }
        Ok(())
    }

    fn write_backend(&mut self, id: u32, value: &Backend) -> Result<(), Violation> {
        bounded("BACKENDS", u64::from(id), self.limits.backends)?;
        if self.held().iter().any(|held| held.backends.contains(&id)) {
            return Err(Violation::NoGrace {
                table: "BACKENDS",
                index: id,
            });
        }
        let old = self.backends.get(&id);
        if old.is_some_and(|old| old.generation != 0) {
            return Err(Violation::BackendInUse { id });
        }
        let last = old.map_or(0, |old| old.last_generation);
        if value.generation != 0 || value.last_generation <= last {
            let generation = value.last_generation;
            return Err(Violation::Generation { id, generation });
        }
        self.backends.insert(id, *value);
        Ok(())
    }

    fn publish_backend(&mut self, id: u32, generation: u32) -> Result<(), Violation> {
        match self.backends.get_mut(&id) {
            Some(backend) if backend.last_generation == generation && generation != 0 => {
                backend.generation = generation;
                Ok(())
            }
            _ => Err(Violation::Generation { id, generation }),
        }
    }

    fn write_slots(&mut self, base: u32, ids: &[u32]) -> Result<(), Violation> {
        let length = ids.len() as u32;
        bounded(
            "SLOTS",
            u64::from(base) + u64::from(length.saturating_sub(1)),
            self.limits.slots,
        )?;
        let overlaps = |range: SlotRange| base < range.base + range.len() && range.base < base + length;
        for (service, entry) in self.used_services() {
            if overlaps(SlotRange::unpack(entry.range)) {
                return Err(Violation::SlotsInUse { base, length, service });
            }
        }
        let freed = |held: &Recent| held.ranges.iter().any(|range| overlaps(*range));
        if self.held().into_iter().any(freed) {
            return Err(Violation::NoGrace {
                table: "SLOTS",
                index: base,
            });
        }
        self.slots.extend((base..).zip(ids.iter().copied()));
        Ok(())
    }

    /// The entry of a service that is about to be written.
    fn service_mut(&mut self, id: u32) -> Result<&mut Service, Violation> {
        bounded("SERVICES", u64::from(id), self.limits.services)?;
        let unwritten = Service {
            range: 0,
            flags: 0,
            reserved: 0,
        };
        Ok(self.services.entry(id).or_insert(unwritten))
    }

    fn put_network(&mut self, key: NetworkKey) -> Result<(), Violation> {
        if self.networks.contains(&key) {
            return Err(Violation::NetworkExists { key });
        }
        if self.networks.len() >= self.limits.networks as usize {
            let size = self.limits.networks;
            return Err(Violation::NetworksFull { size });
        }
        self.networks.insert(key);
        Ok(())
    }

    fn put_frontend(&mut self, key: FrontendKey, value: Frontend) -> Result<(), Violation> {
        let index = value.service;
        if self.frontends.contains_key(&key) {
            return Err(Violation::FrontendExists { key });
        }
        if self.held().iter().any(|held| !held.frontends.is_empty()) {
            return Err(Violation::FrontendNoGrace { key });
        }
        if self.held().iter().any(|held| held.services.contains(&index)) {
            return Err(Violation::NoGrace {
                table: "SERVICES",
                index,
            });
        }
        if self.frontends.len() >= self.limits.frontends as usize {
            let size = self.limits.frontends;
            return Err(Violation::FrontendsFull { size });
        }
        let unused = !self.frontends.values().any(|other| other.service == index);
        let unguarded = |service: &Service| service.flags & service_flags::SOURCE_RANGES == 0;
        if unused
            && self.services.get(&index).is_some_and(unguarded)
            && self.networks.iter().any(|network| network.set == index)
        {
            return Err(Violation::StaleNetworks { service: index });
        }
        self.frontends.insert(key, value);
        Ok(())
    }

    fn delete_frontend(&mut self, key: FrontendKey) -> Result<(), Violation> {
        let Some(value) = self.frontends.remove(&key) else {
            return Err(Violation::FrontendMissing { key });
        };
        self.recent.frontends.insert(key);
        let id = value.service;
        if !self.frontends.values().any(|other| other.service == id) {
            self.recent.services.insert(id);
            let range = self.services.get(&id).map(|service| SlotRange::unpack(service.range));
            self.recent.ranges.extend(range);
        }
        Ok(())
    }

    /// Services that a frontend leads to.
    fn used_services(&self) -> impl Iterator<Item = (u32, Service)> {
        let used: BTreeSet<u32> = self.frontends.values().map(|value| value.service).collect();
        used.into_iter()
            .filter_map(|id| self.services.get(&id).map(|service| (id, *service)))
    }
}

fn bounded(table: &'static str, index: u64, size: u32) -> Result<(), Violation> {
    if index < u64::from(size) {
        return Ok(());
    }
    Err(Violation::OutOfBounds { table, index, size })
}

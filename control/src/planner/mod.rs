//! From desired ports to an ordered plan: ids, slot ranges, and what the kernel holds.
//!
//! A plan is made in rounds. The writes of one round, of all services together, are in this order:
//!
//! 1. new backends, then their generations; slots; new source ranges; counters of new services; flags; flips; the NodePort
//!    span, widened; new frontends
//! 2. frontends that go; flips away of services that go; source ranges and backends that go
//!
//! What was freed can be used again after a grace period. A plan does not wait for one at its end: the agent does, while it goes on
//! ([`Planner::begin_grace`]). A plan waits itself, with [`Op::Grace`], where it puts frontends after others were deleted, and before
//! another round. There is one only for ports that could not be finished: a frontend that moves from one service to another is
//! deleted in one round and put in the next, and so never shows one service's value under another's key; a full table
//! gets its second chance the same way.

mod diff;
mod plan;
mod port;
mod quarantine;
mod ranges;
mod restore;
mod shared;

pub use diff::Difference;
pub(crate) use plan::frontend_name;
pub use plan::{Limits, Op, Plan, Refusal, RefusalReason};
pub use restore::Snapshot;

use crate::desired::{Changes, DesiredPort, Endpoint};
use crate::names::PortName;
use crate::notice::{Notice, NoticeKind};
use ferrogate_common::{FrontendKey, FrontendKind, NetworkKey, SlotRange};
use litemap::LiteMap;
use port::Round;
use quarantine::Quarantine;
use ranges::Ranges;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A plan never needs more: each round finishes what the one before made room for.
const MAX_ROUNDS: usize = 16;

/// Owns the ids, and remembers what the kernel holds when all plans so far are applied.
#[derive(Debug)]
pub struct Planner {
    limits: Limits,
    ports: BTreeMap<PortName, Box<Programmed>>,
    /// Service id of every frontend in the table.
    frontends: HashMap<FrontendKey, u32>,
    /// Service id to its port.
    owners: HashMap<u32, PortName>,
    /// How many frontends have each NodePort.
    node_ports: BTreeMap<u16, u32>,
    /// The span in the table.
    node_port_span: (u16, u16),
    service_ids: Ranges,
    /// Without 0, so that a slot that was never written names no backend.
    backend_ids: Ranges,
    slots: Ranges,
    /// The last generation of each backend id.
    generations: Vec<u32>,
    /// Ports that were not finished, by name.
    pending: BTreeMap<PortName, DesiredPort>,
    refused: BTreeSet<Refusal>,
    /// What the kernel held at the start and no desired port has claimed, by service id.
    unclaimed: BTreeMap<u32, Box<Programmed>>,
    /// Remains of a plan that an earlier run did not finish.
    stray_frontends: Vec<FrontendKey>,
    stray_backends: Vec<u32>,
    stray_networks: Vec<NetworkKey>,
    /// Entries of `NETWORKS` that are services'.
    networks: usize,
    /// Keys of an address as such that many services share: all that want one. One of them owns it.
    sharers: BTreeMap<FrontendKey, BTreeSet<PortName>>,
    /// Such keys whose owner has given them up.
    orphans: BTreeSet<FrontendKey>,
    /// Freed, and not to be given out yet.
    quarantine: Quarantine,
    /// An earlier run may have freed something and not waited.
    unsettled: bool,
}

/// One service port as the kernel has it. Sorted lists, where most have a few entries: a map keeps room for eleven.
#[derive(Debug, Default)]
struct Programmed {
    id: u32,
    /// `None`: not known, to be written.
    flags: Option<u32>,
    /// `None`: not known or not to be trusted, to be written. Nothing of it is ours to free.
    range: Option<SlotRange>,
    /// What stands in the range.
    slots: Vec<u32>,
    backends: LiteMap<Endpoint, u32>,
    /// Those of them that have the flag LOCAL_ONLY.
    local_only: BTreeSet<u32>,
    frontends: LiteMap<FrontendKey, FrontendKind>,
    networks: BTreeSet<NetworkKey>,
    /// The keys in [`Planner::sharers`] that name this port.
    shared: BTreeSet<FrontendKey>,
}

/// What is programmed for one service port, for status and metrics.
#[derive(Clone, Copy, Debug)]
pub struct PortView<'a> {
    pub name: &'a PortName,
    /// Index into `SERVICES`.
    pub id: u32,
    /// Bits of [`ferrogate_common::service_flags`].
    pub flags: u32,
    pub range: SlotRange,
    pub frontends: &'a LiteMap<FrontendKey, FrontendKind>,
    /// Endpoint to index into `BACKENDS`.
    pub backends: &'a LiteMap<Endpoint, u32>,
}

impl Planner {
    /// For tables that are empty.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ports: BTreeMap::new(),
            frontends: HashMap::new(),
            owners: HashMap::new(),
            node_ports: BTreeMap::new(),
            node_port_span: (0, 0),
            service_ids: Ranges::new(limits.services),
            backend_ids: Ranges::from_one(limits.backends),
            slots: Ranges::new(limits.slots),
            generations: Vec::new(),
            pending: BTreeMap::new(),
            refused: BTreeSet::new(),
            unclaimed: BTreeMap::new(),
            stray_frontends: Vec::new(),
            stray_backends: Vec::new(),
            stray_networks: Vec::new(),
            networks: 0,
            sharers: BTreeMap::new(),
            orphans: BTreeSet::new(),
            quarantine: Quarantine::default(),
            unsettled: false,
        }
    }

    /// The writes that take the tables to the desired state. The planner takes them as made: when applying a plan
    /// fails, begin again with [`Planner::restore`].
    ///
    /// The first [`Changes`] after [`Planner::restore`] should be full: only then is what nobody claims removed.
    pub fn plan(&mut self, changes: &Changes) -> Plan {
        let pending = std::mem::take(&mut self.pending);
        let (gone, mut open) = self.goals(changes, &pending);
        self.adopt(&open);
        let mut round = Round::default();
        gone.iter().for_each(|name| self.remove(name, &mut round));
        self.sweep(changes.full, &mut round);

        let mut ops = Vec::new();
        let mut unfinished = Vec::new();
        for _ in 0..MAX_ROUNDS {
            unfinished.clear();
            for port in open.drain(..) {
                let reasons = self.reach(port, &mut round);
                if !reasons.is_empty() {
                    unfinished.push((port, reasons));
                }
            }
            let made_room = self.finish(std::mem::take(&mut round), &mut ops);
            let more_room = !unfinished.is_empty() && (made_room || self.remove_bare(&unfinished, &mut ops));
            let goes_on = !unfinished.is_empty() && (self.settle(&mut ops) || more_room);
            self.hand_over(&mut round);
            if !goes_on {
                break;
            }
            open.extend(unfinished.iter().map(|(port, _)| *port));
        }
        self.finish(round, &mut ops);
        self.narrow_node_ports(&mut ops);
        if !ops.is_empty() && std::mem::take(&mut self.unsettled) {
            ops.insert(0, Op::Grace);
        }
        let (notices, completed) = self.record(unfinished);
        Plan {
            ops,
            refused: self.refused.iter().cloned().collect(),
            notices,
            completed,
        }
    }

    /// Everything that is programmed, by name.
    pub fn ports(&self) -> impl Iterator<Item = PortView<'_>> {
        self.ports.iter().map(|(name, port)| PortView {
            name,
            id: port.id,
            flags: port.flags.unwrap_or_default(),
            range: port.range.unwrap_or_default(),
            frontends: &port.frontends,
            backends: &port.backends,
        })
    }

    /// What is desired and not programmed, as of the last plan.
    pub fn refused(&self) -> impl Iterator<Item = &Refusal> {
        self.refused.iter()
    }

    /// Ports to remove and ports to bring to their desired state, the older service first.
    fn goals<'a>(
        &self,
        changes: &'a Changes,
        pending: &'a BTreeMap<PortName, DesiredPort>,
    ) -> (Vec<PortName>, Vec<&'a DesiredPort>) {
        let all = changes.services.values().flatten();
        let mut open: Vec<&DesiredPort> = all.filter(|port| !port.frontends.is_empty()).collect();
        let listed: BTreeSet<&PortName> = open.iter().map(|port| &port.name).collect();
        let gone = if changes.full {
            self.ports
                .keys()
                .filter(|name| !listed.contains(name))
                .cloned()
                .collect()
        } else {
            let of_service = |service| {
                let first = PortName::first_of(service);
                self.ports
                    .range(first..)
                    .map(|(name, _)| name)
                    .take_while(move |name| name.service == *service)
            };
            let all = changes.services.keys().flat_map(of_service);
            let gone = all.filter(|name| !listed.contains(name)).cloned().collect();
            open.extend(
                pending
                    .values()
                    .filter(|port| !changes.services.contains_key(&port.name.service)),
            );
            gone
        };
        open.sort_by_key(|port| (port.created.is_none(), port.created, &port.name));
        open.dedup_by_key(|port| &port.name);
        (gone, open)
    }

    /// What nobody claims: always the remains of an unfinished plan, and whole services when all that exist are known.
    fn sweep(&mut self, full: bool, round: &mut Round) {
        let strays = std::mem::take(&mut self.stray_frontends);
        round.delete(strays);
        round.retire(std::mem::take(&mut self.stray_backends));
        let strays = std::mem::take(&mut self.stray_networks);
        round.delete_stray_networks(strays);
        if full {
            for (_, port) in std::mem::take(&mut self.unclaimed) {
                self.dismantle(*port, round);
            }
        }
    }

    /// Appends a round's writes, and remembers what it freed. True when there is more room for a next round.
    fn finish(&mut self, round: Round, ops: &mut Vec<Op>) -> bool {
        let settled = round.has_puts() && self.quarantine.has_frontends() && self.settle(ops);
        // Counts what is still to be freed, so that this is never narrower than the table.
        let span = self.exact_node_ports();
        let changed = span != self.node_port_span && span != (0, 0);
        let widened = changed.then_some(span);
        if changed {
            self.node_port_span = span;
        }
        let freed = round.emit(widened, ops);
        let made_room = settled || !freed.is_empty() || freed.networks > 0;
        // Until now they had their place.
        self.networks -= freed.networks;
        for key in &freed.frontends {
            self.frontends.remove(key);
            if self.sharers.contains_key(key) {
                self.orphans.insert(*key);
            }
            self.count_node_port(key, false);
        }
        for id in &freed.services {
            self.owners.remove(id);
        }
        self.quarantine.add(freed);
        made_room
    }

    /// A port that can have none of its frontends is not kept: nothing leads to it, and nothing would find it after a
    /// restart. True when there was one.
    fn remove_bare(&mut self, unfinished: &[(&DesiredPort, Vec<RefusalReason>)], ops: &mut Vec<Op>) -> bool {
        let mut round = Round::default();
        for (port, _) in unfinished {
            if self
                .ports
                .get(&port.name)
                .is_some_and(|programmed| programmed.frontends.is_empty())
            {
                self.remove(&port.name, &mut round);
            }
        }
        self.finish(round, ops)
    }

    fn narrow_node_ports(&mut self, ops: &mut Vec<Op>) {
        let exact = self.exact_node_ports();
        if exact != self.node_port_span {
            self.node_port_span = exact;
            let (min, max) = exact;
            ops.push(Op::SetNodePorts { min, max });
        }
    }

    fn exact_node_ports(&self) -> (u16, u16) {
        let ends = self.node_ports.first_key_value().zip(self.node_ports.last_key_value());
        ends.map_or((0, 0), |((&min, _), (&max, _))| (min, max))
    }

    fn count_node_port(&mut self, key: &FrontendKey, put: bool) {
        if key.address != key.address.unspecified() {
            return;
        }
        let count = self.node_ports.entry(key.port.get()).or_default();
        *count = if put { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.node_ports.remove(&key.port.get());
        }
    }

    /// Remembers what was not finished, for the next plan; returns what of it is news for the operator, and the ports that
    /// were unfinished until now.
    fn record(&mut self, unfinished: Vec<(&DesiredPort, Vec<RefusalReason>)>) -> (Vec<Notice>, Vec<PortName>) {
        let before = std::mem::take(&mut self.refused);
        let mut known: BTreeMap<&PortName, Vec<&RefusalReason>> = BTreeMap::new();
        for refusal in &before {
            known.entry(&refusal.port).or_default().push(&refusal.reason);
        }
        let mut notices = Vec::new();
        for (port, reasons) in unfinished {
            for reason in reasons {
                let refusal = Refusal {
                    port: port.name.clone(),
                    reason,
                };
                let mut held = known.get(&refusal.port).into_iter().flatten();
                if !held.any(|held| held.is_like(&refusal.reason)) {
                    notices.push(notice(&refusal));
                }
                self.refused.insert(refusal);
            }
            self.pending.insert(port.name.clone(), port.clone());
        }
        let whole = |port: &&PortName| self.ports.contains_key(*port) && !self.pending.contains_key(*port);
        let completed = known.into_keys().filter(whole).cloned().collect();
        (notices, completed)
    }
}

fn notice(refusal: &Refusal) -> Notice {
    let port = refusal.port.clone();
    Notice {
        service: port.service.clone(),
        kind: match &refusal.reason {
            RefusalReason::FrontendTaken { key, holder } => NoticeKind::FrontendTaken {
                frontend: frontend_name(key),
                port,
                holder: holder.clone(),
            },
            reason => NoticeKind::NoRoom {
                port,
                reason: reason.clone(),
            },
        },
    }
}

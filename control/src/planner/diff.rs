//! What the kernel's tables hold, beside what they should: entry by entry.

use super::plan::frontend_name;
use super::{Planner, Programmed, Snapshot};
use crate::names::PortName;
use ferrogate_common::{Backend, Frontend, FrontendKey, FrontendKind, NetworkKey, SlotRange, backend_flags};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

/// One entry of one map that is not as desired.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Difference {
    pub map: &'static str,
    /// The key, as people write it.
    pub entry: String,
    /// The Service port that it is of, where it is of one.
    pub port: Option<PortName>,
    /// `None`: there should be none.
    pub desired: Option<String>,
    /// `None`: there is none.
    pub found: Option<String>,
}

/// Differences as they are found.
struct Comparison<'a> {
    found: &'a Snapshot,
    frontends: HashMap<FrontendKey, Frontend>,
    networks: BTreeSet<NetworkKey>,
    entries: u64,
    differences: Vec<Difference>,
}

impl Planner {
    /// Compares what every plan so far should have left with what the tables hold. Also returns how many entries were compared.
    ///
    /// What is about to be written differs: the caller looks twice.
    pub fn differences(&self, found: &Snapshot) -> (u64, Vec<Difference>) {
        let mut comparison = Comparison {
            found,
            frontends: found.frontends.iter().copied().collect(),
            networks: found.networks.iter().copied().collect(),
            entries: 0,
            differences: Vec::new(),
        };
        for (name, port) in &self.ports {
            comparison.frontends_of(name, port);
            comparison.service(name, port);
            comparison.networks_of(name, port);
            for (endpoint, id) in &port.backends {
                let wanted = Backend {
                    address: endpoint.address,
                    port: endpoint.port,
                    flags: flags_of(port, *id, endpoint.local),
                    generation: self.generations.get(*id as usize).copied().unwrap_or_default(),
                    service: port.id,
                    last_generation: 0,
                };
                comparison.backend(name, *id, &wanted);
            }
        }
        comparison.nobodys(self);
        let span = |(low, high): (u16, u16)| Some(format!("{low} to {high}"));
        comparison.compare(
            ("CONFIG", "span of NodePorts".to_owned(), None),
            span(self.node_port_span),
            span(found.node_ports),
        );
        comparison.differences.sort();
        (comparison.entries, comparison.differences)
    }
}

fn flags_of(port: &Programmed, id: u32, local: bool) -> u16 {
    let local = if local { backend_flags::LOCAL } else { 0 };
    let only = if port.local_only.contains(&id) {
        backend_flags::LOCAL_ONLY
    } else {
        0
    };
    local | only
}

impl Comparison<'_> {
    fn compare(
        &mut self,
        (map, entry, port): (&'static str, String, Option<&PortName>),
        desired: Option<String>,
        found: Option<String>,
    ) {
        self.entries += 1;
        if desired != found {
            self.differences.push(Difference {
                map,
                entry,
                port: port.cloned(),
                desired,
                found,
            });
        }
    }

    fn frontends_of(&mut self, name: &PortName, port: &Programmed) {
        for (key, kind) in &port.frontends {
            let desired = frontend(&Frontend::new(port.id, *kind));
            let found = self.frontends.get(key).map(frontend);
            self.compare(("FRONTENDS", frontend_name(key), Some(name)), Some(desired), found);
        }
    }

    /// The element of `SERVICES`, and the slots that it names. Only services that a frontend leads to are in the snapshot.
    fn service(&mut self, name: &PortName, port: &Programmed) {
        let Some(service) = self.found.services.get(&port.id).copied() else {
            return;
        };
        let flags = |flags: u32| Some(format!("flags {flags:#x}"));
        let place = ("SERVICES", format!("{} flags", port.id), Some(name));
        self.compare(place, flags(port.flags.unwrap_or_default()), flags(service.flags));
        let (wanted, found) = (port.range.unwrap_or_default(), SlotRange::unpack(service.range));
        let range = |range: SlotRange| {
            format!(
                "{} slots of the Cluster set and {} of the Local set from {}",
                range.cluster, range.local, range.base
            )
        };
        let place = ("SERVICES", format!("{} range", port.id), Some(name));
        self.compare(place, Some(range(wanted)), Some(range(found)));
        if wanted != found || wanted.is_empty() {
            return;
        }
        let held = self.found.slots.get(&found.base).cloned().unwrap_or_default();
        for (index, id) in port.slots.iter().enumerate() {
            let slot = wanted.base.saturating_add(index as u32);
            let backend = |id: &u32| format!("backend {id}");
            let found = held.get(index).map(backend);
            self.compare(("SLOTS", slot.to_string(), Some(name)), Some(backend(id)), found);
        }
    }

    fn backend(&mut self, name: &PortName, id: u32, wanted: &Backend) {
        let held = self.found.backends.get(&id).filter(|held| held.generation != 0);
        let place = ("BACKENDS", id.to_string(), Some(name));
        self.compare(place, Some(backend(wanted)), held.map(backend));
    }

    fn networks_of(&mut self, name: &PortName, port: &Programmed) {
        for key in &port.networks {
            let found = self.networks.contains(key).then(|| "a member".to_owned());
            self.compare(
                ("NETWORKS", network(key), Some(name)),
                Some("a member".to_owned()),
                found,
            );
        }
    }

    /// What the tables hold and no port has: that an earlier run left is another matter, until all is known.
    fn nobodys(&mut self, planner: &Planner) {
        let unclaimed = || planner.unclaimed.values();
        let extra: BTreeMap<FrontendKey, Frontend> = self
            .frontends
            .iter()
            .filter(|(key, _)| !planner.frontends.contains_key(key))
            .map(|(key, value)| (*key, *value))
            .collect();
        for (key, value) in extra {
            self.compare(("FRONTENDS", frontend_name(&key), None), None, Some(frontend(&value)));
        }
        let all = || planner.ports.values().chain(unclaimed());
        let mut ids: BTreeSet<u32> = all().flat_map(|port| port.backends.values().copied()).collect();
        ids.extend(&planner.stray_backends);
        let live = self.found.backends.iter().filter(|(_, held)| held.generation != 0);
        let extra: Vec<_> = live
            .filter(|(id, _)| !ids.contains(id))
            .map(|(id, held)| (*id, *held))
            .collect();
        for (id, held) in extra {
            self.compare(("BACKENDS", id.to_string(), None), None, Some(backend(&held)));
        }
        let mut keys: BTreeSet<NetworkKey> = all().flat_map(|port| port.networks.iter().copied()).collect();
        keys.extend(&planner.stray_networks);
        let extra: Vec<NetworkKey> = self.networks.difference(&keys).copied().collect();
        for key in extra {
            self.compare(("NETWORKS", network(&key), None), None, Some("a member".to_owned()));
        }
    }
}

fn frontend(value: &Frontend) -> String {
    let kind = FrontendKind::from_number(value.kind).map_or("unknown kind", FrontendKind::name);
    format!("{kind} of service {}", value.service)
}

fn backend(value: &Backend) -> String {
    let address = SocketAddr::new(value.address.ip(), value.port.get());
    format!(
        "{address} of service {}, generation {}, flags {:#x}",
        value.service, value.generation, value.flags
    )
}

fn network(key: &NetworkKey) -> String {
    let (address, bits) = (key.address, key.prefix());
    let length = if address.is_v4() {
        bits.saturating_sub(ferrogate_common::V4_PREFIX)
    } else {
        bits
    };
    format!("{address}/{length} in the set of service {}", key.set)
}

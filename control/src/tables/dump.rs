//! The tables as text, for goldens and for people.

use super::MemoryTables;
use crate::planner::frontend_name;
use ferrogate_common::{
    Algorithm, BackendSet, FrontendKind, NetworkKey, SlotRange, V4_PREFIX, backend_flags, service_flags,
};
use std::fmt;
use std::net::SocketAddr;

/// ```text
/// FRONTENDS
///   10.96.0.10:80/TCP ClusterIP -> service 0
/// SERVICES
///   0 range 0..2
///     cluster  0: backend 1
///     cluster  1: backend 2
/// BACKENDS
///   1 10.244.1.12:8081 service 0 generation 1 local
/// ```
/// Only what is in use: services that a frontend leads to, backends with a generation.
impl fmt::Display for MemoryTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "FRONTENDS")?;
        let mut frontends: Vec<_> = self.frontends.iter().collect();
        frontends.sort_by_key(|(key, _)| (key.address.ip(), key.port.get(), key.protocol));
        for (key, value) in frontends {
            let kind = FrontendKind::from_number(value.kind).map_or("?", FrontendKind::name);
            writeln!(f, "  {} {kind} -> service {}", frontend_name(key), value.service)?;
        }
        writeln!(f, "SERVICES")?;
        for (id, service) in self.used_services() {
            let range = SlotRange::unpack(service.range);
            writeln!(
                f,
                "  {id} range {}..{}{}",
                range.base,
                range.base + range.len(),
                policies(service.flags)
            )?;
            for network in self.networks.iter().filter(|network| network.set == id) {
                writeln!(f, "    source {}", network_name(network))?;
            }
            for (name, set) in [("cluster", BackendSet::Cluster), ("local", BackendSet::Local)] {
                let (base, length) = range.set(set);
                for slot in base..base + length {
                    match self.slots.get(&slot) {
                        Some(backend) => writeln!(f, "    {name} {slot}: backend {backend}")?,
                        None => writeln!(f, "    {name} {slot}: unwritten")?,
                    }
                }
            }
        }
        writeln!(f, "BACKENDS")?;
        for (id, backend) in self.backends.iter().filter(|(_, backend)| backend.generation != 0) {
            let address = SocketAddr::new(backend.address.ip(), backend.port.get());
            let local = if backend.flags & backend_flags::LOCAL != 0 {
                " local"
            } else {
                ""
            };
            writeln!(
                f,
                "  {id} {address} service {} generation {}{local}",
                backend.service, backend.generation
            )?;
        }
        match self.node_ports {
            (0, 0) => Ok(()),
            (min, max) => writeln!(f, "NODE PORTS\n  {min}..={max}"),
        }
    }
}

fn policies(flags: u32) -> String {
    let mut text = String::new();
    for (flag, name) in [
        (service_flags::INTERNAL_LOCAL, " internal=Local"),
        (service_flags::EXTERNAL_LOCAL, " external=Local"),
        (service_flags::NEEDS_CLIENT, " needs-client"),
        (service_flags::SOURCE_RANGES, " guarded"),
        (service_flags::NODE_ALLOWED, " node-allowed"),
    ] {
        if flags & flag != 0 {
            text.push_str(name);
        }
    }
    let algorithm = Algorithm::of(flags);
    if algorithm != Algorithm::RoundRobin {
        text.push_str(&format!(" {}", algorithm.name()));
    }
    let affinity = flags >> service_flags::AFFINITY_SHIFT;
    if affinity != 0 {
        text.push_str(&format!(" affinity={affinity}s"));
    }
    text
}

fn network_name(key: &NetworkKey) -> String {
    let mapped = if key.address.is_v4() { V4_PREFIX } else { 0 };
    format!("{}/{}", key.address, key.prefix().saturating_sub(mapped))
}

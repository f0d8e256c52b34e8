//! How full the tables are.

use super::error::{During as _, Result};
use super::sys::Map;
use super::tables::{Tables, reading};
use bytemuck::Pod;
use ferrogate_common::maps::{self, MapSpec};
use ferrogate_common::{Address, SlotRange};
use std::collections::BTreeSet;

/// How full a table is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    pub map: &'static str,
    pub used: u32,
    pub entries: u32,
}

impl Tables {
    /// How full the tables are that can be full, in the order of `ferrogate_common::maps`. Walks them, so not for every
    /// scrape of a large node. `SLOTS` counts what services have: in pieces it has less room than it seems.
    pub fn usage(&self) -> Result<Vec<Usage>> {
        let mut services = BTreeSet::new();
        let mut frontends = 0;
        self.frontends
            .for_each(|_, values| {
                services.insert(values[0].service);
                frontends += 1;
                true
            })
            .during(|| reading(maps::FRONTENDS))?;
        let ranges = services.iter().filter_map(|id| self.services.read(*id));
        let slots = ranges.map(|service| SlotRange::unpack(service.range).len()).sum();
        let in_use = |id: &u32| self.backends.read(*id).is_some_and(|backend| backend.generation != 0);
        let backends = (0..self.backends.entries()).filter(in_use).count();
        let mut sources = 0;
        self.sources
            .for_each(|_, values| {
                sources += u32::from(values[0] != Address::UNSPECIFIED);
                true
            })
            .during(|| reading(maps::SOURCES))?;
        let limits = self.limits();
        let of = |spec: MapSpec, used, entries| Usage {
            map: spec.name,
            used,
            entries,
        };
        let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(vec![
            of(maps::FRONTENDS, frontends, self.frontends.entries()),
            of(maps::SERVICES, small(services.len()), limits.services),
            of(maps::SLOTS, slots, limits.slots),
            // Of both, the first index is nobody's.
            of(maps::BACKENDS, small(backends), limits.backends.saturating_sub(1)),
            of(maps::SOURCES, sources, self.sources.entries().saturating_sub(1)),
            counted(&self.node_addresses, maps::NODE_ADDRESSES)?,
            counted(&self.networks, maps::NETWORKS)?,
            counted(&self.interfaces, maps::INTERFACES)?,
            counted(&self.flows, maps::FLOWS)?,
            counted(&self.half_open, maps::HALF_OPEN)?,
            counted(&self.snat_flows, maps::SNAT_FLOWS)?,
            counted(&self.affinity, maps::AFFINITY)?,
            counted(&self.fragments, maps::FRAGMENTS)?,
            counted(&self.socket_pairs, maps::SOCKET_PAIRS)?,
            counted(&self.udp_sockets, maps::UDP_SOCKETS)?,
            counted(&self.cgroups, maps::CGROUPS)?,
        ])
    }
}

fn counted<K: Pod, V: Pod>(map: &Map<K, V>, spec: MapSpec) -> Result<Usage> {
    let mut used = 0;
    map.for_each(|_, _| {
        used += 1;
        true
    })
    .during(|| reading(spec))?;
    Ok(Usage {
        map: spec.name,
        used,
        entries: map.entries(),
    })
}

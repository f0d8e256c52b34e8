//! Writing a plan into the tables, and reading back what they hold.

use super::error::{During as _, Error, Result};
use super::sys::Mapping;
use super::tables::{Tables, reading, writing};
use bytemuck::Pod;
use ferrogate_common::maps::{self, MapSpec};
use ferrogate_common::{
    Backend, Config, Frontend, FrontendKey, NetworkKey, Service, SlotRange, address_roles, config_flags,
};
use ferrogate_control::{Limits, Op, Plan, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::mem::offset_of;

impl Tables {
    /// Sizes of the tables that a plan is made for; pinned ones may differ from the defaults.
    pub fn limits(&self) -> Limits {
        Limits {
            frontends: self.frontends.entries(),
            services: self
                .services
                .entries()
                .min(self.cursors)
                .min(self.connections.entries())
                .min(self.socket_connections.entries()),
            slots: self.slots.entries(),
            backends: self.backends.entries().min(self.active.entries()),
            networks: self.networks.entries().saturating_sub(NetworkKey::CLUSTER_ENTRIES),
        }
    }

    /// Makes the plan's writes in its order. Frontends in a row go in batches.
    ///
    /// # Errors
    /// The first write that fails ends it; what was written before stays, and by the plan's order no look-up dangles.
    pub fn apply(&self, plan: &Plan) -> Result<()> {
        let mut ops = plan.ops.as_slice();
        while let Some(first) = ops.first() {
            let alike = match first {
                Op::PutFrontend { .. } => run_of(ops, |op| matches!(op, Op::PutFrontend { .. })),
                Op::DeleteFrontend { .. } => run_of(ops, |op| matches!(op, Op::DeleteFrontend { .. })),
                Op::ResetCounters { .. } => run_of(ops, |op| matches!(op, Op::ResetCounters { .. })),
                _ => 1,
            };
            let (run, rest) = ops.split_at(alike);
            match first {
                Op::PutFrontend { .. } => self.put_frontends(run)?,
                Op::DeleteFrontend { .. } => self.delete_frontends(run)?,
                Op::ResetCounters { .. } => self.reset_counters(run)?,
                op => self.apply_one(op)?,
            }
            ops = rest;
        }
        Ok(())
    }

    fn apply_one(&self, op: &Op) -> Result<()> {
        let generation = offset_of!(Backend, generation);
        match op {
            Op::WriteBackend { id, value } => {
                self.add_role(&value.address, address_roles::BACKEND);
                // Flows of the id's last use end without being counted: they carry its generation.
                self.active.publish_wide(*id, 0, 0);
                // Not in use first, then the rest: a reader sees 0 or, after the publication, the whole entry.
                let written = self.backends.publish(*id, generation, 0) && self.backends.write(*id, value);
                within(written, &self.backends, maps::BACKENDS, *id)
            }
            Op::PublishBackend { id, generation: value } => within(
                self.backends.publish(*id, generation, *value),
                &self.backends,
                maps::BACKENDS,
                *id,
            ),
            Op::RetireBackend { id } => within(
                self.backends.publish(*id, generation, 0),
                &self.backends,
                maps::BACKENDS,
                *id,
            ),
            Op::WriteBackendFlags { id, port, flags } => {
                // The two share an aligned word, in the order of the fields.
                let ([a, b], [c, d]) = (port.be().to_ne_bytes(), flags.to_ne_bytes());
                let word = u32::from_ne_bytes([a, b, c, d]);
                let written = self.backends.publish(*id, offset_of!(Backend, port), word);
                within(written, &self.backends, maps::BACKENDS, *id)
            }
            Op::WriteSlots { base, ids } => (*base..)
                .zip(ids)
                .try_for_each(|(index, id)| within(self.slots.write(index, id), &self.slots, maps::SLOTS, index)),
            Op::WriteServiceFlags { id, flags } => {
                let offset = offset_of!(Service, flags);
                within(
                    self.services.publish(*id, offset, *flags),
                    &self.services,
                    maps::SERVICES,
                    *id,
                )
            }
            Op::Flip { id, range } => {
                let offset = offset_of!(Service, range);
                within(
                    self.services.publish_wide(*id, offset, range.pack()),
                    &self.services,
                    maps::SERVICES,
                    *id,
                )
            }
            Op::PutNetwork { key } => self.networks.put(key, &0).during(|| writing(maps::NETWORKS)),
            Op::DeleteNetwork { key } => self.networks.delete(key).during(|| writing(maps::NETWORKS)).map(drop),
            Op::SetNodePorts { min, max } => self.update_config(|config| {
                config.node_port_min = *min;
                config.node_port_max = *max;
            }),
            Op::Grace => self.grace(),
            Op::PutFrontend { .. } => self.put_frontends(std::slice::from_ref(op)),
            Op::DeleteFrontend { .. } => self.delete_frontends(std::slice::from_ref(op)),
            Op::ResetCounters { .. } => self.reset_counters(std::slice::from_ref(op)),
        }
    }

    fn put_frontends(&self, ops: &[Op]) -> Result<()> {
        let entries = ops.iter().filter_map(|op| match op {
            Op::PutFrontend { key, value } => Some((*key, *value)),
            _ => None,
        });
        let (keys, values): (Vec<FrontendKey>, Vec<Frontend>) = entries.unzip();
        for key in &keys {
            self.add_role(&key.address, address_roles::DESTINATION);
        }
        self.frontends
            .put_all(&keys, &values)
            .during(|| writing(maps::FRONTENDS))
    }

    fn delete_frontends(&self, ops: &[Op]) -> Result<()> {
        let keys: Vec<FrontendKey> = ops
            .iter()
            .filter_map(|op| match op {
                Op::DeleteFrontend { key } => Some(*key),
                _ => None,
            })
            .collect();
        self.frontends.delete_all(&keys).during(|| writing(maps::FRONTENDS))
    }

    fn reset_counters(&self, ops: &[Op]) -> Result<()> {
        let ids: BTreeSet<u32> = ops
            .iter()
            .filter_map(|op| match op {
                Op::ResetCounters { id } => Some(*id),
                _ => None,
            })
            .collect();
        for id in &ids {
            self.connections.clear(id).during(|| writing(maps::CONNECTIONS))?;
            self.socket_connections
                .clear(id)
                .during(|| writing(maps::SOCKET_CONNECTIONS))?;
        }
        let ids_of_traffic: Vec<u32> = ids.iter().copied().collect();
        self.traffic
            .delete_all(&ids_of_traffic)
            .during(|| writing(maps::TRAFFIC))?;
        let mut keys = Vec::new();
        self.refusals
            .for_each(|key, _| {
                keys.extend(ids.contains(&key.service).then_some(*key));
                true
            })
            .during(|| reading(maps::REFUSALS))?;
        self.refusals.delete_all(&keys).during(|| writing(maps::REFUSALS))
    }

    /// Sets what the programs are told of the node, but for what has writers of its own: the span of NodePorts (the plans),
    /// the node's addresses and the flag of bridge ports (the network), the levels of cgroups, and the flag of
    /// [`Tables::set_cluster_networks`]. The filter is off until [`Tables::fill_filter`].
    pub fn set_config(&self, config: Config) -> Result<()> {
        // First of all, so that there is no moment at which replies to older flows are not known for what they are.
        self.update_config(|held| (held.known_port_base, held.known_port_count) = known_ports(held, &config))?;
        self.update_config(|held| {
            *held = Config {
                known_port_base: held.known_port_base,
                known_port_count: held.known_port_count,
                node_port_min: held.node_port_min,
                node_port_max: held.node_port_max,
                flags: config.flags | (held.flags & (config_flags::CLUSTER_CIDRS | config_flags::BRIDGE_PORTS)),
                node_source4: held.node_source4,
                node_source6: held.node_source6,
                cgroup_levels: held.cgroup_levels,
                ..config
            };
        })
    }

    /// Whether connections that no table knows may be another proxy's, and are left to the kernel.
    pub fn set_take_over(&self, on: bool) -> Result<()> {
        self.set_flag(config_flags::TAKE_OVER, on)
    }

    /// Whether whatever has no flow is left to the kernel: flows go on, and none is made. An agent that starts ends this.
    pub fn set_hand_over(&self, on: bool) -> Result<()> {
        self.set_flag(config_flags::HAND_OVER, on)
    }

    pub(super) fn set_flag(&self, flag: u32, on: bool) -> Result<()> {
        self.update_config(|config| config.flags = if on { config.flags | flag } else { config.flags & !flag })
    }

    /// The kernel copies the element in words of 8 bytes, and what must change together stands in the first one.
    pub(super) fn update_config(&self, change: impl FnOnce(&mut Config)) -> Result<()> {
        let mut config = self.config()?;
        let before = config;
        change(&mut config);
        if config == before {
            return Ok(());
        }
        self.config.put(&0, &config).during(|| writing(maps::CONFIG))
    }

    /// What the tables hold, for [`ferrogate_control::Planner::restore`].
    pub fn snapshot(&self) -> Result<Snapshot> {
        let mut frontends = Vec::new();
        let mut services = BTreeMap::new();
        self.frontends
            .for_each(|key, values| {
                frontends.push((*key, values[0]));
                true
            })
            .during(|| reading(maps::FRONTENDS))?;
        let mut slots = BTreeMap::new();
        for id in frontends.iter().map(|(_, frontend)| frontend.service) {
            let Some(service) = self.services.read(id) else {
                continue;
            };
            services.insert(id, service);
            let range = SlotRange::unpack(service.range);
            let end = u64::from(range.base) + u64::from(range.len());
            if !range.is_empty() && end <= u64::from(self.slots.entries()) {
                let indexes = range.base..range.base + range.len();
                slots.insert(range.base, indexes.filter_map(|index| self.slots.read(index)).collect());
            }
        }
        let backends = (0..self.backends.entries())
            .filter_map(|id| Some((id, self.backends.read(id)?)))
            .filter(|(_, backend)| backend.generation != 0 || backend.last_generation != 0)
            .collect();
        let config = self.config()?;
        Ok(Snapshot {
            frontends,
            services,
            slots,
            backends,
            networks: self.networks_where(|key| key.set != NetworkKey::CLUSTER)?,
            node_ports: (config.node_port_min, config.node_port_max),
        })
    }
}

/// How many operations from the first one on are alike.
fn run_of(ops: &[Op], alike: impl Fn(&Op) -> bool) -> usize {
    ops.iter().take_while(|op| alike(op)).count()
}

fn within<T: Pod>(written: bool, array: &Mapping<T>, spec: MapSpec, index: u32) -> Result<()> {
    if written {
        return Ok(());
    }
    Err(Error::OutOfRange {
        map: spec.name,
        entries: array.entries(),
        index,
    })
}

/// The ports, first and number, that flows may have which were made while `held` was in place, or before: none where they are all among those
/// that are wanted now.
fn known_ports(held: &Config, wanted: &Config) -> (u16, u16) {
    let span = |base: u16, count: u16| (count > 0).then(|| (u32::from(base), u32::from(base) + u32::from(count)));
    let wanted = span(wanted.snat_port_base, wanted.snat_port_count);
    let hull = [
        wanted,
        span(held.snat_port_base, held.snat_port_count),
        span(held.known_port_base, held.known_port_count),
    ]
    .into_iter()
    .flatten()
    .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
    match hull {
        Some((first, end)) if hull != wanted => {
            let number = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
            (number(first), number(end - first))
        }
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable as _;

    fn ports(base: u16, count: u16, known: (u16, u16)) -> Config {
        Config {
            snat_port_base: base,
            snat_port_count: count,
            known_port_base: known.0,
            known_port_count: known.1,
            ..Config::zeroed()
        }
    }

    #[test]
    fn ports_of_an_earlier_range_stay_known() {
        let wanted = ports(14_000, 16_000, (0, 0));
        let known = |base, count, before| known_ports(&ports(base, count, before), &wanted);
        assert_eq!(known(0, 0, (0, 0)), (0, 0), "the first agent");
        assert_eq!(known(14_000, 16_000, (0, 0)), (0, 0), "the same range");
        assert_eq!(known(24_000, 4096, (0, 0)), (0, 0), "a wider range");
        assert_eq!(known(10_000, 4096, (0, 0)), (10_000, 20_000), "another one");
        assert_eq!(known(14_000, 16_000, (10_000, 20_000)), (10_000, 20_000), "since long");
        assert_eq!(known(61_000, 4536, (0, 0)), (14_000, 51_536), "up to the last port");
    }
}

//! The counters and the flow tables, for people and metrics.

use super::error::{During as _, Result};
use super::sys::Map;
use super::tables::{Tables, reading};
use ferrogate_common::maps;
use ferrogate_common::{Address, Direction, Flow, Interface, Reason, SnatFlow, Traffic, Tuple, flow_flags};
use std::collections::{BTreeMap, BTreeSet};

/// Which table a flow was found in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FlowTable {
    Established,
    HalfOpen,
    /// Replies to flows whose source was changed too.
    Snat,
}

impl FlowTable {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::HalfOpen => "half-open",
            Self::Snat => "snat",
        }
    }
}

/// What is stored for a tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowEntry {
    Flow(Flow),
    Snat(SnatFlow),
}

/// One entry of a flow table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowRow {
    pub table: FlowTable,
    /// The packet's addresses before translation.
    pub tuple: Tuple,
    pub entry: FlowEntry,
}

impl FlowRow {
    /// Which way its packets go.
    pub fn direction(&self) -> Direction {
        if self.tuple.direction == Direction::Forward as u8 {
            Direction::Forward
        } else {
            Direction::Reply
        }
    }

    /// Bits of [`flow_flags`].
    pub fn flags(&self) -> u16 {
        match self.entry {
            FlowEntry::Flow(flow) => flow.flags,
            FlowEntry::Snat(flow) => flow.flags,
        }
    }

    /// Names of the flags.
    pub fn flag_names(&self) -> impl Iterator<Item = &'static str> {
        let names = [
            (flow_flags::SNAT, "snat"),
            (flow_flags::TRANSIT, "transit"),
            (flow_flags::HAIRPIN, "hairpin"),
            (flow_flags::NODE, "node"),
            (flow_flags::PORT_ONLY, "port"),
            (flow_flags::CLOSING, "closing"),
        ];
        let flags = self.flags();
        names
            .into_iter()
            .filter(move |(bit, _)| flags & bit != 0)
            .map(|(_, name)| name)
    }

    /// Last packet, in whole seconds of the boot clock ([`boot_seconds`]).
    pub fn seen(&self) -> u32 {
        match self.entry {
            FlowEntry::Flow(flow) => flow.seen,
            FlowEntry::Snat(flow) => flow.seen,
        }
    }
}

/// What the programs have counted of one Service port, since its index was given to it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// New connections through the packet edges, and through the socket edge.
    pub packet: u64,
    pub socket: u64,
    /// Packets and calls that got no further, by reason and [`ferrogate_common::trace_edge`].
    pub refusals: BTreeMap<(Reason, u8), u64>,
    /// What the packet edges have translated; nothing without `--service-traffic`.
    pub traffic: Traffic,
}

impl Counted {
    /// New connections.
    pub fn connections(&self) -> u64 {
        self.packet + self.socket
    }

    /// Everything that was refused, or what was for one reason.
    pub fn refused(&self, why: Option<Reason>) -> u64 {
        let of = |(reason, _): &(Reason, u8)| why.is_none_or(|why| why == *reason);
        self.refusals
            .iter()
            .filter(|(key, _)| of(key))
            .map(|(_, count)| count)
            .sum()
    }
}

/// The clock that flows are stamped by: seconds since boot, without time suspended (CLOCK_MONOTONIC).
pub fn boot_seconds() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u32::try_from(now.tv_sec).unwrap_or(u32::MAX)
}

/// The same clock, nanoseconds.
pub fn boot_nanos() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let nanos = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    u64::try_from(nanos).unwrap_or_default()
}

impl Tables {
    /// Verdicts by reason, summed over the CPUs, in order of [`Reason::ALL`].
    pub fn reasons(&self) -> Result<Vec<(Reason, u64)>> {
        let mut sums = BTreeMap::new();
        self.reasons
            .for_each(|index, values| {
                sums.insert(*index, sum(values));
                true
            })
            .during(|| reading(maps::REASONS))?;
        let of = |reason: &Reason| (*reason, sums.get(&u32::from(*reason as u8)).copied().unwrap_or(0));
        Ok(Reason::ALL.iter().map(of).collect())
    }

    /// Connections and UDP flows that the programs have made so far.
    pub fn made(&self) -> Result<u64> {
        let counts = self
            .reasons
            .get(&(Reason::NewFlow as u32))
            .during(|| reading(maps::REASONS))?;
        Ok(sum(&counts.unwrap_or_default()))
    }

    /// What was counted by index into `SERVICES`, summed over the CPUs; services without anything are left out.
    pub fn counted(&self) -> Result<BTreeMap<u32, Counted>> {
        let mut services: BTreeMap<u32, Counted> = BTreeMap::new();
        let mut count = |map: &Map<u32, u64>, spec, field: fn(&mut Counted) -> &mut u64| {
            map.for_each(|service, values| {
                let total = sum(values);
                if total != 0 {
                    *field(services.entry(*service).or_default()) = total;
                }
                true
            })
            .during(|| reading(spec))
        };
        count(&self.connections, maps::CONNECTIONS, |counted| &mut counted.packet)?;
        count(&self.socket_connections, maps::SOCKET_CONNECTIONS, |counted| {
            &mut counted.socket
        })?;
        self.refusals
            .for_each(|key, values| {
                if let Some(reason) = Reason::ALL.iter().find(|reason| **reason as u8 == key.reason) {
                    let refusals = &mut services.entry(key.service).or_default().refusals;
                    refusals.insert((*reason, key.edge), sum(values));
                }
                true
            })
            .during(|| reading(maps::REFUSALS))?;
        self.traffic
            .for_each(|service, values| {
                let traffic = &mut services.entry(*service).or_default().traffic;
                for of_cpu in values {
                    traffic.merge(of_cpu);
                }
                true
            })
            .during(|| reading(maps::TRAFFIC))?;
        Ok(services)
    }

    /// Up to `limit` flows: the established ones first. They are read while packets change them.
    pub fn flows(&self, limit: usize) -> Result<Vec<FlowRow>> {
        let mut rows = Vec::new();
        let tables = [
            (&self.flows, FlowTable::Established, maps::FLOWS),
            (&self.half_open, FlowTable::HalfOpen, maps::HALF_OPEN),
        ];
        for (map, table, spec) in tables {
            map.for_each(|tuple, values| {
                if rows.len() < limit {
                    let (tuple, entry) = (*tuple, FlowEntry::Flow(values[0]));
                    rows.push(FlowRow { table, tuple, entry });
                }
                rows.len() < limit
            })
            .during(|| reading(spec))?;
        }
        self.snat_flows
            .for_each(|tuple, values| {
                if rows.len() < limit {
                    let (table, tuple, entry) = (FlowTable::Snat, *tuple, FlowEntry::Snat(values[0]));
                    rows.push(FlowRow { table, tuple, entry });
                }
                rows.len() < limit
            })
            .during(|| reading(maps::SNAT_FLOWS))?;
        Ok(rows)
    }

    /// The forward entries of the flow tables, which are one a connection. They are read while packets change them.
    pub fn connections_now(&self, mut visit: impl FnMut(FlowTable, &Tuple, &Flow)) -> Result<()> {
        let tables = [
            (&self.flows, FlowTable::Established, maps::FLOWS),
            (&self.half_open, FlowTable::HalfOpen, maps::HALF_OPEN),
        ];
        for (map, table, spec) in tables {
            map.for_each(|tuple, values| {
                if tuple.direction == Direction::Forward as u8 {
                    visit(table, tuple, &values[0]);
                }
                true
            })
            .during(|| reading(spec))?;
        }
        Ok(())
    }

    /// The addresses in `NODE_ADDRESSES`.
    pub fn node_addresses(&self) -> Result<BTreeSet<Address>> {
        let mut addresses = BTreeSet::new();
        self.node_addresses
            .for_each(|address, _| {
                addresses.insert(*address);
                true
            })
            .during(|| reading(maps::NODE_ADDRESSES))?;
        Ok(addresses)
    }

    /// The addresses in `SOURCES`, by index.
    pub fn sources(&self) -> Result<BTreeMap<u32, Address>> {
        let mut sources = BTreeMap::new();
        self.sources
            .for_each(|index, values| {
                if values[0] != Address::UNSPECIFIED {
                    sources.insert(*index, values[0]);
                }
                true
            })
            .during(|| reading(maps::SOURCES))?;
        Ok(sources)
    }

    /// `INTERFACES`, by ifindex.
    pub fn interfaces(&self) -> Result<BTreeMap<u32, Interface>> {
        let mut interfaces = BTreeMap::new();
        self.interfaces
            .for_each(|ifindex, values| {
                interfaces.insert(*ifindex, values[0]);
                true
            })
            .during(|| reading(maps::INTERFACES))?;
        Ok(interfaces)
    }
}

/// Counters wrap.
fn sum(values: &[u64]) -> u64 {
    values.iter().fold(0, |total, value| total.wrapping_add(*value))
}

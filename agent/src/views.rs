//! Tables into what people read.

use crate::admin::{EndpointRow, FlowEntry, FlowsPage, FrontendRow, MapStatus, ReasonCount, ServiceRow, TrafficCount};
use crate::kernel::{Counted, FlowEntry as Stored, FlowRow, FlowTable, Tables, boot_seconds};
use anyhow::Result;
use ferrogate_common::{
    Address, Direction, FrontendKey, FrontendKind, Port, Protocol, Reason, TICK_SHIFT, Traffic, Tuple, flow_flags, maps,
};
use ferrogate_control::PortView;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Counters of all reasons.
pub(crate) fn reasons(counts: Vec<(Reason, u64)>) -> Vec<ReasonCount> {
    let row = |(reason, count): (Reason, u64)| ReasonCount {
        reason: reason.label().to_owned(),
        count,
        drop: reason.is_drop(),
        description: reason.description().to_owned(),
    };
    counts.into_iter().map(row).collect()
}

/// How full the hash tables are.
pub(crate) fn maps(tables: &Tables) -> Result<Vec<MapStatus>> {
    let purpose = |name: &str| {
        maps::ALL
            .iter()
            .find(|spec| spec.name == name)
            .map_or("", |spec| spec.purpose)
    };
    let usage = tables.usage()?.into_iter().map(|usage| MapStatus {
        name: usage.map.to_owned(),
        purpose: purpose(usage.map).to_owned(),
        used: Some(usage.used.into()),
        limit: usage.entries.into(),
    });
    Ok(usage.collect())
}

/// A row of `ferrogate services`.
pub(crate) fn service(port: &PortView<'_>, counted: Option<&Counted>) -> ServiceRow {
    ServiceRow {
        namespace: port.name.service.namespace.to_string(),
        name: port.name.service.name.to_string(),
        port: port.name.port,
        protocol: port.name.protocol.name().to_owned(),
        family: port.name.family.to_string(),
        kind: kind(port.frontends.values().copied()),
        id: port.id,
        frontends: port
            .frontends
            .iter()
            .filter(|(_, kind)| kind.has_port())
            .map(|(key, kind)| frontend(key, *kind))
            .collect(),
        endpoints: port
            .backends
            .keys()
            .map(|one| EndpointRow {
                address: socket(one.address, one.port),
                local: one.local,
            })
            .collect(),
        connections: counted.map_or(0, Counted::connections),
        refused: counted.map_or(0, |counted| counted.refused(None)),
    }
}

/// What packet edges have carried; nothing without `--service-traffic`.
pub(crate) fn traffic(counted: &Counted) -> Option<TrafficCount> {
    let Traffic { packets, bytes } = counted.traffic;
    (!counted.traffic.is_empty()).then_some(TrafficCount {
        request_packets: packets[0],
        request_bytes: bytes[0],
        reply_packets: packets[1],
        reply_bytes: bytes[1],
    })
}

/// The Service's type, as far as its addresses tell.
pub(crate) fn kind(kinds: impl Iterator<Item = FrontendKind>) -> String {
    let kinds: Vec<FrontendKind> = kinds.collect();
    let kind = [FrontendKind::LoadBalancer, FrontendKind::NodePort]
        .into_iter()
        .find(|kind| kinds.contains(kind));
    kind.unwrap_or(FrontendKind::ClusterIp).name().to_owned()
}

pub(crate) fn frontend(key: &FrontendKey, kind: FrontendKind) -> FrontendRow {
    FrontendRow {
        kind: kind.name().to_owned(),
        address: (!is_any(key)).then(|| key.address.ip()),
        port: key.port.get(),
    }
}

/// Whether the key stands for every address of the node.
fn is_any(key: &FrontendKey) -> bool {
    key.address == key.address.unspecified()
}

pub(crate) fn socket(address: Address, port: Port) -> SocketAddr {
    SocketAddr::new(address.ip(), port.get())
}

/// Names of services by their frontends.
pub(crate) type Names = HashMap<FrontendKey, String>;

/// Which flows to list.
#[derive(Clone, Copy)]
pub(crate) struct Filter<'a> {
    /// Those of these frontends; `None`: all.
    pub(crate) frontends: Option<&'a BTreeSet<FrontendKey>>,
    pub(crate) client: Option<IpAddr>,
    pub(crate) limit: u32,
}

/// Connections: the forward entries of the flow tables, the most recent first. Their replies' entries say nothing more.
/// However many there are, no more than the limit are held.
pub(crate) fn flows(tables: &Tables, names: &Names, filter: Filter<'_>) -> Result<FlowsPage> {
    let sources = tables.sources()?;
    let now = boot_seconds();
    let limit = filter.limit as usize;
    let mut latest = Latest::new(limit);
    tables.connections_now(|table, tuple, flow| {
        let of_client = filter.client.is_none_or(|client| tuple.source.ip() == client);
        let asked = || {
            filter
                .frontends
                .is_none_or(|wanted| frontend_of(tuple, |key| wanted.contains(key)).is_some())
        };
        if of_client && asked() {
            latest.add((Reverse(flow.seen), *tuple), (table, *flow));
        }
    })?;
    let truncated = latest.left_out;
    let rows = latest.rows.into_iter().filter_map(|((_, tuple), (table, stored))| {
        let entry = Stored::Flow(stored);
        flow(&FlowRow { table, tuple, entry }, names, &sources, now)
    });
    Ok(FlowsPage {
        flows: rows.collect(),
        truncated,
    })
}

/// The first few of many, by their keys.
struct Latest<K, V> {
    rows: BTreeMap<K, V>,
    limit: usize,
    /// Whether there were more.
    left_out: bool,
}

impl<K: Ord, V> Latest<K, V> {
    fn new(limit: usize) -> Self {
        Self {
            rows: BTreeMap::new(),
            limit,
            left_out: false,
        }
    }

    fn add(&mut self, key: K, value: V) {
        let full = self.rows.len() >= self.limit;
        if full && self.rows.last_key_value().is_none_or(|(last, _)| *last < key) {
            self.left_out = true;
            return;
        }
        self.rows.insert(key, value);
        if self.rows.len() > self.limit {
            self.rows.pop_last();
            self.left_out = true;
        }
    }
}

/// The frontend that a request was sent to, as the tables may have it: with its address, or with any of the node's.
fn frontend_of(tuple: &Tuple, known: impl Fn(&FrontendKey) -> bool) -> Option<FrontendKey> {
    let exact = FrontendKey {
        address: tuple.destination,
        port: tuple.destination_port,
        protocol: tuple.protocol,
        reserved: 0,
    };
    let any = FrontendKey {
        address: tuple.destination.unspecified(),
        ..exact
    };
    [exact, any].into_iter().find(|key| known(key))
}

/// Whether a port's `namespace/name:port` is of the Service called `wanted` (`name` or `namespace/name`).
pub(crate) fn is_of(port: &str, wanted: &str) -> bool {
    let service = port.rsplit_once(':').map_or(port, |(service, _)| service);
    matches_service(service.split_once('/').unwrap_or(("", service)), wanted)
}

/// Whether the Service {namespace, name} is called `wanted` (`name` or `namespace/name`).
pub(crate) fn matches_service((namespace, name): (&str, &str), wanted: &str) -> bool {
    match wanted.split_once('/') {
        Some(wanted) => wanted == (namespace, name),
        None => wanted == name,
    }
}

/// How many connections each backend has by each of these frontends.
pub(crate) fn flows_by_backend(
    tables: &Tables,
    frontends: &BTreeSet<FrontendKey>,
) -> Result<BTreeMap<(FrontendKey, SocketAddr), u64>> {
    let mut counts = BTreeMap::new();
    tables.connections_now(|_, tuple, flow| {
        if let Some(key) = frontend_of(tuple, |key| frontends.contains(key)) {
            *counts.entry((key, socket(flow.address, flow.port))).or_default() += 1;
        }
    })?;
    Ok(counts)
}

fn flow(row: &FlowRow, names: &Names, sources: &BTreeMap<u32, Address>, now: u32) -> Option<FlowEntry> {
    let Stored::Flow(flow) = row.entry else { return None };
    if row.direction() != Direction::Forward || row.table == FlowTable::Snat {
        return None;
    }
    let tuple = row.tuple;
    let protocol = Protocol::from_number(tuple.protocol);
    let service = frontend_of(&tuple, |key| names.contains_key(key)).and_then(|key| names.get(&key).cloned());
    let translated = flow.flags & flow_flags::SNAT != 0;
    let source = sources.get(&u32::from(flow.source)).filter(|_| translated);
    let marks = row.flag_names().filter(|name| !matches!(*name, "snat" | "closing"));
    let seen = Duration::from_nanos(u64::from(flow.seen) << TICK_SHIFT);
    let closing = flow.flags & flow_flags::CLOSING != 0;
    Some(FlowEntry {
        protocol: protocol.map_or_else(|| tuple.protocol.to_string(), |protocol| protocol.name().to_owned()),
        client: socket(tuple.source, tuple.source_port),
        frontend: socket(tuple.destination, tuple.destination_port),
        backend: socket(flow.address, flow.port),
        snat: source.map(|source| socket(*source, flow.source_port)),
        service,
        state: if closing { "closing" } else { row.table.name() }.to_owned(),
        marks: marks.map(str::to_owned).collect(),
        idle_seconds: u64::from(now).saturating_sub(seen.as_secs()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;
    use ferrogate_common::Flow;
    use std::net::Ipv4Addr;

    fn row(direction: Direction, flags: u16) -> FlowRow {
        let tuple = Tuple {
            source: Ipv4Addr::new(192, 0, 2, 9).into(),
            destination: Ipv4Addr::new(192, 0, 2, 1).into(),
            source_port: Port::new(40_000),
            destination_port: Port::new(30_080),
            protocol: Protocol::Tcp as u8,
            direction: direction as u8,
            reserved: 0,
        };
        let flow = Flow {
            address: Ipv4Addr::new(10, 1, 0, 1).into(),
            port: Port::new(8080),
            source_port: Port::new(24_001),
            source: 1,
            flags,
            seen: 90,
            ..Flow::zeroed()
        };
        FlowRow {
            table: FlowTable::Established,
            tuple,
            entry: Stored::Flow(flow),
        }
    }

    #[test]
    fn a_forward_entry_is_a_connection_with_its_service_and_its_new_source() {
        let any = FrontendKey::new(Address::UNSPECIFIED_V4, Port::new(30_080), Protocol::Tcp);
        let names = Names::from([(any, "default/web:80".to_owned())]);
        let sources = BTreeMap::from([(1, Ipv4Addr::new(10, 0, 0, 1).into())]);
        let flags = flow_flags::SNAT | flow_flags::TRANSIT;
        let found = flow(&row(Direction::Forward, flags), &names, &sources, 100).expect("a connection");
        assert_eq!(found.service.as_deref(), Some("default/web:80"));
        assert_eq!(found.snat, Some(([10, 0, 0, 1], 24_001).into()));
        assert_eq!((found.marks, found.idle_seconds), (vec!["transit".to_owned()], 4));
        let plain = flow(&row(Direction::Forward, flow_flags::CLOSING), &names, &sources, 100).expect("a connection");
        assert_eq!((plain.snat, plain.state.as_str()), (None, "closing"));
        assert!(flow(&row(Direction::Reply, 0), &names, &sources, 100).is_none());
    }

    #[test]
    fn services_are_found_by_name_with_and_without_their_namespace() {
        assert!(is_of("default/web:80", "web") && is_of("default/web:80", "default/web"));
        assert!(!is_of("default/web:80", "we") && !is_of("default/web:80", "shop/web"));
    }

    #[test]
    fn of_many_the_first_few_are_held_and_what_is_left_out_is_said() {
        let mut latest = Latest::new(3);
        for key in [5, 1, 4] {
            latest.add(key, ());
        }
        assert!(!latest.left_out);
        for key in [9, 2, 3] {
            latest.add(key, ());
        }
        assert!(latest.left_out);
        assert_eq!(latest.rows.into_keys().collect::<Vec<_>>(), [1, 2, 3]);
    }
}

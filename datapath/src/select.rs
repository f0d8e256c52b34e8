//! Selection: from a frontend to the backend of a new connection.

use crate::env::{Clock, Random, Tables};
use crate::hash;
use ferrogate_common::{
    Address, Affinity, AffinityKey, Algorithm, Backend, BackendSet, Config, Direction, Frontend, FrontendKey,
    FrontendKind, Port, Reason, RefusalKey, Service, SlotRange, Tuple, backend_flags, config_flags, service_flags,
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Looks a destination up: a Service's own address first, then NodePorts on any of the node's addresses; with `any_is_node` on whichever
/// address.
#[inline(always)]
pub(crate) fn frontend<T: Tables>(
    tables: &T,
    address: &Address,
    port: Port,
    protocol: u8,
    any_is_node: bool,
) -> Option<Frontend> {
    let mut key = FrontendKey {
        address: *address,
        port,
        protocol,
        reserved: 0,
    };
    if let Some(frontend) = tables.frontend(&key) {
        return Some(frontend);
    }
    let config = tables.config();
    let host_port = port.get();
    if host_port < config.node_port_min || host_port > config.node_port_max {
        return None;
    }
    if !any_is_node && !tables.is_node_address(address) {
        return None;
    }
    key.address = address.unspecified();
    tables.frontend(&key)
}

/// Counts a packet that gets no further for its Service, which is looked up once more: nothing has to be remembered on the way here, and
/// there is no hurry.
#[inline(always)]
pub fn refuse<T: Tables>(tables: &mut T, request: &Tuple, edge: u8, reason: u8) {
    let (address, port) = (&request.destination, request.destination_port);
    if let Some(frontend) = frontend(tables, address, port, request.protocol, false) {
        tables.count_refusal(&RefusalKey {
            service: frontend.service,
            reason,
            edge,
            reserved: 0,
        });
    }
}

/// Counts a translated packet for the Service that this frontend is of.
#[inline(always)]
pub fn carry<T: Tables>(
    tables: &mut T,
    address: &Address,
    port: Port,
    (protocol, direction): (u8, u8),
    packets: u32,
    bytes: u32,
) {
    // It was translated, so this is a frontend: of another node's, where that has handed the packet over.
    if let Some(frontend) = frontend(tables, address, port, protocol, true) {
        let direction = if direction == Direction::Reply as u8 {
            Direction::Reply
        } else {
            Direction::Forward
        };
        tables.count_traffic(frontend.service, direction, packets, bytes);
    }
}

/// What a destination without a frontend is: [`Reason::NoSuchPort`] on a Service's ClusterIP,
/// [`Reason::UnknownClusterIp`] inside a ServiceCIDR, else [`Reason::NotService`].
#[inline(always)]
pub(crate) fn without_frontend<T: Tables>(tables: &T, address: &Address) -> Reason {
    // Services that came since are another proxy's.
    if tables.config().flags & config_flags::HAND_OVER != 0 {
        return Reason::NotService;
    }
    match address_alone(tables, address) {
        Some(known) if known.is(FrontendKind::Address) => Reason::NoSuchPort,
        Some(_) => Reason::NotService,
        // A node can have such an address itself.
        None if tables.is_in_service_cidrs(address) && !tables.is_node_address(address) => Reason::UnknownClusterIp,
        None => Reason::NotService,
    }
}

/// What a packet to a Service is that begins no connection and belongs to none.
#[inline(always)]
pub(crate) fn unknown(config: Config) -> Reason {
    if config.flags & config_flags::TAKE_OVER != 0 {
        Reason::LeftToKernel
    } else {
        Reason::NoFlow
    }
}

/// The entry of an address as such.
#[inline(always)]
pub(crate) fn address_alone<T: Tables>(tables: &T, address: &Address) -> Option<Frontend> {
    tables.frontend(&FrontendKey::address_alone(*address))
}

/// Whether an address is a Service's own, and neither one of a node nor left alone.
#[inline(always)]
pub(crate) fn is_service_address<T: Tables>(tables: &T, address: &Address) -> bool {
    address_alone(tables, address).is_some_and(|known| !known.is(FrontendKind::Foreign))
}

/// Whether a load balancer's address refuses this source (loadBalancerSourceRanges).
#[inline(always)]
pub(crate) fn is_refused_source<T: Tables>(
    tables: &T,
    frontend: &Frontend,
    service: &Service,
    source: &Address,
) -> bool {
    frontend.is(FrontendKind::LoadBalancer)
        && service.flags & service_flags::SOURCE_RANGES != 0
        && !tables.is_in_networks(frontend.service, source)
}

/// The address by which affinity and hashing know this node's processes at the socket edge: the one that their packets have
/// on their way out of the node.
#[inline(always)]
pub(crate) fn node_client<T: Tables>(tables: &T, v4: bool) -> Option<Address> {
    let config = tables.config();
    tables.source(if v4 { config.node_source4 } else { config.node_source6 })
}

/// Who wants a connection.
pub(crate) struct Client<'a> {
    /// Its address, or what stands for it at the socket edge.
    pub(crate) address: &'a Address,
    /// Its packet; none at the socket edge.
    pub(crate) tuple: Option<&'a Tuple>,
}

/// The backend of a new connection: the one that affinity names, or the one that the service's algorithm chooses.
#[inline(always)]
pub(crate) fn backend<T: Tables + Clock + Random>(
    tables: &mut T,
    id: u32,
    service: &Service,
    set: BackendSet,
    client: &Client<'_>,
) -> Result<(u32, Backend), Reason> {
    let range = SlotRange::unpack(service.range);
    let (base, count) = range.set(set);
    if count == 0 {
        return Err(if range.is_empty() {
            Reason::NoEndpoints
        } else {
            Reason::NoLocalEndpoints
        });
    }
    let timeout = service.flags >> service_flags::AFFINITY_SHIFT;
    let key = AffinityKey {
        client: *client.address,
        service: id,
    };
    let mut chosen = None;
    if timeout != 0 {
        chosen = sticky(tables, &key, timeout, set);
    }
    let (index, backend) = match chosen {
        Some(found) => found,
        None => {
            let slots = Slots {
                service: id,
                flags: service.flags,
                base,
                count,
            };
            let picked = pick(tables, &slots, client.address, client.tuple);
            in_use(tables, picked)?
        }
    };
    if timeout != 0 {
        let seen = tables.nanos();
        let (backend, generation) = (index, backend.generation);
        tables.put_affinity(
            &key,
            &Affinity {
                seen,
                backend,
                generation,
            },
        );
    }
    Ok((index, backend))
}

/// The backend that a client had within the timeout (seconds), if it still serves.
#[inline(always)]
fn sticky<T: Tables + Clock>(tables: &T, key: &AffinityKey, timeout: u32, set: BackendSet) -> Option<(u32, Backend)> {
    let last = tables.affinity(key)?;
    if tables.nanos().wrapping_sub(last.seen) > u64::from(timeout) * NANOS_PER_SECOND {
        return None;
    }
    let backend = tables.backend(last.backend)?;
    let serves = backend.generation == last.generation && backend.service == key.service;
    let allowed = match set {
        BackendSet::Cluster => backend.flags & backend_flags::LOCAL_ONLY == 0,
        BackendSet::Local => backend.flags & backend_flags::LOCAL != 0,
    };
    (serves && allowed).then_some((last.backend, backend))
}

/// What [`pick`] picks from.
struct Slots {
    service: u32,
    flags: u32,
    base: u32,
    count: u32,
}

/// No backend has this id.
const NOBODY: u32 = 0;

/// How many slots least-connections compares.
const CANDIDATES: u32 = 4;

/// The backend that the service's algorithm chooses; [`NOBODY`] where the slot is gone.
#[inline(never)]
fn pick<T: Tables + Random>(tables: &mut T, slots: &Slots, client: &Address, tuple: Option<&Tuple>) -> u32 {
    let number = match (Algorithm::of(slots.flags), tuple) {
        (Algorithm::Maglev, Some(tuple)) => hash_of(tuple),
        // At the socket edge there is no packet yet; but the socket keeps the backend it gets.
        (Algorithm::Random | Algorithm::Maglev, _) => tables.random(),
        (Algorithm::SourceHash, _) => hash::of(client.words()),
        (Algorithm::RoundRobin | Algorithm::LeastConnections, _) => tables.next_cursor(slots.service),
    };
    // It is not 0, which this function alone cannot know.
    let count = slots.count.max(1);
    let first = number % count;
    let mut best = slot(tables, slots.base.wrapping_add(first));
    if Algorithm::of(slots.flags) as u32 == Algorithm::LeastConnections as u32 {
        let mut fewest = tables.active(best);
        for step in 1..CANDIDATES {
            let next = slot(tables, slots.base.wrapping_add((first + step) % count));
            let active = tables.active(next);
            if active < fewest {
                (best, fewest) = (next, active);
            }
        }
    }
    best
}

#[inline(always)]
fn slot<T: Tables>(tables: &T, index: u32) -> u32 {
    tables.slot(index).unwrap_or(NOBODY)
}

/// By addresses, ports and protocol: the same wherever the packet is met.
#[inline(always)]
fn hash_of(tuple: &Tuple) -> u32 {
    let [a, b, c, d] = tuple.source.words();
    let [e, f, g, h] = tuple.destination.words();
    let ports = (tuple.source_port.be() as u32) << 16 | tuple.destination_port.be() as u32;
    hash::of([a, b, c, d, e, f, g, h, tuple.protocol as u32, ports])
}

#[inline(always)]
fn in_use<T: Tables>(tables: &T, id: u32) -> Result<(u32, Backend), Reason> {
    match tables.backend(id) {
        Some(backend) if backend.generation != 0 => Ok((id, backend)),
        _ => Err(Reason::StaleService),
    }
}

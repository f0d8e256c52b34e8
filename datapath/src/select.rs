//! Selection: from a frontend to the backend of a new connection.

use crate::env::{Clock, Tables};
use ferrogate_common::{
    Address, Affinity, AffinityKey, Backend, BackendSet, Frontend, FrontendKey, Port, Reason, Service, SlotRange,
    backend_flags, service_flags,
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Looks a destination up: a Service's own address first, then NodePorts on any of the node's addresses.
#[inline(always)]
pub(crate) fn frontend<T: Tables>(
    tables: &T,
    address: &Address,
    port: Port,
    protocol: u8,
    loopback_is_node: bool,
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
    if !loopback_is_node && !tables.is_node_address(address) {
        return None;
    }
    key.address = address.unspecified();
    tables.frontend(&key)
}

/// Whether an address is a Service's ClusterIP, whatever the port.
#[inline(always)]
pub(crate) fn is_cluster_ip<T: Tables>(tables: &T, address: &Address) -> bool {
    address_alone(tables, address).is_some()
}

/// The entry of an address as such.
#[inline(always)]
pub(crate) fn address_alone<T: Tables>(tables: &T, address: &Address) -> Option<Frontend> {
    tables.frontend(&FrontendKey::address_alone(*address))
}

/// Whether an address is a Service's own, and not one of a node.
#[inline(always)]
pub(crate) fn is_service_address<T: Tables>(tables: &T, address: &Address) -> bool {
    address_alone(tables, address).is_some()
}

/// The set of backends that a frontend's policy allows a client, internal (a pod or process of the cluster) or not.
#[inline(always)]
pub(crate) fn allowed_set(frontend: &Frontend, service: &Service, internal: bool) -> BackendSet {
    let local = if frontend.is_cluster_ip() {
        service.flags & service_flags::INTERNAL_LOCAL != 0
    } else {
        // Clients inside the cluster reach every endpoint through external addresses too.
        !internal && service.flags & service_flags::EXTERNAL_LOCAL != 0
    };
    if local { BackendSet::Local } else { BackendSet::Cluster }
}

/// The backend of a new connection: the one that affinity names, or the next in turn.
///
/// `client`: the client's address, or what stands for it at the socket edge.
#[inline(always)]
pub(crate) fn backend<T: Tables + Clock>(
    tables: &mut T,
    id: u32,
    service: &Service,
    set: BackendSet,
    client: &Address,
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
        client: *client,
        service: id,
    };
    let mut chosen = None;
    if timeout != 0 {
        chosen = sticky(tables, &key, timeout, set);
    }
    let (index, backend) = match chosen {
        Some(found) => found,
        None => next(tables, id, base, count)?,
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

/// The next backend in turn.
#[inline(always)]
fn next<T: Tables>(tables: &mut T, id: u32, base: u32, count: u32) -> Result<(u32, Backend), Reason> {
    let turn = tables.next_cursor(id) % count;
    let index = tables.slot(base.wrapping_add(turn)).ok_or(Reason::StaleService)?;
    let backend = tables.backend(index).ok_or(Reason::StaleService)?;
    if backend.generation == 0 {
        return Err(Reason::StaleService);
    }
    Ok((index, backend))
}

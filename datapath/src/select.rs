//! Selection: from a frontend to the backend of a new connection.

use crate::env::Tables;
use ferrogate_common::{
    Address, Backend, BackendSet, Frontend, FrontendKey, Port, Reason, Service, SlotRange, service_flags,
};

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
    tables.frontend(&FrontendKey::address_alone(*address)).is_some()
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

/// The next backend in turn.
#[inline(always)]
pub(crate) fn backend<T: Tables>(
    tables: &mut T,
    id: u32,
    service: &Service,
    set: BackendSet,
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
    let turn = tables.next_cursor(id) % count;
    let index = tables.slot(base.wrapping_add(turn)).ok_or(Reason::StaleService)?;
    let backend = tables.backend(index).ok_or(Reason::StaleService)?;
    if backend.generation == 0 {
        return Err(Reason::StaleService);
    }
    Ok((index, backend))
}

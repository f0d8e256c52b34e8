//! The pipeline's tables are the maps.

use crate::maps::{
    ACTIVE, AFFINITY, BACKENDS, CONFIG, CURSORS, FLOWS, FRAGMENTS, FRONTENDS, HALF_OPEN, INTERFACES, NETWORKS,
    NODE_ADDRESSES, SERVICE_CIDRS, SERVICES, SLOTS, SNAT_FLOWS, SOURCES,
};
use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use aya_ebpf::maps::lpm_trie::Key;
use bytemuck::Zeroable;
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use ferrogate_common::{
    Address, Affinity, AffinityKey, Backend, Config, Direction, Flow, FragmentKey, FragmentPorts, Frontend,
    FrontendKey, Interface, NetworkKey, Service, SnatFlow, Tuple, flow_flags,
};
use ferrogate_datapath::{FlowTable, Insert};

const EEXIST: i32 = -17;

#[inline(always)]
pub(crate) fn random() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_prandom_u32() }
}

#[inline(always)]
pub(crate) fn config() -> Config {
    CONFIG.get(0).copied().unwrap_or_else(Config::zeroed)
}

#[inline(always)]
pub(crate) fn frontend(key: &FrontendKey) -> Option<Frontend> {
    // SAFETY: a frontend's value never changes while it lives; a reused element shows a service id that is still valid.
    unsafe { FRONTENDS.get(key) }.copied()
}

#[inline(always)]
pub(crate) fn is_node_address(address: &Address) -> bool {
    NODE_ADDRESSES.get_ptr(address).is_some()
}

#[inline(always)]
pub(crate) fn is_in_service_cidrs(address: &Address) -> bool {
    SERVICE_CIDRS.get(0).is_some_and(|cidrs| cidrs.contains(address))
}

#[inline(always)]
pub(crate) fn is_in_networks(set: u32, address: &Address) -> bool {
    let key = NetworkKey::look_up(set, address);
    let [a, b, c, d] = key.address.words();
    NETWORKS.get(Key::new(key.bits, [key.set, a, b, c, d])).is_some()
}

#[inline(always)]
pub(crate) fn service(id: u32) -> Option<Service> {
    SERVICES.get(id).copied()
}

/// A count that a race or an eviction took below 0 is 0.
#[inline(always)]
pub(crate) fn active(backend: u32) -> u32 {
    ACTIVE.get(backend).map_or(0, |count| (*count as i64).max(0) as u32)
}

#[inline(always)]
pub(crate) fn begin(backend: u32) {
    add_active(backend, 1);
}

/// A connection of a backend has ended; one of a use of the id before this one counts no more.
#[inline(never)]
fn end(backend: u32, generation: u32) {
    if self::generation(backend) == generation {
        add_active(backend, u64::MAX);
    }
}

#[inline(always)]
fn add_active(backend: u32, number: u64) {
    if let Some(count) = ACTIVE.get_ptr_mut(backend) {
        // SAFETY: the pointer is to a live array element, 8-byte aligned.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(count, number) };
    }
}

#[inline(always)]
pub(crate) fn next_cursor(service: u32) -> u32 {
    match CURSORS.get_ptr_mut(service) {
        // Not Relaxed: LLVM 22 makes that an addition that returns nothing, even where the old value is used.
        // SAFETY: the pointer is to a live array element, 8-byte aligned.
        Some(cursor) => unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(cursor, 1) as u32 },
        None => 0,
    }
}

#[inline(always)]
pub(crate) fn slot(index: u32) -> Option<u32> {
    SLOTS.get(index).copied()
}

#[inline(always)]
pub(crate) fn backend(id: u32) -> Option<Backend> {
    BACKENDS.get(id).copied()
}

#[inline(always)]
pub(crate) fn generation(id: u32) -> u32 {
    BACKENDS.get(id).map_or(0, |backend| backend.generation)
}

#[inline(always)]
pub(crate) fn source(index: u16) -> Option<Address> {
    if index == 0 {
        return None;
    }
    SOURCES.get(index as u32).copied()
}

#[inline(always)]
pub(crate) fn interface(ifindex: u32) -> Option<Interface> {
    // SAFETY: copied at once; the agent replaces values as a whole, and a torn read is of 16 bytes of one interface.
    unsafe { INTERFACES.get(ifindex) }.copied()
}

#[inline(always)]
fn flows(table: FlowTable) -> &'static aya_ebpf::maps::LruHashMap<Tuple, Flow> {
    match table {
        FlowTable::Established => &FLOWS,
        FlowTable::HalfOpen => &HALF_OPEN,
    }
}

#[inline(always)]
pub(crate) fn flow(table: FlowTable, key: &Tuple) -> Option<Flow> {
    // SAFETY: copied at once.
    unsafe { flows(table).get(key) }.copied()
}

#[inline(always)]
pub(crate) fn put_flow(table: FlowTable, key: &Tuple, flow: &Flow) -> bool {
    flows(table).insert(key, flow, BPF_ANY.into()).is_ok()
}

#[inline(always)]
pub(crate) fn insert_flow(table: FlowTable, key: &Tuple, flow: &Flow) -> Insert {
    inserted(flows(table).insert(key, flow, BPF_NOEXIST.into()))
}

#[inline(always)]
pub(crate) fn remove_flow(table: FlowTable, key: &Tuple) {
    // Gone already is as good.
    let _ = flows(table).remove(key);
}

#[inline(always)]
pub(crate) fn mark_flow(table: FlowTable, key: &Tuple, seen: u32, flags: u16) -> bool {
    match flows(table).get_ptr_mut(key) {
        Some(flow) => {
            // SAFETY: a live map value. If the element is evicted and reused meanwhile, another flow gets a fresh time stamp,
            // and at worst an end mark, which only matters at its next SYN and for a count that the agent corrects.
            unsafe {
                let new = flags & !(*flow).flags & flow_flags::CLOSING;
                if new != 0 && key.direction == Direction::Forward as u8 {
                    end((*flow).backend, (*flow).generation);
                }
                (*flow).seen = seen;
                (*flow).flags |= flags;
            }
            true
        }
        None => false,
    }
}

#[inline(always)]
pub(crate) fn snat_flow(key: &Tuple) -> Option<SnatFlow> {
    // SAFETY: copied at once.
    unsafe { SNAT_FLOWS.get(key) }.copied()
}

#[inline(always)]
pub(crate) fn insert_snat_flow(key: &Tuple, flow: &SnatFlow) -> Insert {
    inserted(SNAT_FLOWS.insert(key, flow, BPF_NOEXIST.into()))
}

#[inline(always)]
pub(crate) fn remove_snat_flow(key: &Tuple) {
    // Gone already is as good.
    let _ = SNAT_FLOWS.remove(key);
}

#[inline(always)]
pub(crate) fn mark_snat_flow(key: &Tuple, seen: u32, flags: u16) -> bool {
    match SNAT_FLOWS.get_ptr_mut(key) {
        Some(flow) => {
            // SAFETY: as in `mark_flow`.
            unsafe {
                (*flow).seen = seen;
                (*flow).flags |= flags;
            }
            true
        }
        None => false,
    }
}

#[inline(always)]
fn inserted(result: Result<(), i32>) -> Insert {
    match result {
        Ok(()) => Insert::Done,
        Err(EEXIST) => Insert::Exists,
        Err(_) => Insert::Failed,
    }
}

#[inline(always)]
pub(crate) fn fragment(key: &FragmentKey) -> Option<FragmentPorts> {
    // SAFETY: copied at once.
    unsafe { FRAGMENTS.get(key) }.copied()
}

#[inline(always)]
pub(crate) fn put_fragment(key: &FragmentKey, ports: &FragmentPorts) {
    // What does not fit is not remembered.
    let _ = FRAGMENTS.insert(key, ports, BPF_ANY.into());
}

#[inline(always)]
pub(crate) fn affinity(key: &AffinityKey) -> Option<Affinity> {
    // SAFETY: copied at once.
    unsafe { AFFINITY.get(key) }.copied()
}

#[inline(always)]
pub(crate) fn put_affinity(key: &AffinityKey, affinity: &Affinity) {
    // What does not fit is not remembered.
    let _ = AFFINITY.insert(key, affinity, BPF_ANY.into());
}

/// Makes a hook's context the pipeline's `Tables` and `Clock`.
macro_rules! tables_are_maps {
    ($context:ty $(, $($generics:tt)+)?) => {
        impl$(<$($generics)+>)? ferrogate_datapath::Tables for $context {
            #[inline(always)]
            fn config(&self) -> ferrogate_common::Config {
                $crate::tables::config()
            }
            #[inline(always)]
            fn frontend(&self, key: &ferrogate_common::FrontendKey) -> Option<ferrogate_common::Frontend> {
                $crate::tables::frontend(key)
            }
            #[inline(always)]
            fn is_node_address(&self, address: &ferrogate_common::Address) -> bool {
                $crate::tables::is_node_address(address)
            }
            #[inline(always)]
            fn roles(&self, address: &ferrogate_common::Address) -> u32 {
                // The verifier shall not follow each outcome by itself.
                ferrogate_datapath::Opaque::opaque(self, $crate::filter::roles(address))
            }
            #[inline(always)]
            fn add_destination(&mut self, address: &ferrogate_common::Address) {
                $crate::filter::add_destination(address);
            }
            #[inline(always)]
            fn is_in_service_cidrs(&self, address: &ferrogate_common::Address) -> bool {
                $crate::tables::is_in_service_cidrs(address)
            }
            #[inline(always)]
            fn is_in_networks(&self, set: u32, address: &ferrogate_common::Address) -> bool {
                $crate::tables::is_in_networks(set, address)
            }
            #[inline(always)]
            fn service(&self, id: u32) -> Option<ferrogate_common::Service> {
                $crate::tables::service(id)
            }
            #[inline(always)]
            fn active(&self, backend: u32) -> u32 {
                $crate::tables::active(backend)
            }
            #[inline(always)]
            fn begin(&mut self, backend: u32) {
                $crate::tables::begin(backend);
            }
            #[inline(always)]
            fn next_cursor(&mut self, service: u32) -> u32 {
                $crate::tables::next_cursor(service)
            }
            #[inline(always)]
            fn slot(&self, index: u32) -> Option<u32> {
                $crate::tables::slot(index)
            }
            #[inline(always)]
            fn backend(&self, id: u32) -> Option<ferrogate_common::Backend> {
                $crate::tables::backend(id)
            }
            #[inline(always)]
            fn generation(&self, id: u32) -> u32 {
                $crate::tables::generation(id)
            }
            #[inline(always)]
            fn source(&self, index: u16) -> Option<ferrogate_common::Address> {
                $crate::tables::source(index)
            }
            #[inline(always)]
            fn node_of(&self, address: &ferrogate_common::Address) -> Option<ferrogate_common::Address> {
                $crate::nodes::node_of(address)
            }
            #[inline(always)]
            fn is_dsr(&self) -> bool {
                $crate::nodes::is_dsr()
            }
            #[inline(always)]
            fn is_redirect(&self) -> bool {
                $crate::redirect::is_redirect()
            }
            #[inline(always)]
            fn interface(&self, ifindex: u32) -> Option<ferrogate_common::Interface> {
                $crate::tables::interface(ifindex)
            }
            #[inline(always)]
            fn flow(
                &self,
                table: ferrogate_datapath::FlowTable,
                key: &ferrogate_common::Tuple,
            ) -> Option<ferrogate_common::Flow> {
                $crate::tables::flow(table, key)
            }
            #[inline(always)]
            fn put_flow(
                &mut self,
                table: ferrogate_datapath::FlowTable,
                key: &ferrogate_common::Tuple,
                flow: &ferrogate_common::Flow,
            ) -> bool {
                $crate::tables::put_flow(table, key, flow)
            }
            #[inline(always)]
            fn insert_flow(
                &mut self,
                table: ferrogate_datapath::FlowTable,
                key: &ferrogate_common::Tuple,
                flow: &ferrogate_common::Flow,
            ) -> ferrogate_datapath::Insert {
                $crate::tables::insert_flow(table, key, flow)
            }
            #[inline(always)]
            fn remove_flow(&mut self, table: ferrogate_datapath::FlowTable, key: &ferrogate_common::Tuple) {
                $crate::tables::remove_flow(table, key);
            }
            #[inline(always)]
            fn mark_flow(
                &mut self,
                table: ferrogate_datapath::FlowTable,
                key: &ferrogate_common::Tuple,
                seen: u32,
                flags: u16,
            ) -> bool {
                $crate::tables::mark_flow(table, key, seen, flags)
            }
            #[inline(always)]
            fn snat_flow(&self, key: &ferrogate_common::Tuple) -> Option<ferrogate_common::SnatFlow> {
                $crate::tables::snat_flow(key)
            }
            #[inline(always)]
            fn insert_snat_flow(
                &mut self,
                key: &ferrogate_common::Tuple,
                flow: &ferrogate_common::SnatFlow,
            ) -> ferrogate_datapath::Insert {
                $crate::tables::insert_snat_flow(key, flow)
            }
            #[inline(always)]
            fn remove_snat_flow(&mut self, key: &ferrogate_common::Tuple) {
                $crate::tables::remove_snat_flow(key);
            }
            #[inline(always)]
            fn mark_snat_flow(&mut self, key: &ferrogate_common::Tuple, seen: u32, flags: u16) -> bool {
                $crate::tables::mark_snat_flow(key, seen, flags)
            }
            #[inline(always)]
            fn fragment(&self, key: &ferrogate_common::FragmentKey) -> Option<ferrogate_common::FragmentPorts> {
                $crate::tables::fragment(key)
            }
            #[inline(always)]
            fn put_fragment(&mut self, key: &ferrogate_common::FragmentKey, ports: &ferrogate_common::FragmentPorts) {
                $crate::tables::put_fragment(key, ports);
            }
            #[inline(always)]
            fn affinity(&self, key: &ferrogate_common::AffinityKey) -> Option<ferrogate_common::Affinity> {
                $crate::tables::affinity(key)
            }
            #[inline(always)]
            fn put_affinity(
                &mut self,
                key: &ferrogate_common::AffinityKey,
                affinity: &ferrogate_common::Affinity,
            ) {
                $crate::tables::put_affinity(key, affinity);
            }
            #[inline(always)]
            fn count(&mut self, reason: ferrogate_common::Reason) {
                let reason = ferrogate_datapath::Opaque::opaque(self, reason as u32);
                $crate::counters::count(&$crate::maps::REASONS, reason);
            }
            #[inline(always)]
            fn count_connection(&mut self, service: u32) {
                $crate::counters::count(&$crate::maps::CONNECTIONS, service);
            }
            #[inline(always)]
            fn count_socket_connection(&mut self, service: u32) {
                $crate::counters::count(&$crate::maps::SOCKET_CONNECTIONS, service);
            }
            #[inline(always)]
            fn counts_traffic(&self) -> bool {
                $crate::counters::counts_traffic()
            }
            #[inline(always)]
            fn count_traffic(
                &mut self,
                service: u32,
                direction: ferrogate_common::Direction,
                packets: u32,
                bytes: u32,
            ) {
                $crate::counters::count_traffic(service, direction, packets, bytes);
            }
            #[inline(always)]
            fn count_refusal(&mut self, key: &ferrogate_common::RefusalKey) {
                $crate::counters::count_refusal(key);
            }
            #[inline(always)]
            fn tell(&mut self, event: &ferrogate_datapath::Event<'_>) {
                let what = $crate::trace::pack(event.edge, event.reason as u8);
                $crate::trace::tell(event.tuple, event.flow, event.ifindex, what);
            }
        }

        impl$(<$($generics)+>)? ferrogate_datapath::Stages for $context {
            #[inline(always)]
            fn allocate(
                &mut self,
                request: &ferrogate_common::Tuple,
                flow: &mut ferrogate_common::Flow,
            ) -> ferrogate_common::Reason {
                $crate::stages::allocated($crate::stages::allocate_port(request, flow))
            }
            #[inline(always)]
            fn carry(
                &mut self,
                address: &ferrogate_common::Address,
                port: ferrogate_common::Port,
                (protocol, direction): (u8, u8),
                packets: u32,
                bytes: u32,
            ) {
                let what = u32::from(port.be()) << 16 | u32::from(protocol) << 8 | u32::from(direction);
                $crate::stages::carry_packet(address, what, packets, bytes);
            }
            #[inline(always)]
            fn refuse(&mut self, request: &ferrogate_common::Tuple, ifindex: u32, edge: u8, reason: u8) {
                $crate::stages::refuse(request, ifindex, edge, reason);
            }
        }

        impl$(<$($generics)+>)? ferrogate_datapath::Opaque for $context {
            #[inline(always)]
            fn opaque(&self, value: u32) -> u32 {
                value.wrapping_add(self.zero)
            }
        }

        impl$(<$($generics)+>)? ferrogate_datapath::Random for $context {
            #[inline(always)]
            fn random(&mut self) -> u32 {
                $crate::tables::random()
            }
        }

        impl$(<$($generics)+>)? ferrogate_datapath::Clock for $context {
            #[inline(always)]
            fn nanos(&self) -> u64 {
                $crate::clock::nanos()
            }
        }
    };
}
pub(crate) use tables_are_maps;

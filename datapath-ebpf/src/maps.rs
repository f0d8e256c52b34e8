//! The maps. Sizes here are the defaults; the agent may choose others when it creates them.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray, RingBuf};
use ferrogate_common::{
    Address, Affinity, AffinityKey, Backend, Config, Flow, FragmentKey, FragmentPorts, Frontend, FrontendKey,
    Interface, NextHop, NodeAddress, RefusalKey, Service, ServiceCidrs, SnatFlow, SocketPair, SocketPairKey,
    SocketState, TraceSettings, Traffic, Tuple, UdpSocket, maps,
};

#[map]
pub(crate) static CONFIG: Array<Config> = Array::with_max_entries(maps::CONFIG.entries, 0);
#[map]
pub(crate) static FRONTENDS: HashMap<FrontendKey, Frontend> = HashMap::with_max_entries(maps::FRONTENDS.entries, 0);
#[map]
pub(crate) static SERVICES: Array<Service> = Array::with_max_entries(maps::SERVICES.entries, BPF_F_MMAPABLE);
#[map]
pub(crate) static SLOTS: Array<u32> = Array::with_max_entries(maps::SLOTS.entries, BPF_F_MMAPABLE);
#[map]
pub(crate) static BACKENDS: Array<Backend> = Array::with_max_entries(maps::BACKENDS.entries, BPF_F_MMAPABLE);
#[map]
pub(crate) static ACTIVE: Array<u64> = Array::with_max_entries(maps::ACTIVE.entries, BPF_F_MMAPABLE);
#[map]
pub(crate) static CURSORS: Array<u64> = Array::with_max_entries(maps::CURSORS.entries, 0);
#[map]
pub(crate) static ADDRESSES: Array<u64> = Array::with_max_entries(maps::ADDRESSES.entries, BPF_F_MMAPABLE);
#[map]
pub(crate) static NODE_ADDRESSES: HashMap<Address, NodeAddress> =
    HashMap::with_max_entries(maps::NODE_ADDRESSES.entries, 0);
#[map]
pub(crate) static SERVICE_CIDRS: Array<ServiceCidrs> = Array::with_max_entries(maps::SERVICE_CIDRS.entries, 0);
/// Keys are [`ferrogate_common::NetworkKey`] with the part behind its first word as `data`: set and address.
#[map]
pub(crate) static NETWORKS: LpmTrie<[u32; 5], u32> = LpmTrie::with_max_entries(maps::NETWORKS.entries, 0);
#[map]
pub(crate) static NODES: HashMap<Address, Address> = HashMap::with_max_entries(maps::NODES.entries, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static SOURCES: Array<Address> = Array::with_max_entries(maps::SOURCES.entries, 0);
#[map]
pub(crate) static INTERFACES: HashMap<u32, Interface> = HashMap::with_max_entries(maps::INTERFACES.entries, 0);
#[map]
pub(crate) static ROUTES: Array<u32> = Array::with_max_entries(maps::ROUTES.entries, BPF_F_MMAPABLE);
#[map]
pub(crate) static NEXT_HOPS: PerCpuArray<NextHop> = PerCpuArray::with_max_entries(maps::NEXT_HOPS.entries, 0);
#[map]
pub(crate) static FLOWS: LruHashMap<Tuple, Flow> = LruHashMap::with_max_entries(maps::FLOWS.entries, 0);
#[map]
pub(crate) static HALF_OPEN: LruHashMap<Tuple, Flow> = LruHashMap::with_max_entries(maps::HALF_OPEN.entries, 0);
#[map]
pub(crate) static SNAT_FLOWS: LruHashMap<Tuple, SnatFlow> = LruHashMap::with_max_entries(maps::SNAT_FLOWS.entries, 0);
#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> =
    LruHashMap::with_max_entries(maps::FRAGMENTS.entries, 0);
#[map]
pub(crate) static SECOND: ProgramArray = ProgramArray::with_max_entries(maps::SECOND.entries, 0);
#[map]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, Affinity> = LruHashMap::with_max_entries(maps::AFFINITY.entries, 0);
#[btf_map]
pub(crate) static SOCKETS: SkStorage<SocketState> = SkStorage::new();
#[map]
pub(crate) static SOCKET_PAIRS: LruHashMap<SocketPairKey, SocketPair> =
    LruHashMap::with_max_entries(maps::SOCKET_PAIRS.entries, 0);
#[map]
pub(crate) static UDP_SOCKETS: LruHashMap<u64, UdpSocket> = LruHashMap::with_max_entries(maps::UDP_SOCKETS.entries, 0);
#[map]
pub(crate) static CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(maps::CGROUPS.entries, 0);
#[map]
pub(crate) static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(maps::REASONS.entries, 0);
#[map]
pub(crate) static CONNECTIONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(maps::CONNECTIONS.entries, 0);
#[map]
pub(crate) static SOCKET_CONNECTIONS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(maps::SOCKET_CONNECTIONS.entries, 0);
#[map]
pub(crate) static REFUSALS: PerCpuHashMap<RefusalKey, u64> =
    PerCpuHashMap::with_max_entries(maps::REFUSALS.entries, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static TRAFFIC: PerCpuHashMap<u32, Traffic> =
    PerCpuHashMap::with_max_entries(maps::TRAFFIC.entries, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static TRACE: Array<TraceSettings> = Array::with_max_entries(maps::TRACE.entries, 0);
#[map]
pub(crate) static TRACE_EVENTS: RingBuf = RingBuf::with_byte_size(maps::TRACE_EVENTS.entries, 0);
#[map]
pub(crate) static TRACE_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(maps::TRACE_LOST.entries, 0);

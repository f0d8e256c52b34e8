//! The maps.

use super::Touched;
use crate::env::{FlowTable, Insert, Tables};
use bytemuck::Zeroable;
use ferrogate_common::{
    Address, Affinity, AffinityKey, Backend, Config, Direction, FilterPlace, Flow, FragmentKey, FragmentPorts,
    Frontend, FrontendKey, Interface, Network, NetworkKey, Reason, RefusalKey, Service, ServiceCidrs, SnatFlow,
    SocketPair, SocketPairKey, Traffic, Tuple, address_roles, config_flags, flow_flags,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::vec;
use std::vec::Vec;

/// Number of elements of each array map: a look-up beyond finds nothing, one within finds zeros at least.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    pub services: usize,
    pub slots: usize,
    pub backends: usize,
    pub sources: usize,
}

impl Default for Sizes {
    /// Small, for tests.
    fn default() -> Self {
        Self {
            services: 64,
            slots: 1024,
            backends: 1024,
            sources: 16,
        }
    }
}

/// All maps. LRU maps do not evict here: a test that wants an eviction removes the entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostTables {
    pub config: Config,
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    pub services: Vec<Service>,
    pub slots: Vec<u32>,
    pub backends: Vec<Backend>,
    pub cursors: Vec<u64>,
    /// Connections by backend, two's complement.
    pub active: Vec<u64>,
    /// State of the random numbers.
    pub random: u32,
    pub node_addresses: BTreeSet<Address>,
    /// Elements that are not 0. [`HostTables::fill_filter`] makes them fit the rest.
    pub addresses: BTreeMap<u32, u64>,
    pub service_cidrs: ServiceCidrs,
    /// An entry matches an address by its first [`NetworkKey::bits`].
    pub networks: BTreeSet<NetworkKey>,
    pub sources: Vec<Address>,
    /// Used only where this says so, as the programs' read-only data does.
    pub is_dsr: bool,
    /// As the programs' read-only data.
    pub is_redirect: bool,
    pub nodes: BTreeMap<Address, Address>,
    pub interfaces: BTreeMap<u32, Interface>,
    pub flows: BTreeMap<Tuple, Flow>,
    pub half_open: BTreeMap<Tuple, Flow>,
    pub snat_flows: BTreeMap<Tuple, SnatFlow>,
    pub fragments: BTreeMap<FragmentKey, FragmentPorts>,
    pub affinity: BTreeMap<AffinityKey, Affinity>,
    pub socket_pairs: HashMap<SocketPairKey, SocketPair>,
    /// Sum over all CPUs, by number of [`Reason`].
    pub reasons: Vec<u64>,
    /// Sum over all CPUs, by service: of packet edges, and of the socket edge.
    pub connections: Vec<u64>,
    pub socket_connections: Vec<u64>,
    /// The same by what was refused.
    pub refusals: BTreeMap<RefusalKey, u64>,
    /// Packets and bytes by service; counted only where this says so, as the programs' read-only data does.
    pub counts_traffic: bool,
    pub traffic: BTreeMap<u32, Traffic>,
    /// Makes every insertion into an LRU map fail, as a full or busy one does.
    pub full: bool,
    /// What was written since this was last emptied.
    pub touched: BTreeSet<Touched>,
}

impl Default for HostTables {
    fn default() -> Self {
        Self::new(Sizes::default())
    }
}

impl HostTables {
    /// Empty maps.
    pub fn new(sizes: Sizes) -> Self {
        Self {
            config: Config::zeroed(),
            frontends: BTreeMap::new(),
            services: vec![Service::zeroed(); sizes.services],
            slots: vec![0; sizes.slots],
            backends: vec![Backend::zeroed(); sizes.backends],
            cursors: vec![0; sizes.services],
            active: vec![0; sizes.backends],
            random: 1,
            node_addresses: BTreeSet::new(),
            addresses: BTreeMap::new(),
            service_cidrs: ServiceCidrs::zeroed(),
            networks: BTreeSet::new(),
            sources: vec![Address::zeroed(); sizes.sources],
            is_dsr: false,
            is_redirect: false,
            nodes: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            flows: BTreeMap::new(),
            half_open: BTreeMap::new(),
            snat_flows: BTreeMap::new(),
            fragments: BTreeMap::new(),
            affinity: BTreeMap::new(),
            socket_pairs: HashMap::new(),
            reasons: vec![0; ferrogate_common::maps::REASONS.entries as usize],
            connections: vec![0; sizes.services],
            socket_connections: vec![0; sizes.services],
            refusals: BTreeMap::new(),
            counts_traffic: false,
            traffic: BTreeMap::new(),
            full: false,
            touched: BTreeSet::new(),
        }
    }

    fn add_active(&mut self, backend: u32, number: u64) {
        if let Some(count) = self.active.get_mut(backend as usize) {
            *count = count.wrapping_add(number);
            self.touched.insert(Touched::Active(backend));
        }
    }

    /// How often an outcome was counted.
    pub fn counted(&self, reason: Reason) -> u64 {
        self.reasons[reason as usize]
    }

    /// One of the two flow tables.
    pub fn flow_table(&self, table: FlowTable) -> &BTreeMap<Tuple, Flow> {
        match table {
            FlowTable::Established => &self.flows,
            FlowTable::HalfOpen => &self.half_open,
        }
    }

    /// One of the two flow tables, to change.
    pub fn flow_table_mut(&mut self, table: FlowTable) -> &mut BTreeMap<Tuple, Flow> {
        match table {
            FlowTable::Established => &mut self.flows,
            FlowTable::HalfOpen => &mut self.half_open,
        }
    }

    /// Forgets every flow.
    pub fn clear_flows(&mut self) {
        self.flows.clear();
        self.half_open.clear();
        self.snat_flows.clear();
        self.fragments.clear();
        self.touched.clear();
    }
}

impl Tables for HostTables {
    fn config(&self) -> Config {
        self.config
    }

    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        self.frontends.get(key).copied()
    }

    fn is_node_address(&self, address: &Address) -> bool {
        self.node_addresses.contains(address)
    }

    fn roles(&self, address: &Address) -> u32 {
        if self.config.flags & config_flags::FILTER == 0 {
            return address_roles::ALL;
        }
        let place = FilterPlace::of(address);
        let bits = self.addresses.get(&place.index).copied().unwrap_or_default();
        (bits >> place.shift) as u32 & address_roles::ALL
    }

    fn add_destination(&mut self, address: &Address) {
        self.add_role(address, address_roles::DESTINATION);
    }

    fn is_in_service_cidrs(&self, address: &Address) -> bool {
        self.service_cidrs.contains(address)
    }

    fn is_in_networks(&self, set: u32, address: &Address) -> bool {
        let of_set = self.networks.iter().filter(|key| key.set == set);
        of_set
            .into_iter()
            .any(|key| Network::new(key.address, key.prefix()).contains(address))
    }

    fn service(&self, id: u32) -> Option<Service> {
        self.services.get(id as usize).copied()
    }

    fn active(&self, backend: u32) -> u32 {
        self.active
            .get(backend as usize)
            .map_or(0, |count| (*count as i64).max(0) as u32)
    }

    fn begin(&mut self, backend: u32) {
        self.add_active(backend, 1);
    }

    fn next_cursor(&mut self, service: u32) -> u32 {
        let Some(cursor) = self.cursors.get_mut(service as usize) else {
            return 0;
        };
        let turn = *cursor as u32;
        *cursor += 1;
        self.touched.insert(Touched::Cursor(service));
        turn
    }

    fn slot(&self, index: u32) -> Option<u32> {
        self.slots.get(index as usize).copied()
    }

    fn backend(&self, id: u32) -> Option<Backend> {
        self.backends.get(id as usize).copied()
    }

    fn generation(&self, id: u32) -> u32 {
        self.backends.get(id as usize).map_or(0, |backend| backend.generation)
    }

    fn source(&self, index: u16) -> Option<Address> {
        if index == 0 {
            return None;
        }
        self.sources.get(index as usize).copied()
    }

    fn node_of(&self, address: &Address) -> Option<Address> {
        self.nodes.get(address).copied()
    }

    fn is_dsr(&self) -> bool {
        self.is_dsr
    }

    fn is_redirect(&self) -> bool {
        self.is_redirect
    }

    fn interface(&self, ifindex: u32) -> Option<Interface> {
        self.interfaces.get(&ifindex).copied()
    }

    fn flow(&self, table: FlowTable, key: &Tuple) -> Option<Flow> {
        self.flow_table(table).get(key).copied()
    }

    fn put_flow(&mut self, table: FlowTable, key: &Tuple, flow: &Flow) -> bool {
        if self.full {
            return false;
        }
        self.touched.insert(Touched::flow(table, *key));
        self.flow_table_mut(table).insert(*key, *flow);
        true
    }

    fn insert_flow(&mut self, table: FlowTable, key: &Tuple, flow: &Flow) -> Insert {
        if self.flow_table(table).contains_key(key) {
            return Insert::Exists;
        }
        if self.put_flow(table, key, flow) {
            Insert::Done
        } else {
            Insert::Failed
        }
    }

    fn remove_flow(&mut self, table: FlowTable, key: &Tuple) {
        self.touched.insert(Touched::flow(table, *key));
        self.flow_table_mut(table).remove(key);
    }

    fn mark_flow(&mut self, table: FlowTable, key: &Tuple, seen: u32, flags: u16) -> bool {
        let Some(flow) = self.flow_table_mut(table).get_mut(key) else {
            return false;
        };
        let new = flags & !flow.flags & flow_flags::CLOSING;
        let (backend, generation) = (flow.backend, flow.generation);
        flow.seen = seen;
        flow.flags |= flags;
        if new != 0 && key.direction == Direction::Forward as u8 && self.generation(backend) == generation {
            self.add_active(backend, u64::MAX);
        }
        self.touched.insert(Touched::flow(table, *key));
        true
    }

    fn snat_flow(&self, key: &Tuple) -> Option<SnatFlow> {
        self.snat_flows.get(key).copied()
    }

    fn insert_snat_flow(&mut self, key: &Tuple, flow: &SnatFlow) -> Insert {
        if self.snat_flows.contains_key(key) {
            return Insert::Exists;
        }
        if self.full {
            return Insert::Failed;
        }
        self.touched.insert(Touched::Snat(*key));
        self.snat_flows.insert(*key, *flow);
        Insert::Done
    }

    fn remove_snat_flow(&mut self, key: &Tuple) {
        self.touched.insert(Touched::Snat(*key));
        self.snat_flows.remove(key);
    }

    fn mark_snat_flow(&mut self, key: &Tuple, seen: u32, flags: u16) -> bool {
        let Some(flow) = self.snat_flows.get_mut(key) else {
            return false;
        };
        flow.seen = seen;
        flow.flags |= flags;
        self.touched.insert(Touched::Snat(*key));
        true
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        self.fragments.get(key).copied()
    }

    fn put_fragment(&mut self, key: &FragmentKey, ports: &FragmentPorts) {
        if !self.full {
            self.touched.insert(Touched::Fragment(*key));
            self.fragments.insert(*key, *ports);
        }
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.affinity.get(key).copied()
    }

    fn put_affinity(&mut self, key: &AffinityKey, affinity: &Affinity) {
        if !self.full {
            self.affinity.insert(*key, *affinity);
        }
    }

    fn count(&mut self, reason: Reason) {
        self.reasons[reason as usize] += 1;
    }

    fn counts_traffic(&self) -> bool {
        self.counts_traffic
    }

    fn count_traffic(&mut self, service: u32, direction: Direction, packets: u32, bytes: u32) {
        self.traffic.entry(service).or_default().add(direction, packets, bytes);
        self.touched.insert(Touched::Traffic(service));
    }

    fn count_socket_connection(&mut self, service: u32) {
        if let Some(counter) = self.socket_connections.get_mut(service as usize) {
            *counter += 1;
        }
    }

    fn count_refusal(&mut self, key: &RefusalKey) {
        *self.refusals.entry(*key).or_default() += 1;
        self.touched.insert(Touched::Refusal(*key));
    }

    fn count_connection(&mut self, service: u32) {
        if let Some(counter) = self.connections.get_mut(service as usize) {
            *counter += 1;
            self.touched.insert(Touched::Connections(service));
        }
    }
}

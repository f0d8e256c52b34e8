//! The programs' maps, with the types of the ABI.
use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::path::Path;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use bytemuck::{Pod, Zeroable};
use ferrogate_common::{
    Address, Backend, Config, Flow, FragmentKey, FragmentPorts, Frontend, FrontendKey, Interface, NetworkKey, NextHop,
    NodeAddress, RefusalKey, Service, ServiceCidrs, SnatFlow, Traffic, Tuple,
};
use ferrogate_datapath::FlowTable;
use ferrogate_datapath::host::{HostTables, Touched};

/// A type of the ABI, as aya wants map keys and values.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Raw<T>(T);

// SAFETY: the same bytes as `T`, which may be any.
unsafe impl<T: Pod> aya::Pod for Raw<T> {}

/// A hash map.
struct Table<K: Pod, V: Pod> {
    map: HashMap<MapData, Raw<K>, Raw<V>>,
}

impl<K: Pod + Ord, V: Pod> Table<K, V> {
    fn take(ebpf: &mut Ebpf, name: &str) -> Result<Self> {
        let map = HashMap::try_from(take(ebpf, name)?)?;
        Ok(Self { map })
    }

    fn get(&self, key: &K) -> Result<Option<V>> {
        match self.map.get(&Raw(*key), 0) {
            Ok(value) => Ok(Some(value.0)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn put(&mut self, key: &K, value: &V) -> Result<()> {
        Ok(self.map.insert(Raw(*key), Raw(*value), 0)?)
    }

    fn remove(&mut self, key: &K) -> Result<()> {
        match self.map.remove(&Raw(*key)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn dump(&self) -> Result<BTreeMap<K, V>> {
        self.map
            .iter()
            .map(|entry| entry.map(|(key, value)| (key.0, value.0)).map_err(Into::into))
            .collect()
    }

    /// Makes the map hold `entries` and nothing else.
    fn replace<'a>(&mut self, entries: impl Iterator<Item = (&'a K, V)>) -> Result<()>
    where
        K: 'a,
    {
        for key in self.dump()?.keys() {
            self.remove(key)?;
        }
        for (key, value) in entries {
            self.put(key, &value)?;
        }
        Ok(())
    }
}

/// An array map.
struct List<T: Pod> {
    map: Array<MapData, Raw<T>>,
}

impl<T: Pod> List<T> {
    fn take(ebpf: &mut Ebpf, name: &str) -> Result<Self> {
        let map = Array::try_from(take(ebpf, name)?)?;
        Ok(Self { map })
    }

    fn get(&self, index: u32) -> Result<T> {
        Ok(self.map.get(&index, 0)?.0)
    }

    fn set(&mut self, index: usize, value: &T) -> Result<()> {
        Ok(self.map.set(index as u32, Raw(*value), 0)?)
    }

    fn replace(&mut self, values: &[T]) -> Result<()> {
        for (index, value) in values.iter().enumerate() {
            self.set(index, value)?;
        }
        Ok(())
    }

    fn dump(&self) -> Result<Vec<T>> {
        self.map.iter().map(|value| Ok(value?.0)).collect()
    }
}

/// `NETWORKS`.
struct Trie {
    map: LpmTrie<MapData, [u32; 5], u32>,
}

impl Trie {
    fn take(ebpf: &mut Ebpf, name: &str) -> Result<Self> {
        let map = LpmTrie::try_from(take(ebpf, name)?)?;
        Ok(Self { map })
    }

    /// Makes the trie hold `entries` and nothing else.
    fn replace<'a>(&mut self, entries: impl Iterator<Item = &'a NetworkKey>) -> Result<()> {
        let held = self.map.keys().collect::<Result<Vec<_>, _>>()?;
        for key in held {
            self.map.remove(&key)?;
        }
        for key in entries {
            let [a, b, c, d] = key.address.words();
            self.map.insert(&Key::new(key.bits, [key.set, a, b, c, d]), 0, 0)?;
        }
        Ok(())
    }
}

/// Per-CPU counters.
struct Counters {
    map: PerCpuArray<MapData, u64>,
}

impl Counters {
    fn take(ebpf: &mut Ebpf, name: &str) -> Result<Self> {
        let map = PerCpuArray::try_from(take(ebpf, name)?)?;
        Ok(Self { map })
    }

    fn get(&self, index: u32) -> Result<u64> {
        Ok(self.map.get(&index, 0)?.iter().sum())
    }

    fn dump(&self) -> Result<Vec<u64>> {
        self.map.iter().map(|values| Ok(values?.iter().sum())).collect()
    }

    fn clear(&mut self) -> Result<()> {
        let cpus = self.map.get(&0, 0)?.len();
        for index in 0..self.map.len() {
            self.map.set(index, PerCpuValues::try_from(vec![0; cpus])?, 0)?;
        }
        Ok(())
    }
}

/// What all CPUs have counted.
fn sum(values: &PerCpuValues<Raw<Traffic>>) -> Traffic {
    let mut all = Traffic::default();
    values.iter().for_each(|of_cpu| all.merge(&of_cpu.0));
    all
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name).with_context(|| format!("no map {name}"))
}

/// Enters flows into a pinned `FLOWS`.
pub fn enter_flows(pin: &Path, flows: impl Iterator<Item = (Tuple, Flow)>) -> Result<()> {
    let pinned = MapData::from_pin(pin).with_context(|| pin.display().to_string())?;
    let mut table = Table {
        map: HashMap::try_from(Map::LruHashMap(pinned))?,
    };
    flows.into_iter().try_for_each(|(key, flow)| table.put(&key, &flow))
}

/// All maps of the packet programs.
pub struct KernelTables {
    config: List<Config>,
    frontends: Table<FrontendKey, Frontend>,
    services: List<Service>,
    slots: List<u32>,
    backends: List<Backend>,
    active: List<u64>,
    cursors: List<u64>,
    addresses: List<u64>,
    /// Elements of it that are not 0.
    filled: BTreeSet<u32>,
    node_addresses: Table<Address, NodeAddress>,
    service_cidrs: List<ServiceCidrs>,
    networks: Trie,
    nodes: Table<Address, Address>,
    sources: List<Address>,
    interfaces: Table<u32, Interface>,
    routes: List<u32>,
    /// Whether the node has a rule or route by which ways depend on packets' sources.
    pub ways_by_source: bool,
    /// What `routes` is to hold next; every fourth time 0, with which nothing is remembered.
    generation: u32,
    next_hops: PerCpuArray<MapData, Raw<NextHop>>,
    flows: Table<Tuple, Flow>,
    half_open: Table<Tuple, Flow>,
    snat_flows: Table<Tuple, SnatFlow>,
    fragments: Table<FragmentKey, FragmentPorts>,
    reasons: Counters,
    connections: Counters,
    refusals: PerCpuHashMap<MapData, Raw<RefusalKey>, u64>,
    traffic: PerCpuHashMap<MapData, u32, Raw<Traffic>>,
}

impl KernelTables {
    /// The maps of a loaded object.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            config: List::take(ebpf, "CONFIG")?,
            frontends: Table::take(ebpf, "FRONTENDS")?,
            services: List::take(ebpf, "SERVICES")?,
            slots: List::take(ebpf, "SLOTS")?,
            backends: List::take(ebpf, "BACKENDS")?,
            active: List::take(ebpf, "ACTIVE")?,
            cursors: List::take(ebpf, "CURSORS")?,
            addresses: List::take(ebpf, "ADDRESSES")?,
            filled: BTreeSet::new(),
            node_addresses: Table::take(ebpf, "NODE_ADDRESSES")?,
            service_cidrs: List::take(ebpf, "SERVICE_CIDRS")?,
            networks: Trie::take(ebpf, "NETWORKS")?,
            nodes: Table::take(ebpf, "NODES")?,
            sources: List::take(ebpf, "SOURCES")?,
            interfaces: Table::take(ebpf, "INTERFACES")?,
            routes: List::take(ebpf, "ROUTES")?,
            ways_by_source: false,
            generation: 1,
            next_hops: PerCpuArray::try_from(take(ebpf, "NEXT_HOPS")?)?,
            flows: Table::take(ebpf, "FLOWS")?,
            half_open: Table::take(ebpf, "HALF_OPEN")?,
            snat_flows: Table::take(ebpf, "SNAT_FLOWS")?,
            fragments: Table::take(ebpf, "FRAGMENTS")?,
            reasons: Counters::take(ebpf, "REASONS")?,
            connections: Counters::take(ebpf, "CONNECTIONS")?,
            refusals: PerCpuHashMap::try_from(take(ebpf, "REFUSALS")?)?,
            traffic: PerCpuHashMap::try_from(take(ebpf, "TRAFFIC")?)?,
        })
    }

    /// Writes what the agent writes; flows and counters as well.
    pub fn write(&mut self, tables: &HostTables) -> Result<()> {
        self.write_control(tables)?;
        for index in mem::take(&mut self.filled) {
            self.addresses.set(index as usize, &0)?;
        }
        self.set_addresses(&tables.addresses)?;
        let node_address = NodeAddress::zeroed();
        self.node_addresses
            .replace(tables.node_addresses.iter().map(|address| (address, node_address)))?;
        self.service_cidrs.set(0, &tables.service_cidrs)?;
        self.networks.replace(tables.networks.iter())?;
        self.nodes
            .replace(tables.nodes.iter().map(|(key, value)| (key, *value)))?;
        self.sources.replace(&tables.sources)?;
        self.interfaces
            .replace(tables.interfaces.iter().map(|(key, value)| (key, *value)))?;
        self.change_routes()?;
        self.frontends
            .replace(tables.frontends.iter().map(|(key, value)| (key, *value)))?;
        self.active.replace(&tables.active)?;
        self.cursors.replace(&tables.cursors)?;
        self.flows
            .replace(tables.flows.iter().map(|(key, value)| (key, *value)))?;
        self.half_open
            .replace(tables.half_open.iter().map(|(key, value)| (key, *value)))?;
        self.snat_flows
            .replace(tables.snat_flows.iter().map(|(key, value)| (key, *value)))?;
        self.fragments
            .replace(tables.fragments.iter().map(|(key, value)| (key, *value)))?;
        self.reasons.clear()?;
        self.connections.clear()?;
        let counted: Vec<_> = self.refusals.keys().collect::<Result<_, _>>()?;
        counted.iter().try_for_each(|key| self.refusals.remove(key))?;
        let counted: Vec<u32> = self.traffic.keys().collect::<Result<_, _>>()?;
        counted.iter().try_for_each(|key| Ok(self.traffic.remove(key)?))
    }

    /// Has the programs forget the ways that packets went.
    pub fn change_routes(&mut self) -> Result<()> {
        let generation = self.generation % 4 * self.generation;
        let bit = if generation == 0 || self.ways_by_source {
            0
        } else {
            NextHop::BY_DESTINATION
        };
        self.routes.set(0, &(generation | bit))?;
        self.generation += 1;
        Ok(())
    }

    /// The ways towards an address that programs remember, on any CPU.
    pub fn ways(&self, destination: &Address) -> Result<Vec<NextHop>> {
        let mut ways = Vec::new();
        for values in self.next_hops.iter() {
            ways.extend(
                values?
                    .iter()
                    .map(|way| way.0)
                    .filter(|way| way.destination == *destination),
            );
        }
        Ok(ways)
    }

    /// Writes the arrays that change while there are flows: configuration, services, slots and backends.
    pub fn write_control(&mut self, tables: &HostTables) -> Result<()> {
        self.config.set(0, &tables.config)?;
        self.services.replace(&tables.services)?;
        self.slots.replace(&tables.slots)?;
        self.backends.replace(&tables.backends)
    }

    /// Writes elements of the filter.
    pub fn set_addresses(&mut self, addresses: &BTreeMap<u32, u64>) -> Result<()> {
        for (index, bits) in addresses {
            self.addresses.set(*index as usize, bits)?;
            self.filled.insert(*index);
        }
        Ok(())
    }

    /// Writes one backend.
    pub fn set_backend(&mut self, id: usize, backend: &Backend) -> Result<()> {
        self.backends.set(id, backend)
    }

    /// Writes one service.
    pub fn set_service(&mut self, id: usize, service: &Service) -> Result<()> {
        self.services.set(id, service)
    }

    /// Writes the configuration.
    pub fn set_config(&mut self, config: &Config) -> Result<()> {
        self.config.set(0, config)
    }

    /// Writes one flow, or removes it.
    pub fn set_flow(&mut self, table: FlowTable, key: &Tuple, flow: Option<&Flow>) -> Result<()> {
        let map = match table {
            FlowTable::Established => &mut self.flows,
            FlowTable::HalfOpen => &mut self.half_open,
        };
        match flow {
            Some(flow) => map.put(key, flow),
            None => map.remove(key),
        }
    }

    /// The same for a flow with a changed source.
    pub fn set_snat_flow(&mut self, key: &Tuple, flow: Option<&SnatFlow>) -> Result<()> {
        match flow {
            Some(flow) => self.snat_flows.put(key, flow),
            None => self.snat_flows.remove(key),
        }
    }

    /// How often a reason was counted.
    pub fn counted(&self, reason: u32) -> Result<u64> {
        self.reasons.get(reason)
    }

    /// The same by service.
    fn refused(&self, key: &RefusalKey) -> Result<u64> {
        match self.refusals.get(&Raw(*key), 0) {
            Ok(values) => Ok(values.iter().sum()),
            Err(MapError::KeyNotFound) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    fn carried(&self, service: u32) -> Result<Traffic> {
        match self.traffic.get(&service, 0) {
            Ok(values) => Ok(sum(&values)),
            Err(MapError::KeyNotFound) => Ok(Traffic::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// One entry that the pipeline may write, as text: what a comparison shows when it fails.
    pub fn entry(&self, touched: &Touched) -> Result<String> {
        Ok(match touched {
            Touched::Established(key) => format!("{:?}", self.flows.get(key)?),
            Touched::HalfOpen(key) => format!("{:?}", self.half_open.get(key)?),
            Touched::Snat(key) => format!("{:?}", self.snat_flows.get(key)?),
            Touched::Fragment(key) => format!("{:?}", self.fragments.get(key)?),
            Touched::Cursor(service) => format!("{}", self.cursors.get(*service)?),
            Touched::Active(backend) => format!("{}", self.active.get(*backend)?),
            Touched::Addresses(index) => format!("{:x}", self.addresses.get(*index)?),
            Touched::Connections(service) => format!("{}", self.connections.get(*service)?),
            Touched::Refusal(key) => format!("{}", self.refused(key)?),
            Touched::Traffic(service) => format!("{:?}", self.carried(*service)?),
        })
    }

    /// Whether an entry that the pipeline may write is the same here and there.
    pub fn agrees(&self, touched: &Touched, tables: &HostTables) -> Result<bool> {
        Ok(match touched {
            Touched::Established(key) => self.flows.get(key)? == tables.flows.get(key).copied(),
            Touched::HalfOpen(key) => self.half_open.get(key)? == tables.half_open.get(key).copied(),
            Touched::Snat(key) => self.snat_flows.get(key)? == tables.snat_flows.get(key).copied(),
            Touched::Fragment(key) => self.fragments.get(key)? == tables.fragments.get(key).copied(),
            Touched::Cursor(service) => self.cursors.get(*service)? == tables.cursors[*service as usize],
            Touched::Active(backend) => self.active.get(*backend)? == tables.active[*backend as usize],
            Touched::Addresses(index) => Some(self.addresses.get(*index)?) == tables.addresses.get(index).copied(),
            Touched::Traffic(service) => Some(&self.carried(*service)?) == tables.traffic.get(service),
            Touched::Refusal(key) => Some(&self.refused(key)?) == tables.refusals.get(key),
            Touched::Connections(service) => self.connections.get(*service)? == tables.connections[*service as usize],
        })
    }

    /// The tables that the pipeline writes, read back whole; the others are left as they are in `like`.
    pub fn read(&self, like: &HostTables) -> Result<HostTables> {
        let filled = self.filled.iter();
        Ok(HostTables {
            addresses: filled
                .map(|index| Ok((*index, self.addresses.get(*index)?)))
                .collect::<Result<_>>()?,
            flows: self.flows.dump()?,
            half_open: self.half_open.dump()?,
            snat_flows: self.snat_flows.dump()?,
            fragments: self.fragments.dump()?,
            active: self.active.dump()?,
            cursors: self.cursors.dump()?,
            reasons: self.reasons.dump()?,
            connections: self.connections.dump()?,
            refusals: self
                .refusals
                .iter()
                .map(|entry| entry.map(|(key, values)| (key.0, values.iter().sum())))
                .collect::<Result<_, _>>()?,
            traffic: self
                .traffic
                .iter()
                .map(|entry| entry.map(|(service, values)| (service, sum(&values))))
                .collect::<Result<_, _>>()?,
            ..like.clone()
        })
    }
}

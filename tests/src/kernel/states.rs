//! Table states, and what happens to them between packets.
use bytemuck::Zeroable as _;
use ferrogate_common::{
    Address, Algorithm, Backend, Config, Dsr, Flow, Frontend, FrontendKey, FrontendKind, Network, NetworkKey, Port,
    Protocol, Service, SlotRange, SnatFlow, Tuple, backend_flags, config_flags, service_flags,
};
use ferrogate_datapath::FlowTable;
use ferrogate_datapath::host::{HostTables, Sizes};

use super::generate::Generator;
use super::network::Place;
use super::pool::Pool;

/// Services of a state.
const SERVICES: usize = 8;

/// Slots that a service has to itself, so that a change of one is none of another.
const SLOTS: usize = 8;

/// Backends that a service has to itself.
const BACKENDS: usize = 8;

/// Array sizes of generated states.
pub(super) const SIZES: Sizes = Sizes {
    services: 16,
    slots: 128,
    backends: 128,
    sources: 16,
};

/// Something that happens to the tables between two packets.
#[derive(Clone, Debug)]
pub enum Event {
    Flow(FlowTable, Tuple, Option<Flow>),
    SnatFlow(Tuple, Option<SnatFlow>),
    Backend(usize, Backend),
    Service(usize, Service),
    Config(Config),
}

impl Generator {
    /// A new state without flows.
    pub fn state(&mut self) -> HostTables {
        self.requests.clear();
        self.answers.clear();
        let mut tables = HostTables::new(SIZES);
        tables.config = self.config();
        tables.node_addresses = Pool::nodes().map(Address::from).collect();
        for (index, source) in self.network.sources.iter().enumerate() {
            tables.sources[index] = *source;
        }
        // The agent enters none for the loopback device.
        let places = self.network.ifindexes.keys().filter(|place| **place != Place::Loopback);
        for place in places {
            let mut interface = self.network.interface(*place);
            if self.rng.u8(..20) == 0 {
                interface.source4 = 0;
                interface.source6 = 0;
            }
            if self.rng.u8(..20) != 0 {
                tables.interfaces.insert(self.network.ifindex(*place), interface);
            }
        }
        self.add_networks(&mut tables);
        self.add_nodes(&mut tables);
        for id in 0..SERVICES {
            let v4 = id % 2 == 0;
            for slot in 0..SLOTS {
                // A slot that leads nowhere is a table that changes under the look-up.
                let stale = self.rng.u8(..50) == 0;
                tables.slots[id * SLOTS + slot] = if stale { 5000 } else { (id * BACKENDS + slot) as u32 };
            }
            for slot in 0..BACKENDS {
                tables.backends[id * BACKENDS + slot] = self.backend(id, v4);
            }
            tables.services[id] = self.service(id);
            for active in &mut tables.active[id * BACKENDS..(id + 1) * BACKENDS] {
                // Now and then below 0.
                *active = self.rng.u64(..4).wrapping_sub(self.rng.u64(..2));
            }
            tables.cursors[id] = self.rng.u64(..) >> self.rng.u8(..64);
            self.add_frontends(&mut tables, id, v4);
        }
        tables.fill_filter();
        tables
    }

    fn config(&mut self) -> Config {
        let mut flags = 0;
        for flag in [
            config_flags::EXTERNAL_CLUSTER_IP,
            config_flags::SNAT_ALWAYS,
            config_flags::NODE_EDGE_OFF,
            config_flags::CLUSTER_CIDRS,
            config_flags::BRIDGE_PORTS,
            config_flags::TAKE_OVER,
            config_flags::FILTER,
            config_flags::DSR,
        ] {
            if self.rng.u8(..3) == 0 {
                flags |= flag;
            }
        }
        if self.rng.u8(..20) == 0 {
            flags |= config_flags::HAND_OVER;
        }
        let with_node_ports = self.rng.u8(..10) != 0;
        Config {
            flags,
            node_port_min: if with_node_ports { 30_000 } else { 0 },
            node_port_max: if with_node_ports { 32_767 } else { 0 },
            snat_port_base: 24_000,
            // Small ranges run out.
            snat_port_count: self.rng.choice([4096, 4096, 16, 4, 0]).unwrap_or(4096),
            known_port_base: 23_000,
            known_port_count: self.rng.choice([0, 1000, 6000]).unwrap_or(0),
            udp_timeout: self.rng.u16(..4),
            udp_stream_timeout: self.rng.u16(..4),
            // The first device's addresses; now and then there is none.
            node_source4: self.rng.choice([1, 1, 1, 0]).unwrap_or(0),
            node_source6: self.rng.choice([2, 2, 2, 0]).unwrap_or(0),
            ..Config::zeroed()
        }
    }

    /// Source ranges of services that ask for them or not, ServiceCIDRs, and networks of the cluster.
    fn add_networks(&mut self, tables: &mut HostTables) {
        for id in 0..SERVICES {
            for _ in 0..self.rng.usize(..3) {
                let (address, prefix) = Pool::network(&mut self.rng, id % 2 == 0);
                tables.networks.insert(NetworkKey::new(id as u32, address, prefix));
            }
        }
        for network in &mut tables.service_cidrs.networks {
            if self.rng.bool() {
                let v4 = self.rng.bool();
                let (address, prefix) = Pool::service_cidr(&mut self.rng, v4);
                *network = Network::new(address, prefix);
            }
        }
        for v4 in [true, false] {
            let (address, prefix) = Pool::network(&mut self.rng, v4);
            tables
                .networks
                .insert(NetworkKey::new(NetworkKey::CLUSTER, address, prefix));
        }
    }

    /// Which nodes there are, and which of the endpoints elsewhere are known to be on one of them.
    fn add_nodes(&mut self, tables: &mut HostTables) {
        for v4 in [true, false] {
            let here: Address = Pool::here(v4).into();
            tables.nodes.insert(here, Dsr::HERE);
            for peer in Pool::peers(v4) {
                tables.nodes.insert(peer.into(), peer.into());
            }
            for endpoint in Pool::remotes(v4) {
                if self.rng.u8(..3) != 0 {
                    let peer = Pool::peer(&mut self.rng, v4);
                    tables.nodes.insert(endpoint.into(), peer.into());
                }
            }
        }
    }

    fn backend(&mut self, service: usize, v4: bool) -> Backend {
        let local = self.rng.bool();
        let ip = if local {
            Pool::local(&mut self.rng, v4)
        } else {
            Pool::remote(&mut self.rng, v4)
        };
        let generation = if self.rng.u8(..30) == 0 { 0 } else { self.rng.u32(1..5) };
        Backend {
            address: ip.into(),
            port: Port::new(self.rng.u16(8080..8082)),
            flags: if local { backend_flags::LOCAL } else { 0 },
            generation,
            service: service as u32,
            last_generation: generation,
        }
    }

    fn service(&mut self, id: usize) -> Service {
        let mut flags = 0;
        for flag in [
            service_flags::INTERNAL_LOCAL,
            service_flags::EXTERNAL_LOCAL,
            service_flags::SOURCE_RANGES,
        ] {
            if self.rng.u8(..4) == 0 {
                flags |= flag;
            }
        }
        let algorithm = self.rng.choice(Algorithm::ALL).unwrap_or_default();
        flags |= algorithm.bits();
        let (mut cluster, mut local) = (self.rng.u16(..6), self.rng.u16(..3));
        if algorithm == Algorithm::Random {
            // The host cannot know the kernel's random numbers, so there is nothing to choose from.
            (cluster, local) = (cluster.min(1), local.min(1));
        }
        let range = SlotRange {
            base: (id * SLOTS) as u32,
            cluster,
            local,
        };
        Service {
            range: range.pack(),
            flags,
            reserved: 0,
        }
    }

    /// Each service has a ClusterIP, and may have a load balancer's address and a NodePort.
    fn add_frontends(&mut self, tables: &mut HostTables, id: usize, v4: bool) {
        let protocol = match id % 8 {
            0 | 1 | 4 => Protocol::Tcp,
            2 | 3 | 5 => Protocol::Udp,
            _ => Protocol::Sctp,
        };
        let cluster_ip = Pool::frontend(&mut self.rng, v4).into();
        if self.rng.bool() {
            let kinds = [
                FrontendKind::Address,
                FrontendKind::Address,
                FrontendKind::Vip,
                FrontendKind::Foreign,
            ];
            let alone = Frontend::new(id as u32, self.rng.choice(kinds).unwrap_or(FrontendKind::Address));
            tables.frontends.insert(FrontendKey::address_alone(cluster_ip), alone);
        }
        for kind in [
            FrontendKind::ClusterIp,
            FrontendKind::LoadBalancer,
            FrontendKind::NodePort,
        ] {
            if kind != FrontendKind::ClusterIp && self.rng.bool() {
                continue;
            }
            let (address, port) = match kind {
                FrontendKind::NodePort => {
                    let family = if v4 {
                        Address::UNSPECIFIED_V4
                    } else {
                        Address::UNSPECIFIED
                    };
                    (family, 30_080 + self.rng.u16(..2))
                }
                FrontendKind::ClusterIp => (cluster_ip, 80 + self.rng.u16(..2)),
                _ => (Pool::frontend(&mut self.rng, v4).into(), 80 + self.rng.u16(..2)),
            };
            let service = if self.rng.u8(..60) == 0 { 5000 } else { id as u32 };
            tables.frontends.insert(
                FrontendKey::new(address, Port::new(port), protocol),
                Frontend::new(service, kind),
            );
        }
    }

    /// What happens next to the tables, if anything does.
    pub fn event(&mut self, tables: &HostTables) -> Option<Event> {
        match self.rng.u8(..60) {
            0 => self.change_flow(tables, FlowTable::Established),
            1 => self.change_flow(tables, FlowTable::HalfOpen),
            2 => {
                let (key, flow) = self.rng.choice(&tables.snat_flows)?;
                let aged = SnatFlow {
                    seen: flow.seen.wrapping_sub(self.rng.u32(1..4)),
                    ..*flow
                };
                Some(Event::SnatFlow(*key, self.rng.bool().then_some(aged)))
            }
            3 => {
                let id = self.rng.usize(..SERVICES * BACKENDS);
                let old = tables.backends[id];
                let backend = if old.generation == 0 || self.rng.bool() {
                    Backend {
                        generation: old.last_generation + 1,
                        last_generation: old.last_generation + 1,
                        ..self.backend(id / BACKENDS, old.address.is_v4())
                    }
                } else {
                    Backend { generation: 0, ..old }
                };
                Some(Event::Backend(id, backend))
            }
            4 => {
                let id = self.rng.usize(..SERVICES);
                Some(Event::Service(id, self.service(id)))
            }
            5 => Some(Event::Config(self.config())),
            _ => None,
        }
    }

    /// Makes a flow's entry old, or evicts it.
    fn change_flow(&mut self, tables: &HostTables, table: FlowTable) -> Option<Event> {
        let (key, flow) = self.rng.choice(tables.flow_table(table))?;
        let aged = Flow {
            seen: flow.seen.wrapping_sub(self.rng.u32(1..4)),
            ..*flow
        };
        Some(Event::Flow(table, *key, self.rng.bool().then_some(aged)))
    }
}

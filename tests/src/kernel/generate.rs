//! Table states and packets, from a seed.
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use fastrand::Rng;
use ferrogate_common::{
    Address, Backend, Config, Flow, Frontend, FrontendKey, FrontendKind, Port, Protocol, Service, SlotRange, SnatFlow,
    Tuple, backend_flags, config_flags, service_flags,
};
use ferrogate_datapath::FlowTable;
use ferrogate_datapath::host::{HostPacket, HostTables, Outcome, Program, Segment, Sizes, tcp};

use super::network::{Network, Place};
use super::packets::{as_sent, damage};
use super::pool::Pool;

/// Services of a state.
const SERVICES: usize = 8;

/// Slots that a service has to itself, so that a change of one is none of another.
const SLOTS: usize = 8;

/// Backends that a service has to itself.
const BACKENDS: usize = 8;

/// Port numbers that clients use.
const CLIENT_PORTS: std::ops::Range<u16> = 40_000..40_006;

/// Conversations that are remembered.
const MEMORY: usize = 64;

/// Array sizes of generated states.
pub(super) const SIZES: Sizes = Sizes {
    services: 16,
    slots: 128,
    backends: 128,
    sources: 16,
};

/// A packet, and the program to run it through.
#[derive(Clone, Debug)]
pub struct Case {
    pub program: Program,
    pub packet: HostPacket,
    /// Where it is met.
    place: Place,
    /// What it was made from, unless it was spoilt.
    segment: Option<Segment>,
}

/// Something that happens to the tables between two packets.
#[derive(Clone, Debug)]
pub enum Event {
    Flow(FlowTable, Tuple, Option<Flow>),
    SnatFlow(Tuple, Option<SnatFlow>),
    Backend(usize, Backend),
    Service(usize, Service),
    Config(Config),
}

/// Makes everything from one seed.
pub struct Generator {
    rng: Rng,
    network: Network,
    /// Requests as their clients sent them.
    requests: VecDeque<(Program, Place, Segment)>,
    /// Answers to what came out of the programs.
    answers: VecDeque<(Program, Place, Segment)>,
}

impl Generator {
    pub fn new(seed: u64, network: Network) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            network,
            requests: VecDeque::new(),
            answers: VecDeque::new(),
        }
    }

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
        for place in self.network.ifindexes.keys() {
            let mut interface = self.network.interface(*place);
            if self.rng.u8(..20) == 0 {
                interface.source4 = 0;
                interface.source6 = 0;
            }
            if self.rng.u8(..20) != 0 {
                tables.interfaces.insert(self.network.ifindex(*place), interface);
            }
        }
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
            tables.cursors[id] = self.rng.u64(..) >> self.rng.u8(..64);
            self.add_frontends(&mut tables, id, v4);
        }
        tables
    }

    fn config(&mut self) -> Config {
        let mut flags = 0;
        for flag in [
            config_flags::EXTERNAL_CLUSTER_IP,
            config_flags::SNAT_ALWAYS,
            config_flags::NODE_EDGE_OFF,
        ] {
            if self.rng.u8(..3) == 0 {
                flags |= flag;
            }
        }
        let with_node_ports = self.rng.u8(..10) != 0;
        Config {
            flags,
            node_port_min: if with_node_ports { 30_000 } else { 0 },
            node_port_max: if with_node_ports { 32_767 } else { 0 },
            snat_port_base: 24_000,
            // Small ranges run out.
            snat_port_count: self.rng.choice([4096, 4096, 16, 4, 0]).unwrap_or(4096),
            ..bytemuck::Zeroable::zeroed()
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
        for flag in [service_flags::INTERNAL_LOCAL, service_flags::EXTERNAL_LOCAL] {
            if self.rng.u8(..4) == 0 {
                flags |= flag;
            }
        }
        let cluster = self.rng.choice([0, 1, 2, 3, 4]).unwrap_or(1);
        let range = SlotRange {
            base: (id * SLOTS) as u32,
            cluster,
            local: self.rng.u16(..3),
        };
        Service {
            range: range.pack(),
            flags,
            reserved: 0,
        }
    }

    /// Each service has a ClusterIP, and may have a load balancer's address and a NodePort.
    fn add_frontends(&mut self, tables: &mut HostTables, id: usize, v4: bool) {
        let protocol = if id % 4 < 2 { Protocol::Tcp } else { Protocol::Udp };
        let cluster_ip = Pool::frontend(&mut self.rng, v4).into();
        if self.rng.bool() {
            let alone = Frontend::new(id as u32, FrontendKind::Address);
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
                    seen: flow.seen.wrapping_sub(1),
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
            seen: flow.seen.wrapping_sub(1),
            ..*flow
        };
        Some(Event::Flow(table, *key, self.rng.bool().then_some(aged)))
    }

    /// The next packet.
    pub fn case(&mut self, tables: &HostTables) -> Case {
        let (program, place, segment) = match self.rng.u8(..20) {
            0..7 => self.request(tables),
            7..12 => self.remembered(tables, false),
            12..17 => self.remembered(tables, true),
            17 => self.stranger(),
            18 => {
                let (program, place, segment) = self.request(tables);
                return self.spoilt(program, place, &segment);
            }
            _ => {
                let (program, place, segment) = self.remembered(tables, true);
                return self.spoilt(program, place, &segment);
            }
        };
        let bytes = if program.is_layer3() {
            segment.ip()
        } else {
            segment.ethernet()
        };
        let mut case = self.met(program, place, bytes);
        case.segment = Some(segment);
        case
    }

    /// Remembers what became of a packet: the request to go on with, and its answer.
    pub fn learn(&mut self, case: &Case, outcome: &Outcome) {
        let Some(segment) = &case.segment else { return };
        let added = outcome.bytes.len() as isize - case.packet.bytes.len() as isize;
        let l3 = case.packet.link + if added == 14 { 14 } else { 0 };
        let Some(sent) = as_sent(segment, &outcome.bytes, l3) else {
            return;
        };
        if sent == *segment {
            return;
        }
        remember(&mut self.requests, (case.program, case.place, segment.clone()));
        let back = match case.program {
            Program::PodIngress => [Program::PodEgress, Program::PodIngress],
            Program::UplinkEgressL3 | Program::UplinkIngressL3 => [Program::UplinkEgressL3, Program::UplinkIngressL3],
            Program::UplinkEgress => [Program::UplinkIngress, Program::UplinkXdp],
            _ => [
                Program::UplinkEgress,
                if self.rng.bool() {
                    Program::UplinkIngress
                } else {
                    Program::UplinkXdp
                },
            ],
        };
        for program in back {
            remember(&mut self.answers, (program, case.place, sent.turned()));
        }
    }

    fn met(&mut self, program: Program, place: Place, mut bytes: Vec<u8>) -> Case {
        // Twice: only with its first bytes there does a packet say how long it must be.
        for _ in 0..2 {
            bytes.resize(bytes.len().max(shortest(program, &bytes)), 0);
        }
        let ifindex = self.network.ifindex(place);
        let mut packet = HostPacket::ethernet(bytes, ifindex);
        packet.from_this_node = program.is_egress() && self.rng.bool();
        packet.segmented = program != Program::UplinkXdp && self.rng.u8(..40) == 0;
        if program.is_layer3() {
            packet.link = 0;
            let like_ip = matches!(packet.bytes.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
            packet.gap_at = like_ip.then_some(14);
        }
        Case {
            program,
            packet,
            place,
            segment: None,
        }
    }

    /// A client's packet to a frontend.
    fn request(&mut self, tables: &HostTables) -> (Program, Place, Segment) {
        let program = self.rng.choice(Program::ALL).unwrap_or(Program::PodIngress);
        let place = self.place(program);
        let Some((key, _)) = self.rng.choice(&tables.frontends) else {
            return self.stranger();
        };
        let v4 = key.address.is_v4();
        let mut address = key.address.ip();
        if key.address == key.address.unspecified() {
            address = Pool::node(&mut self.rng, v4);
        }
        let client = if program.is_egress() {
            Pool::node(&mut self.rng, v4)
        } else {
            Pool::client(&mut self.rng, place, v4)
        };
        let source = SocketAddr::new(client, self.rng.u16(CLIENT_PORTS));
        let destination = SocketAddr::new(address, key.port.get());
        (program, place, self.segment(source, destination, key.protocol))
    }

    /// Another packet of a conversation: the client's, or an answer.
    fn remembered(&mut self, tables: &HostTables, answer: bool) -> (Program, Place, Segment) {
        let list = if answer { &self.answers } else { &self.requests };
        let Some((program, place, segment)) = self.rng.choice(list).cloned() else {
            return self.request(tables);
        };
        let segment = self.segment(segment.source, segment.destination, segment.protocol as u8);
        (program, place, segment)
    }

    /// A packet that has nothing to do with any Service, most likely.
    fn stranger(&mut self) -> (Program, Place, Segment) {
        let program = self.rng.choice(Program::ALL).unwrap_or(Program::PodIngress);
        let v4 = self.rng.bool();
        let place = self.place(program);
        let source = SocketAddr::new(Pool::client(&mut self.rng, place, v4), self.rng.u16(..));
        let port = if self.rng.bool() {
            self.rng.u16(..)
        } else {
            self.rng.u16(24_000..24_004)
        };
        let destination: IpAddr = match self.rng.u8(..3) {
            0 => Pool::remote(&mut self.rng, v4),
            1 => Pool::node(&mut self.rng, v4),
            _ => Pool::frontend(&mut self.rng, v4),
        };
        let protocol = if self.rng.bool() { Protocol::Tcp } else { Protocol::Udp };
        let segment = self.segment(source, SocketAddr::new(destination, port), protocol as u8);
        (program, place, segment)
    }

    fn place(&mut self, program: Program) -> Place {
        let places = match program {
            Program::PodIngress | Program::PodEgress => [Place::Pod, Place::Port],
            _ => [Place::Uplink, Place::Narrow],
        };
        places[self.rng.usize(..2)]
    }

    fn segment(&mut self, source: SocketAddr, destination: SocketAddr, protocol: u8) -> Segment {
        const FLAGS: [u8; 10] = [
            tcp::SYN,
            tcp::SYN,
            tcp::SYN,
            tcp::SYN | tcp::ACK,
            tcp::ACK,
            tcp::ACK,
            tcp::PSH | tcp::ACK,
            tcp::FIN | tcp::ACK,
            tcp::RST,
            tcp::RST | tcp::ACK,
        ];
        let mut segment = if protocol == Protocol::Udp as u8 {
            Segment::udp(source, destination, &[])
        } else {
            Segment::tcp(source, destination, FLAGS[self.rng.usize(..FLAGS.len())])
        };
        let length = match self.rng.u8(..16) {
            0 => self.rng.usize(1340..1500),
            1..8 => self.rng.usize(1..48),
            _ => 0,
        };
        segment.payload = (0..length).map(|_| self.rng.u8(..)).collect();
        segment.sequence = self.rng.u32(..);
        segment.acknowledgment = self.rng.u32(..);
        segment.hop_limit = if self.rng.u8(..30) == 0 { self.rng.u8(..3) } else { 64 };
        if source.is_ipv4() {
            segment.option_words = if self.rng.u8(..30) == 0 {
                self.rng.usize(1..11)
            } else {
                0
            };
            segment.no_checksum = protocol == Protocol::Udp as u8 && self.rng.u8(..20) == 0;
        }
        segment
    }

    /// A packet with something wrong.
    fn spoilt(&mut self, program: Program, place: Place, segment: &Segment) -> Case {
        let (mut bytes, l3) = if program.is_layer3() {
            (segment.ip(), 0)
        } else {
            (segment.ethernet(), 14)
        };
        if self.rng.u8(..10) == 0 {
            bytes = (0..self.rng.usize(1..100)).map(|_| self.rng.u8(..)).collect();
        } else {
            damage(&mut self.rng, &mut bytes, l3);
        }
        self.met(program, place, bytes)
    }
}

/// The shortest packet that a test run takes: a socket buffer's has an Ethernet header, a byte more, and the whole IP header
/// that the Ethernet header promises.
fn shortest(program: Program, bytes: &[u8]) -> usize {
    const ETHERNET: usize = 14;
    match bytes.get(12..14) {
        _ if program == Program::UplinkXdp => ETHERNET,
        Some([0x08, 0x00]) => ETHERNET + 20,
        Some([0x86, 0xdd]) => ETHERNET + 40,
        _ => ETHERNET + 1,
    }
}

fn remember<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() == MEMORY {
        list.pop_front();
    }
    list.push_back(item);
}

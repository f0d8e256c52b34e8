//! Packets, from a seed: conversations that evolve, strangers, and packets with something wrong.
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use fastrand::Rng;
use ferrogate_common::Protocol;
use ferrogate_datapath::host::{HostPacket, HostTables, Outcome, Program, Segment, sctp, tcp};

use super::network::{Network, Place};
use super::packets::{as_sent, damage, wrapped};
use super::pool::Pool;
use super::rare::rare;

/// Port numbers that clients use.
const CLIENT_PORTS: std::ops::Range<u16> = 40_000..40_006;

/// Conversations that are remembered.
const MEMORY: usize = 64;

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

/// Makes everything from one seed.
pub struct Generator {
    pub(super) rng: Rng,
    pub(super) network: Network,
    /// Requests as their clients sent them.
    pub(super) requests: VecDeque<(Program, Place, Segment)>,
    /// Answers to what came out of the programs.
    pub(super) answers: VecDeque<(Program, Place, Segment)>,
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
        if program == Program::UplinkIngress && self.rng.u8(..4) == 0 {
            return self.handed(program, place, segment);
        }
        if self.rng.u8(..8) == 0 {
            let ip = rare(&mut self.rng, &segment);
            let link = if program.is_layer3() { 0 } else { 14 };
            let bytes = [&segment.ethernet()[..link], &ip].concat();
            return self.met(program, place, bytes);
        }
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
            Program::UplinkEgress if case.place == Place::Loopback => {
                let answer = sent.turned();
                for (program, place) in [
                    (Program::UplinkEgress, Place::Loopback),
                    (Program::UplinkIngress, Place::Uplink),
                    (Program::UplinkXdp, Place::Uplink),
                    (Program::PodIngress, Place::Pod),
                ] {
                    remember(&mut self.answers, (program, place, answer.clone()));
                }
                return;
            }
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
        let client = if self.rng.u8(..50) == 0 {
            Pool::forged(&mut self.rng, v4)
        } else if program.is_egress() {
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
        let client = match self.rng.u8(..6) {
            0 => Pool::forged(&mut self.rng, v4),
            _ => Pool::client(&mut self.rng, place, v4),
        };
        let source = SocketAddr::new(client, self.rng.u16(..));
        let port = if self.rng.bool() {
            self.rng.u16(..)
        } else {
            self.rng.u16(24_000..24_004)
        };
        let destination: IpAddr = match self.rng.u8(..7) {
            0 => Pool::forged(&mut self.rng, v4),
            1 | 2 => Pool::remote(&mut self.rng, v4),
            3 | 4 => Pool::node(&mut self.rng, v4),
            _ => Pool::frontend(&mut self.rng, v4),
        };
        let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][self.rng.usize(..3)];
        let segment = self.segment(source, SocketAddr::new(destination, port), protocol as u8);
        (program, place, segment)
    }

    fn place(&mut self, program: Program) -> Place {
        let places: &[Place] = match program {
            Program::PodIngress | Program::PodEgress => &[Place::Pod, Place::Port],
            Program::UplinkEgress => &[Place::Uplink, Place::Narrow, Place::Loopback],
            _ => &[Place::Uplink, Place::Narrow],
        };
        places[self.rng.usize(..places.len())]
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
        const CHUNKS: [u8; 12] = [
            sctp::INIT,
            sctp::INIT,
            sctp::INIT,
            sctp::INIT_ACK,
            sctp::DATA,
            sctp::DATA,
            sctp::SACK,
            sctp::COOKIE_ECHO,
            sctp::SHUTDOWN,
            sctp::SHUTDOWN_ACK,
            sctp::SHUTDOWN_COMPLETE,
            sctp::ABORT,
        ];
        let mut segment = match Protocol::from_number(protocol) {
            Some(Protocol::Tcp) | None => Segment::tcp(source, destination, FLAGS[self.rng.usize(..FLAGS.len())]),
            Some(Protocol::Udp) => Segment::udp(source, destination, &[]),
            Some(Protocol::Sctp) => Segment::sctp(source, destination, CHUNKS[self.rng.usize(..CHUNKS.len())]),
        };
        let length = match self.rng.u8(..16) {
            0 => self.rng.usize(1340..1500),
            1..8 => self.rng.usize(1..48),
            _ => 0,
        };
        segment.payload = (0..length).map(|_| self.rng.u8(..)).collect();
        // Left to the device; of TCP and UDP a test run has no such packets.
        segment.partial = protocol == Protocol::Sctp as u8 && self.rng.u8(..20) == 0;
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

    /// A packet that another node has wrapped up, or that looks so.
    fn handed(&mut self, program: Program, place: Place, mut segment: Segment) -> Case {
        let v4 = segment.source.is_ipv4();
        if segment.destination.port() >= 30_000 && self.rng.bool() {
            // To a NodePort of the node that it came in by.
            segment.destination.set_ip(Pool::peer(&mut self.rng, v4));
        }
        let inner = if self.rng.u8(..8) == 0 {
            rare(&mut self.rng, &segment)
        } else {
            segment.ip()
        };
        let (mut from, mut to) = (Pool::peer(&mut self.rng, v4), Pool::here(v4));
        match self.rng.u8(..16) {
            0 => from = Pool::client(&mut self.rng, Place::Uplink, v4),
            1 => to = Pool::node(&mut self.rng, v4),
            2 => to = Pool::peer(&mut self.rng, v4),
            _ => {}
        }
        let mut bytes = wrapped(from, to, &inner);
        let mut whole = true;
        if self.rng.u8(..16) == 0 {
            damage(&mut self.rng, &mut bytes, 0);
            whole = false;
        }
        bytes = [&segment.ethernet()[..14], &bytes].concat();
        let mut case = self.met(program, place, bytes);
        case.segment = whole.then_some(segment);
        case
    }

    /// A packet with something wrong.
    fn spoilt(&mut self, program: Program, place: Place, segment: &Segment) -> Case {
        let whole = |segment: &Segment| {
            if program.is_layer3() {
                (segment.ip(), 0)
            } else {
                (segment.ethernet(), 14)
            }
        };
        let (mut bytes, l3) = whole(segment);
        match self.rng.u8(..10) {
            0 => bytes = (0..self.rng.usize(1..100)).map(|_| self.rng.u8(..)).collect(),
            // A checksum that looks as if the device were to complete it.
            1 => {
                let left_to_device = Segment {
                    partial: true,
                    ..segment.clone()
                };
                (bytes, _) = whole(&left_to_device);
            }
            _ => damage(&mut self.rng, &mut bytes, l3),
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

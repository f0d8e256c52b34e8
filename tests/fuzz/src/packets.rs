//! Packets through all programs of a node: made from conversations, spoilt, fragmented, told of by ICMP errors, or any bytes;
//! between them the tables change.

use arbitrary::{Result, Unstructured};
use etherparse::PacketBuilder;
use ferrogate_common::{Direction, Flow, Protocol, Reason, SnatFlow, Tuple, config_flags, flow_flags};
use ferrogate_datapath::Verdict;
use ferrogate_datapath::host::{HostPacket, HostTables, Program, Segment, Simulator};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use crate::node;
use crate::support::{NARROW, POD, PROTOCOLS, UPLINK, Who, as_backends_see, at, run as run_packet, segment};
use crate::wire::{Seen, What};

/// Packets of one input, at most.
const STEPS: usize = 64;

/// Packets that later ones can repeat, answer, or tell of.
const MEMORY: usize = 8;

/// Bytes of an IPv4 header without options.
const IPV4: usize = 20;

/// Runs what an input asks for.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    drive(data, false);
}

/// The same with direct server return: packets are wrapped up, and come so.
///
/// # Panics
/// When something does not hold.
pub fn run_handed(data: &[u8]) {
    drive(data, true);
}

fn drive(data: &[u8], dsr: bool) {
    let mut input = Unstructured::new(data);
    // An input that ends in the middle of a step has done what it could.
    let _ = Run::new(&mut input, dsr).and_then(|mut run| run.steps(&mut input));
}

/// A packet as a hook is to meet it.
struct Met {
    program: Program,
    packet: HostPacket,
    /// As a sender sends it: nothing is wrong with it, and all of it is there.
    whole: Option<Segment>,
}

struct Run {
    node: Simulator,
    sent: VecDeque<(Program, Segment)>,
    /// What came out, the other way.
    answers: VecDeque<(Program, Segment)>,
    /// Entries were evicted, or could not be written: flows may be halves of themselves.
    disturbed: bool,
}

impl Run {
    fn new(input: &mut Unstructured<'_>, dsr: bool) -> Result<Self> {
        let mut node = node::build(input)?;
        if dsr {
            node::hand_over(&mut node, input)?;
        }
        Ok(Self {
            node,
            sent: VecDeque::new(),
            answers: VecDeque::new(),
            disturbed: false,
        })
    }

    fn steps(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        for _ in 0..STEPS {
            match input.int_in_range(0..=15)? {
                0 => {
                    node::change(&mut self.node, input)?;
                    self.disturbed = true;
                }
                1 => self.node.ticks += u32::from(input.arbitrary::<u8>()?),
                _ => {
                    let met = self.packet(input)?;
                    self.step(met);
                }
            }
        }
        Ok(())
    }

    fn packet(&self, input: &mut Unstructured<'_>) -> Result<Met> {
        let program = *input.choose(&Program::ALL)?;
        let (program, made) = match input.int_in_range(0..=7)? {
            0 => {
                let length = input.arbitrary::<u8>()?.into();
                return Ok(met(program, input.bytes(length)?.to_vec(), input.arbitrary()?));
            }
            1 if !self.sent.is_empty() => self.sent[input.choose_index(self.sent.len())?].clone(),
            2..=4 if !self.answers.is_empty() => self.answers[input.choose_index(self.answers.len())?].clone(),
            5 if !self.answers.is_empty() => {
                let (program, answered) = &self.answers[input.choose_index(self.answers.len())?];
                let bytes = framed(*program, error_about(&answered.turned(), input)?);
                return Ok(met(*program, spoilt(bytes, input)?, input.arbitrary()?));
            }
            _ => (program, request(input)?),
        };
        let mut made = made;
        if input.arbitrary::<u8>()? < 64 {
            made.flags = input.arbitrary()?;
            made.no_checksum = made.protocol == Protocol::Udp && made.source.is_ipv4() && input.arbitrary()?;
            made.option_words = input.int_in_range(0..=10)?;
            made.hop_limit = input.arbitrary()?;
        }
        let spoil = input.arbitrary::<u8>()?;
        let ip = if spoil & 1 != 0 {
            fragment(made.ip(), input)?
        } else {
            made.ip()
        };
        let mut bytes = framed(program, self.perhaps_wrapped(program, ip, input)?);
        if spoil & 2 != 0 {
            bytes = spoilt(bytes, input)?;
        }
        let mut met = met(program, bytes, input.arbitrary()?);
        met.packet.unmarkable = spoil & 4 != 0;
        met.packet.segmented = spoil & 8 != 0;
        met.whole = (spoil & 3 == 0).then_some(made);
        Ok(met)
    }

    /// As another node hands it over, now and then, or somebody who claims to be one.
    fn perhaps_wrapped(&self, program: Program, ip: Vec<u8>, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        let comes_in = matches!(program, Program::UplinkIngress | Program::UplinkIngressL3);
        if !self.node.tables.is_dsr || !comes_in || input.arbitrary::<u8>()? < 128 {
            return Ok(ip);
        }
        let v4 = ip.first().is_some_and(|byte| byte >> 4 == 4);
        let from = *input.choose(&[node::PEER, node::PEER, node::PEER, Who::Outside])?;
        let to = *input.choose(&[Who::Node, Who::Node, Who::Node, node::PEER])?;
        Ok(wrapped(address(from, v4), address(to, v4), &ip))
    }

    /// Runs a packet through its program, and looks at what comes out.
    fn step(&mut self, met: Met) {
        let Met { program, packet, whole } = met;
        let before = packet.bytes.clone();
        let mut out = run_packet(&mut self.node, program, packet);
        let reason = out.verdict.reason();
        let passed_on = match out.verdict {
            Verdict::Pass(Reason::Translated | Reason::NewFlow | Reason::Reply)
            | Verdict::Forward(_)
            | Verdict::Peer(_)
            | Verdict::Bounce(_)
            | Verdict::Loopback(_) => true,
            Verdict::Pass(Reason::Fragment | Reason::IcmpError) | Verdict::Drop(_) => false,
            Verdict::Pass(_) => {
                assert_eq!(out.bytes, before, "{program:?} changed what it passes as {reason}");
                false
            }
        };
        let Some(sent) = whole.filter(|_| passed_on) else {
            return;
        };
        // What was handed over is not answered by the way that it came.
        let answered = matches!(out.verdict, Verdict::Forward(_)) && reason.is_drop();
        if answered || matches!(out.verdict, Verdict::Bounce(_)) {
            // The kernel cuts nothing off in front of where it knows a checksum to be: what is behind an answer is padding.
            out.bytes.truncate(out.link + ip_length(&out.bytes[out.link..]));
        }
        if let Some(inner) = inside(&out.bytes[out.link..]) {
            assert_handed_over(inner, &before[before.len() - inner.len()..]);
            remember(&mut self.sent, (program, sent));
            return;
        }
        let seen = out.seen();
        let made =
            matches!(reason, Reason::NewFlow) || (reason == Reason::Translated && sent.protocol == Protocol::Udp);
        if made && self.node.tables.config.flags & config_flags::HAND_OVER == 0 {
            assert!(
                node::is_alive(&self.node, sent.protocol, seen.destination),
                "{program:?} sent {sent:?} as {reason} to {}, which is no endpoint\n{}",
                seen.destination,
                self.node.tables
            );
        }
        if let Some(answer) = answer(&sent, &seen) {
            let back = match out.verdict {
                Verdict::Peer(_) => Program::PodIngress,
                _ => other_way(program),
            };
            remember(&mut self.answers, (back, answer));
        }
        remember(&mut self.sent, (program, sent));
        if !self.disturbed {
            no_two_flows_are_one(&self.node.tables);
        }
    }
}

fn address(who: Who, v4: bool) -> IpAddr {
    at(who, v4, 0).ip()
}

/// An IP packet in another one.
fn wrapped(from: IpAddr, to: IpAddr, inner: &[u8]) -> Vec<u8> {
    let mut made = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            PacketBuilder::ipv4(from.octets(), to.octets(), 64).write(&mut made, etherparse::ip_number::IPV4, inner)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            PacketBuilder::ipv6(from.octets(), to.octets(), 64).write(&mut made, etherparse::ip_number::IPV6, inner)
        }
        _ => panic!("two families"),
    }
    .expect("a vector takes all that is written");
    made
}

/// What is in an IP packet, where that is another one.
fn inside(ip: &[u8]) -> Option<&[u8]> {
    match ip {
        [0x45, .., _] if ip.len() > 20 && ip[9] == 4 => Some(&ip[20..]),
        [first, ..] if first >> 4 == 6 && ip.len() > 40 && ip[6] == 41 => Some(&ip[40..]),
        _ => None,
    }
}

/// Nothing but the hop that it has made has changed.
fn assert_handed_over(inner: &[u8], before: &[u8]) {
    Seen::read(inner, 0);
    let but_for_the_hop = |ip: &[u8]| {
        let mut ip = ip.to_vec();
        if ip[0] >> 4 == 4 {
            ip[8] = 0;
            ip[10..12].fill(0);
        } else {
            ip[7] = 0;
        }
        ip
    };
    assert_eq!(but_for_the_hop(inner), but_for_the_hop(before));
}

/// What the header of an IP packet says of its length.
fn ip_length(ip: &[u8]) -> usize {
    let number = |at: usize| usize::from(u16::from_be_bytes([ip[at], ip[at + 1]]));
    if ip[0] >> 4 == 4 { number(2) } else { 40 + number(4) }
}

fn remember(memory: &mut VecDeque<(Program, Segment)>, packet: (Program, Segment)) {
    memory.push_front(packet);
    memory.truncate(MEMORY);
}

/// A program that may meet the answer to what came out of `program`.
fn other_way(program: Program) -> Program {
    match program {
        Program::PodIngress => Program::PodEgress,
        Program::PodEgress => Program::PodIngress,
        Program::UplinkIngress | Program::UplinkXdp => Program::UplinkEgress,
        Program::UplinkEgress => Program::UplinkIngress,
        Program::UplinkIngressL3 => Program::UplinkEgressL3,
        Program::UplinkEgressL3 => Program::UplinkIngressL3,
    }
}

/// What a backend answers to what it sees.
fn answer(sent: &Segment, seen: &Seen) -> Option<Segment> {
    let carried = matches!(seen.what, What::Tcp { .. } | What::Udp { .. } | What::Sctp { .. });
    carried.then(|| Segment {
        source: seen.destination,
        destination: seen.source,
        hop_limit: 64,
        ..sent.clone()
    })
}

fn request(input: &mut Unstructured<'_>) -> Result<Segment> {
    let v4 = input.arbitrary()?;
    let client = *input.choose(&[Who::Pod, Who::LocalPod, Who::Outside, Who::Node, Who::RemotePod])?;
    let source = at(client, v4, 40_000 + u16::from(input.arbitrary::<u8>()? % 4));
    let destination = match input.int_in_range(0..=4)? {
        0 => at(*input.choose(&node::ENDPOINTS)?, v4, node::TARGET_PORT),
        1 => at(
            *input.choose(&[Who::Vip, Who::OtherVip, Who::Node])?,
            v4,
            input.arbitrary()?,
        ),
        _ => input.choose(&node::frontends(v4))?.1,
    };
    let mut made = segment(*input.choose(&PROTOCOLS)?, source, destination, input.arbitrary()?);
    let length = usize::from(input.arbitrary::<u8>()?) % 64;
    made.payload = input.bytes(length)?.to_vec();
    Ok(made)
}

/// With the link-layer header that `program` expects.
fn framed(program: Program, ip: Vec<u8>) -> Vec<u8> {
    if program.is_layer3() {
        return ip;
    }
    let ethertype: [u8; 2] = if ip.first().is_some_and(|byte| byte >> 4 == 4) {
        [8, 0]
    } else {
        [0x86, 0xdd]
    };
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], &ethertype[..], &ip].concat()
}

fn met(program: Program, bytes: Vec<u8>, from_this_node: bool) -> Met {
    let ifindex = match program {
        Program::PodIngress | Program::PodEgress => POD,
        Program::UplinkIngressL3 | Program::UplinkEgressL3 => NARROW,
        _ => UPLINK,
    };
    let packet = if program.is_layer3() {
        HostPacket::layer3(bytes, ifindex)
    } else {
        HostPacket::ethernet(bytes, ifindex)
    };
    Met {
        program,
        packet: HostPacket {
            from_this_node,
            ..packet
        },
        whole: None,
    }
}

/// With bytes changed, and perhaps its end cut off.
fn spoilt(mut bytes: Vec<u8>, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    for _ in 0..input.int_in_range(0..=3)? {
        let offset = usize::from(input.arbitrary::<u8>()?);
        if let Some(byte) = bytes.get_mut(offset) {
            *byte = input.arbitrary()?;
        }
    }
    if input.arbitrary()? {
        bytes.truncate(input.arbitrary::<u8>()?.into());
    }
    Ok(bytes)
}

/// A part of a packet, as a fragment.
fn fragment(ip: Vec<u8>, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let (from, length, more): (u8, u8, bool) = input.arbitrary()?;
    let v4 = ip[0] >> 4 == 4;
    let header = if v4 { usize::from(ip[0] & 15) * 4 } else { 40 };
    let payload = &ip[header..];
    let begin = (usize::from(from) * 8).min(payload.len() / 8 * 8);
    let end = (begin + usize::from(length)).min(payload.len());
    let place = ((begin / 8) << 3) as u16 | u16::from(more);
    let mut made = ip[..header].to_vec();
    if v4 {
        let total = (header + end - begin) as u16;
        made[2..4].copy_from_slice(&total.to_be_bytes());
        let place = place >> 3 | u16::from(more) << 13;
        made[6..8].copy_from_slice(&place.to_be_bytes());
        made[10..12].fill(0);
        let sum = etherparse::checksum::Sum16BitWords::new()
            .add_slice(&made)
            .ones_complement();
        made[10..12].copy_from_slice(&sum.to_ne_bytes());
    } else {
        let total = (8 + end - begin) as u16;
        made[4..6].copy_from_slice(&total.to_be_bytes());
        let next = std::mem::replace(&mut made[6], 44);
        made.extend([next, 0]);
        made.extend(place.to_be_bytes());
        made.extend(0x1234_u32.to_be_bytes());
    }
    made.extend(&payload[begin..end]);
    Ok(made)
}

/// An ICMP error about a packet, from a router on its way.
fn error_about(packet: &Segment, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut quoted = packet.ip();
    quoted.truncate(IPV4 + usize::from(input.arbitrary::<u8>()?));
    let (kind, code, rest): (u8, u8, [u8; 4]) = input.arbitrary()?;
    let mut made = Vec::new();
    let written = match packet.source.ip() {
        IpAddr::V4(to) => PacketBuilder::ipv4([198, 51, 100, 1], to.octets(), 60)
            .icmpv4_raw(*input.choose(&[3, 5, 11, 12, 8, 0, kind])?, code, rest)
            .write(&mut made, &quoted),
        IpAddr::V6(to) => PacketBuilder::ipv6(
            [0x20, 1, 0xd, 0xb8, 0, 0x51, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            to.octets(),
            60,
        )
        .icmpv6_raw(*input.choose(&[1, 2, 3, 4, 128, 129, 137, kind])?, code, rest)
        .write(&mut made, &quoted),
    };
    written.expect("a vector takes all that is written");
    Ok(made)
}

fn no_two_flows_are_one(tables: &HostTables) {
    let mut owners = BTreeMap::new();
    let forward = |(key, _): &(&Tuple, &Flow)| key.direction == Direction::Forward as u8;
    for (key, flow) in tables.flows.iter().chain(&tables.half_open).filter(forward) {
        // Another node tells those apart.
        if flow.flags & flow_flags::DSR != 0 {
            continue;
        }
        let seen = as_backends_see(tables, key, flow);
        if has_lost_its_port(tables, key, flow, seen.0) || has_given_way(tables, key, flow) {
            continue;
        }
        if let Some(other) = owners.insert(seen, *key) {
            assert_eq!(other, *key, "both are {seen:?}\n{tables}");
        }
    }
}

/// Whether a flow that has ended has left its replies' entry to a later one: nothing more of it comes back.
fn has_given_way(tables: &HostTables, key: &Tuple, flow: &Flow) -> bool {
    let reply = Tuple::new(
        (flow.address, flow.port),
        (key.source, key.source_port),
        key.protocol,
        Direction::Reply,
    );
    let held = tables.flows.get(&reply).or_else(|| tables.half_open.get(&reply));
    flow.flags & flow_flags::ENDED == flow_flags::ENDED
        && held.is_some_and(|held| held.address != key.destination || held.port.be() != key.destination_port.be())
}

/// Whether another flow has a flow's port of the SNAT range by now, be it one of the same client through another frontend: where none is
/// free, one that only a first packet holds is given away, and its flow begins anew.
fn has_lost_its_port(tables: &HostTables, key: &Tuple, flow: &Flow, source: SocketAddr) -> bool {
    let reply = Tuple::new(
        (flow.address, flow.port),
        (source.ip().into(), flow.source_port),
        key.protocol,
        Direction::Reply,
    );
    let holder = tables.snat_flows.get(&reply);
    let own = |held: &SnatFlow| {
        held.client == key.source
            && held.frontend == key.destination
            && [held.client_port, held.frontend_port] == [key.source_port, key.destination_port]
    };
    flow.flags & flow_flags::SNAT != 0 && holder.is_some_and(|held| !own(held))
}

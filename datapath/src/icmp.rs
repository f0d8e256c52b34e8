//! ICMP and ICMPv6: errors about packets of a flow, and echo requests to Services.
//!
//! An error about a packet of a flow goes the way of a packet in the other direction. So its tuple is that of such a packet,
//! the reverse of the one it quotes; the flow that this tuple has says how both the error's own addresses and the quoted packet
//! are to be rewritten. What the receiver finds quoted is then the packet that it has sent.

use crate::chain::FARTHEST;
use crate::checksum::{add, address_difference, port_difference, update, word_difference};
use crate::env::{ChecksumChange, Env, FlowTable, Packet};
use crate::headers::IcmpHeader;
use crate::parse::{Headers, kind};
use crate::pipeline::{BOUNCE, Edge, FORWARD, LOOPBACK, PEER, Step, Verdict, bounce, go, way, way_back};
use crate::second::Quote;
use crate::translate::{self, Rewrite};
use crate::{dsr, redirect, select, snat};
use ferrogate_common::{Address, Direction, Dsr, FrontendKind, Protocol, Reason, config_flags, flow_flags};

/// TTL of answers: what the stack uses.
const HOP_LIMIT: u8 = 64;

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
const REDIRECT_V6: u8 = 137;

/// Bytes of an ICMPv6 redirect before its options (RFC 4861 section 4.5).
const REDIRECT_V6_HEADER: usize = 40;
/// Options of it: the target's link-layer address, and the packet that was redirected.
const TARGET_LINK_LAYER: u8 = 2;
const REDIRECTED: u8 = 4;

/// Which of [`kind`] a type of ICMP (RFC 792) is, [`kind::PLAIN`] for those that are of no interest, and how many bytes of
/// message there are in front of the quoted packet.
#[inline(always)]
pub(crate) fn kind_v4(number: u8) -> (u8, usize) {
    let kind = match number {
        // Destination unreachable, time exceeded, parameter problem.
        3 | 11 | 12 => kind::ERROR,
        5 => kind::REDIRECT,
        ECHO_REQUEST => kind::ECHO,
        _ => kind::PLAIN,
    };
    (kind, size_of::<IcmpHeader>())
}

/// The same for ICMPv6 (RFC 4443).
#[inline(always)]
pub(crate) fn kind_v6<P: Packet>(packet: &P, at: usize, number: u8) -> (u8, usize) {
    let header = size_of::<IcmpHeader>();
    match number {
        // Destination unreachable, packet too big, time exceeded, parameter problem.
        1..=4 => (kind::ERROR, header),
        ECHO_REQUEST_V6 => (kind::ECHO, header),
        REDIRECT_V6 => match packet.load::<[u8; 2]>(at + REDIRECT_V6_HEADER) {
            Some([REDIRECTED, _]) => (kind::REDIRECT, REDIRECT_V6_HEADER + 8),
            Some([TARGET_LINK_LAYER, 1]) => (kind::REDIRECT, REDIRECT_V6_HEADER + 16),
            _ => (kind::PLAIN, header),
        },
        _ => (kind::PLAIN, header),
    }
}

/// An ICMP error or redirect.
#[inline(always)]
pub(crate) fn error<E: Env>(
    env: &mut E,
    edge: Edge,
    leaving: bool,
    headers: &mut Headers,
    quote: &mut Quote,
    rewrite: &mut Rewrite,
) -> Verdict {
    let mut towards_backend = false;
    let mut flags = None;
    if leaving {
        headers.tuple.direction = Direction::Reply as u8;
        flags = leaving_flow(env, headers, rewrite);
    }
    if flags.is_none() && (!leaving || is_own_request(env, edge)) {
        headers.tuple.direction = Direction::Forward as u8;
        flags = entering_flow(env, edge, headers, rewrite);
        towards_backend = true;
    }
    let Some(flags) = flags else {
        return Verdict::Pass(Reason::NotService);
    };
    if headers.kind == kind::REDIRECT {
        return Verdict::Drop(Reason::IcmpRedirect);
    }
    let (step, reason) = if leaving && !towards_backend {
        let step = if flags == 0 { Step::Deliver } else { Step::Bounce };
        (step, Reason::IcmpError)
    } else {
        way(env, edge, headers, rewrite, flags, Reason::IcmpError)
    };
    let then = match step {
        Step::Deliver => 0,
        Step::Bounce => BOUNCE,
        Step::Forward => FORWARD,
        Step::Peer => PEER,
        Step::Loopback => LOOPBACK,
        // No error is ever answered with another one.
        _ => return Verdict::Drop(reason),
    };
    let then = env.opaque(then);
    if dsr::wraps(env, edge, rewrite) {
        return dsr::hand_over(env, headers, rewrite, reason);
    }
    if dsr::is_looked_for(env, edge) && headers.is_handed() {
        let outer = u32::from(Dsr::overhead(headers.is_v6()));
        quote.l3 = quote.l3.wrapping_sub(outer) & FARTHEST;
        quote.l4 = quote.l4.wrapping_sub(outer) & FARTHEST;
        if dsr::unwrap(env, headers).is_none() {
            return Verdict::Drop(Reason::Malformed);
        }
    }
    let hides_sender = u32::from(flags & u32::from(flow_flags::SNAT) != 0 && towards_backend);
    let hides_sender = env.opaque(hides_sender);
    if translate_quoted(env, headers, quote, rewrite, hides_sender).is_none() {
        return Verdict::Drop(Reason::Malformed);
    }
    if leaving && !towards_backend && then == 0 {
        return Verdict::Pass(reason);
    }
    go(env, edge, headers, rewrite, then, reason)
}

/// Whether what leaves was sent by a process of this node, whose requests are translated here.
#[inline(always)]
fn is_own_request<E: Env>(env: &E, edge: Edge) -> bool {
    edge == Edge::Node && env.is_from_this_node() && env.config().flags & config_flags::NODE_EDGE_OFF == 0
}

/// The flow of an error that enters: a reply that is restored here, or a request. Its flags.
#[inline(always)]
fn entering_flow<E: Env>(env: &mut E, edge: Edge, headers: &mut Headers, rewrite: &mut Rewrite) -> Option<u32> {
    if edge != Edge::Node && !headers.is_handed() && snat::in_range(&env.config(), headers.tuple.destination_port) {
        headers.tuple.direction = Direction::Reply as u8;
        let flags = snat::restore(env, headers, false, rewrite);
        headers.tuple.direction = Direction::Forward as u8;
        if let Some(flags) = flags {
            return Some(way_back(flags & !flow_flags::SNAT));
        }
    }
    if redirect::is_reply(env, edge, headers, rewrite) {
        return Some(flow_flags::TRANSIT.into());
    }
    let flags = request_flow(env, edge, headers, rewrite);
    (flags != NONE).then_some(flags)
}

/// No flow, where flags could be.
const NONE: u32 = u32::MAX;

/// The flow of a request; its flags, or [`NONE`].
#[inline(never)]
fn request_flow<E: Env>(env: &E, edge: Edge, headers: &Headers, rewrite: &mut Rewrite) -> u32 {
    for table in [FlowTable::Established, FlowTable::HalfOpen] {
        if let Some(flow) = env.flow(table, &headers.tuple) {
            return if translate::towards_backend(env, edge, headers, &flow, rewrite) {
                flow.flags.into()
            } else {
                NONE
            };
        }
    }
    NONE
}

/// The flow of an error that leaves towards a client. Not 0: the client is a process of this node too.
#[inline(always)]
fn leaving_flow<E: Env>(env: &mut E, headers: &Headers, rewrite: &mut Rewrite) -> Option<u32> {
    if snat::in_range(&env.config(), headers.tuple.destination_port)
        && let Some(flags) = snat::restore(env, headers, true, rewrite)
    {
        return Some((flags & flow_flags::NODE).into());
    }
    translate::towards_client(env, headers, rewrite, false).then_some(0)
}

/// Rewrites an error's addresses and the packet that it quotes. Its sender stays who it is, a router on the way, unless it is
/// the flow's end itself or `hides_sender`. `None`: the packet could not be written.
#[inline(never)]
fn translate_quoted<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    quote: &Quote,
    rewrite: &Rewrite,
    hides_sender: u32,
) -> Option<()> {
    let tuple = &headers.tuple;
    let v6 = headers.is_v6();
    // What is read back from memory has lost its bounds.
    let quote_l3 = (quote.l3 & FARTHEST) as usize;
    let quote_l4 = (quote.l4 & FARTHEST) as usize;
    let sender = load_source(packet, headers)?;
    let new_sender = if hides_sender != 0 || sender == tuple.source {
        rewrite.source
    } else {
        sender
    };
    let destination = address_difference(&tuple.destination, &rewrite.destination, v6);
    let outer = add(address_difference(&sender, &new_sender, v6), destination);
    let inner = add(address_difference(&tuple.source, &rewrite.source, v6), destination);
    let ports = add(
        port_difference(tuple.source_port, rewrite.source_port),
        port_difference(tuple.destination_port, rewrite.destination_port),
    );
    let mut change = add(inner, ports);
    if !v6 {
        update_checksum(packet, packet.link_header() + 10, outer, false)?;
        change = add(change, update_checksum(packet, quote_l3 + 10, inner, false)?);
    }
    store_addresses(packet, packet.link_header(), v6, &new_sender, &rewrite.destination)?;
    // What was sent has source and destination the other way round.
    store_addresses(packet, quote_l3, v6, &rewrite.destination, &rewrite.source)?;
    packet.store(quote_l4, [rewrite.destination_port.be(), rewrite.source_port.be()])?;
    let udp = tuple.protocol == Protocol::Udp as u8;
    // Nobody can check the CRC32c of an SCTP packet of which only the beginning is quoted.
    if udp || headers.is_tcp() {
        // A quote may end before its packet's checksum.
        let at = quote_l4 + if udp { 6 } else { 16 };
        if let Some(difference) = update_checksum(packet, at, add(inner, ports), udp) {
            change = add(change, difference);
        }
    }
    let change = ChecksumChange {
        addresses: if v6 { outer } else { 0 },
        rest: change,
        full: 0,
        optional: false,
        v6,
    };
    packet.update_transport_checksum(headers.l4 + 2, change)
}

#[inline(always)]
fn load_source<P: Packet>(packet: &P, headers: &Headers) -> Option<Address> {
    Some(if headers.is_v6() {
        Address::from_words(packet.load(packet.link_header() + 8)?)
    } else {
        Address::from_v4_word(packet.load(packet.link_header() + 12)?)
    })
}

/// Writes both addresses of the IP header at `l3`.
#[inline(always)]
fn store_addresses<P: Packet>(
    packet: &mut P,
    l3: usize,
    v6: bool,
    source: &Address,
    destination: &Address,
) -> Option<()> {
    if v6 {
        packet.store(l3 + 8, [source.words(), destination.words()])
    } else {
        packet.store(l3 + 12, [source.v4_word(), destination.v4_word()])
    }
}

/// Mends a checksum in the packet's bytes, and returns the difference that its own new value makes to a sum over it. With
/// `optional` 0 stands for "none", and stays.
#[inline(always)]
fn update_checksum<P: Packet>(packet: &mut P, at: usize, difference: u32, optional: bool) -> Option<u32> {
    let old: u16 = packet.load(at)?;
    if optional && old == 0 {
        return Some(0);
    }
    let mut new = update(old, difference);
    if optional && new == 0 {
        new = 0xffff;
    }
    packet.store(at, new)?;
    Some(word_difference(old, new))
}

/// An echo request: answered where it is to a Service's address that its client may use. `leaving`: only those of this node's
/// own processes are looked at.
#[inline(always)]
pub(crate) fn echo<E: Env>(env: &mut E, edge: Edge, leaving: bool, headers: &Headers) -> Verdict {
    if leaving && !is_own_request(env, edge) {
        return Verdict::Pass(Reason::NotService);
    }
    let Some(frontend) = select::address_alone(env, &headers.tuple.destination) else {
        return Verdict::Pass(Reason::NotService);
    };
    if frontend.is(FrontendKind::Foreign) {
        return Verdict::Pass(Reason::NotService);
    }
    let inside = frontend.kind == FrontendKind::Address as u8;
    if inside && edge == Edge::Uplink && env.config().flags & config_flags::EXTERNAL_CLUSTER_IP == 0 {
        return Verdict::Drop(Reason::ExternalClusterIp);
    }
    if answer_echo(env, headers).is_none() {
        return Verdict::Drop(Reason::Malformed);
    }
    bounce(env, Reason::Echo)
}

/// Makes the request its own reply.
#[inline(never)]
fn answer_echo<P: Packet>(packet: &mut P, headers: &Headers) -> Option<()> {
    let (l3, v6) = (packet.link_header(), headers.is_v6());
    let [kind, code]: [u8; 2] = packet.load(headers.l4)?;
    let answer = [if v6 { ECHO_REPLY_V6 } else { ECHO_REPLY }, code];
    packet.store(headers.l4, answer)?;
    let change = ChecksumChange {
        addresses: 0,
        rest: word_difference(u16::from_ne_bytes([kind, code]), u16::from_ne_bytes(answer)),
        full: 0,
        optional: false,
        v6,
    };
    packet.update_transport_checksum(headers.l4 + 2, change)?;
    let tuple = &headers.tuple;
    store_addresses(packet, l3, v6, &tuple.destination, &tuple.source)?;
    if v6 {
        return packet.store(l3 + 7, HOP_LIMIT);
    }
    let [ttl, protocol]: [u8; 2] = packet.load(l3 + 8)?;
    let difference = word_difference(
        u16::from_ne_bytes([ttl, protocol]),
        u16::from_ne_bytes([HOP_LIMIT, protocol]),
    );
    packet.store(l3 + 8, HOP_LIMIT)?;
    update_checksum(packet, l3 + 10, difference, false)?;
    Some(())
}

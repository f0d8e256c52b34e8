//! Refusals: the packet is turned into its own answer (TCP RST, SCTP ABORT, ICMP or ICMPv6 error) and sent back.

use crate::checksum::{add, address, fold};
use crate::env::Env;
use crate::headers::{
    IcmpHeader, Ipv4Header, Ipv6Header, SctpHeader, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, TcpHeader, chunk,
};
use crate::parse::{Headers, kind};
use crate::pipeline::{Verdict, bounce};
use crate::{crc32c, dsr};
use ferrogate_common::{Address, Protocol, Reason};

/// What is wrong with a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nobody there: RST for TCP, ABORT for SCTP, port unreachable for UDP.
    Unreachable,
    /// TTL or hop limit used up.
    HopLimit,
    /// Larger than the MTU of the way that was found.
    TooBig,
}

/// [`Refusal`]s as numbers that can be made opaque.
const UNREACHABLE: u32 = Refusal::Unreachable as u32;
const HOP_LIMIT_USED: u32 = Refusal::HopLimit as u32;

/// TTL of the answers: what the stack uses.
const HOP_LIMIT: u8 = 64;

/// Flag of SCTP chunks that have their receiver's tag from a packet of its own (the T bit).
const REFLECTED_TAG: u8 = 1;

/// Bytes of the transport header that an ICMP error quotes (RFC 792).
const QUOTED: usize = 8;

/// Answers the packet and sends the answer back.
#[inline(always)]
pub(crate) fn refuse<E: Env>(env: &mut E, headers: &Headers, refusal: Refusal, reason: Reason) -> Verdict {
    // Nothing is answered to fragments behind the first (RFC 1122 section 3.2.2).
    if headers.kind != kind::PLAIN {
        return Verdict::Drop(reason);
    }
    let refusal = env.opaque(refusal as u32);
    if !answer(env, headers, refusal) {
        return Verdict::Drop(reason);
    }
    if env.is_dsr() && headers.is_handed() {
        return dsr::answer(env, headers, reason);
    }
    bounce(env, reason)
}

/// Turns the packet into its answer; false where none is due or none could be made.
#[inline(never)]
fn answer<E: Env>(env: &mut E, headers: &Headers, refusal: u32) -> bool {
    let made = if headers.is_tcp() && refusal == UNREACHABLE {
        // A reset is never answered (RFC 9293 section 3.5.2).
        if headers.tcp_flags & TCP_RST != 0 {
            return false;
        }
        reset(env, headers)
    } else if headers.is_sctp() && refusal == UNREACHABLE {
        // Nor are these: that is what they are read as.
        if headers.tcp_flags & TCP_RST != 0 {
            return false;
        }
        abort(env, headers)
    } else if headers.is_v6() {
        icmp_v6(env, headers, refusal)
    } else {
        icmp_v4(env, headers, refusal)
    };
    made.is_some()
}

/// Makes the packet the answer of an SCTP endpoint that knows nothing of it (RFC 9260 section 8.4): an ABORT, with which a client's
/// connect(2) fails at once. An ICMP error it would only remember, and send again until its time is up.
#[inline(always)]
fn abort<E: Env>(env: &mut E, headers: &Headers) -> Option<()> {
    let sctp: SctpHeader = env.load(headers.l4)?;
    // The tag that its receiver demands: of an INIT's sender the one in there, of others the one that they use, marked as such.
    let (tag, kind, flags) = match sctp.chunk {
        chunk::INIT => (env.load(headers.l4 + size_of::<SctpHeader>())?, chunk::ABORT, 0),
        chunk::SHUTDOWN_ACK => (sctp.tag, chunk::SHUTDOWN_COMPLETE, REFLECTED_TAG),
        _ => (sctp.tag, chunk::ABORT, REFLECTED_TAG),
    };
    // The chunk is its head alone: type, flags, length.
    let head = env.opaque(u32::from_ne_bytes([kind, flags, 0, 4]));
    let ports: [u16; 2] = [sctp.destination_port, sctp.source_port];
    let mut answer = [bytemuck::cast(ports), tag, 0, head];
    // 0: the packet's device completes the checksum, and does so for what it has become.
    if sctp.checksum != 0 {
        answer[2] = crc32c::of_words(&answer);
    }
    let length = size_of::<SctpHeader>();
    resize(env, headers, length)?;
    answer_ip(
        env,
        headers,
        &headers.tuple.destination,
        Protocol::Sctp as u8,
        length as u16,
    )?;
    env.store(env.link_header() + headers.plain_ip_length(), answer)
}

/// Makes the packet the reset that answers it.
#[inline(always)]
fn reset<E: Env>(env: &mut E, headers: &Headers) -> Option<()> {
    let tcp: TcpHeader = env.load(headers.l4)?;
    let header_length = (tcp.data_offset >> 4) as u32 * 4;
    let ip_length = (headers.l4 - env.link_header()) as u32;
    let occupied = (headers.length as u32).saturating_sub(ip_length + header_length)
        + u32::from(tcp.flags & TCP_SYN != 0)
        + u32::from(tcp.flags & TCP_FIN != 0);
    let (sequence, acknowledgment, flags) = if tcp.flags & TCP_ACK != 0 {
        (tcp.acknowledgment, 0, TCP_RST)
    } else {
        let next = u32::from_be(tcp.sequence).wrapping_add(occupied);
        (0, next.to_be(), TCP_RST | TCP_ACK)
    };
    let answer = TcpHeader {
        source_port: tcp.destination_port,
        destination_port: tcp.source_port,
        sequence,
        acknowledgment,
        data_offset: 5 << 4,
        flags,
        window: 0,
        checksum: 0,
        urgent: 0,
    };
    let tuple = &headers.tuple;
    resize(env, headers, 20)?;
    answer_ip(env, headers, &tuple.destination, Protocol::Tcp as u8, 20)?;
    let l4 = env.link_header() + headers.plain_ip_length();
    env.store(l4, answer)?;
    let pseudo = pseudo_header(&tuple.source, &tuple.destination, Protocol::Tcp as u8, 20);
    let words: [u32; 5] = bytemuck::cast(answer);
    let full = !fold(add(pseudo, sum_words(&words)));
    env.set_transport_checksum(l4 + 16, full, fold(pseudo))
}

/// Makes the packet an ICMP error that quotes its IP header and 8 bytes more. Options are left out of the quote: so it is always
/// as long.
#[inline(always)]
fn icmp_v4<E: Env>(env: &mut E, headers: &Headers, refusal: u32) -> Option<()> {
    let (kind, code, rest) = match refusal {
        UNREACHABLE => (3, 3, 0),
        HOP_LIMIT_USED => (11, 0, 0),
        _ => (3, 4, (env.hop().mtu as u32).to_be()),
    };
    let from = answering_address(env, headers, refusal);
    resize(env, headers, 8 + 20 + QUOTED)?;
    let l3 = env.link_header();
    let transport: [u32; 2] = env.load(headers.l4)?;
    let mut ip: Ipv4Header = env.load(l3)?;
    ip.version_ihl = 0x45;
    let quoted: [u32; 5] = bytemuck::cast(ip);
    env.store(l3 + 28, quoted)?;
    env.store(l3 + 48, transport)?;
    let mut icmp = IcmpHeader {
        kind,
        code,
        checksum: 0,
        rest,
    };
    let words: [u32; 2] = bytemuck::cast(icmp);
    icmp.checksum = !fold(add(sum_words(&words), add(sum_words(&quoted), sum_words(&transport))));
    env.store(l3 + 20, icmp)?;
    answer_ip(env, headers, &from, Protocol::ICMP, (8 + 20 + QUOTED) as u16)
}

/// The same for IPv6, without extension headers: the error's checksum covers a pseudo header too (RFC 4443 section 2.3).
#[inline(always)]
fn icmp_v6<E: Env>(env: &mut E, headers: &Headers, refusal: u32) -> Option<()> {
    let (kind, code, rest) = match refusal {
        UNREACHABLE => (1, 4, 0),
        HOP_LIMIT_USED => (3, 0, 0),
        _ => (2, 0, (env.hop().mtu as u32).to_be()),
    };
    let from = answering_address(env, headers, refusal);
    let length = 8 + 40 + QUOTED;
    resize(env, headers, length)?;
    let transport: [u32; 2] = env.load(headers.l4)?;
    let sum = quote_v6(env, headers)?;
    env.store(env.link_header() + 88, transport)?;
    let mut icmp = IcmpHeader {
        kind,
        code,
        checksum: 0,
        rest,
    };
    let words: [u32; 2] = bytemuck::cast(icmp);
    let pseudo = pseudo_header(&from, &headers.tuple.source, Protocol::ICMPV6, length as u16);
    let quote = add(sum, sum_words(&transport));
    icmp.checksum = !fold(add(pseudo, add(sum_words(&words), quote)));
    env.store(env.link_header() + 40, icmp)?;
    answer_ip(env, headers, &from, Protocol::ICMPV6, length as u16)
}

/// Copies the IPv6 header to where it is quoted, behind an IPv6 and an ICMP header, and returns its sum. By and by, because the
/// stack has no room for it all.
#[inline(always)]
fn quote_v6<E: Env>(env: &mut E, headers: &Headers) -> Option<u32> {
    let (from, to) = (env.link_header(), env.link_header() + 48);
    let [first, second]: [u32; 2] = env.load(from)?;
    let [a, b, _, hop_limit] = second.to_ne_bytes();
    let fixed = [first, u32::from_ne_bytes([a, b, headers.tuple.protocol, hop_limit])];
    env.store(to, fixed)?;
    let mut sum = sum_words(&fixed);
    for at in [8, 24] {
        let address: [u32; 4] = env.load(from + at)?;
        env.store(to + at, address)?;
        sum = add(sum, sum_words(&address));
    }
    Some(sum)
}

/// Gives the packet an answer's length; `payload`: that of what follows the IP header.
#[inline(always)]
fn resize<E: Env>(env: &mut E, headers: &Headers, payload: usize) -> Option<()> {
    // The kernel cuts nothing off in front of where it knows a checksum to be. What is left behind the answer is padding.
    let end = (env.link_header() + headers.plain_ip_length() + payload).max(headers.l4 + payload.min(20));
    env.resize((env.opaque(end as u32) & 0x3ff) as usize)
}

/// Who speaks: the Service for "nobody here", the router that we are for what happens on the way. To a process of this node
/// always the Service: the stack takes nothing from outside that claims to be the node's own.
#[inline(always)]
fn answering_address<E: Env>(env: &E, headers: &Headers, refusal: u32) -> Address {
    if refusal != UNREACHABLE
        && !env.is_from_this_node()
        && let Some(interface) = env.interface(env.ifindex())
        && let Some(address) = env.source(if headers.is_v6() {
            interface.source6
        } else {
            interface.source4
        })
    {
        return address;
    }
    headers.tuple.destination
}

/// Writes the answer's IP header, without options; `payload`: the length of what follows it.
#[inline(always)]
fn answer_ip<E: Env>(env: &mut E, headers: &Headers, from: &Address, protocol: u8, payload: u16) -> Option<()> {
    let to = &headers.tuple.source;
    if headers.is_v6() {
        return env.store(
            env.link_header(),
            Ipv6Header {
                version_class: 6 << 4,
                class_flow: [0; 3],
                payload_length: payload.to_be(),
                next_header: protocol,
                hop_limit: HOP_LIMIT,
                source: from.words(),
                destination: to.words(),
            },
        );
    }
    let mut ip = Ipv4Header {
        version_ihl: 0x45,
        tos: 0,
        total_length: (20 + payload).to_be(),
        identification: 0,
        fragment: 0x4000u16.to_be(),
        ttl: HOP_LIMIT,
        protocol,
        checksum: 0,
        source: from.v4_word(),
        destination: to.v4_word(),
    };
    let words: [u32; 5] = bytemuck::cast(ip);
    ip.checksum = !fold(sum_words(&words));
    env.store(env.link_header(), ip)
}

/// One's complement sum of words.
#[inline(always)]
pub(crate) fn sum_words<const N: usize>(words: &[u32; N]) -> u32 {
    let mut sum = 0;
    for word in words {
        sum = add(sum, *word);
    }
    sum
}

/// Sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1).
#[inline(always)]
fn pseudo_header(a: &Address, b: &Address, protocol: u8, length: u16) -> u32 {
    let rest = add((length.to_be()) as u32, (protocol as u16).to_be() as u32);
    add(add(address(a), address(b)), rest)
}

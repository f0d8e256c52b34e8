//! What a hook's first program leaves to its second one: IP fragments, ICMP, SCTP, IPv6 extension headers, and every packet
//! that is refused. It knows all that the first one knows, so that a packet is only ever in the hands of one of the two: the first has
//! changed nothing of what it hands on.

use crate::chain::{Chain, FARTHEST, FOLLOWED, MORE, follow};
use crate::env::Env;
use crate::headers::{IcmpHeader, TCP_ACK};
use crate::icmp;
use crate::parse::{Headers, kind, transport_flags, version};
use crate::pipeline::{Edge, Left, Verdict, reply, request};
use crate::translate::Rewrite;
use crate::{dsr, select};
use ferrogate_common::{Direction, FragmentKey, FragmentPorts, Port, Protocol, Reason, Tuple};

/// A packet that comes from a client's side, and that [`crate::enter`] has left.
#[inline(always)]
pub fn enter_second<E: Env>(env: &mut E, edge: Edge) -> Verdict {
    run(env, edge, false)
}

/// A packet that goes towards a client, and that [`crate::leave`] has left.
#[inline(always)]
pub fn leave_second<E: Env>(env: &mut E, edge: Edge) -> Verdict {
    run(env, edge, true)
}

#[inline(always)]
fn run<E: Env>(env: &mut E, edge: Edge, leaving: bool) -> Verdict {
    let mut headers = Headers::NONE;
    let mut quote = Quote::NONE;
    let looks_inside = dsr::is_looked_for(env, edge) && !leaving;
    let reason = parse(env, looks_inside.into(), &mut headers, &mut quote);
    // What comes back through memory has lost its bounds.
    headers.l4 = (env.opaque(headers.l4 as u32) & FARTHEST) as usize;
    let mut rewrite = Rewrite::NONE;
    let verdict = if reason != FOLLOWED {
        match reason {
            // What leaves came from a backend, and may be anything.
            Reason::LostFragment if leaving => Verdict::Pass(Reason::Fragment),
            Reason::LostFragment => Verdict::Drop(reason),
            _ => Verdict::Pass(reason),
        }
    } else if headers.kind == kind::ECHO && headers.is_handed() {
        Verdict::Pass(Reason::NotService)
    } else if headers.kind == kind::ECHO {
        icmp::echo(env, edge, leaving, &headers)
    } else if headers.is_about_another() {
        icmp::error(env, edge, leaving, &mut headers, &mut quote, &mut rewrite)
    } else {
        let verdict = if leaving {
            reply::<E, true>(env, edge, &mut headers, &mut rewrite)
        } else {
            request::<E, true>(env, edge, &mut headers, &mut rewrite)
        };
        // There is no third one.
        verdict.unwrap_or_else(|Left(reason)| Verdict::Drop(reason))
    };
    env.count(verdict.reason());
    verdict
}

/// Where the packet that an ICMP error quotes lies.
pub(crate) struct Quote {
    /// Offset of its IP header.
    pub(crate) l3: u32,
    /// Offset of its transport header.
    pub(crate) l4: u32,
}

impl Quote {
    const NONE: Self = Self { l3: 0, l4: 0 };
}

/// Fills `headers` in, and `quote` for ICMP errors; with `looks_inside` not 0 those of what another node has wrapped up. [`FOLLOWED`], or
/// why the packet is none of ours.
#[inline(never)]
fn parse<E: Env>(env: &mut E, looks_inside: u32, headers: &mut Headers, quote: &mut Quote) -> Reason {
    let l3 = env.link_header();
    let v6 = match version(env) {
        Some(4) => 0,
        Some(6) => 1,
        Some(_) => return Reason::NotIp,
        None => return Reason::Malformed,
    };
    let v6 = env.opaque(v6);
    let mut chain = Chain::NONE;
    let mut reason = follow(env, l3, v6, &mut chain);
    if reason != FOLLOWED {
        return reason;
    }
    let mut handed = 0;
    if env.is_dsr() && looks_inside != 0 && dsr::is_wrapped(env, &chain, l3, v6 != 0) {
        handed = 1;
        reason = follow(env, chain.l4, v6, &mut chain);
        if reason != FOLLOWED {
            return reason;
        }
    }
    *headers = Headers {
        tuple: Tuple::new(
            (chain.source, Port::ZERO),
            (chain.destination, Port::ZERO),
            chain.protocol,
            Direction::Forward,
        ),
        l4: chain.l4,
        v6: v6 as u8,
        hop_limit: chain.hop_limit,
        tcp_flags: 0,
        length: chain.length,
        device: 0,
        kind: kind::PLAIN,
        handed: env.opaque(handed) as u8,
    };
    let icmp = if v6 != 0 { Protocol::ICMPV6 } else { Protocol::ICMP };
    reason = if chain.is_later_fragment() {
        later_fragment(env, &chain, headers)
    } else if chain.protocol == icmp && chain.fragment == 0 {
        parse_icmp(env, &mut chain, headers, quote)
    } else {
        plain(env, &chain, headers)
    };
    headers.kind = env.opaque(headers.kind.into()) as u8;
    headers.tcp_flags = env.opaque(headers.tcp_flags.into()) as u8;
    headers.tuple.protocol = env.opaque(headers.tuple.protocol.into()) as u8;
    reason
}

/// Ports and flags; those of a first fragment are kept for the others.
#[inline(never)]
fn plain<E: Env>(env: &mut E, chain: &Chain, headers: &mut Headers) -> Reason {
    if !is_transport(chain.protocol) {
        return Reason::NotIp;
    }
    // The checksum of SCTP depends on the whole packet's length, which the first fragment does not say.
    if chain.protocol == Protocol::Sctp as u8 && chain.fragment != 0 {
        return lost_fragment(env, chain);
    }
    let l4 = (chain.l4 as u32 & FARTHEST) as usize;
    let Some(flags) = transport_flags(env, l4, chain.protocol) else {
        return Reason::Malformed;
    };
    let Some([from, to]) = env.load::<[u16; 2]>(l4) else {
        return Reason::Malformed;
    };
    headers.tcp_flags = flags;
    headers.tuple.source_port = Port::from_be(from);
    headers.tuple.destination_port = Port::from_be(to);
    if chain.fragment & MORE != 0 {
        let ports = FragmentPorts {
            source_port: Port::from_be(from),
            destination_port: Port::from_be(to),
            protocol: chain.protocol,
            reserved: [0; 3],
        };
        env.put_fragment(&fragment_key(chain, headers), &ports);
    }
    FOLLOWED
}

#[inline(always)]
fn is_transport(protocol: u8) -> bool {
    Protocol::from_number(protocol).is_some()
}

/// The ports that the first fragment had.
#[inline(never)]
fn later_fragment<E: Env>(env: &mut E, chain: &Chain, headers: &mut Headers) -> Reason {
    let Some(first) = env.fragment(&fragment_key(chain, headers)) else {
        return lost_fragment(env, chain);
    };
    headers.kind = kind::LATER_FRAGMENT;
    headers.tuple.source_port = first.source_port;
    headers.tuple.destination_port = first.destination_port;
    headers.tuple.protocol = first.protocol;
    if headers.has_connections() {
        headers.tcp_flags = TCP_ACK;
    }
    FOLLOWED
}

/// One that can't be translated.
#[inline(always)]
fn lost_fragment<E: Env>(env: &E, chain: &Chain) -> Reason {
    if select::is_service_address(env, &chain.destination) {
        Reason::LostFragment
    } else {
        Reason::Fragment
    }
}

#[inline(always)]
fn fragment_key(chain: &Chain, headers: &Headers) -> FragmentKey {
    FragmentKey {
        source: chain.source,
        destination: chain.destination,
        identification: chain.identification,
        protocol: if headers.is_v6() { 0 } else { chain.protocol.into() },
    }
}

/// What an ICMP message is, and of an error which packet it is about.
#[inline(always)]
fn parse_icmp<E: Env>(env: &mut E, chain: &mut Chain, headers: &mut Headers, quote: &mut Quote) -> Reason {
    let l4 = (headers.l4 as u32 & FARTHEST) as usize;
    let Some(icmp) = env.load::<IcmpHeader>(l4) else {
        return Reason::Malformed;
    };
    let (found, fixed) = if headers.is_v6() {
        icmp::kind_v6(env, l4, icmp.kind)
    } else {
        icmp::kind_v4(icmp.kind)
    };
    headers.kind = found;
    if found == kind::ECHO {
        return FOLLOWED;
    }
    if found == kind::PLAIN {
        return Reason::NotIp;
    }
    quote.l3 = (l4 + fixed) as u32 & FARTHEST;
    let reason = follow(env, quote.l3 as usize, headers.v6.into(), chain);
    if reason != FOLLOWED {
        return reason;
    }
    // Errors go to the sender of what they quote.
    if chain.source != headers.tuple.destination {
        return Reason::Malformed;
    }
    if chain.is_later_fragment() {
        return Reason::Fragment;
    }
    if !is_transport(chain.protocol) {
        return Reason::NotIp;
    }
    quote.l4 = chain.l4 as u32 & FARTHEST;
    let Some([from, to]) = env.load::<[u16; 2]>(quote.l4 as usize) else {
        return Reason::Malformed;
    };
    // A packet the other way would have the same flow, and goes where this error is to go.
    headers.tuple = Tuple::new(
        (chain.destination, Port::from_be(to)),
        (chain.source, Port::from_be(from)),
        chain.protocol,
        Direction::Forward,
    );
    FOLLOWED
}

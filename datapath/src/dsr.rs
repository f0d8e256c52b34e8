//! Direct server return: a packet for a backend on another node goes there wrapped up in another IP header, with the addresses that its
//! client gave it. That node unwraps it, chooses among its own backends, and its replies go straight to the client.
//!
//! Which Service it is, the inner packet says; that it comes from a node, and is for this one, the outer header.

use crate::chain::{Chain, FARTHEST};
use crate::checksum::fold;
use crate::env::{Env, Packet, Routed, Tables, Transport};
use crate::flow::Outcome;
use crate::headers::{Ipv4Header, Ipv6Header};
use crate::parse::Headers;
use crate::pipeline::{Edge, Verdict};
use crate::reject::sum_words;
use crate::translate::{self, Rewrite};
use ferrogate_common::{Address, Config, Dsr, Flow, Port, Protocol, Reason, config_flags, flow_flags};

/// TTL of the outer header: what the stack uses.
const HOP_LIMIT: u8 = 64;

/// Turns a new flow of an outside client to a backend on another node into one that goes to that node, where this is known. Not of nodes'
/// own processes, nor of endpoints: the packet may be for the node, or the pod, that it comes from.
#[inline(always)]
pub(crate) fn begin<T: Tables>(tables: &T, config: &Config, headers: &Headers, flow: &mut Flow) {
    if config.flags & config_flags::DSR == 0 || headers.is_handed() {
        return;
    }
    let source = if headers.is_v6() {
        config.node_source6
    } else {
        config.node_source4
    };
    // The other node takes it from an address only that this Node has.
    let known = tables
        .source(source)
        .is_some_and(|own| tables.node_of(&own) == Some(Dsr::HERE));
    if source != 0
        && known
        && let Some(node) = tables.node_of(&flow.address)
        && node != Dsr::HERE
        && tables.node_of(&headers.tuple.source).is_none()
    {
        flow.address = node;
        // Whoever takes this for a backend reaches nothing.
        flow.port = Port::ZERO;
        flow.source = source;
        flow.flags = flow_flags::TRANSIT | flow_flags::DSR;
    }
}

/// Whether an IP packet may be one that another node has wrapped up for this one. Where it is not, `NODES` has not its addresses, or the
/// inner packet is no Service's: other tunnels look the same.
#[inline(always)]
pub(crate) fn is_wrapped<T: Tables>(tables: &T, chain: &Chain, l3: usize, v6: bool) -> bool {
    let inner = if v6 { Protocol::IPV6 } else { Protocol::IPIP };
    chain.protocol == inner
        && chain.fragment == 0
        && chain.l4 == l3 + Dsr::overhead(v6) as usize
        && tables.node_of(&chain.destination) == Some(Dsr::HERE)
        && is_node(tables, &chain.source)
}

/// Whether an address is another node's own.
#[inline(always)]
pub(crate) fn is_node<T: Tables>(tables: &T, address: &Address) -> bool {
    tables.node_of(address) == Some(*address)
}

/// Takes the outer header off. What the packet's headers are found by moves with them. `None`: it could not be done.
#[inline(always)]
pub(crate) fn unwrap<P: Packet>(packet: &mut P, headers: &mut Headers) -> Option<()> {
    let outer = Dsr::overhead(headers.is_v6()) as usize;
    headers.l4 = (headers.l4.wrapping_sub(outer) as u32 & FARTHEST) as usize;
    packet.shrink(outer)
}

/// Puts the packet into another IP header, whose addresses are those of `rewrite`. `None`: it could not be done.
#[inline(never)]
pub(crate) fn wrap<P: Packet>(packet: &mut P, headers: &Headers, rewrite: &Rewrite) -> Option<()> {
    let l3 = packet.link_header();
    // The traffic class is the inner packet's, without its last two bits: what routers marked there would be lost with this header, so
    // they are not asked to (RFC 6040, compatibility mode).
    let [first, second]: [u8; 2] = packet.load(l3)?;
    let tcp = headers.is_tcp();
    if headers.is_v6() {
        packet.grow(Dsr::overhead(true) as usize, tcp)?;
        return packet.store(
            l3,
            Ipv6Header {
                version_class: first,
                class_flow: [second & 0xc0, 0, 0],
                payload_length: headers.length.to_be(),
                next_header: Protocol::IPV6,
                hop_limit: HOP_LIMIT,
                source: rewrite.source.words(),
                destination: rewrite.destination.words(),
            },
        );
    }
    packet.grow(Dsr::overhead(false) as usize, tcp)?;
    let mut ip = Ipv4Header {
        version_ihl: 0x45,
        tos: second & 0xfc,
        total_length: headers.length.wrapping_add(Dsr::overhead(false)).to_be(),
        identification: 0,
        fragment: 0x4000u16.to_be(),
        ttl: HOP_LIMIT,
        protocol: Protocol::IPIP,
        checksum: 0,
        source: rewrite.source.v4_word(),
        destination: rewrite.destination.v4_word(),
    };
    let words: [u32; 5] = bytemuck::cast(ip);
    ip.checksum = !fold(sum_words(&words));
    packet.store(l3, ip)
}

/// Sends the packet to its backend's node, along the way that was found.
#[inline(always)]
pub(crate) fn hand_over<P: Packet>(packet: &mut P, headers: &Headers, rewrite: &Rewrite, reason: Reason) -> Verdict {
    let sent = translate::decrement_hop_limit(packet, headers).and_then(|()| wrap(packet, headers, rewrite));
    match sent {
        Some(()) => Verdict::Forward(reason),
        None => Verdict::Drop(Reason::Malformed),
    }
}

/// Fills in where a flow's packets are sent, as they are; false where the node's address that it had is gone.
#[inline(always)]
pub(crate) fn towards_node<T: Tables>(tables: &T, headers: &Headers, flow: &Flow, rewrite: &mut Rewrite) -> bool {
    rewrite.destination_port = headers.tuple.destination_port;
    rewrite.uplink = Rewrite::WRAP;
    match tables.source(flow.source) {
        Some(source) => {
            rewrite.source = source;
            true
        }
        None => false,
    }
}

/// Sends the answer to a packet that was handed over, which has taken its place, to its client: the node that it came from would take it
/// for forged.
#[inline(always)]
pub(crate) fn answer<E: Env>(env: &mut E, headers: &Headers, reason: Reason) -> Verdict {
    let transport = Transport::short(headers.tuple.protocol);
    let (from, client) = (headers.tuple.destination, headers.tuple.source);
    match env.route(env.ifindex(), &from, &client, transport) {
        Routed::To => Verdict::Forward(reason),
        _ => Verdict::Drop(reason),
    }
}

/// What becomes of a wrapped packet that no frontend takes. To another node's own address nobody else sends one: it would only come back there.
#[inline(always)]
pub(crate) fn without_frontend<E: Env>(env: &E, headers: &Headers) -> (Outcome, Reason) {
    if is_node(env, &headers.tuple.destination) {
        (Outcome::Drop, Reason::NotHere)
    } else {
        (Outcome::Pass, Reason::NotService)
    }
}

/// Whether packets may be wrapped: those of outside clients.
#[inline(always)]
pub(crate) fn is_sent<T: Tables>(tables: &T, edge: Edge) -> bool {
    matches!(edge, Edge::Uplink | Edge::Xdp) && tables.is_dsr()
}

/// Whether the packet is to be wrapped.
#[inline(always)]
pub(crate) fn wraps<T: Tables>(tables: &T, edge: Edge, rewrite: &Rewrite) -> bool {
    is_sent(tables, edge) && rewrite.uplink == Rewrite::WRAP
}

/// Whether wrapped packets are looked for.
#[inline(always)]
pub(crate) fn is_looked_for<T: Tables>(tables: &T, edge: Edge) -> bool {
    edge == Edge::Uplink && tables.is_dsr()
}

//! Packets that are to no frontend: straight to an endpoint, of connections beside those of their client through a Service, and of
//! sockets that the socket edge has bound to a backend which has ended; to addresses that only a ClusterIP may have; forged ones.

use crate::env::{Env, FlowTable};
use crate::parse::Headers;
use crate::pipeline::Edge;
use crate::{flow, select, snat};
use ferrogate_common::{
    Address, Direction, Flow, Reason, Tuple, address_roles, config_flags, flow_flags, interface_flags,
};

/// What [`concern`] comes to, as numbers that the verifier can forget; another one: the packet is of concern.
pub(crate) const NO_CONCERN: u32 = 0;
pub(crate) const MARTIAN: u32 = 2;

/// Whether a packet to an address that neither a frontend nor a flow has is of any concern: where it opens a connection, to an
/// address that only a ClusterIP may have, or straight to an endpoint beside one of its client's through a Service; or where it
/// cannot have come by this way at all.
#[inline(never)]
pub(crate) fn concern<E: Env>(env: &mut E, edge: Edge, headers: &Headers, roles: u32) -> u32 {
    if is_martian(env, edge, headers) {
        return MARTIAN;
    }
    if !headers.opens() {
        return NO_CONCERN;
    }
    u32::from(
        env.is_in_service_cidrs(&headers.tuple.destination)
            || (edge != Edge::Node && roles & address_roles::BACKEND != 0 && is_taken(env, headers)),
    )
}

/// What a request is that no frontend takes: to a port that its ClusterIP does not have, of which clients that may use the
/// address are told; to an address that could be a ClusterIP; of a socket whose backend is gone; or [`Reason::NotService`].
#[inline(never)]
pub(crate) fn without_frontend<E: Env>(env: &E, edge: Edge, headers: &Headers) -> Reason {
    let tuple = &headers.tuple;
    if is_martian(env, edge, headers) {
        return Reason::Martian;
    }
    let reason = select::without_frontend(env, &tuple.destination);
    if reason == Reason::NotService && edge == Edge::Pod && !headers.has_connections() && is_stuck(env, tuple) {
        return Reason::BackendGone;
    }
    if reason != Reason::NoSuchPort
        || env.config().flags & config_flags::EXTERNAL_CLUSTER_IP != 0
        || flow::is_internal(env, edge, &tuple.source)
    {
        return reason;
    }
    Reason::ExternalClusterIp
}

/// Whether no honest sender has sent a packet: it is from or to a loopback address, and came in by a device; or it opens a connection
/// from a ClusterIP, and came in from outside. The latter's answer would be taken for a request to that Service.
#[inline(never)]
pub(crate) fn is_martian<E: Env>(env: &E, edge: Edge, headers: &Headers) -> bool {
    let tuple = &headers.tuple;
    if edge == Edge::Node {
        return false;
    }
    // 0 if one of them is 0: one branch, which is all that the verifier has to follow.
    let honest = u64::from(beside_loopback(&tuple.source)) * u64::from(beside_loopback(&tuple.destination));
    honest == 0
        || (edge != Edge::Pod && headers.opens() && env.is_in_service_cidrs(&tuple.source) && !is_own(env, tuple))
}

/// Whether this node has sent the packet itself, and turned it round: one of its processes asks its own host network in the Service's
/// name, or is answered so.
#[inline(always)]
fn is_own<E: Env>(env: &E, tuple: &Tuple) -> bool {
    let mut key = answer_to(tuple);
    if snat::in_range(&env.config(), tuple.source_port) && env.snat_flow(&key).is_some() {
        return true;
    }
    key.direction = Direction::Forward as u8;
    env.flow(FlowTable::Established, &key).is_some() || env.flow(FlowTable::HalfOpen, &key).is_some()
}

/// What the answer to a packet is found by.
#[inline(always)]
fn answer_to(tuple: &Tuple) -> Tuple {
    Tuple::new(
        (tuple.destination, tuple.destination_port),
        (tuple.source, tuple.source_port),
        tuple.protocol,
        Direction::Reply,
    )
}

/// 0 for an address in 127.0.0.0/8. The stack itself takes no `::1` from a device, whatever it is configured to.
#[inline(always)]
fn beside_loopback(address: &Address) -> u32 {
    let [a, b, c, d] = address.words();
    let [_, _, mapped, loopback] = Address::LOOPBACK_V4.words();
    let first = u32::from_ne_bytes([0xff, 0, 0, 0]);
    a | b | (c ^ mapped) | ((d ^ loopback) & first)
}

/// Whether the replies to a connection straight to an endpoint would be taken for those of one through a Service, since its
/// client uses one port for both. The remains of one that has ended are removed instead.
///
/// A flow of another uplink is none of this packet's business: where devices are stacked (a NIC that has just been put into a bridge), it
/// is that flow's own packet, translated below and on its way up. What comes out of a tunnel was met by nobody below.
#[inline(never)]
pub(crate) fn is_taken<E: Env>(env: &mut E, headers: &Headers) -> bool {
    let key = answer_to(&headers.tuple);
    for table in [FlowTable::Established, FlowTable::HalfOpen] {
        let Some(other) = env.flow(table, &key) else {
            continue;
        };
        if headers.device != 0 && other.uplink != 0 && other.uplink as u16 != headers.device && !is_tunnel(env) {
            return false;
        }
        if !is_over(env, headers, &other) {
            return true;
        }
        env.remove_flow(table, &key);
    }
    false
}

/// Whether the packet is met at a tunnel.
#[inline(always)]
fn is_tunnel<E: Env>(env: &E) -> bool {
    env.interface(env.ifindex())
        .is_some_and(|interface| interface.flags & interface_flags::TUNNEL != 0)
}

/// Whether a packet that looks like the first answer to an opening is none: it belongs to a connection that the client has straight to
/// the endpoint, from the port from which it now asks a Service. An endpoint says so itself, since it answers a SYN inside of an open
/// connection with that one's ACK.
#[inline(always)]
pub(crate) fn is_of_another(headers: &Headers, flow: &Flow) -> bool {
    let answers = headers.is_syn_or_reset() || flow.flags & flow_flags::REPLIED != 0;
    headers.is_tcp() && !headers.is_about_another() && !answers
}

/// A flow that leaves the destination as it is and changes the client's port. It is nobody's: no change of a Service ends it.
#[inline(never)]
pub(crate) fn change_port<E: Env>(env: &E, headers: &Headers, flow: &mut Flow) {
    *flow = Flow {
        address: headers.tuple.destination,
        port: headers.tuple.destination_port,
        seen: env.ticks(),
        flags: env.opaque((flow_flags::SNAT | flow_flags::PORT_ONLY | flow_flags::CONFIRMED).into()) as u16,
        ..Flow::NONE
    };
}

/// Whether the flow that this entry is of can have no more replies.
#[inline(always)]
fn is_over<E: Env>(env: &E, headers: &Headers, flow: &Flow) -> bool {
    if headers.has_connections() {
        flow.flags & flow_flags::CLOSING != 0
    } else {
        env.generation(flow.backend) != flow.generation || flow::is_idle(env, headers, flow)
    }
}

/// Whether a datagram goes to a backend that has ended, because `connect()` has bound its socket to it for good (ADR 17).
#[inline(never)]
pub(crate) fn is_stuck<E: Env>(env: &E, tuple: &Tuple) -> bool {
    let Some(socket) = env.sender() else { return false };
    socket.address == tuple.destination
        && socket.port.be() == tuple.destination_port.be()
        && env.generation(socket.backend) != socket.generation
}

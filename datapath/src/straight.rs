//! Packets straight to an endpoint: of connections beside those of their client through a Service, and of sockets that the socket edge
//! has bound to a backend which has ended.

use crate::env::{Env, FlowTable};
use crate::flow;
use crate::parse::Headers;
use crate::pipeline::Edge;
use ferrogate_common::{Direction, Flow, Tuple, address_roles, flow_flags};

/// Whether a packet to an address that neither a frontend nor a flow has is of any concern: where it opens a connection, to an
/// address that only a ClusterIP may have, or straight to an endpoint beside one of its client's through a Service.
#[inline(never)]
pub(crate) fn concerns<E: Env>(env: &mut E, edge: Edge, headers: &Headers, roles: u32) -> bool {
    if !headers.opens() {
        return false;
    }
    env.is_in_service_cidrs(&headers.tuple.destination)
        || (edge != Edge::Node && roles & address_roles::BACKEND != 0 && is_taken(env, headers))
}

/// Whether the replies to a connection straight to an endpoint would be taken for those of one through a Service, since its
/// client uses one port for both. The remains of one that has ended are removed instead.
///
/// A flow of another uplink is none of this packet's business: where devices are stacked (a NIC that has just been put into a bridge), it
/// is that flow's own packet, translated below and on its way up.
#[inline(never)]
pub(crate) fn is_taken<E: Env>(env: &mut E, headers: &Headers) -> bool {
    let tuple = &headers.tuple;
    let key = Tuple::new(
        (tuple.destination, tuple.destination_port),
        (tuple.source, tuple.source_port),
        tuple.protocol,
        Direction::Reply,
    );
    for table in [FlowTable::Established, FlowTable::HalfOpen] {
        let Some(other) = env.flow(table, &key) else {
            continue;
        };
        if headers.device != 0 && other.uplink != 0 && other.uplink as u16 != headers.device {
            return false;
        }
        if !is_over(env, headers, &other) {
            return true;
        }
        env.remove_flow(table, &key);
    }
    false
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

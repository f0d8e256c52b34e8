//! `--forwarding redirect`: packets between a client and a backend on this node go past the host's stack, both ways or neither.
//!
//! Requests go from the client's edge right into the backend's network namespace, to the other end of its interface. Replies are
//! translated where they come out of it, instead of where they leave the node, and sent on by their client's way.

use crate::env::{Env, Routed, Tables, Transport};
use crate::parse::Headers;
use crate::pipeline::{Edge, Step};
use crate::reject::Refusal;
use crate::translate::{self, Rewrite};
use ferrogate_common::{Direction, Flow, Reason, flow_flags, interface_flags};

/// Marks a new flow whose backend's interface has another end that packets can be handed to. Its client's address and port stay: what
/// is masqueraded has to come back to this node's own address.
#[inline(always)]
pub(crate) fn begin<E: Env>(env: &mut E, edge: Edge, headers: &Headers, flow: &mut Flow) {
    if is_on(env, edge) && flow.flags == 0 && env.link_header() != 0 && has_peer(env, headers, flow) {
        flow.flags = flow_flags::REDIRECT;
    }
}

#[inline(never)]
fn has_peer<E: Env>(env: &mut E, headers: &Headers, flow: &Flow) -> bool {
    let transport = Transport::short(headers.tuple.protocol);
    // XDP makes flows too, and leaves their packets to tcx.
    let routed = env.route(env.ifindex(), &headers.tuple.source, &flow.address, transport);
    matches!(routed, Routed::To | Routed::NotFromHere) && is_peer(env)
}

/// Whether the way that was found last ends at an interface with another end.
#[inline(always)]
fn is_peer<E: Env>(env: &E) -> bool {
    env.hop().flags & interface_flags::PEER as u16 != 0
}

/// Whether a flow's requests go past the stack.
#[inline(always)]
pub(crate) fn is_marked<T: Tables>(tables: &T, edge: Edge, flags: u32) -> bool {
    is_on(tables, edge) && flags & u32::from(flow_flags::REDIRECT) != 0
}

/// What becomes of a request of such a flow. The stack gets what has no way past it: it finds out who the neighbour is, and answers.
#[inline(always)]
pub(crate) fn way<E: Env>(
    env: &mut E,
    edge: Edge,
    headers: &Headers,
    rewrite: &Rewrite,
    reason: Reason,
) -> (Step, Reason) {
    if edge == Edge::Xdp {
        return (Step::Pass, Reason::LeftToTcx);
    }
    if env.link_header() == 0 {
        return (Step::Deliver, reason);
    }
    match translate::look_up(env, headers, rewrite, 0, 0) {
        Routed::To if env.hop().destination_mac != [0; 3] && is_peer(env) => {}
        Routed::TooBig => return (Step::Refuse(Refusal::TooBig), Reason::TooBig),
        _ => return (Step::Deliver, reason),
    }
    if headers.hop_limit <= 1 {
        return (Step::Refuse(Refusal::HopLimit), Reason::HopLimit);
    }
    (Step::Peer, reason)
}

/// A packet that comes out of a pod: where it is a reply of such a flow, fills in how its client knows the sender. It goes on as that of
/// a transit flow does.
#[inline(always)]
pub(crate) fn is_reply<E: Env>(env: &mut E, edge: Edge, headers: &mut Headers, rewrite: &mut Rewrite) -> bool {
    if edge != Edge::Pod || !env.is_redirect() {
        return false;
    }
    headers.tuple.direction = Direction::Reply as u8;
    let is_reply = translate::towards_client(env, headers, rewrite, true);
    headers.tuple.direction = Direction::Forward as u8;
    is_reply
}

/// A node's own processes have their flows' packets in the stack anyway.
#[inline(always)]
fn is_on<T: Tables>(tables: &T, edge: Edge) -> bool {
    edge != Edge::Node && tables.is_redirect()
}

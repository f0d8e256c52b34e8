//! The stages in order.
//!
//! ```text
//! enter (towards the node)             leave (towards the client)
//!   parse                                parse
//!   reply to a SNATed flow? restore      reply to a flow? translate back
//!   known flow? translate                own process's request? as enter, at the node edge
//!   a frontend? select, make the flow,   else pass
//!     translate, or refuse
//!   else pass
//! ```

use crate::env::{Env, Packet};
use crate::flow::{self, Outcome};
use crate::parse::{Headers, parse};
use crate::reject::{self, Refusal};
use crate::snat;
use crate::translate::{self, Rewrite};
use ferrogate_common::{Direction, Flow, Reason, config_flags, flow_flags};

/// Where a packet is met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edge {
    /// The host's side of a pod's interface.
    Pod,
    /// A device that has the outside behind it.
    Uplink,
    /// An uplink, for requests of this node's own processes on their way out.
    Node,
    /// The same uplink, before the stack (XDP): can't answer packets, and leaves those to tcx.
    Xdp,
}

/// What the hook does with the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// On to the next program and the stack.
    Pass(Reason),
    Drop(Reason),
    /// Along [`crate::Fib::hop`].
    Forward(Reason),
    /// Back the way it came: link-layer addresses are swapped already.
    Bounce(Reason),
}

impl Verdict {
    /// Why.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Pass(r) | Self::Drop(r) | Self::Forward(r) | Self::Bounce(r) => *r,
        }
    }
}

/// A packet that comes from a client's side: tcx ingress of pods and uplinks, XDP of uplinks.
#[inline(always)]
pub fn enter<E: Env>(env: &mut E, edge: Edge) -> Verdict {
    let verdict = match parse(env) {
        Ok(mut headers) => {
            let mut rewrite = Rewrite::NONE;
            request(env, edge, &mut headers, &mut rewrite)
        }
        Err(reason) => Verdict::Pass(reason),
    };
    env.count(verdict.reason());
    verdict
}

/// A packet that goes towards a client: tcx egress of pods and uplinks. `edge`: [`Edge::Pod`], or [`Edge::Node`] on uplinks,
/// where requests of this node's own processes are translated too, unless the configuration has that off.
#[inline(always)]
pub fn leave<E: Env>(env: &mut E, edge: Edge) -> Verdict {
    let verdict = match parse(env) {
        Ok(headers) => reply(env, edge, headers),
        Err(reason) => Verdict::Pass(reason),
    };
    env.count(verdict.reason());
    verdict
}

#[inline(always)]
fn request<E: Env>(env: &mut E, edge: Edge, headers: &mut Headers, rewrite: &mut Rewrite) -> Verdict {
    let (step, reason) = decide(env, edge, headers, rewrite);
    let then = match step {
        Step::Pass => return Verdict::Pass(reason),
        Step::Drop => return Verdict::Drop(reason),
        Step::Refuse(refusal) => return reject::refuse(env, edge, headers, refusal, reason),
        Step::Deliver => 0,
        Step::Bounce => BOUNCE,
        Step::Forward => FORWARD,
    };
    let then = env.opaque(then);
    if translate::apply(env, headers, rewrite).is_none() {
        return Verdict::Drop(Reason::Malformed);
    }
    if then == BOUNCE {
        return bounce(env, reason);
    }
    if then == FORWARD {
        if edge != Edge::Node && translate::decrement_hop_limit(env, headers).is_none() {
            return Verdict::Drop(Reason::Malformed);
        }
        return Verdict::Forward(reason);
    }
    if edge == Edge::Pod {
        translate::address_on_bridge(env, &headers.tuple, &rewrite.destination);
    }
    Verdict::Pass(reason)
}

/// [`Step::Bounce`] and [`Step::Forward`] as numbers that can be made opaque.
const BOUNCE: u32 = 1;
const FORWARD: u32 = 2;

/// What is to become of a packet, before it is touched. With the last three, `rewrite` is filled in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Pass,
    Drop,
    Refuse(Refusal),
    /// To the host's stack.
    Deliver,
    /// Back out of the interface it came in by.
    Bounce,
    /// Along the route that was found.
    Forward,
}

#[inline(always)]
fn decide<E: Env>(env: &mut E, edge: Edge, headers: &mut Headers, rewrite: &mut Rewrite) -> (Step, Reason) {
    let mut flags = None;
    let mut reason = Reason::Reply;
    if edge != Edge::Node && snat::in_range(&env.config(), headers.tuple.destination_port) {
        headers.tuple.direction = Direction::Reply as u8;
        flags = snat::restore(env, headers, false, rewrite);
        headers.tuple.direction = Direction::Forward as u8;
    }
    let flags = match flags {
        // A node process's reply goes up the stack; its request had to be sent on.
        Some(flags) => flags & !flow_flags::NODE,
        None => {
            let mut flow = Flow::NONE;
            let outcome;
            (outcome, reason) = flow::find_or_make(env, edge, headers, &mut flow);
            match outcome {
                Outcome::Found => {}
                Outcome::Pass => return (Step::Pass, reason),
                Outcome::Drop => return (Step::Drop, reason),
                Outcome::Refuse => return (Step::Refuse(Refusal::Unreachable), reason),
            }
            if !translate::towards_backend(env, headers, &flow, rewrite) {
                return (Step::Drop, Reason::NoSource);
            }
            flow.flags
        }
    };
    if flags & (flow_flags::TRANSIT | flow_flags::NODE) != 0 {
        return translate::find_way(env, edge, headers, rewrite, reason);
    }
    let step = if flags & flow_flags::HAIRPIN != 0 {
        Step::Bounce
    } else {
        Step::Deliver
    };
    (step, reason)
}

#[inline(always)]
fn reply<E: Env>(env: &mut E, edge: Edge, mut headers: Headers) -> Verdict {
    let mut rewrite = Rewrite::NONE;
    headers.tuple.direction = Direction::Reply as u8;
    let port_changed = snat::in_range(&env.config(), headers.tuple.destination_port)
        && snat::restore(env, &headers, true, &mut rewrite).is_some();
    if port_changed || translate::towards_client(env, &headers, &mut rewrite) {
        return match translate::apply(env, &headers, &rewrite) {
            Some(()) => Verdict::Pass(Reason::Reply),
            None => Verdict::Drop(Reason::Malformed),
        };
    }
    if edge == Edge::Node && env.is_from_this_node() && env.config().flags & config_flags::NODE_EDGE_OFF == 0 {
        headers.tuple.direction = Direction::Forward as u8;
        return request(env, Edge::Node, &mut headers, &mut rewrite);
    }
    Verdict::Pass(Reason::NotService)
}

/// Sends the packet back out of the interface it came in by.
#[inline(always)]
pub(crate) fn bounce<P: Packet>(packet: &mut P, reason: Reason) -> Verdict {
    if packet.link_header() != 0 {
        let Some(macs) = packet.load::<[u16; 6]>(0) else {
            return Verdict::Drop(Reason::Malformed);
        };
        let [a, b, c, d, e, f] = macs;
        if packet.store(0, [d, e, f, a, b, c]).is_none() {
            return Verdict::Drop(Reason::Malformed);
        }
    }
    Verdict::Bounce(reason)
}

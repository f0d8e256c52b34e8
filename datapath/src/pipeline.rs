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
//!
//! A hook has two programs. The first one is this, for plain TCP and UDP packets; what it has [`Left`] goes on in `second.rs`,
//! through the same stages.

use crate::dsr;
use crate::env::{Env, Packet};
use crate::flow::{self, Outcome};
use crate::parse::{Headers, Unparsed, parse};
use crate::redirect;
use crate::reject::{self, Refusal};
use crate::snat;
use crate::translate::{self, Rewrite};
use ferrogate_common::{Direction, Flow, Reason, config_flags, flow_flags, trace_edge};

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

impl Edge {
    /// One of [`trace_edge`].
    pub(crate) const fn of_trace(self) -> u8 {
        match self {
            Self::Pod => trace_edge::POD,
            Self::Uplink => trace_edge::UPLINK,
            Self::Node => trace_edge::NODE,
            Self::Xdp => trace_edge::XDP,
        }
    }
}

/// What the hook does with the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// On to the next program and the stack.
    Pass(Reason),
    Drop(Reason),
    /// Along [`crate::Fib::hop`].
    Forward(Reason),
    /// To the other end of the interface that [`crate::Fib::hop`] leads to, in another network namespace.
    Peer(Reason),
    /// Back the way it came: link-layer addresses are swapped already.
    Bounce(Reason),
    /// In by the loopback device, which alone takes packets from the node's own addresses: link-layer addresses are its own already.
    Loopback(Reason),
}

/// A packet is for the hook's second program, as it came. Should there be none, the reason says whether it is to be dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Left(pub Reason);

impl Verdict {
    /// Why.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Pass(r) | Self::Drop(r) | Self::Forward(r) | Self::Peer(r) | Self::Bounce(r) | Self::Loopback(r) => {
                *r
            }
        }
    }
}

/// A packet that comes from a client's side: tcx ingress of pods and uplinks, XDP of uplinks.
#[inline(always)]
pub fn enter<E: Env>(env: &mut E, edge: Edge) -> Result<Verdict, Left> {
    let verdict = match parse(env) {
        Ok(mut headers) => {
            let mut rewrite = Rewrite::NONE;
            request::<E, false>(env, edge, &mut headers, &mut rewrite)
        }
        Err(unparsed) => left(edge, &unparsed),
    }?;
    env.count(verdict.reason());
    Ok(verdict)
}

/// A packet that goes towards a client: tcx egress of pods and uplinks. `edge`: [`Edge::Pod`], or [`Edge::Node`] on uplinks,
/// where requests of this node's own processes are translated too, unless the configuration has that off.
#[inline(always)]
pub fn leave<E: Env>(env: &mut E, edge: Edge) -> Result<Verdict, Left> {
    let verdict = match parse(env) {
        Ok(mut headers) => {
            let mut rewrite = Rewrite::NONE;
            reply::<E, false>(env, edge, &mut headers, &mut rewrite)
        }
        Err(unparsed) => left(edge, &unparsed),
    }?;
    env.count(verdict.reason());
    Ok(verdict)
}

/// A packet that was not parsed. XDP has no second program: tcx comes after it.
#[inline(always)]
fn left(edge: Edge, unparsed: &Unparsed) -> Result<Verdict, Left> {
    match *unparsed {
        Unparsed::Foreign(reason) => Ok(Verdict::Pass(reason)),
        Unparsed::Rest if edge == Edge::Xdp => Ok(Verdict::Pass(Reason::LeftToTcx)),
        Unparsed::Rest => Err(Left(Reason::NotIp)),
    }
}

/// `SECOND`: in the second program, which answers what is refused.
#[inline(always)]
pub(crate) fn request<E: Env, const SECOND: bool>(
    env: &mut E,
    edge: Edge,
    headers: &mut Headers,
    rewrite: &mut Rewrite,
) -> Result<Verdict, Left> {
    let (step, reason) = decide(env, edge, headers, rewrite);
    if SECOND
        && dsr::is_looked_for(env, edge)
        && headers.is_handed()
        && !matches!(step, Step::Pass | Step::Drop)
        && dsr::unwrap(env, headers).is_none()
    {
        return Ok(Verdict::Drop(Reason::Malformed));
    }
    let then = match step {
        Step::Pass => return Ok(Verdict::Pass(reason)),
        Step::Drop => {
            refused(env, edge, headers, reason);
            return Ok(Verdict::Drop(reason));
        }
        Step::Refuse(refusal) if SECOND => {
            refused(env, edge, headers, reason);
            return Ok(reject::refuse(env, headers, refusal, reason));
        }
        Step::Refuse(_) if edge == Edge::Xdp => return Ok(Verdict::Pass(Reason::LeftToTcx)),
        Step::Deliver if edge == Edge::Xdp && !env.can_be_done() => return Ok(Verdict::Pass(Reason::LeftToTcx)),
        Step::Refuse(_) => return Err(Left(reason)),
        Step::Deliver => 0,
        Step::Bounce => BOUNCE,
        Step::Forward => FORWARD,
        Step::Peer => PEER,
        Step::Loopback => LOOPBACK,
    };
    let then = env.opaque(then);
    if env.counts_traffic() {
        let is_reply = reason as u8 == Reason::Reply as u8;
        carry(env, headers, rewrite, is_reply);
    }
    if dsr::wraps(env, edge, rewrite) {
        return Ok(dsr::hand_over(env, headers, rewrite, reason));
    }
    if translate::apply::<E, SECOND>(env, headers, rewrite).is_none() {
        return Ok(Verdict::Drop(Reason::Malformed));
    }
    Ok(go(env, edge, headers, rewrite, then, reason))
}

/// Counts a packet for its Service, whose frontend is where a request goes, and what a reply is made to come from.
#[inline(always)]
fn carry<E: Env>(env: &mut E, headers: &Headers, rewrite: &Rewrite, is_reply: bool) {
    let bytes = (env.len() - env.link_header()) as u32;
    let (packets, tuple) = (env.segments(), &headers.tuple);
    if is_reply {
        let kind = (tuple.protocol, Direction::Reply as u8);
        env.carry(&rewrite.source, rewrite.source_port, kind, packets, bytes);
    } else {
        let kind = (tuple.protocol, Direction::Forward as u8);
        env.carry(&tuple.destination, tuple.destination_port, kind, packets, bytes);
    }
}

/// What gets no further is counted for its Service, and told to those who trace.
#[inline(always)]
fn refused<E: Env>(env: &mut E, edge: Edge, headers: &Headers, reason: Reason) {
    let ifindex = env.ifindex();
    env.refuse(&headers.tuple, ifindex, edge.of_trace(), reason as u8);
}

/// Lets a translated packet go where `then` says: [`BOUNCE`], [`FORWARD`], [`LOOPBACK`], [`PEER`], or to the stack.
#[inline(always)]
pub(crate) fn go<E: Env>(
    env: &mut E,
    edge: Edge,
    headers: &Headers,
    rewrite: &Rewrite,
    then: u32,
    reason: Reason,
) -> Verdict {
    if then == BOUNCE {
        return bounce(env, reason);
    }
    if then & FORWARD != 0 {
        if edge != Edge::Node && translate::decrement_hop_limit(env, headers).is_none() {
            return Verdict::Drop(Reason::Malformed);
        }
        return if env.is_redirect() && then == PEER {
            Verdict::Peer(reason)
        } else {
            Verdict::Forward(reason)
        };
    }
    if then == LOOPBACK {
        return loopback(env, reason);
    }
    if edge == Edge::Pod {
        translate::address_on_bridge(env, &headers.tuple, &rewrite.destination);
    }
    Verdict::Pass(reason)
}

/// [`Step::Bounce`] and those after it as numbers that can be made opaque.
pub(crate) const BOUNCE: u32 = 1;
pub(crate) const FORWARD: u32 = 2;
pub(crate) const LOOPBACK: u32 = 4;
pub(crate) const PEER: u32 = 8 | FORWARD;

/// What is to become of a packet, before it is touched. With the last five, `rewrite` is filled in.
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
    /// To the host's stack, by the loopback device.
    Loopback,
    /// To the other end of the interface that was found, past the host's stack.
    Peer,
}

#[inline(always)]
fn decide<E: Env>(env: &mut E, edge: Edge, headers: &mut Headers, rewrite: &mut Rewrite) -> (Step, Reason) {
    let mut flags = None;
    let mut reason = Reason::Reply;
    if edge != Edge::Node && !headers.is_handed() && snat::in_range(&env.config(), headers.tuple.destination_port) {
        headers.tuple.direction = Direction::Reply as u8;
        flags = snat::restore(env, headers, false, rewrite);
        headers.tuple.direction = Direction::Forward as u8;
    }
    if flags.is_none() && redirect::is_reply(env, edge, headers, rewrite) {
        flags = Some(flow_flags::TRANSIT);
    }
    let flags = match flags {
        Some(flags) => way_back(flags),
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
            if !translate::towards_backend(env, edge, headers, &flow, rewrite) {
                return (Step::Drop, Reason::NoSource);
            }
            flow.flags.into()
        }
    };
    way(env, edge, headers, rewrite, flags, reason)
}

/// Beside the bits of [`flow_flags`]: the packet is one of a node's process, and of a frontend that is one of the node's addresses.
const TO_LOOPBACK: u32 = 1 << 16;

/// The flags of a flow that is restored where its replies enter, as [`way`] takes them: a node process's reply goes up the stack; its
/// request had to be sent on.
#[inline(always)]
pub(crate) const fn way_back(flags: u16) -> u32 {
    const AT_LOOPBACK: u16 = flow_flags::NODE | flow_flags::TRANSIT;
    if flags & AT_LOOPBACK == AT_LOOPBACK {
        TO_LOOPBACK
    } else {
        (flags & !flow_flags::NODE) as u32
    }
}

/// What is to become of a packet of a flow with these flags, and what [`way_back`] adds.
#[inline(always)]
pub(crate) fn way<E: Env>(
    env: &mut E,
    edge: Edge,
    headers: &Headers,
    rewrite: &Rewrite,
    flags: u32,
    reason: Reason,
) -> (Step, Reason) {
    const HAIRPIN: u32 = flow_flags::HAIRPIN as u32;
    const TRANSIT: u32 = flow_flags::TRANSIT as u32;
    const NODE: u32 = flow_flags::NODE as u32;
    let flags = env.opaque(flags);
    if flags & HAIRPIN != 0 {
        return (Step::Bounce, reason);
    }
    if flags & (TRANSIT | NODE) != 0 {
        return translate::find_way(env, edge, headers, rewrite, reason);
    }
    if redirect::is_marked(env, edge, flags) {
        return redirect::way(env, edge, headers, rewrite, reason);
    }
    if flags & TO_LOOPBACK == 0 {
        return (Step::Deliver, reason);
    }
    match edge {
        Edge::Xdp => (Step::Pass, Reason::LeftToTcx),
        _ => (Step::Loopback, reason),
    }
}

#[inline(always)]
pub(crate) fn reply<E: Env, const SECOND: bool>(
    env: &mut E,
    edge: Edge,
    headers: &mut Headers,
    rewrite: &mut Rewrite,
) -> Result<Verdict, Left> {
    headers.tuple.direction = Direction::Reply as u8;
    let mut restored = None;
    if snat::in_range(&env.config(), headers.tuple.destination_port) {
        restored = snat::restore(env, headers, true, rewrite);
    }
    if restored.is_some() || translate::towards_client(env, headers, rewrite, false) {
        let then = if edge != Edge::Node {
            0
        } else if restored.is_some_and(|flags| flags & flow_flags::NODE != 0) {
            BOUNCE
        } else if translate::leaves_by_another(env, headers, rewrite) {
            FORWARD
        } else {
            0
        };
        let then = env.opaque(then);
        if env.counts_traffic() {
            carry(env, headers, rewrite, true);
        }
        return Ok(match translate::apply::<E, SECOND>(env, headers, rewrite) {
            Some(()) if then == FORWARD => Verdict::Forward(Reason::Reply),
            Some(()) if then == BOUNCE => bounce(env, Reason::Reply),
            Some(()) => Verdict::Pass(Reason::Reply),
            None => Verdict::Drop(Reason::Malformed),
        });
    }
    if edge == Edge::Node && env.is_from_this_node() && env.config().flags & config_flags::NODE_EDGE_OFF == 0 {
        headers.tuple.direction = Direction::Forward as u8;
        return request::<E, SECOND>(env, Edge::Node, headers, rewrite);
    }
    Ok(Verdict::Pass(Reason::NotService))
}

/// Sends the packet in by the loopback device.
#[inline(always)]
fn loopback<P: Packet>(packet: &mut P, reason: Reason) -> Verdict {
    if packet.link_header() != 0 && packet.store(0, [0u16; 6]).is_none() {
        return Verdict::Drop(Reason::Malformed);
    }
    Verdict::Loopback(reason)
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

//! Source translation: a port of our own range, and the way back.

use crate::env::{Clock, Env, FlowTable, Insert, Opaque, Tables};
use crate::parse::{Headers, has_connections};
use crate::reply::reply_key;
use crate::translate::Rewrite;
use ferrogate_common::{Config, Direction, Flow, Port, Reason, SnatFlow, Tuple, flow_flags};

/// Ports tried before a new flow is given up.
const PROBES: u32 = 8;

/// Whether a port is one of the SNAT range, or was when a flow was given it.
#[inline(always)]
pub(crate) fn in_range(config: &Config, port: Port) -> bool {
    let within = |base: u16, count: u16| port.get().wrapping_sub(base) < count;
    // Without a branch between the two.
    within(config.snat_port_base, config.snat_port_count) | within(config.known_port_base, config.known_port_count)
}

/// Takes a port for a new flow towards its backend and stores the reply's entry.
///
/// The first port follows from the client's tuple, so that a flow whose request entry was evicted finds its old one again.
#[inline(always)]
pub fn allocate<E: Tables + Clock + Opaque>(env: &mut E, request: &Tuple, flow: &mut Flow) -> Reason {
    let config = env.config();
    if config.snat_port_count == 0 {
        return Reason::NoSnatPort;
    }
    let Some(mut key) = key_of(env, request, flow) else {
        return Reason::NoSource;
    };
    let entry = entry_of(request, flow, flow.seen);
    let start = hash(&entry);
    let mut unconfirmed = env.opaque(0) as u16;
    let mut step = 0u32;
    for _ in 0..PROBES {
        // Odd steps: every port of an even range comes up.
        let offset = start.wrapping_add(step.wrapping_mul(0x9e37_79b1)) % config.snat_port_count as u32;
        let port = Port::new(config.snat_port_base.wrapping_add(offset as u16));
        key.destination_port = port;
        flow.source_port = port;
        // Mostly it is free.
        match env.insert_snat_flow(&key, &entry) {
            Insert::Done => return Reason::NewFlow,
            Insert::Exists => {}
            Insert::Failed => return Reason::FlowTable,
        }
        match env.snat_flow(&key) {
            Some(other) if !is_same(&other, &entry) => {
                if may_take(env, request, &other) {
                    unconfirmed = port.get();
                }
                step = step.wrapping_add(1);
            }
            Some(other) if other.flags & flow_flags::CLOSING == 0 => {
                env.mark_snat_flow(&key, flow.seen, 0);
                return Reason::NewFlow;
            }
            // Its client's last connection from the same port, and the new one has not ended: the port once more.
            Some(_) => env.remove_snat_flow(&key),
            // Removed just now.
            None => {}
        }
    }
    if unconfirmed == 0 {
        return Reason::NoSnatPort;
    }
    // A flood of first packets has taken the ports. One that nothing has come of so far has to make room.
    key.destination_port = Port::new(unconfirmed);
    flow.source_port = key.destination_port;
    env.remove_snat_flow(&key);
    match env.insert_snat_flow(&key, &entry) {
        Insert::Done => Reason::NewFlow,
        Insert::Exists => Reason::NoSnatPort,
        Insert::Failed => Reason::FlowTable,
    }
}

/// Ticks after which the answer to a datagram counts as not coming any more.
const NO_ANSWER: u32 = 2;

/// Whether another flow has to give its port to a new one, if there is no other: where nothing has come of it but first
/// packets, and where it has ended and is silent. An answer that is still on its way would reach the new one; of a connection that
/// is an ACK at which it takes offence, but of UDP it would be somebody's data.
#[inline(always)]
fn may_take<E: Clock>(env: &E, request: &Tuple, other: &SnatFlow) -> bool {
    let silent = env.ticks().wrapping_sub(other.seen) > NO_ANSWER;
    let unconfirmed = other.flags & flow_flags::CONFIRMED == 0 && has_connections(request.protocol);
    let over = other.flags & (flow_flags::CONFIRMED | flow_flags::CLOSING) != flow_flags::CONFIRMED && silent;
    unconfirmed || over
}

/// Whether a flow still has the port that it was given. Of one without connections nobody takes it as long as there are packets: what is
/// kept in each tick is never [silent](may_take). A connection whose node address is gone waits for it.
#[inline(never)]
pub(crate) fn keeps_port<E: Env>(env: &E, headers: &Headers, flow: &Flow) -> bool {
    if !headers.has_connections() && flow.seen == env.ticks() {
        return true;
    }
    let request = &headers.tuple;
    let Some(key) = key_of(env, request, flow) else {
        return headers.has_connections();
    };
    env.snat_flow(&key)
        .is_none_or(|other| is_same(&other, &entry_of(request, flow, flow.seen)))
}

/// Keeps the reply's entry of a flow alive, with these marks, and puts it back where it was evicted.
#[inline(always)]
pub(crate) fn keep<E: Env>(env: &mut E, headers: &Headers, flow: &Flow, now: u32, marks: u16) {
    let request = &headers.tuple;
    let Some(key) = key_of(env, request, flow) else {
        return;
    };
    if !env.mark_snat_flow(&key, now, marks) {
        env.insert_snat_flow(&key, &entry_of(request, flow, now));
    }
}

/// Key of the replies to a flow: to the address and port that its backend sees. `None`: the node's address is gone.
#[inline(always)]
fn key_of<E: Tables + Opaque>(env: &E, request: &Tuple, flow: &Flow) -> Option<Tuple> {
    let mut key = reply_key(request, flow);
    let flags = env.opaque(flow.flags.into()) as u16;
    if is_to_itself(flags) {
        key.destination = request.destination;
    } else if flags & flow_flags::PORT_ONLY == 0 {
        key.destination = env.source(flow.source)?;
    }
    key.destination_port = flow.source_port;
    Some(key)
}

/// Whether a flow is [`flow_flags::TO_ITSELF`].
#[inline(always)]
pub(crate) fn is_to_itself(flags: u16) -> bool {
    flags & flow_flags::TO_ITSELF == flow_flags::TO_ITSELF
}

#[inline(always)]
fn entry_of(request: &Tuple, flow: &Flow, seen: u32) -> SnatFlow {
    SnatFlow {
        client: request.source,
        frontend: request.destination,
        client_port: request.source_port,
        frontend_port: request.destination_port,
        seen,
        uplink: flow.uplink,
        flags: flow.flags & !(flow_flags::CLOSING | flow_flags::REPLIED | flow_flags::ENDED),
        reserved: 0,
    }
}

/// Whether two entries are of one flow; without branches, of which the verifier would follow each.
#[inline(always)]
fn is_same(a: &SnatFlow, b: &SnatFlow) -> bool {
    let mut difference = 0;
    let (a_words, b_words) = (
        [a.client.words(), a.frontend.words()],
        [b.client.words(), b.frontend.words()],
    );
    for (x, y) in a_words.as_flattened().iter().zip(b_words.as_flattened()) {
        difference |= x ^ y;
    }
    difference |= u32::from(a.client_port.be() ^ b.client_port.be());
    difference |= u32::from(a.frontend_port.be() ^ b.frontend_port.be());
    difference |= u32::from((a.flags ^ b.flags) & !flow_flags::MARKS);
    difference == 0
}

/// Where the probing for a port begins: by client and frontend.
#[inline(always)]
fn hash(entry: &SnatFlow) -> u32 {
    let [a, b, c, d] = entry.client.words();
    let [e, f, g, h] = entry.frontend.words();
    let ports = (entry.client_port.be() as u32) << 16 | entry.frontend_port.be() as u32;
    crate::hash::of([a, b, c, d, e, f, g, h, ports])
}

/// A packet to the SNAT range, with direction Reply in its tuple: where it is a reply that this hook restores, fills
/// `rewrite` in and returns the flow's flags.
///
/// A flow of which only the port was changed is restored where it leaves, at its client's edge: between there and the
/// backend its packets look as the backend sent them. So is one of the node with itself. All others are restored as they enter.
#[inline(always)]
pub(crate) fn restore<E: Env>(env: &mut E, headers: &Headers, leaving: bool, rewrite: &mut Rewrite) -> Option<u16> {
    let found = find(env, headers, leaving, rewrite);
    if found == NONE {
        return None;
    }
    if found & DUE != 0 {
        keep_reply(env, headers, rewrite);
    }
    Some(found as u16)
}

/// What [`find`] returns: nothing, or flags of a flow with this bit where its entries are to be marked.
const NONE: u32 = u32::MAX;
const DUE: u32 = 1 << 16;

#[inline(never)]
fn find<E: Env>(env: &mut E, headers: &Headers, leaving: bool, rewrite: &mut Rewrite) -> u32 {
    let Some(flow) = env.snat_flow(&headers.tuple) else {
        return NONE;
    };
    let flags = env.opaque(flow.flags.into()) as u16;
    if (flags & flow_flags::PORT_ONLY != 0 || is_to_itself(flags)) != leaving {
        return NONE;
    }
    // Nobody answers a SYN in a connection that both sides have ended: somebody else on this node has opened another one, from a port of
    // ours, as masquerading does that knows of no reserved ports.
    if u32::from(flags & flow_flags::ENDED == flow_flags::ENDED) & u32::from(headers.answers_syn()) != 0 {
        env.remove_snat_flow(&headers.tuple);
        return NONE;
    }
    *rewrite = Rewrite {
        source: flow.frontend,
        destination: flow.client,
        source_port: flow.frontend_port,
        destination_port: flow.client_port,
        uplink: flow.uplink,
    };
    let marks = headers.end_mark() | flow_flags::REPLIED;
    let due = !headers.is_about_another() && (flow.seen != env.ticks() || flow.flags & marks != marks);
    u32::from(flow.flags) | if due { DUE } else { 0 }
}

/// Keeps the entries of a flow with a translated source alive, and marks that there was a reply, or the end.
#[inline(never)]
fn keep_reply<E: Env>(env: &mut E, headers: &Headers, rewrite: &Rewrite) {
    let now = env.ticks();
    let marks = headers.end_mark() | flow_flags::REPLIED;
    env.mark_snat_flow(&headers.tuple, now, marks);
    let forward = Tuple::new(
        (rewrite.destination, rewrite.destination_port),
        (rewrite.source, rewrite.source_port),
        headers.tuple.protocol,
        Direction::Forward,
    );
    if !env.mark_flow(FlowTable::Established, &forward, now, marks) {
        env.mark_flow(FlowTable::HalfOpen, &forward, now, marks);
    }
}

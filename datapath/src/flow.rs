//! Flows: found by their tuple, or made for a new connection.

use crate::env::{Env, Event, FlowTable, Insert, Routed, Transport};
use crate::parse::Headers;
use crate::pipeline::Edge;
use crate::reply::{reply_entry, reply_key};
use crate::{dsr, redirect, select, snat, straight};
use ferrogate_common::{
    Address, BackendSet, Flow, Frontend, LOOPBACK, NetworkKey, Port, Reason, SlotRange, Tuple, address_roles,
    backend_flags, config_flags, flow_flags,
};

/// What [`find_or_make`] came to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The flow is filled in.
    Found,
    Pass,
    Drop,
    /// Answer with a reset or an ICMP error.
    Refuse,
}

/// The flow of a request, written to `flow`.
#[inline(always)]
pub(crate) fn find_or_make<E: Env>(env: &mut E, edge: Edge, headers: &Headers, flow: &mut Flow) -> (Outcome, Reason) {
    let tuple = &headers.tuple;
    let roles = env.roles(&tuple.destination);
    if roles & address_roles::DESTINATION == 0 && !headers.is_handed() {
        let concern = straight::concern(env, edge, headers, roles);
        match env.opaque(concern) {
            straight::NO_CONCERN => return (Outcome::Pass, Reason::NotService),
            straight::MARTIAN => return (Outcome::Drop, Reason::Martian),
            _ => {}
        }
    }
    if let Some(found) = env.flow(FlowTable::Established, tuple) {
        *flow = found;
        if serves(env, flow, headers)
            && (!is_due(env, headers, flow) || keep(env, FlowTable::Established, headers, flow))
        {
            return (Outcome::Found, Reason::Translated);
        }
        forget(env, headers, flow);
    }
    let mut reason = Reason::NewFlow;
    let handed = headers.is_handed();
    match select::frontend(env, &tuple.destination, tuple.destination_port, tuple.protocol, handed) {
        None if handed => return dsr::without_frontend(env, headers),
        None => {
            let opens = headers.opens();
            // Where there are connections, only what opens one: that spares the rest a look-up.
            if opens {
                let reason = straight::without_frontend(env, edge, headers);
                if matches!(reason, Reason::NoSuchPort | Reason::BackendGone) {
                    return (Outcome::Refuse, reason);
                }
                if reason != Reason::NotService {
                    return (Outcome::Drop, reason);
                }
            }
            // At the node edge every flow has its source changed, and so no tuple that others could have.
            if edge == Edge::Node || !opens || !straight::is_taken(env, headers) {
                return (Outcome::Pass, Reason::NotService);
            }
            straight::change_port(env, headers, flow);
            env.add_destination(&tuple.destination);
        }
        Some(frontend) => {
            if let Some(found) = env.flow(FlowTable::HalfOpen, tuple) {
                *flow = found;
                if serves(env, flow, headers)
                    && (flow.flags & flow_flags::SNAT == 0 || snat::keeps_port(env, headers, flow))
                {
                    if confirmed(env, headers, flow) {
                        if flow.flags & flow_flags::SNAT != 0 {
                            keep_snat(env, FlowTable::HalfOpen, headers, flow);
                        }
                        promote(env, headers, flow);
                    } else if is_due(env, headers, flow) {
                        keep(env, FlowTable::HalfOpen, headers, flow);
                    }
                    return (Outcome::Found, Reason::Translated);
                }
            }
            reason = begin(env, edge, headers, &frontend, flow);
        }
    }
    reason = store(env, headers, flow, reason);
    if reason == Reason::NewFlow {
        tell(env, edge, headers, flow);
    }
    let outcome = match reason {
        Reason::NewFlow => Outcome::Found,
        Reason::LeftToKernel => Outcome::Pass,
        Reason::NoEndpoints | Reason::NoFlow => Outcome::Refuse,
        _ => Outcome::Drop,
    };
    (outcome, reason)
}

/// Tells those who trace of a connection that begins.
#[inline(always)]
fn tell<E: Env>(env: &mut E, edge: Edge, headers: &Headers, flow: &Flow) {
    let event = Event {
        edge: edge.of_trace(),
        ifindex: env.ifindex(),
        tuple: &headers.tuple,
        flow,
        reason: Reason::NewFlow,
    };
    env.tell(&event);
}

/// Whether a client is inside the cluster: by the edge it is met at, or by its address.
#[inline(never)]
pub(crate) fn is_internal<E: Env>(env: &E, edge: Edge, client: &Address) -> bool {
    matches!(edge, Edge::Pod | Edge::Node)
        || (env.config().flags & config_flags::CLUSTER_CIDRS != 0 && env.is_in_networks(NetworkKey::CLUSTER, client))
}

/// Whether a flow still holds for this packet.
///
/// UDP leaves a backend that is no longer current on its next packet. A connection stays until it ends: only a SYN (of SCTP: an
/// INIT) after the end, towards a backend that is gone, or with a tuple that is another connection's, is a new one.
#[inline(always)]
fn serves<E: Env>(env: &E, flow: &Flow, headers: &Headers) -> bool {
    // Most packets need not know of the backend, which may be far from the processor's caches.
    if headers.has_connections() && !headers.is_syn() {
        return true;
    }
    let current = env.generation(flow.backend) == flow.generation;
    if headers.has_connections() {
        current && flow.flags & (flow_flags::CLOSING | flow_flags::TAKEN) == 0
    } else {
        current && !is_idle(env, headers, flow)
    }
}

/// Whether a UDP flow had no packet for so long that it is over: its client's next one is balanced anew.
#[inline(always)]
pub(crate) fn is_idle<E: Env>(env: &E, headers: &Headers, flow: &Flow) -> bool {
    if headers.has_connections() {
        return false;
    }
    let config = env.config();
    let timeout = if env.opaque(flow.flags.into()) & u32::from(flow_flags::REPLIED) != 0 {
        config.udp_stream_timeout
    } else {
        config.udp_timeout
    };
    // 0 becomes the highest number.
    env.ticks().wrapping_sub(flow.seen) > u32::from(timeout).wrapping_sub(1)
}

/// Removes a flow that is over; of an idle one the replies too. Those of a backend that is gone may still be on their way, and an
/// ended connection's are found to be over by who needs their tuple.
#[inline(never)]
fn forget<E: Env>(env: &mut E, headers: &Headers, flow: &Flow) {
    env.remove_flow(FlowTable::Established, &headers.tuple);
    let idle = !headers.has_connections() && env.generation(flow.backend) == flow.generation;
    if idle && flow.flags & WITHOUT_PAIR == 0 {
        env.remove_flow(FlowTable::Established, &reply_key(&headers.tuple, flow));
    }
}

/// Flags of flows whose replies are not translated by an entry beside theirs.
const WITHOUT_PAIR: u16 = flow_flags::SNAT | flow_flags::DSR;

/// Whether a packet of a half-open flow shows that both sides are there; without connections that its client goes on counts for it, as
/// nobody may have anything to answer.
#[inline(always)]
fn confirmed<E: Env>(env: &E, headers: &Headers, flow: &Flow) -> bool {
    if headers.has_connections() {
        return !headers.is_syn();
    }
    flow.flags & flow_flags::REPLIED != 0 || flow.seen != env.ticks()
}

/// Whether a flow's entries need a new time stamp (once a tick) or an end mark.
#[inline(always)]
fn is_due<E: Env>(env: &E, headers: &Headers, flow: &Flow) -> bool {
    flow.seen != env.ticks() || headers.end_mark() & !flow.flags != 0
}

/// Keeps a flow's time stamps and end marks, and rebuilds a reply entry that was evicted. False where it has lost the port that it was
/// given: without connections that of a silent flow may be another's, as long as nothing is known of its replies; and so may that of
/// one whose replies' entry was evicted.
#[inline(always)]
fn keep<E: Env>(env: &mut E, table: FlowTable, headers: &Headers, flow: &Flow) -> bool {
    if flow.flags & flow_flags::SNAT == 0 {
        keep_pair(env, table, headers, flow);
        return true;
    }
    if table == FlowTable::Established && !snat::keeps_port(env, headers, flow) {
        return false;
    }
    keep_snat(env, table, headers, flow);
    true
}

#[inline(never)]
fn keep_pair<E: Env>(env: &mut E, table: FlowTable, headers: &Headers, flow: &Flow) {
    let (now, marks) = (env.ticks(), headers.end_mark());
    env.mark_flow(table, &headers.tuple, now, marks);
    if env.is_dsr() && flow.flags & flow_flags::DSR != 0 {
        return;
    }
    let key = reply_key(&headers.tuple, flow);
    if !env.mark_flow(table, &key, now, marks) {
        env.insert_flow(table, &key, &reply_entry(&headers.tuple, flow, now));
    }
}

#[inline(never)]
fn keep_snat<E: Env>(env: &mut E, table: FlowTable, headers: &Headers, flow: &Flow) {
    let (now, marks) = (env.ticks(), headers.end_mark());
    env.mark_flow(table, &headers.tuple, now, marks);
    let both = if headers.has_connections() {
        table == FlowTable::Established || !headers.is_syn()
    } else {
        flow.flags & flow_flags::REPLIED != 0
    };
    let confirmed = env.opaque(if both { flow_flags::CONFIRMED.into() } else { 0 }) as u16;
    snat::keep(env, headers, flow, now, marks | confirmed);
}

/// Moves a flow that both sides have confirmed from `HALF_OPEN` to `FLOWS`, with the end marks that it has: its client may have refused
/// what it was answered, and the next SYN begins another connection.
#[inline(never)]
fn promote<E: Env>(env: &mut E, headers: &Headers, flow: &mut Flow) {
    let (now, marks) = (env.ticks(), headers.end_mark());
    if marks != 0 {
        env.mark_flow(FlowTable::HalfOpen, &headers.tuple, now, marks);
    }
    flow.seen = now;
    flow.flags |= marks;
    if env.is_dsr() && flow.flags & flow_flags::DSR != 0 {
        flow.flags |= flow_flags::REPLIED;
    }
    if flow.flags & WITHOUT_PAIR == 0 {
        let key = reply_key(&headers.tuple, flow);
        // What is left of an idle flow may be there.
        if !env.put_flow(FlowTable::Established, &key, &reply_entry(&headers.tuple, flow, now)) {
            return;
        }
        env.remove_flow(FlowTable::HalfOpen, &key);
    }
    if env.put_flow(FlowTable::Established, &headers.tuple, flow) {
        env.remove_flow(FlowTable::HalfOpen, &headers.tuple);
    }
}

/// A new connection to a Service, up to its reply's entry. Each step has a stack frame of its own: eBPF has 512 bytes for a whole
/// chain of calls.
#[inline(always)]
fn begin<E: Env>(env: &mut E, edge: Edge, headers: &Headers, frontend: &Frontend, flow: &mut Flow) -> Reason {
    if straight::is_martian(env, edge, headers) {
        return Reason::Martian;
    }
    let mut reason = choose(env, edge, headers, frontend, flow);
    if reason == Reason::NewFlow && flow.flags & flow_flags::SNAT != 0 {
        reason = new_source(env, headers, flow);
    }
    if reason == Reason::NewFlow {
        redirect::begin(env, edge, headers, flow);
    }
    if reason == Reason::NewFlow && flow.flags & WITHOUT_PAIR == 0 && !store_reply(env, headers, flow) {
        reason = Reason::FlowTable;
    }
    reason
}

/// Gives a new flow its source port, if it needs one, and stores what its requests are translated by.
#[inline(always)]
fn store<E: Env>(env: &mut E, headers: &Headers, flow: &mut Flow, mut reason: Reason) -> Reason {
    if reason == Reason::NewFlow && flow.flags & flow_flags::SNAT != 0 {
        reason = env.allocate(&headers.tuple, flow);
    }
    if reason != Reason::NewFlow {
        return reason;
    }
    // Nothing more is known of a connection that is no Service's, and nothing has to be.
    let table = if flow.flags & flow_flags::CONFIRMED != 0 {
        FlowTable::Established
    } else {
        FlowTable::HalfOpen
    };
    if !env.put_flow(table, &headers.tuple, flow) {
        return Reason::FlowTable;
    }
    if table == FlowTable::HalfOpen
        && let Some(backend) = env.backend(flow.backend)
    {
        env.count_connection(backend.service);
        env.begin(flow.backend);
    }
    reason
}

/// Policy and backend: fills the flow in, and whether its source must change. [`Reason::NewFlow`] or what is wrong.
#[inline(always)]
fn choose<E: Env>(env: &mut E, edge: Edge, headers: &Headers, frontend: &Frontend, flow: &mut Flow) -> Reason {
    let internal = u32::from(is_internal(env, edge, &headers.tuple.source));
    let mut client = Admitted {
        internal: env.opaque(internal),
        local: 0,
    };
    let reason = choose_backend(env, headers, frontend, &mut client, flow);
    if reason != Reason::NewFlow {
        return reason;
    }
    fill(env, edge, headers, &client, flow)
}

/// A client that a frontend takes.
struct Admitted {
    /// Not 0: it is inside the cluster.
    internal: u32,
    /// Not 0: it may have the backends of the local set only.
    local: u32,
}

/// Sets the flow's backend.
#[inline(never)]
fn choose_backend<E: Env>(
    env: &mut E,
    headers: &Headers,
    frontend: &Frontend,
    admitted: &mut Admitted,
    flow: &mut Flow,
) -> Reason {
    let config = env.config();
    let client = &headers.tuple.source;
    if config.flags & config_flags::HAND_OVER != 0 {
        return Reason::LeftToKernel;
    }
    let Some(service) = env.service(frontend.service) else {
        return Reason::StaleService;
    };
    if select::is_refused_source(env, frontend, &service, client) {
        return Reason::SourceRange;
    }
    if frontend.is_cluster_ip() && admitted.internal == 0 && config.flags & config_flags::EXTERNAL_CLUSTER_IP == 0 {
        return Reason::ExternalClusterIp;
    }
    if !headers.opens() {
        return select::unknown(config);
    }
    let mut set = service.allowed_set(frontend, admitted.internal != 0);
    if headers.is_handed() && SlotRange::unpack(service.range).local != 0 {
        set = BackendSet::Local;
    }
    admitted.local = env.opaque(u32::from(set == BackendSet::Local));
    let asking = select::Client {
        address: client,
        tuple: Some(&headers.tuple),
    };
    match select::backend(env, frontend.service, &service, set, &asking) {
        Ok((id, _)) => {
            flow.backend = id;
            Reason::NewFlow
        }
        Err(reason) => reason,
    }
}

/// Fills in the flow to its backend. [`Reason::NewFlow`], unless the backend has gone this very moment.
#[inline(never)]
fn fill<E: Env>(env: &E, edge: Edge, headers: &Headers, client: &Admitted, flow: &mut Flow) -> Reason {
    let config = env.config();
    let id = flow.backend;
    let backend = match env.backend(id) {
        Some(backend) if backend.generation != 0 => backend,
        _ => return Reason::StaleService,
    };
    let flags = match edge {
        Edge::Pod if backend.address == headers.tuple.source => flow_flags::SNAT | flow_flags::HAIRPIN,
        Edge::Pod => 0,
        Edge::Node if env.ifindex() == LOOPBACK => flow_flags::SNAT | flow_flags::NODE | flow_flags::TRANSIT,
        Edge::Node => flow_flags::SNAT | flow_flags::NODE,
        Edge::Uplink | Edge::Xdp => {
            let local = backend.flags & backend_flags::LOCAL != 0;
            let keeps_source = config.flags & config_flags::SNAT_ALWAYS == 0
                || client.local != 0
                || client.internal != 0
                || env.is_node_address(&backend.address);
            if local && keeps_source {
                0
            } else {
                flow_flags::SNAT | flow_flags::TRANSIT
            }
        }
    };
    *flow = Flow {
        address: backend.address,
        port: backend.port,
        source_port: Port::ZERO,
        backend: id,
        generation: backend.generation,
        seen: env.ticks(),
        source: 0,
        flags: env.opaque(flags.into()) as u16,
        uplink: if headers.is_handed() { 0 } else { uplink(env, edge) },
    };
    let transit = flow_flags::SNAT | flow_flags::TRANSIT;
    let elsewhere = backend.flags & backend_flags::LOCAL == 0 && client.internal == 0;
    if dsr::is_sent(env, edge) && flags == transit && elsewhere {
        dsr::begin(env, &config, headers, flow);
    }
    Reason::NewFlow
}

/// The layer-3 device that a client outside of the node is met at. XDP may run on a device below it.
#[inline(always)]
fn uplink<E: Env>(env: &E, edge: Edge) -> u32 {
    match edge {
        Edge::Pod | Edge::Node => 0,
        Edge::Uplink => env.ifindex(),
        Edge::Xdp => env.interface(env.ifindex()).map_or(0, |interface| interface.layer3),
    }
}

/// The source that the flow gets: the address of the device it leaves by.
#[inline(never)]
fn new_source<E: Env>(env: &mut E, headers: &Headers, flow: &mut Flow) -> Reason {
    let tuple = &headers.tuple;
    let ifindex = if flow.flags & flow_flags::HAIRPIN != 0 {
        env.ifindex()
    } else {
        let transport = Transport::short(tuple.protocol);
        match env.route(env.ifindex(), &tuple.destination, &flow.address, transport) {
            // Even a flow that this hook leaves to the next one is made here: its turn is taken. A packet that is too big is answered
            // only once its flow is known.
            Routed::To | Routed::NotFromHere => env.hop().ifindex,
            Routed::Nowhere if flow.flags & flow_flags::NODE != 0 && is_own(env, tuple, &flow.address) => {
                flow.flags |= flow_flags::HAIRPIN;
                return Reason::NewFlow;
            }
            Routed::Nowhere | Routed::TooBig => return Reason::NoRoute,
        }
    };
    let Some(interface) = env.interface(ifindex) else {
        return Reason::NoSource;
    };
    flow.source = if headers.is_v6() {
        interface.source6
    } else {
        interface.source4
    };
    if flow.source == 0 {
        return Reason::NoSource;
    }
    Reason::NewFlow
}

/// Whether an address that no packet of this node leaves for is one of its own.
#[inline(always)]
fn is_own<E: Env>(env: &E, tuple: &Tuple, address: &Address) -> bool {
    tuple.source == *address || env.is_node_address(address)
}

/// Stores the reply's entry of a flow that keeps its source. Where another frontend of this client has the same backend,
/// one of the two must look different to it: then the flow is marked to get a new port.
#[inline(never)]
fn store_reply<E: Env>(env: &mut E, headers: &Headers, flow: &mut Flow) -> bool {
    let key = reply_key(&headers.tuple, flow);
    let entry = reply_entry(&headers.tuple, flow, flow.seen);
    let other = match env.flow(FlowTable::Established, &key) {
        Some(other) => {
            // What is left of an earlier flow is what replies will find first.
            env.mark_flow(FlowTable::Established, &key, entry.seen, 0);
            Some(other)
        }
        // Mostly there is none, and one that is there stays.
        None => match env.insert_flow(FlowTable::HalfOpen, &key, &entry) {
            Insert::Done => return true,
            Insert::Failed => return false,
            Insert::Exists => env.flow(FlowTable::HalfOpen, &key),
        },
    };
    if other.is_some_and(|other| is_another(&other, &entry)) {
        flow.flags = flow_flags::SNAT | flow_flags::PORT_ONLY;
        return true;
    }
    env.put_flow(FlowTable::HalfOpen, &key, &entry)
}

/// Whether an entry that has the tuple of a flow's replies is another flow's.
#[inline(always)]
fn is_another(other: &Flow, entry: &Flow) -> bool {
    other.address != entry.address || other.port != entry.port || other.flags & flow_flags::TAKEN != 0
}

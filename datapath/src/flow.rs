//! Flows: found by their tuple, or made for a new connection.

use crate::env::{Env, FlowTable, Insert, Routed, Transport};
use crate::parse::Headers;
use crate::pipeline::Edge;
use crate::{select, snat};
use ferrogate_common::{
    Address, BackendSet, Direction, Flow, Frontend, NetworkKey, Port, Reason, Tuple, backend_flags, config_flags,
    flow_flags,
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
    if let Some(found) = env.flow(FlowTable::Established, tuple) {
        *flow = found;
        if serves(env, flow, headers) {
            if is_due(env, headers, flow) {
                keep(env, FlowTable::Established, headers, flow);
            }
            return (Outcome::Found, Reason::Translated);
        }
        env.remove_flow(FlowTable::Established, tuple);
    }
    let Some(frontend) = select::frontend(env, &tuple.destination, tuple.destination_port, tuple.protocol, false)
    else {
        // Where there are connections, only what opens one: that spares the rest a look-up.
        if !headers.has_connections() || headers.is_syn() {
            let reason = without_frontend(env, edge, tuple);
            if reason == Reason::NoSuchPort {
                return (Outcome::Refuse, reason);
            }
            if reason != Reason::NotService {
                return (Outcome::Drop, reason);
            }
        }
        if headers.is_syn() {
            forget_ended(env, headers);
        }
        return (Outcome::Pass, Reason::NotService);
    };
    if let Some(found) = env.flow(FlowTable::HalfOpen, tuple) {
        *flow = found;
        if serves(env, flow, headers) {
            if confirmed(headers, flow) {
                promote(env, headers, flow);
            }
            return (Outcome::Found, Reason::Translated);
        }
    }
    let reason = make(env, edge, headers, &frontend, flow);
    let outcome = match reason {
        Reason::NewFlow => Outcome::Found,
        Reason::NoEndpoints | Reason::NoFlow => Outcome::Refuse,
        _ => Outcome::Drop,
    };
    (outcome, reason)
}

/// A connection straight to an endpoint can have the very tuple that one through a Service had, if that has ended and its
/// port is used again: its replies are not to be taken for those of the old one.
#[inline(never)]
fn forget_ended<E: Env>(env: &mut E, headers: &Headers) {
    let tuple = &headers.tuple;
    let key = Tuple::new(
        (tuple.destination, tuple.destination_port),
        (tuple.source, tuple.source_port),
        tuple.protocol,
        Direction::Reply,
    );
    for table in [FlowTable::Established, FlowTable::HalfOpen] {
        if env
            .flow(table, &key)
            .is_some_and(|flow| flow.flags & flow_flags::CLOSING != 0)
        {
            env.remove_flow(table, &key);
        }
    }
}

/// What a request is that no frontend takes: to a port that its ClusterIP does not have, of which clients that may use the
/// address are told; to an address that could be a ClusterIP; or [`Reason::NotService`].
#[inline(never)]
fn without_frontend<E: Env>(env: &E, edge: Edge, tuple: &Tuple) -> Reason {
    let reason = select::without_frontend(env, &tuple.destination);
    if reason != Reason::NoSuchPort
        || env.config().flags & config_flags::EXTERNAL_CLUSTER_IP != 0
        || is_internal(env, edge, &tuple.source)
    {
        return reason;
    }
    Reason::ExternalClusterIp
}

/// Whether a client is inside the cluster: by the edge it is met at, or by its address.
#[inline(never)]
fn is_internal<E: Env>(env: &E, edge: Edge, client: &Address) -> bool {
    matches!(edge, Edge::Pod | Edge::Node)
        || (env.config().flags & config_flags::CLUSTER_CIDRS != 0 && env.is_in_networks(NetworkKey::CLUSTER, client))
}

/// Whether a flow still holds for this packet.
///
/// UDP leaves a backend that is no longer current on its next packet. A connection stays until it ends: only a SYN (of SCTP: an
/// INIT) after the end, or towards a backend that is gone, is a new one.
#[inline(always)]
fn serves<E: Env>(env: &E, flow: &Flow, headers: &Headers) -> bool {
    let current = env.generation(flow.backend) == flow.generation;
    if headers.has_connections() {
        !headers.is_syn() || (current && flow.flags & flow_flags::CLOSING == 0)
    } else {
        current
    }
}

/// Whether a packet of a half-open flow shows that both sides are there.
#[inline(always)]
fn confirmed(headers: &Headers, flow: &Flow) -> bool {
    if headers.has_connections() {
        !headers.is_syn()
    } else {
        flow.flags & flow_flags::REPLIED != 0
    }
}

/// Whether a flow's entries need a new time stamp (once a tick) or an end mark.
#[inline(always)]
fn is_due<E: Env>(env: &E, headers: &Headers, flow: &Flow) -> bool {
    flow.seen != env.ticks() || (headers.is_closing() && flow.flags & flow_flags::CLOSING == 0)
}

/// Keeps a flow's time stamps and end marks, and rebuilds a reply entry that was evicted.
#[inline(never)]
fn keep<E: Env>(env: &mut E, table: FlowTable, headers: &Headers, flow: &Flow) {
    let now = env.ticks();
    let closing = headers.end_mark();
    env.mark_flow(table, &headers.tuple, now, closing);
    if flow.flags & flow_flags::SNAT != 0 {
        snat::keep(env, headers, flow, now);
        return;
    }
    let key = reply_key(&headers.tuple, flow);
    if !env.mark_flow(table, &key, now, closing) {
        env.insert_flow(table, &key, &reply_entry(&headers.tuple, flow, now));
    }
}

/// Moves a flow that both sides have confirmed from `HALF_OPEN` to `FLOWS`.
#[inline(never)]
fn promote<E: Env>(env: &mut E, headers: &Headers, flow: &Flow) {
    let now = env.ticks();
    if flow.flags & flow_flags::SNAT == 0 {
        let key = reply_key(&headers.tuple, flow);
        if env.insert_flow(FlowTable::Established, &key, &reply_entry(&headers.tuple, flow, now)) == Insert::Failed {
            return;
        }
        env.remove_flow(FlowTable::HalfOpen, &key);
    }
    if env.put_flow(FlowTable::Established, &headers.tuple, flow) {
        env.remove_flow(FlowTable::HalfOpen, &headers.tuple);
    }
}

/// A new connection. Each step has a stack frame of its own: eBPF has 512 bytes for a whole chain of calls.
#[inline(always)]
fn make<E: Env>(env: &mut E, edge: Edge, headers: &Headers, frontend: &Frontend, flow: &mut Flow) -> Reason {
    let mut reason = choose(env, edge, headers, frontend, flow);
    if reason == Reason::NewFlow && flow.flags & flow_flags::SNAT != 0 {
        reason = new_source(env, headers, flow);
    }
    if reason == Reason::NewFlow && flow.flags & flow_flags::SNAT == 0 && !store_reply(env, headers, flow) {
        reason = Reason::FlowTable;
    }
    if reason == Reason::NewFlow && flow.flags & flow_flags::SNAT != 0 {
        reason = snat::allocate(env, headers, flow);
    }
    if reason != Reason::NewFlow {
        return reason;
    }
    if !env.put_flow(FlowTable::HalfOpen, &headers.tuple, flow) {
        return Reason::FlowTable;
    }
    env.count_connection(frontend.service);
    env.begin(flow.backend);
    reason
}

/// Policy and backend: fills the flow in, and whether its source must change. [`Reason::NewFlow`] or what is wrong.
#[inline(never)]
fn choose<E: Env>(env: &mut E, edge: Edge, headers: &Headers, frontend: &Frontend, flow: &mut Flow) -> Reason {
    let config = env.config();
    let client = &headers.tuple.source;
    let Some(service) = env.service(frontend.service) else {
        return Reason::StaleService;
    };
    if select::is_refused_source(env, frontend, &service, client) {
        return Reason::SourceRange;
    }
    let internal = is_internal(env, edge, client);
    if frontend.is_cluster_ip() && !internal && config.flags & config_flags::EXTERNAL_CLUSTER_IP == 0 {
        return Reason::ExternalClusterIp;
    }
    if headers.has_connections() && !headers.is_syn() {
        return Reason::NoFlow;
    }
    let set = select::allowed_set(frontend, &service, internal);
    let asking = select::Client {
        address: client,
        tuple: Some(&headers.tuple),
    };
    let (id, backend) = match select::backend(env, frontend.service, &service, set, &asking) {
        Ok(found) => found,
        Err(reason) => return reason,
    };
    let flags = match edge {
        Edge::Pod if backend.address == *client => flow_flags::SNAT | flow_flags::HAIRPIN,
        Edge::Pod => 0,
        Edge::Node => flow_flags::SNAT | flow_flags::NODE,
        Edge::Uplink | Edge::Xdp => {
            let local = backend.flags & backend_flags::LOCAL != 0;
            let keeps_source = config.flags & config_flags::SNAT_ALWAYS == 0
                || set == BackendSet::Local
                || internal
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
        flags,
        reserved: 0,
    };
    Reason::NewFlow
}

/// The source that the flow gets: the address of the device it leaves by.
#[inline(never)]
fn new_source<E: Env>(env: &mut E, headers: &Headers, flow: &mut Flow) -> Reason {
    let tuple = &headers.tuple;
    let ifindex = if flow.flags & flow_flags::HAIRPIN != 0 {
        env.ifindex()
    } else {
        let transport = Transport {
            protocol: tuple.protocol,
            length: 0,
        };
        match env.route(env.ifindex(), &tuple.destination, &flow.address, transport) {
            // Even a flow that this hook leaves to the next one is made here: its turn is taken.
            // One that is too big is answered only once its flow is known.
            Routed::To | Routed::NotFromHere | Routed::TooBig => env.hop().ifindex,
            Routed::Nowhere => return Reason::NoRoute,
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

/// Stores the reply's entry of a flow that keeps its source. Where another frontend of this client has the same backend,
/// one of the two must look different to it: then the flow is marked to get a new port.
#[inline(never)]
fn store_reply<E: Env>(env: &mut E, headers: &Headers, flow: &mut Flow) -> bool {
    let key = reply_key(&headers.tuple, flow);
    let entry = reply_entry(&headers.tuple, flow, flow.seen);
    if clashes(env, &key, &entry) {
        flow.flags = flow_flags::SNAT | flow_flags::PORT_ONLY;
        return true;
    }
    env.put_flow(FlowTable::HalfOpen, &key, &entry)
}

/// Whether the tuple that replies will have belongs to another flow already.
#[inline(always)]
fn clashes<E: Env>(env: &E, key: &Tuple, entry: &Flow) -> bool {
    let other = match env.flow(FlowTable::Established, key) {
        Some(other) => other,
        None => match env.flow(FlowTable::HalfOpen, key) {
            Some(other) => other,
            None => return false,
        },
    };
    other.address != entry.address || other.port != entry.port
}

/// Key of the replies to a flow that keeps its source: as they come from the backend.
#[inline(always)]
pub(crate) fn reply_key(request: &Tuple, flow: &Flow) -> Tuple {
    Tuple::new(
        (flow.address, flow.port),
        (request.source, request.source_port),
        request.protocol,
        Direction::Reply,
    )
}

/// The reply's entry: back to the frontend's address.
#[inline(always)]
fn reply_entry(request: &Tuple, flow: &Flow, seen: u32) -> Flow {
    Flow {
        address: request.destination,
        port: request.destination_port,
        source_port: Port::ZERO,
        backend: flow.backend,
        generation: flow.generation,
        seen,
        source: 0,
        flags: flow.flags,
        reserved: 0,
    }
}

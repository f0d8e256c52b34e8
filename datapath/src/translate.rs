//! Translation: writes a flow's addresses and ports into a packet and mends its checksums.

use crate::checksum::{self, add};
use crate::crc32c::port_change;
use crate::env::{ChecksumChange, Env, FlowTable, Packet, Route, Routed, Transport};
use crate::parse::{Headers, kind};
use crate::pipeline::{Edge, Step};
use crate::reject::Refusal;
use crate::snat;
use crate::{dsr, flow, straight};
use ferrogate_common::{
    Address, Direction, Dsr, Flow, Port, Protocol, Reason, Tuple, address_roles, config_flags, flow_flags,
    interface_flags,
};

/// What a packet's addresses shall be.
pub(crate) struct Rewrite {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) source_port: Port,
    pub(crate) destination_port: Port,
    /// Of a reply, the device that its client's packets come in by ([`Flow::uplink`]); or [`Rewrite::WRAP`].
    pub(crate) uplink: u32,
}

impl Rewrite {
    /// To be filled in.
    pub(crate) const NONE: Self = Self {
        source: Address::UNSPECIFIED,
        destination: Address::UNSPECIFIED,
        source_port: Port::ZERO,
        destination_port: Port::ZERO,
        uplink: 0,
    };

    /// In place of a device: nothing of the packet changes, but it is wrapped up in a header with these addresses.
    pub(crate) const WRAP: u32 = u32::MAX;
}

/// Fills in where a flow sends its requests; false where the node's address that it had is gone.
#[inline(always)]
pub(crate) fn towards_backend<E: Env>(
    env: &E,
    edge: Edge,
    headers: &Headers,
    flow: &Flow,
    rewrite: &mut Rewrite,
) -> bool {
    rewrite.source = headers.tuple.source;
    rewrite.destination = flow.address;
    rewrite.source_port = headers.tuple.source_port;
    rewrite.destination_port = flow.port;
    rewrite.uplink = 0;
    let flags = env.opaque(flow.flags.into()) as u16;
    if dsr::is_sent(env, edge) && flags & flow_flags::DSR != 0 {
        return dsr::towards_node(env, headers, flow, rewrite);
    }
    if flags & flow_flags::SNAT == 0 {
        return true;
    }
    rewrite.source_port = flow.source_port;
    if flags & flow_flags::PORT_ONLY != 0 {
        return true;
    }
    if snat::is_to_itself(flags) {
        rewrite.source = headers.tuple.destination;
        return true;
    }
    match env.source(flow.source) {
        Some(source) => {
            rewrite.source = source;
            true
        }
        None => false,
    }
}

/// The way of a packet that we send on ourselves, as a router does. `reason` is that of the flow.
#[inline(always)]
pub(crate) fn find_way<E: Env>(
    env: &mut E,
    edge: Edge,
    headers: &Headers,
    rewrite: &Rewrite,
    reason: Reason,
) -> (Step, Reason) {
    let wraps = dsr::wraps(env, edge, rewrite);
    let overhead = if wraps { Dsr::overhead(headers.is_v6()) } else { 0 };
    let mut routed = look_up(env, headers, rewrite, 0, overhead);
    if rewrite.uplink != 0 && !wraps && routed == Routed::To && is_elsewhere(env, env.hop().ifindex, rewrite.uplink) {
        routed = look_up(env, headers, rewrite, rewrite.uplink, 0);
        if routed == Routed::Nowhere {
            routed = look_up(env, headers, rewrite, 0, 0);
        }
    }
    match routed {
        Routed::NotFromHere => (Step::Pass, Reason::LeftToTcx),
        Routed::Nowhere => (Step::Drop, Reason::NoRoute),
        Routed::TooBig => (Step::Refuse(Refusal::TooBig), Reason::TooBig),
        Routed::To if edge != Edge::Node && headers.hop_limit <= 1 => {
            (Step::Refuse(Refusal::HopLimit), Reason::HopLimit)
        }
        Routed::To => (Step::Forward, reason),
    }
}

/// Whether a reply that leaves by device `by` shall leave by the one that its client's packets come in by instead, if there is
/// a way: each may have a part of the network behind it that only it reaches, or filters that want to see both directions.
/// Tunnels are left to their routes.
#[inline(never)]
fn is_elsewhere<E: Env>(env: &E, by: u32, uplink: u32) -> bool {
    const BY_ROUTE_ALONE: u32 = interface_flags::TUNNEL | interface_flags::LAYER3;
    by != uplink
        && [by, uplink].iter().all(|ifindex| {
            env.interface(*ifindex)
                .is_some_and(|interface| interface.flags & BY_ROUTE_ALONE == 0)
        })
}

/// A reply that is on its way out: true where it has to leave by another device, along [`crate::Fib::hop`].
#[inline(always)]
pub(crate) fn leaves_by_another<E: Env>(env: &mut E, headers: &Headers, rewrite: &Rewrite) -> bool {
    // The device alone tells it mostly, and spares a call.
    if rewrite.uplink == 0 || rewrite.uplink == env.ifindex() || !is_elsewhere(env, env.ifindex(), rewrite.uplink) {
        return false;
    }
    // By the sender that the client knows first: the stack has routed by the backend's address. In IPv6 rules ask for the sender only
    // where no device is given, and a device is a wish: the best route may be another's.
    [0, rewrite.uplink]
        .into_iter()
        .any(|out| look_up(env, headers, rewrite, out, 0) == Routed::To && env.hop().ifindex == rewrite.uplink)
}

#[inline(never)]
pub(crate) fn look_up<E: Env>(env: &mut E, headers: &Headers, rewrite: &Rewrite, out: u32, overhead: u16) -> Routed {
    let transport = Transport {
        protocol: headers.tuple.protocol,
        length: headers.length.max(Transport::SHORT),
        overhead,
        out,
    };
    env.route(env.ifindex(), &rewrite.source, &rewrite.destination, transport)
}

/// A packet with direction Reply in its tuple: where it is a reply, fills in how its client knows the sender. `redirected`: where it is
/// one of a flow that is [`flow_flags::REDIRECT`].
#[inline(always)]
pub(crate) fn towards_client<E: Env>(env: &mut E, headers: &Headers, rewrite: &mut Rewrite, redirected: bool) -> bool {
    if env.roles(&headers.tuple.source) & address_roles::BACKEND == 0 {
        return false;
    }
    let mut table = FlowTable::Established;
    let flow = match env.flow(table, &headers.tuple) {
        Some(flow) => flow,
        None => {
            table = FlowTable::HalfOpen;
            match env.flow(table, &headers.tuple) {
                Some(flow) => flow,
                None => return false,
            }
        }
    };
    if (redirected && flow.flags & flow_flags::REDIRECT == 0) || flow::is_idle(env, headers, &flow) {
        return false;
    }
    if table == FlowTable::HalfOpen && straight::is_of_another(headers, &flow) {
        if flow.flags & flow_flags::TAKEN == 0 {
            mark_pair(env, headers, table, &flow, flow_flags::TAKEN);
        }
        return false;
    }
    rewrite.source = flow.address;
    rewrite.destination = headers.tuple.destination;
    rewrite.source_port = flow.port;
    rewrite.destination_port = headers.tuple.destination_port;
    rewrite.uplink = flow.uplink;
    let marks = headers.end_mark() | flow_flags::REPLIED;
    let due = flow.seen != env.ticks() || flow.flags & marks != marks;
    if due && !headers.is_about_another() {
        mark_pair(env, headers, table, &flow, marks);
    }
    true
}

/// Keeps both entries of a flow alive, and marks that there was a reply, or the end.
#[inline(never)]
fn mark_pair<E: Env>(env: &mut E, headers: &Headers, table: FlowTable, flow: &Flow, marks: u16) {
    let now = env.ticks();
    env.mark_flow(table, &headers.tuple, now, marks);
    let key = Tuple::new(
        (headers.tuple.destination, headers.tuple.destination_port),
        (flow.address, flow.port),
        headers.tuple.protocol,
        Direction::Forward,
    );
    env.mark_flow(table, &key, now, marks);
}

/// Rewrites addresses and ports. `None`: the packet could not be written. `SECOND`: in the second program, which alone meets
/// SCTP.
#[inline(never)]
pub(crate) fn apply<P: Packet, const SECOND: bool>(packet: &mut P, headers: &Headers, rewrite: &Rewrite) -> Option<()> {
    let tuple = &headers.tuple;
    // First, while little has to be remembered beside it.
    let length = headers.length.wrapping_sub((headers.l4 - packet.link_header()) as u16);
    let pseudo = checksum::pseudo_header(&tuple.source, &tuple.destination, tuple.protocol, length);
    let full = packet.holds_checksum(headers.checksum_offset(), pseudo);
    let source = checksum::address_difference(&tuple.source, &rewrite.source, headers.is_v6());
    let destination = checksum::address_difference(&tuple.destination, &rewrite.destination, headers.is_v6());
    let addresses = add(source, destination);
    let ports = add(
        checksum::port_difference(tuple.source_port, rewrite.source_port),
        checksum::port_difference(tuple.destination_port, rewrite.destination_port),
    );
    if headers.is_v6() {
        packet.store(
            packet.link_header() + 8,
            [rewrite.source.words(), rewrite.destination.words()],
        )?;
    } else {
        let old: u16 = packet.load(packet.link_header() + 10)?;
        packet.store(packet.link_header() + 10, checksum::update(old, addresses))?;
        packet.store(
            packet.link_header() + 12,
            [rewrite.source.v4_word(), rewrite.destination.v4_word()],
        )?;
    }
    if headers.kind == kind::LATER_FRAGMENT {
        if SECOND && headers.is_v6() {
            // No header checksum, and the transport's is in the first fragment.
            packet.mend_sum(addresses);
        }
        return Some(());
    }
    if SECOND && headers.is_sctp() {
        update_crc32c(packet, headers, rewrite)?;
        return packet.store(headers.l4, [rewrite.source_port.be(), rewrite.destination_port.be()]);
    }
    packet.store(headers.l4, [rewrite.source_port.be(), rewrite.destination_port.be()])?;
    let change = ChecksumChange {
        addresses,
        rest: ports,
        full,
        optional: tuple.protocol == Protocol::Udp as u8,
        v6: headers.is_v6(),
    };
    packet.update_transport_checksum(headers.checksum_offset(), change)
}

/// Mends the checksum of an SCTP packet, which covers no addresses.
#[inline(never)]
fn update_crc32c<P: Packet>(packet: &mut P, headers: &Headers, rewrite: &Rewrite) -> Option<()> {
    let at = headers.l4 + 8;
    let old: u32 = packet.load(at)?;
    let tuple = &headers.tuple;
    let before = [tuple.source_port.be(), tuple.destination_port.be()];
    let after = [rewrite.source_port.be(), rewrite.destination_port.be()];
    let length = headers
        .length
        .saturating_sub((headers.l4 - packet.link_header()) as u16);
    packet.store(at, port_change(old, before, after, length))
}

/// Where client and backend hang on the same bridge, sends the frame to the backend's own MAC: then both directions are
/// bridged, and the stack never sees half a connection.
#[inline(always)]
pub(crate) fn address_on_bridge<E: Env>(env: &mut E, tuple: &Tuple, backend: &Address) {
    if env.config().flags & config_flags::BRIDGE_PORTS != 0 {
        address_on_same_bridge(env, tuple, backend);
    }
}

#[inline(never)]
fn address_on_same_bridge<E: Env>(env: &mut E, tuple: &Tuple, backend: &Address) {
    let Some(port) = env.interface(env.ifindex()) else {
        return;
    };
    if port.flags & interface_flags::BRIDGE_PORT == 0 {
        return;
    }
    let transport = Transport::short(tuple.protocol);
    if env.route(port.layer3, &tuple.source, backend, transport) != Routed::To {
        return;
    }
    let Route {
        ifindex,
        destination_mac,
        ..
    } = *env.hop();
    if ifindex == port.layer3 && destination_mac != [0; 3] {
        // Too short for an Ethernet header it can't be: it was parsed.
        let _ = env.store(0, destination_mac);
    }
}

#[inline(always)]
pub(crate) fn decrement_hop_limit<P: Packet>(packet: &mut P, headers: &Headers) -> Option<()> {
    if headers.is_v6() {
        return packet.store(packet.link_header() + 7, headers.hop_limit - 1);
    }
    // TTL and protocol are one word of the header checksum.
    let [ttl, protocol]: [u8; 2] = packet.load(packet.link_header() + 8)?;
    let new = [ttl.wrapping_sub(1), protocol];
    let difference = checksum::word_difference(u16::from_ne_bytes([ttl, protocol]), u16::from_ne_bytes(new));
    let old: u16 = packet.load(packet.link_header() + 10)?;
    packet.store(packet.link_header() + 8, new)?;
    packet.store(packet.link_header() + 10, checksum::update(old, difference))
}

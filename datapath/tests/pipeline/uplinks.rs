//! Nodes with several uplinks: replies leave by the one that their client's requests come in by.

use crate::support::{FAMILIES, NARROW, Offer, PROTOCOLS, Sent, UPLINK, Who, at, cluster_ip, ip, node, segment};
use ferrogate_common::{Address, FrontendKind, Protocol, Reason, interface_flags};
use ferrogate_datapath::Verdict;
use ferrogate_datapath::host::{HostPacket, HostRoute, Outcome, Program, Simulator, Target, tcp};
use std::net::SocketAddr;

const MAC_BEHIND_NARROW: [u8; 6] = [2, 0, 0, 0, 2, 9];

/// A node with default routes by [`UPLINK`], which is preferred, and by [`NARROW`]; its NodePort has this backend.
fn with_two_ways_out(protocol: Protocol, v4: bool, backend: Who) -> Simulator {
    let mut node = node();
    let any = if v4 {
        Address::UNSPECIFIED_V4
    } else {
        Address::UNSPECIFIED
    };
    let gateway: Address = ip(Who::NarrowPod, v4).into();
    let way = HostRoute::new(any.ip(), 0, Target::Gateway(NARROW, gateway));
    node.fib.routes.insert(0, way);
    node.fib.neighbours.insert((NARROW, gateway), MAC_BEHIND_NARROW);
    let backends = [at(backend, v4, 8080)];
    let offer = Offer {
        kind: FrontendKind::NodePort,
        ..cluster_ip(1, protocol, at(Who::Node, v4, 30_080), &backends)
    };
    offer.put(&mut node);
    node
}

/// Runs a segment through a program, and the packet that comes out of it.
#[track_caller]
fn send(
    node: &mut Simulator,
    program: Program,
    ifindex: u32,
    (protocol, source, destination, flags): (Protocol, SocketAddr, SocketAddr, u8),
) -> (Outcome, Sent) {
    let packet = HostPacket::ethernet(segment(protocol, source, destination, flags).ethernet(), ifindex);
    let outcome = node.run(program, packet);
    let sent = Sent {
        verdict: outcome.verdict,
        bytes: outcome.bytes.clone(),
        link: 14,
        mended: outcome.mended,
    };
    (outcome, sent)
}

#[test]
fn a_reply_that_the_routes_send_by_another_uplink_leaves_by_its_clients() {
    for v4 in FAMILIES {
        for protocol in PROTOCOLS {
            for uplink in [UPLINK, NARROW] {
                let node = &mut with_two_ways_out(protocol, v4, Who::LocalPod);
                let (client, frontend) = (at(Who::Outside, v4, 40_000), at(Who::Node, v4, 30_080));
                let request = (protocol, client, frontend, tcp::SYN);
                let seen = send(node, Program::UplinkIngress, uplink, request).1.seen();
                // The host's stack routes it by the default route.
                let reply = (protocol, seen.destination, client, tcp::SYN | tcp::ACK);
                let (outcome, sent) = send(node, Program::UplinkEgress, UPLINK, reply);
                let seen = sent.seen();
                assert_eq!((seen.source, seen.destination), (frontend, client));
                if uplink == UPLINK {
                    assert_eq!(outcome.verdict, Verdict::Pass(Reason::Reply));
                    continue;
                }
                assert_eq!(outcome.verdict, Verdict::Forward(Reason::Reply), "{}", node.tables);
                assert_eq!(outcome.hop.ifindex, NARROW);
                assert_eq!(
                    bytemuck::cast::<_, [u8; 6]>(outcome.hop.destination_mac),
                    MAC_BEHIND_NARROW
                );
                assert_eq!(seen.hop_limit, 64, "the stack has counted this hop");
            }
        }
    }
}

#[test]
fn a_packet_that_the_device_below_has_translated_is_left_alone_on_its_way_up() {
    for v4 in FAMILIES {
        // Second programs, which alone meet SCTP, do without.
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let node = &mut with_two_ways_out(protocol, v4, Who::LocalPod);
            let (client, frontend) = (at(Who::Outside, v4, 40_000), at(Who::Node, v4, 30_080));
            let request = (protocol, client, frontend, tcp::SYN);
            let below = send(node, Program::UplinkIngress, UPLINK, request).1.seen();
            let again = (protocol, client, below.destination, tcp::SYN);
            // Whichever of the two is the bridge.
            let (outcome, above) = send(node, Program::UplinkIngress, NARROW, again);
            assert_eq!(outcome.verdict, Verdict::Pass(Reason::NotService));
            assert_eq!(
                (above.seen().source, above.seen().destination),
                (client, below.destination)
            );
            let straight = send(node, Program::UplinkIngress, UPLINK, again).1.seen();
            assert_ne!(
                straight.source, client,
                "one that comes in below is a connection of its own"
            );
        }
    }
}

#[test]
fn a_straight_connection_through_a_tunnel_is_told_from_one_through_a_service_that_came_by_another_uplink() {
    for v4 in FAMILIES {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let node = &mut with_two_ways_out(protocol, v4, Who::LocalPod);
            let tunnel = node.tables.interfaces.get_mut(&NARROW).unwrap();
            tunnel.flags |= interface_flags::TUNNEL;
            let (client, frontend) = (at(Who::Outside, v4, 40_000), at(Who::Node, v4, 30_080));
            let request = (protocol, client, frontend, tcp::SYN);
            let endpoint = send(node, Program::UplinkIngress, UPLINK, request).1.seen().destination;
            let (_, straight) = send(
                node,
                Program::UplinkIngress,
                NARROW,
                (protocol, client, endpoint, tcp::SYN),
            );
            let seen = straight.seen();
            assert_eq!(seen.destination, endpoint);
            assert_ne!(seen.source, client, "its replies would be the other's");
        }
    }
}

#[test]
fn a_transit_reply_leaves_by_its_clients_uplink_whichever_way_it_came_back() {
    for v4 in FAMILIES {
        for program in [Program::UplinkIngress, Program::UplinkXdp] {
            let node = &mut with_two_ways_out(Protocol::Tcp, v4, Who::RemotePod);
            let narrow = node.tables.interfaces.get_mut(&NARROW).expect("an uplink");
            narrow.flags |= interface_flags::XDP_TARGET;
            let (client, frontend) = (at(Who::Outside, v4, 40_000), at(Who::Node, v4, 30_080));
            let request = (Protocol::Tcp, client, frontend, tcp::SYN);
            let (outcome, sent) = send(node, program, NARROW, request);
            assert_eq!(outcome.hop.ifindex, UPLINK, "requests go where their backend is");
            let seen = sent.seen();
            let reply = (Protocol::Tcp, seen.destination, seen.source, tcp::SYN | tcp::ACK);
            let (outcome, sent) = send(node, program, UPLINK, reply);
            assert!(matches!(outcome.verdict, Verdict::Forward(_)), "{:?}", outcome.verdict);
            assert_eq!(outcome.hop.ifindex, NARROW);
            assert_eq!(sent.seen().destination, client);
        }
    }
}

#[test]
fn routes_alone_say_where_replies_leave_if_there_is_no_other_way_or_a_tunnel_has_a_part_in_it() {
    for v4 in FAMILIES {
        for change in [0, 1, 2, 3] {
            let node = &mut with_two_ways_out(Protocol::Udp, v4, Who::LocalPod);
            let flag = |node: &mut Simulator, ifindex, flag| {
                node.tables.interfaces.get_mut(&ifindex).expect("an uplink").flags |= flag;
            };
            match change {
                0 => node
                    .fib
                    .routes
                    .retain(|route| route.target != Target::Gateway(NARROW, ip(Who::NarrowPod, v4).into())),
                1 => flag(node, NARROW, interface_flags::TUNNEL),
                2 => flag(node, UPLINK, interface_flags::TUNNEL),
                _ => flag(node, NARROW, interface_flags::LAYER3),
            }
            let (client, frontend) = (at(Who::Outside, v4, 40_000), at(Who::Node, v4, 30_080));
            let request = (Protocol::Udp, client, frontend, 0);
            let seen = send(node, Program::UplinkIngress, NARROW, request).1.seen();
            let reply = (Protocol::Udp, seen.destination, client, 0);
            let (outcome, sent) = send(node, Program::UplinkEgress, UPLINK, reply);
            assert_eq!(outcome.verdict, Verdict::Pass(Reason::Reply), "case {change}");
            assert_eq!(sent.seen().source, frontend);
        }
    }
}

//! Answers that the node gives itself, and packets that it must not touch.

use crate::support::{
    FAMILIES, NARROW_MTU, OF_XDP, Offer, POD, POD_NETNS, Sent, UPLINK, Who, at, cluster_ip, ip, node, run, segment,
    send,
};
use crate::wire::What;
use ferrogate_common::{FrontendKind, Network, Protocol, Reason, RefusalKey, UdpSocket, config_flags, trace_edge};
use ferrogate_datapath::host::{HostPacket, HostSocket, Program, Segment, Simulator, SocketSimulator, tcp};
use ferrogate_datapath::{Tables as _, Verdict};
use std::net::SocketAddr;

/// A node whose service at port 80 of the VIP and whose NodePort have no endpoint.
fn without_endpoints(protocol: Protocol, v4: bool) -> Simulator {
    let mut node = node();
    cluster_ip(1, protocol, at(Who::Vip, v4, 80), &[]).put(&mut node);
    Offer {
        kind: FrontendKind::NodePort,
        ..cluster_ip(1, protocol, at(Who::Node, v4, 30_080), &[])
    }
    .put(&mut node);
    node
}

/// Clients at every hook that can answer.
const CLIENTS: [(Program, u32, Who, Who, u16); 5] = [
    (Program::PodIngress, POD, Who::Pod, Who::Vip, 80),
    (Program::UplinkIngress, UPLINK, Who::Outside, Who::Node, 30_080),
    (Program::UplinkIngressL3, UPLINK, Who::Outside, Who::Node, 30_080),
    (Program::UplinkEgress, UPLINK, Who::Node, Who::Vip, 80),
    (Program::UplinkEgressL3, UPLINK, Who::Node, Who::Vip, 80),
];

/// What comes in by a device and claims to be from or to 127.0.0.0/8 is forged, whatever sysctls say (CVE-2020-8558); so is what opens a
/// connection from outside with a ClusterIP as its source: the answer would be a request to that Service.
#[test]
fn forged_packets_are_dropped_where_they_come_in() {
    let dropped = Verdict::Drop(Reason::Martian);
    let loopback: SocketAddr = "127.0.0.1:22".parse().unwrap();
    for protocol in OF_XDP {
        for (program, ifindex, client) in [
            (Program::PodIngress, POD, Who::Pod),
            (Program::UplinkIngress, UPLINK, Who::Outside),
            (Program::UplinkIngressL3, UPLINK, Who::Outside),
            (Program::UplinkXdp, UPLINK, Who::Outside),
        ] {
            let node = &mut node();
            let client = at(client, true, 40_000);
            for flags in [tcp::SYN, tcp::ACK, tcp::RST] {
                for (source, destination) in [(client, loopback), (loopback, client), (loopback, loopback)] {
                    let sent = send(node, program, ifindex, &segment(protocol, source, destination, flags));
                    assert_eq!(sent.verdict, dropped, "{program:?}: {source} to {destination}");
                }
            }
        }
        // The node's own, on their way to the loopback device and elsewhere.
        let node = &mut node();
        let own = segment(protocol, loopback, loopback, tcp::SYN);
        let sent = send(node, Program::UplinkEgress, UPLINK, &own);
        assert_eq!(sent.verdict, Verdict::Pass(Reason::NotService));
    }
    for v4 in FAMILIES {
        for protocol in OF_XDP {
            let node = &mut node();
            let backends = [at(Who::LocalPod, v4, 8080)];
            let vip = at(Who::Vip, v4, 80);
            cluster_ip(1, protocol, vip, &backends).put(node);
            Offer {
                kind: FrontendKind::NodePort,
                ..cluster_ip(2, protocol, at(Who::Node, v4, 30_080), &backends)
            }
            .put(node);
            node.tables.service_cidrs.networks[0] = Network::new(vip.ip().into(), 112);
            for to in [backends[0], at(Who::Node, v4, 30_080), at(Who::Node, v4, 22)] {
                for program in [Program::UplinkIngress, Program::UplinkIngressL3, Program::UplinkXdp] {
                    let sent = send(node, program, UPLINK, &segment(protocol, vip, to, tcp::SYN));
                    assert_eq!(sent.verdict, dropped, "{program:?}: {vip} to {to}");
                }
            }
            // What opens nothing is somebody's answer.
            let answer = segment(Protocol::Tcp, vip, at(Who::Outside, v4, 40_000), tcp::SYN | tcp::ACK);
            let sent = send(node, Program::UplinkIngress, UPLINK, &answer);
            assert_eq!(sent.verdict, Verdict::Pass(Reason::NotService));
        }
    }
}

/// The refused packet as it was, from its IP header on.
fn assert_quotes(sent: &Sent, packet: &Segment) {
    let seen = sent.seen();
    let header = if packet.source.is_ipv4() { 20 } else { 40 };
    assert_eq!(seen.payload(), &packet.ip()[..header + 8], "the quote");
}

/// A bounced frame goes back to who sent it.
fn assert_turned(sent: &Sent, packet: &Segment) {
    if sent.link == 14 {
        let was = packet.ethernet();
        assert_eq!([&sent.bytes[6..12], &sent.bytes[..6]].concat(), was[..12]);
        assert_eq!(sent.bytes[12..14], was[12..14]);
    }
}

#[test]
fn tcp_to_a_service_without_endpoints_is_reset_as_the_standard_says() {
    // RFC 9293 section 3.5.2: flags of the segment; sequence, acknowledgment and ACK flag of the reset.
    let payload = 31;
    let cases = [
        (tcp::SYN, (0, 1000 + payload + 1, true)),
        (tcp::SYN | tcp::FIN, (0, 1000 + payload + 2, true)),
        (tcp::ACK, (2000, 0, false)),
        (tcp::FIN | tcp::ACK, (2000, 0, false)),
    ];
    for v4 in FAMILIES {
        for (program, ifindex, client, frontend, port) in CLIENTS {
            for (flags, expected) in cases {
                let node = &mut without_endpoints(Protocol::Tcp, v4);
                let packet = segment(Protocol::Tcp, at(client, v4, 40_000), at(frontend, v4, port), flags);
                let sent = send(node, program, ifindex, &packet);
                assert!(
                    matches!(sent.verdict, Verdict::Bounce(_)),
                    "{program:?} {:?}",
                    sent.verdict
                );
                assert_turned(&sent, &packet);
                let seen = sent.seen();
                assert_eq!((seen.source, seen.destination), (packet.destination, packet.source));
                let What::Tcp {
                    sequence,
                    acknowledgment,
                    rst,
                    ack,
                    payload,
                    ..
                } = seen.what
                else {
                    panic!("not TCP: {seen:?}");
                };
                assert!(rst && payload.is_empty());
                assert_eq!((sequence, acknowledgment, ack), expected, "{program:?} {flags:#x}");
            }
        }
    }
}

#[test]
fn a_reset_is_never_answered() {
    for v4 in FAMILIES {
        let node = &mut without_endpoints(Protocol::Tcp, v4);
        let packet = segment(Protocol::Tcp, at(Who::Pod, v4, 40_000), at(Who::Vip, v4, 80), tcp::RST);
        let sent = send(node, Program::PodIngress, POD, &packet);
        assert!(matches!(sent.verdict, Verdict::Drop(_)), "{:?}", sent.verdict);
    }
}

#[test]
fn udp_to_a_service_without_endpoints_gets_port_unreachable_from_the_service() {
    for v4 in FAMILIES {
        for (program, ifindex, client, frontend, port) in CLIENTS {
            let node = &mut without_endpoints(Protocol::Udp, v4);
            let packet = segment(Protocol::Udp, at(client, v4, 40_000), at(frontend, v4, port), 0);
            let sent = send(node, program, ifindex, &packet);
            assert_eq!(sent.verdict, Verdict::Bounce(Reason::NoEndpoints), "{program:?}");
            assert_turned(&sent, &packet);
            assert_quotes(&sent, &packet);
            let seen = sent.seen();
            assert_eq!(
                (seen.source.ip(), seen.destination.ip()),
                (ip(frontend, v4), ip(client, v4))
            );
            let What::Icmp { kind, code, .. } = seen.what else {
                panic!("not ICMP: {seen:?}");
            };
            assert_eq!((kind, code), if v4 { (3, 3) } else { (1, 4) });
        }
    }
}

/// A datagram of the pod's, from a socket of which the socket edge has noted this.
fn from_socket(node: &mut Simulator, to: SocketAddr, sender: Option<UdpSocket>) -> (Sent, Segment) {
    let datagram = segment(Protocol::Udp, at(Who::Pod, to.is_ipv4(), 40_000), to, 0);
    let packet = HostPacket {
        sender,
        ..HostPacket::ethernet(datagram.ethernet(), POD)
    };
    let outcome = node.run(Program::PodIngress, packet);
    let sent = Sent {
        verdict: outcome.verdict,
        bytes: outcome.bytes,
        mended: outcome.mended,
        link: 14,
    };
    (sent, datagram)
}

#[test]
fn what_a_connected_socket_sends_to_a_backend_that_has_ended_gets_port_unreachable_and_nothing_else_does() {
    for v4 in FAMILIES {
        let node = &mut node();
        let backend = at(Who::RemotePod, v4, 8080);
        cluster_ip(1, Protocol::Udp, at(Who::Vip, v4, 80), &[backend]).put(node);
        let mut socket = HostSocket::new(7, Protocol::Udp, POD_NETNS);
        let (_, peer) = SocketSimulator::new(&mut node.tables, &mut socket).connect(at(Who::Vip, v4, 80));
        assert_eq!(peer, backend);
        let noted = socket.connected;
        node.tables.config.flags |= config_flags::FILTER;
        node.tables.fill_filter();
        node.tables.add_destination(&backend.ip().into());
        let passes = Verdict::Pass(Reason::NotService);
        assert_eq!(from_socket(node, backend, noted).0.verdict, passes, "it is current");
        // It ends, and then another has its place.
        for (generation, address) in [(0, Who::RemotePod), (2, Who::LocalPod)] {
            let held = &mut node.tables.backends[16];
            (held.generation, held.address) = (generation, ip(address, v4).into());
            let (sent, datagram) = from_socket(node, backend, noted);
            assert_eq!(sent.verdict, Verdict::Bounce(Reason::BackendGone));
            assert_turned(&sent, &datagram);
            assert_quotes(&sent, &datagram);
            assert_eq!(sent.seen().source.ip(), backend.ip());
        }
        assert_eq!(
            from_socket(node, backend, None).0.verdict,
            passes,
            "it went there itself"
        );
        let elsewhere = SocketAddr::new(backend.ip(), 8081);
        assert_eq!(
            from_socket(node, elsewhere, noted).0.verdict,
            passes,
            "a datagram with an address"
        );
    }
}

#[test]
fn xdp_leaves_refusals_to_tcx_and_the_packet_as_it_is() {
    for v4 in FAMILIES {
        for protocol in OF_XDP {
            let node = &mut without_endpoints(protocol, v4);
            let packet = segment(
                protocol,
                at(Who::Outside, v4, 40_000),
                at(Who::Node, v4, 30_080),
                tcp::SYN,
            );
            let sent = send(node, Program::UplinkXdp, UPLINK, &packet);
            assert_eq!(sent.verdict, Verdict::Pass(Reason::LeftToTcx));
            assert_eq!(sent.bytes, packet.ethernet());
        }
    }
}

/// A node whose NodePort leads to a backend behind the narrow device.
fn transit(v4: bool) -> Simulator {
    let mut node = node();
    let backend = [at(Who::NarrowPod, v4, 8080)];
    Offer {
        kind: FrontendKind::NodePort,
        ..cluster_ip(1, Protocol::Udp, at(Who::Node, v4, 30_080), &backend)
    }
    .put(&mut node);
    node
}

#[test]
fn a_hop_limit_that_is_used_up_in_transit_is_answered_by_the_node() {
    for v4 in FAMILIES {
        for hop_limit in [0, 1] {
            let node = &mut transit(v4);
            let mut packet = segment(
                Protocol::Udp,
                at(Who::Outside, v4, 40_000),
                at(Who::Node, v4, 30_080),
                0,
            );
            packet.hop_limit = hop_limit;
            let sent = send(node, Program::UplinkIngress, UPLINK, &packet);
            assert_eq!(sent.verdict, Verdict::Bounce(Reason::HopLimit));
            assert_quotes(&sent, &packet);
            let seen = sent.seen();
            assert_eq!(
                (seen.source.ip(), seen.destination.ip()),
                (ip(Who::Node, v4), ip(Who::Outside, v4))
            );
            let What::Icmp { kind, code, .. } = seen.what else {
                panic!("not ICMP: {seen:?}");
            };
            assert_eq!((kind, code), if v4 { (11, 0) } else { (3, 0) });
        }
    }
}

#[test]
fn a_packet_that_is_too_big_for_its_way_is_answered_with_the_mtu_be_it_the_first_or_not() {
    for v4 in FAMILIES {
        for first in [true, false] {
            let node = &mut transit(v4);
            let mut packet = segment(
                Protocol::Udp,
                at(Who::Outside, v4, 40_000),
                at(Who::Node, v4, 30_080),
                0,
            );
            if !first {
                let sent = send(node, Program::UplinkIngress, UPLINK, &packet);
                assert!(matches!(sent.verdict, Verdict::Forward(_)));
            }
            packet.payload = vec![7; 1400];
            let sent = send(node, Program::UplinkIngress, UPLINK, &packet);
            assert_eq!(sent.verdict, Verdict::Bounce(Reason::TooBig), "first {first}");
            assert_quotes(&sent, &packet);
            let What::Icmp { kind, code, rest, .. } = sent.seen().what else {
                panic!("not ICMP");
            };
            assert_eq!((kind, code), if v4 { (3, 4) } else { (2, 0) });
            assert_eq!(u32::from_be_bytes(rest), u32::from(NARROW_MTU));
        }
    }
}

/// Bytes of a packet that nobody may take for one of a Service, what is wrong, and the reason.
fn strange_packets(v4: bool) -> Vec<(&'static str, Vec<u8>, Reason)> {
    let good = segment(Protocol::Udp, at(Who::Pod, v4, 40_000), at(Who::Vip, v4, 80), 0).ethernet();
    let with = |at: usize, bytes: &[u8]| {
        let mut packet = good.clone();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    let protocol_at = if v4 { 23 } else { 20 };
    let mut packets = vec![
        ("ARP", with(12, &[0x08, 0x06]), Reason::NotIp),
        ("a VLAN tag", with(12, &[0x81, 0x00]), Reason::NotIp),
        ("ICMP", with(protocol_at, &[1]), Reason::NotIp),
        ("ESP", with(protocol_at, &[50]), Reason::NotIp),
        ("another version", with(14, &[0x55]), Reason::Malformed),
    ];
    if v4 {
        packets.push(("a short header", with(14, &[0x44]), Reason::Malformed));
    }
    packets
}

#[test]
fn strange_packets_are_passed_on_as_they_are() {
    for v4 in FAMILIES {
        for (what, bytes, reason) in strange_packets(v4) {
            for program in Program::ALL.into_iter().filter(|program| !program.is_layer3()) {
                let node = &mut without_endpoints(Protocol::Udp, v4);
                let sent = run(node, program, HostPacket::ethernet(bytes.clone(), POD));
                let expected = if program == Program::UplinkXdp && what == "ICMP" {
                    Reason::LeftToTcx
                } else {
                    reason
                };
                assert_eq!(sent.verdict, Verdict::Pass(expected), "{what} {program:?}");
                assert_eq!(sent.bytes, bytes, "{what} {program:?}");
            }
        }
    }
}

#[test]
fn an_ipv6_packet_with_a_v4_mapped_address_never_meets_an_ipv4_service() {
    let node = &mut node();
    let backend = [at(Who::LocalPod, true, 8080)];
    let frontend = at(Who::Vip, true, 80);
    cluster_ip(1, Protocol::Udp, frontend, &backend).put(node);
    let mapped = |address: SocketAddr| match address.ip() {
        std::net::IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        std::net::IpAddr::V6(_) => address,
    };
    let v6 = at(Who::Pod, false, 40_000);
    let v4 = at(Who::Pod, true, 40_000);
    for (source, destination) in [(v6, mapped(frontend)), (mapped(v4), mapped(frontend)), (mapped(v4), v6)] {
        for program in Program::ALL {
            let packet = segment(Protocol::Udp, source, destination, 0);
            let sent = send(node, program, POD, &packet);
            assert_eq!(
                sent.verdict,
                Verdict::Pass(Reason::NotService),
                "{source} {destination} {program:?}"
            );
        }
    }
    assert!(node.tables.half_open.is_empty());
}

#[test]
fn nothing_matches_before_there_is_a_service() {
    let node = &mut node();
    for v4 in FAMILIES {
        for program in Program::ALL {
            for protocol in OF_XDP {
                let packet = segment(protocol, at(Who::Pod, v4, 40_000), at(Who::Node, v4, 30_080), tcp::SYN);
                let sent = send(node, program, POD, &packet);
                assert_eq!(sent.verdict, Verdict::Pass(Reason::NotService));
                let was = if program.is_layer3() {
                    packet.ip()
                } else {
                    packet.ethernet()
                };
                assert_eq!(sent.bytes, was);
            }
        }
    }
}

/// Once, though two programs may see the packet, and under the Service port that it was for.
#[test]
fn what_is_refused_is_counted_for_its_service() {
    let edges = [
        trace_edge::POD,
        trace_edge::UPLINK,
        trace_edge::UPLINK,
        trace_edge::NODE,
        trace_edge::NODE,
    ];
    for v4 in FAMILIES {
        for ((program, ifindex, client, frontend, port), edge) in CLIENTS.into_iter().zip(edges) {
            let node = &mut without_endpoints(Protocol::Udp, v4);
            let key = |reason: Reason, edge| RefusalKey {
                service: 1,
                reason: reason as u8,
                edge,
                reserved: 0,
            };
            for at_port in [port, port, port + 1] {
                let packet = segment(Protocol::Udp, at(client, v4, 40_000), at(frontend, v4, at_port), 0);
                send(node, program, ifindex, &packet);
            }
            assert_eq!(
                node.tables.refusals,
                [(key(Reason::NoEndpoints, edge), 2)].into(),
                "{program:?}"
            );
            // XDP leaves what is to be answered to the program behind it, and drops the rest itself.
            let node = &mut without_endpoints(Protocol::Udp, v4);
            for (to, at_port) in [(Who::Node, 30_080), (Who::Vip, 80)] {
                let packet = segment(Protocol::Udp, at(Who::Outside, v4, 40_000), at(to, v4, at_port), 0);
                send(node, Program::UplinkXdp, UPLINK, &packet);
            }
            let dropped = key(Reason::ExternalClusterIp, trace_edge::XDP);
            assert_eq!(node.tables.refusals, [(dropped, 1)].into());
        }
        let node = &mut without_endpoints(Protocol::Tcp, v4);
        let mut socket = HostSocket::new(7, Protocol::Tcp, POD_NETNS);
        SocketSimulator::new(&mut node.tables, &mut socket).connect(at(Who::Vip, v4, 80));
        let of_sockets = node
            .tables
            .refusals
            .iter()
            .map(|(key, count)| (key.service, key.edge, *count));
        assert_eq!(of_sockets.collect::<Vec<_>>(), [(1, trace_edge::SOCKET, 1)]);
    }
}

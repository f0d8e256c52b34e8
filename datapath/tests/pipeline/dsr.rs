//! Direct server return: two nodes, of which one hands packets over and the other one answers.

use crate::second::pass;
use crate::support::{
    FAMILIES, Offer, PROTOCOLS, Sent, UPLINK, WITH_CONNECTIONS, Who, at, cluster_ip, ip, node, run, segment, send,
};
use crate::wire::Seen;
use ferrogate_common::{Dsr, FrontendKind, Protocol, Reason, config_flags, flow_flags};
use ferrogate_datapath::Verdict;
use ferrogate_datapath::host::{HostPacket, Program, Segment, Simulator, tcp};
use std::net::{IpAddr, SocketAddr};

const ETHERNET: usize = 14;

/// The other node's address.
fn peer(v4: bool) -> IpAddr {
    if v4 { "192.0.2.11" } else { "2001:db8::11" }
        .parse()
        .expect("an address")
}

fn frontend(kind: FrontendKind, v4: bool) -> SocketAddr {
    match kind {
        FrontendKind::NodePort => at(Who::Node, v4, 30_080),
        _ => at(Who::Vip, v4, 80),
    }
}

/// The node that clients reach, with a Service whose endpoint is on the other one.
fn entry(protocol: Protocol, kind: FrontendKind, v4: bool) -> Simulator {
    let mut node = node();
    node.tables.is_dsr = true;
    node.tables.config.flags |= config_flags::DSR;
    let pod = ip(Who::RemotePod, v4);
    node.tables.nodes.insert(ip(Who::Node, v4).into(), Dsr::HERE);
    node.tables.nodes.insert(peer(v4).into(), peer(v4).into());
    node.tables.nodes.insert(pod.into(), peer(v4).into());
    let backends = [SocketAddr::new(pod, 8080)];
    let offer = Offer {
        kind,
        ..cluster_ip(1, protocol, frontend(kind, v4), &backends)
    };
    offer.put(&mut node);
    node
}

/// The other one, with these endpoints of its own, and one elsewhere.
fn other(protocol: Protocol, kind: FrontendKind, v4: bool, local: &[SocketAddr]) -> Simulator {
    let mut node = node();
    node.tables.is_dsr = true;
    node.tables.config.flags |= config_flags::DSR;
    node.tables.sources[if v4 { 1 } else { 2 }] = peer(v4).into();
    node.tables.node_addresses = [peer(v4).into()].into();
    node.tables.nodes.insert(peer(v4).into(), Dsr::HERE);
    let first = ip(Who::Node, v4).into();
    node.tables.nodes.insert(first, first);
    let cluster = [local, &[at(Who::RemotePod, v4, 8080)]].concat();
    let offer = Offer {
        kind,
        local,
        ..cluster_ip(1, protocol, frontend(kind, v4), &cluster)
    };
    offer.put(&mut node);
    node
}

/// What is inside a packet that was handed over, with its Ethernet header.
#[track_caller]
fn inside(sent: &Sent, v4: bool) -> Vec<u8> {
    let outer = ETHERNET + usize::from(Dsr::overhead(!v4));
    let header = &sent.bytes[ETHERNET..outer];
    let (protocol, source, destination) = if v4 {
        let addresses = [&header[12..16], &header[16..20]].map(|a| <[u8; 4]>::try_from(a).expect("four"));
        let length = u16::from_be_bytes([header[2], header[3]]);
        assert_eq!(usize::from(length), sent.bytes.len() - ETHERNET);
        (header[9], IpAddr::from(addresses[0]), IpAddr::from(addresses[1]))
    } else {
        let addresses = [&header[8..24], &header[24..40]].map(|a| <[u8; 16]>::try_from(a).expect("sixteen"));
        let length = u16::from_be_bytes([header[4], header[5]]);
        assert_eq!(usize::from(length), sent.bytes.len() - outer);
        (header[6], IpAddr::from(addresses[0]), IpAddr::from(addresses[1]))
    };
    assert_eq!(protocol, if v4 { 4 } else { 41 });
    assert_eq!((source, destination), (ip(Who::Node, v4), peer(v4)));
    [&sent.bytes[..ETHERNET], &sent.bytes[outer..]].concat()
}

fn enter(node: &mut Simulator, bytes: Vec<u8>) -> Sent {
    run(node, Program::UplinkIngress, HostPacket::ethernet(bytes, UPLINK))
}

#[test]
fn routers_between_two_nodes_are_not_asked_to_mark_congestion() {
    for v4 in FAMILIES {
        let node = &mut entry(Protocol::Tcp, FrontendKind::LoadBalancer, v4);
        let request = segment(
            Protocol::Tcp,
            at(Who::Outside, v4, 40_000),
            at(Who::Vip, v4, 80),
            tcp::SYN,
        );
        let mut bytes = request.ethernet();
        // Class AF11 (RFC 2597), and ECN-capable.
        let class = 0x28 | 0x02;
        if v4 {
            bytes[ETHERNET + 1] = class;
            // The header's checksum falls by what the word has grown.
            let sum = u16::from_be_bytes([bytes[ETHERNET + 10], bytes[ETHERNET + 11]]) - u16::from(class);
            bytes[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
        } else {
            bytes[ETHERNET] |= class >> 4;
            bytes[ETHERNET + 1] |= class << 4;
        }
        let sent = enter(node, bytes);
        assert_eq!(sent.verdict, Verdict::Forward(Reason::NewFlow));
        let outer = &sent.bytes[ETHERNET..];
        let read = |ip: &[u8]| if v4 { ip[1] } else { ip[0] << 4 | ip[1] >> 4 };
        assert_eq!(read(outer), 0x28);
        assert_eq!(read(&inside(&sent, v4)[ETHERNET..]), class);
    }
}

/// All combinations of what a client may ask.
fn ways() -> impl Iterator<Item = (bool, Protocol, FrontendKind)> {
    let kinds = [FrontendKind::NodePort, FrontendKind::LoadBalancer];
    FAMILIES.into_iter().flat_map(move |v4| {
        PROTOCOLS
            .into_iter()
            .flat_map(move |protocol| kinds.map(|kind| (v4, protocol, kind)))
    })
}

#[test]
fn a_packet_goes_as_it_came_to_the_backends_node_which_answers_the_client_itself() {
    for (v4, protocol, kind) in ways() {
        for program in [Program::UplinkIngress, Program::UplinkXdp] {
            let entry = &mut entry(protocol, kind, v4);
            let other = &mut other(protocol, kind, v4, &[at(Who::LocalPod, v4, 8080)]);
            let (client, frontend) = (at(Who::Outside, v4, 40_000), frontend(kind, v4));
            for (flags, reason) in [(tcp::SYN, Reason::NewFlow), (tcp::ACK, Reason::Translated)] {
                let request = segment(protocol, client, frontend, flags);
                let sent = send(entry, program, UPLINK, &request);
                assert_eq!(sent.verdict, Verdict::Forward(reason));
                let inner = inside(&sent, v4);
                let hop = Segment {
                    hop_limit: request.hop_limit - 1,
                    ..request.clone()
                };
                assert_eq!(inner[ETHERNET..], hop.ip(), "but for the hop nothing has changed");
                let delivered = enter(other, sent.bytes);
                assert_eq!(delivered.verdict, Verdict::Pass(reason));
                let seen = delivered.seen();
                assert_eq!((seen.source, seen.destination), (client, at(Who::LocalPod, v4, 8080)));
                assert!(seen.payload().starts_with(&request.payload));
                let answer = segment(protocol, seen.destination, client, flags | tcp::ACK);
                let reply = send(other, Program::UplinkEgress, UPLINK, &answer);
                assert_eq!(reply.verdict, Verdict::Pass(Reason::Reply));
                assert_eq!((reply.seen().source, reply.seen().destination), (frontend, client));
            }
            let tables = &entry.tables;
            let flows = tables.flows.values().chain(tables.half_open.values());
            let flags: Vec<u16> = flows.map(|flow| flow.flags & !flow_flags::MARKS).collect();
            assert_eq!(flags, [flow_flags::TRANSIT | flow_flags::DSR], "one entry a connection");
            assert!(tables.snat_flows.is_empty());
        }
    }
}

#[test]
fn a_udp_flow_that_goes_on_counts_as_answered() {
    for v4 in FAMILIES {
        let node = &mut entry(Protocol::Udp, FrontendKind::LoadBalancer, v4);
        node.tables.config.udp_timeout = 10;
        node.tables.config.udp_stream_timeout = 100;
        let request = segment(
            Protocol::Udp,
            at(Who::Outside, v4, 40_000),
            at(Who::Vip, v4, 80),
            tcp::SYN,
        );
        for (later, reason, established) in [
            (0, Reason::NewFlow, 0),
            (0, Reason::Translated, 0),
            (1, Reason::Translated, 1),
            (50, Reason::Translated, 1),
            (101, Reason::NewFlow, 0),
        ] {
            node.ticks += later;
            let sent = send(node, Program::UplinkIngress, UPLINK, &request);
            assert_eq!((sent.verdict, later), (Verdict::Forward(reason), later));
            assert_eq!(node.tables.flows.len(), established, "after {later} ticks");
        }
    }
}

#[test]
fn what_cannot_be_handed_over_is_masqueraded() {
    for (v4, protocol, kind) in ways() {
        let client = at(Who::Outside, v4, 40_000);
        let request = segment(protocol, client, frontend(kind, v4), tcp::SYN);
        type Change<'a> = (&'a str, &'a dyn Fn(&mut Simulator));
        let changes: [Change<'_>; 6] = [
            ("--dsr accept", &|node| node.tables.config.flags &= !config_flags::DSR),
            ("an endpoint of no known node", &|node| {
                node.tables.nodes.remove(&ip(Who::RemotePod, v4).into());
            }),
            ("a client that is a node", &|node| {
                node.tables.nodes.insert(client.ip().into(), client.ip().into());
            }),
            ("a client that is an endpoint", &|node| {
                node.tables.nodes.insert(client.ip().into(), peer(v4).into());
            }),
            ("a Node that does not say its address", &|node| {
                node.tables.nodes.remove(&ip(Who::Node, v4).into());
            }),
            ("a node without an address", &|node| {
                node.tables.config.node_source4 = 0;
                node.tables.config.node_source6 = 0;
            }),
        ];
        for (what, change) in changes {
            let node = &mut entry(protocol, kind, v4);
            change(node);
            let sent = send(node, Program::UplinkIngress, UPLINK, &request);
            assert_eq!(sent.verdict, Verdict::Forward(Reason::NewFlow), "{what}");
            assert_eq!(sent.seen().source.ip(), ip(Who::Node, v4), "{what}");
        }
    }
}

#[test]
fn a_packet_that_does_not_fit_with_its_second_header_is_answered() {
    for (v4, protocol, kind) in ways() {
        let node = &mut entry(protocol, kind, v4);
        let fits = 1500 - Dsr::overhead(!v4);
        let mut request = segment(protocol, at(Who::Outside, v4, 40_000), frontend(kind, v4), tcp::SYN);
        request.payload.clear();
        let others = request.ip().len();
        // SCTP's chunks are padded.
        request.payload = vec![7; (usize::from(fits) - others) / 4 * 4];
        let sent = send(node, Program::UplinkIngress, UPLINK, &request);
        assert_eq!(sent.verdict, Verdict::Forward(Reason::NewFlow));
        request.payload.extend([7; 4]);
        let refused = send(node, Program::UplinkIngress, UPLINK, &request);
        assert_eq!(refused.verdict, Verdict::Bounce(Reason::TooBig));
        let mtu = if v4 { ETHERNET + 26 } else { ETHERNET + 46 };
        assert_eq!(refused.bytes[mtu..mtu + 2], fits.to_be_bytes());
    }
}

#[test]
fn only_what_another_node_hands_to_this_one_is_taken_out_of_its_header() {
    for (v4, protocol, kind) in ways() {
        let local = [at(Who::LocalPod, v4, 8080)];
        let request = segment(protocol, at(Who::Outside, v4, 40_000), frontend(kind, v4), tcp::SYN);
        let wrapped = send(&mut entry(protocol, kind, v4), Program::UplinkIngress, UPLINK, &request);
        type Change<'a> = (&'a str, &'a dyn Fn(&mut Simulator));
        let changes: [Change<'_>; 3] = [
            ("--dsr off", &|node| node.tables.is_dsr = false),
            ("from no node", &|node| {
                node.tables.nodes.remove(&ip(Who::Node, v4).into());
            }),
            ("for another node", &|node| {
                node.tables.nodes.insert(peer(v4).into(), peer(v4).into());
            }),
        ];
        for (what, change) in changes {
            let node = &mut other(protocol, kind, v4, &local);
            change(node);
            let left = enter(node, wrapped.bytes.clone());
            assert!(matches!(left.verdict, Verdict::Pass(_)), "{what}: {:?}", left.verdict);
            assert_eq!(left.bytes, wrapped.bytes, "{what}");
        }
        let node = &mut other(protocol, kind, v4, &local);
        node.tables.frontends.clear();
        let unknown = enter(node, wrapped.bytes.clone());
        if kind == FrontendKind::NodePort {
            assert_eq!(unknown.verdict, Verdict::Drop(Reason::NotHere));
        } else {
            // It may be another tunnel's.
            assert_eq!(unknown.verdict, Verdict::Pass(Reason::NotService));
            assert_eq!(unknown.bytes, wrapped.bytes);
        }
    }
}

#[test]
fn a_node_whose_endpoints_have_gone_sends_on_what_was_handed_to_it_and_hands_nothing_on() {
    for (v4, protocol, kind) in ways() {
        let request = segment(protocol, at(Who::Outside, v4, 40_000), frontend(kind, v4), tcp::SYN);
        let wrapped = send(&mut entry(protocol, kind, v4), Program::UplinkIngress, UPLINK, &request);
        let node = &mut other(protocol, kind, v4, &[]);
        node.tables
            .nodes
            .insert(ip(Who::RemotePod, v4).into(), ip(Who::Node, v4).into());
        let sent = enter(node, wrapped.bytes);
        assert_eq!(sent.verdict, Verdict::Forward(Reason::NewFlow));
        let seen = sent.seen();
        assert_eq!(
            (seen.source.ip(), seen.destination),
            (peer(v4), at(Who::RemotePod, v4, 8080))
        );
        let answer = segment(protocol, seen.destination, seen.source, tcp::SYN | tcp::ACK);
        let reply = send(node, Program::UplinkIngress, UPLINK, &answer);
        assert_eq!(reply.verdict, Verdict::Forward(Reason::Reply));
        assert_eq!(
            (reply.seen().source, reply.seen().destination),
            (request.destination, request.source)
        );
    }
}

#[test]
fn a_refusal_goes_to_the_client_and_not_to_the_node_that_handed_over() {
    for (v4, protocol, kind) in ways() {
        let (client, frontend) = (at(Who::Outside, v4, 40_000), frontend(kind, v4));
        for flags in [tcp::SYN, tcp::ACK] {
            let entry = &mut entry(protocol, kind, v4);
            send(
                entry,
                Program::UplinkIngress,
                UPLINK,
                &segment(protocol, client, frontend, tcp::SYN),
            );
            let request = segment(protocol, client, frontend, flags);
            let wrapped = send(entry, Program::UplinkIngress, UPLINK, &request);
            let node = &mut other(protocol, kind, v4, &[at(Who::LocalPod, v4, 8080)]);
            let expected = if flags == tcp::SYN || !WITH_CONNECTIONS.contains(&protocol) {
                node.tables.services[1].range = 0;
                Reason::NoEndpoints
            } else {
                Reason::NoFlow
            };
            let refused = enter(node, wrapped.bytes);
            assert_eq!(refused.verdict, Verdict::Forward(expected));
            let addresses = refused.bytes[ETHERNET..].to_vec();
            let at = if v4 { 12 } else { 8 };
            let whole = if v4 { 4 } else { 16 };
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            assert_eq!(addresses[at..at + whole], octets(frontend.ip()));
            assert_eq!(addresses[at + whole..at + 2 * whole], octets(client.ip()));
        }
    }
}

#[test]
fn an_error_about_a_reply_finds_its_way_over_the_node_that_the_client_knows() {
    for v4 in FAMILIES {
        let (protocol, kind) = (Protocol::Tcp, FrontendKind::NodePort);
        let entry = &mut entry(protocol, kind, v4);
        let other = &mut other(protocol, kind, v4, &[at(Who::LocalPod, v4, 8080)]);
        let (client, frontend) = (at(Who::Outside, v4, 40_000), frontend(kind, v4));
        let sent = send(
            entry,
            Program::UplinkIngress,
            UPLINK,
            &segment(protocol, client, frontend, tcp::SYN),
        );
        let pod = enter(other, sent.bytes).seen().destination;
        let answer = segment(protocol, pod, client, tcp::SYN | tcp::ACK);
        let reply = send(other, Program::UplinkEgress, UPLINK, &answer);
        // Some router finds it too big.
        let error = crate::second::error(ip(Who::Gateway, v4), &reply.bytes[ETHERNET..]);
        let handed = pass(entry, Program::UplinkIngress, UPLINK, &error);
        assert_eq!(handed.verdict, Verdict::Forward(Reason::IcmpError));
        inside(&handed, v4);
        let told = enter(other, handed.bytes);
        assert_eq!(told.verdict, Verdict::Pass(Reason::IcmpError));
        let quoted = &told.bytes[ETHERNET + if v4 { 28 } else { 48 }..];
        let quoted = Seen::read(&[&told.bytes[..ETHERNET], quoted].concat(), ETHERNET);
        assert_eq!((quoted.source, quoted.destination), (pod, client));
    }
}

//! The lives of flows: made, confirmed, kept, left, and made again.

use crate::support::{
    FAMILIES, Offer, POD, PROTOCOLS, UPLINK, WITH_CONNECTIONS, Who, at, cluster_ip, node, segment, send,
};
use ferrogate_common::{Direction, Flow, FrontendKind, Protocol, Reason, Tuple, flow_flags};
use ferrogate_datapath::Verdict;
use ferrogate_datapath::host::{Program, Simulator, tcp};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Two backends on other nodes.
pub(crate) fn two_backends(v4: bool) -> [SocketAddr; 2] {
    [at(Who::RemotePod, v4, 8080), at(Who::LocalPod, v4, 8080)]
}

/// A node whose service 1, at port 80 of the VIP, has two backends.
pub(crate) fn with_two_backends(protocol: Protocol, v4: bool) -> Simulator {
    let mut node = node();
    cluster_ip(1, protocol, at(Who::Vip, v4, 80), &two_backends(v4)).put(&mut node);
    node
}

/// Where a packet of the pod to the VIP goes.
#[track_caller]
pub(crate) fn backend_of(node: &mut Simulator, protocol: Protocol, v4: bool, port: u16, flags: u8) -> SocketAddr {
    let packet = segment(protocol, at(Who::Pod, v4, port), at(Who::Vip, v4, 80), flags);
    let sent = send(node, Program::PodIngress, POD, &packet);
    assert!(
        matches!(sent.verdict, Verdict::Pass(_)),
        "{:?}\n{}",
        sent.verdict,
        node.tables
    );
    sent.seen().destination
}

/// Both families, each with the protocols that have connections.
fn connections() -> impl Iterator<Item = (bool, Protocol)> {
    let with = |v4| WITH_CONNECTIONS.map(|protocol| (v4, protocol));
    FAMILIES.into_iter().flat_map(with)
}

/// Takes the backend at `address` out of service, as the agent does.
pub(crate) fn retire(node: &mut Simulator, address: SocketAddr) {
    for backend in &mut node.tables.backends {
        if backend.address.ip() == address.ip() && backend.port.get() == address.port() {
            backend.generation = 0;
        }
    }
}

/// Leaves a service with the backends of some of its slots.
fn shrink(node: &mut Simulator, service: usize, slots: std::ops::Range<u32>) {
    let range = ferrogate_common::SlotRange {
        base: slots.start,
        cluster: slots.len() as u16,
        local: 0,
    };
    node.tables.services[service].range = range.pack();
}

#[test]
fn new_connections_take_the_backends_in_turn_whatever_edge_they_come_by() {
    for v4 in FAMILIES {
        for protocol in PROTOCOLS {
            let node = &mut node();
            let backends = [8080, 8081, 8082].map(|port| at(Who::LocalPod, v4, port));
            cluster_ip(1, protocol, at(Who::Vip, v4, 80), &backends).put(node);
            let by_node_port = Offer {
                kind: FrontendKind::NodePort,
                ..cluster_ip(1, protocol, at(Who::Node, v4, 30_080), &backends)
            };
            by_node_port.put(node);
            let mut counts = BTreeMap::new();
            for number in 0..300 {
                let (program, ifindex, client, frontend) = match number % 4 {
                    0 | 1 => (Program::PodIngress, POD, Who::Pod, at(Who::Vip, v4, 80)),
                    2 => (Program::UplinkIngress, UPLINK, Who::Outside, at(Who::Node, v4, 30_080)),
                    _ => (Program::UplinkXdp, UPLINK, Who::Outside, at(Who::Node, v4, 30_080)),
                };
                let packet = segment(protocol, at(client, v4, 10_000 + number), frontend, tcp::SYN);
                let seen = send(node, program, ifindex, &packet).seen();
                *counts.entry(seen.destination).or_insert(0) += 1;
            }
            assert_eq!(
                counts.into_values().collect::<Vec<_>>(),
                [100, 100, 100],
                "{protocol} v4 {v4}"
            );
            assert_eq!(node.tables.connections[1], 300);
        }
    }
}

#[test]
fn a_udp_flow_leaves_a_backend_that_is_gone_with_its_next_packet_and_comes_back_to_none() {
    for v4 in FAMILIES {
        let node = &mut with_two_backends(Protocol::Udp, v4);
        let first = backend_of(node, Protocol::Udp, v4, 40_000, 0);
        assert_eq!(
            backend_of(node, Protocol::Udp, v4, 40_000, 0),
            first,
            "a flow keeps its backend"
        );
        // N -> 1 -> 0 -> 1: what the flow went to first never comes back.
        retire(node, first);
        shrink(node, 1, 17..18);
        let second = backend_of(node, Protocol::Udp, v4, 40_000, 0);
        assert_ne!(second, first);
        retire(node, second);
        shrink(node, 1, 16..16);
        let packet = segment(Protocol::Udp, at(Who::Pod, v4, 40_000), at(Who::Vip, v4, 80), 0);
        let refused = send(node, Program::PodIngress, POD, &packet);
        assert_eq!(
            refused.verdict,
            Verdict::Bounce(Reason::NoEndpoints),
            "not a black hole"
        );
        node.tables.backends[16].generation = 2;
        shrink(node, 1, 16..17);
        assert_eq!(
            backend_of(node, Protocol::Udp, v4, 40_000, 0),
            first,
            "a new generation of the first"
        );
    }
}

#[test]
fn an_established_udp_flow_leaves_its_backend_too() {
    for v4 in FAMILIES {
        let node = &mut with_two_backends(Protocol::Udp, v4);
        let first = backend_of(node, Protocol::Udp, v4, 40_000, 0);
        let reply = segment(Protocol::Udp, first, at(Who::Pod, v4, 40_000), 0);
        assert_eq!(
            send(node, Program::PodEgress, POD, &reply).verdict,
            Verdict::Pass(Reason::Reply)
        );
        backend_of(node, Protocol::Udp, v4, 40_000, 0);
        assert_eq!(node.tables.flows.len(), 2, "promoted, both entries\n{}", node.tables);
        retire(node, first);
        shrink(node, 1, 17..18);
        assert_ne!(backend_of(node, Protocol::Udp, v4, 40_000, 0), first);
    }
}

#[test]
fn a_connection_stays_with_a_backend_that_is_gone_until_it_ends() {
    for (v4, protocol) in connections() {
        let node = &mut with_two_backends(protocol, v4);
        let first = backend_of(node, protocol, v4, 40_000, tcp::SYN);
        let answer = segment(protocol, first, at(Who::Pod, v4, 40_000), tcp::SYN | tcp::ACK);
        send(node, Program::PodEgress, POD, &answer);
        assert_eq!(backend_of(node, protocol, v4, 40_000, tcp::ACK), first);
        retire(node, first);
        shrink(node, 1, 17..18);
        for flags in [tcp::ACK, tcp::PSH | tcp::ACK, tcp::FIN | tcp::ACK, tcp::ACK] {
            assert_eq!(backend_of(node, protocol, v4, 40_000, flags), first);
        }
        assert_ne!(
            backend_of(node, protocol, v4, 40_000, tcp::SYN),
            first,
            "a new connection"
        );
    }
}

#[test]
fn a_first_packet_is_a_new_connection_after_an_end_seen_on_either_side_and_a_repetition_before() {
    /// Who ends the connection: nobody, the client, or the server.
    const ENDS: [(Option<bool>, u8, bool); 5] = [
        (None, 0, false),
        (Some(true), tcp::FIN | tcp::ACK, true),
        (Some(false), tcp::FIN | tcp::ACK, true),
        (Some(true), tcp::RST, true),
        (Some(false), tcp::RST | tcp::ACK, true),
    ];
    for (v4, protocol) in connections() {
        for (by_client, flags, anew) in ENDS {
            let node = &mut with_two_backends(protocol, v4);
            let first = backend_of(node, protocol, v4, 40_000, tcp::SYN);
            let answer = |flags| segment(protocol, first, at(Who::Pod, v4, 40_000), flags);
            send(node, Program::PodEgress, POD, &answer(tcp::SYN | tcp::ACK));
            backend_of(node, protocol, v4, 40_000, tcp::ACK);
            match by_client {
                None => {}
                Some(true) => {
                    backend_of(node, protocol, v4, 40_000, flags);
                }
                Some(false) => {
                    send(node, Program::PodEgress, POD, &answer(flags));
                }
            }
            let second = backend_of(node, protocol, v4, 40_000, tcp::SYN);
            assert_eq!(
                second != first,
                anew,
                "{by_client:?} {flags:#x} v4 {v4}\n{}",
                node.tables
            );
        }
    }
}

#[test]
fn a_packet_that_opens_no_connection_makes_no_flow() {
    for (v4, protocol) in connections() {
        for flags in [tcp::ACK, tcp::SYN | tcp::ACK, tcp::FIN | tcp::ACK, tcp::RST] {
            let node = &mut with_two_backends(protocol, v4);
            let packet = segment(protocol, at(Who::Pod, v4, 40_000), at(Who::Vip, v4, 80), flags);
            let sent = send(node, Program::PodIngress, POD, &packet);
            assert_eq!(sent.verdict.reason(), Reason::NoFlow);
            assert!(node.tables.half_open.is_empty() && node.tables.flows.is_empty());
        }
    }
}

#[test]
fn an_idle_udp_flow_is_over_sooner_without_answers_and_its_next_packet_is_balanced_anew() {
    for v4 in FAMILIES {
        for (answered, limit) in [(false, 28), (true, 112)] {
            let node = &mut with_two_backends(Protocol::Udp, v4);
            node.tables.config.udp_timeout = 28;
            node.tables.config.udp_stream_timeout = 112;
            let client = at(Who::Pod, v4, 40_000);
            let first = backend_of(node, Protocol::Udp, v4, 40_000, 0);
            let answer = segment(Protocol::Udp, first, client, 0);
            if answered {
                send(node, Program::PodEgress, POD, &answer);
                backend_of(node, Protocol::Udp, v4, 40_000, 0);
            }
            for _ in 0..3 {
                node.ticks += limit - 1;
                assert_eq!(backend_of(node, Protocol::Udp, v4, 40_000, 0), first, "kept alive");
            }
            node.ticks += limit;
            let late = send(node, Program::PodEgress, POD, &answer);
            assert_eq!(late.verdict, Verdict::Pass(Reason::NotService), "an answer to nothing");
            let second = backend_of(node, Protocol::Udp, v4, 40_000, 0);
            assert_ne!(second, first);
            let answer = segment(Protocol::Udp, second, client, 0);
            for _ in 0..3 {
                let reply = send(node, Program::PodEgress, POD, &answer).seen();
                assert_eq!(reply.source, at(Who::Vip, v4, 80), "{}", node.tables);
                assert_eq!(backend_of(node, Protocol::Udp, v4, 40_000, 0), second);
            }
        }
    }
}

#[test]
fn a_flow_is_confirmed_by_its_other_side_and_only_then_leaves_the_half_open_table() {
    /// Protocol, whether a reply comes, the next packet's flags, and whether the flow is established after it.
    const CASES: [(Protocol, bool, u8, bool); 6] = [
        (Protocol::Tcp, false, tcp::SYN, false),
        (Protocol::Tcp, true, tcp::SYN, false),
        (Protocol::Tcp, true, tcp::ACK, true),
        (Protocol::Tcp, false, tcp::ACK, true),
        (Protocol::Udp, false, 0, false),
        (Protocol::Udp, true, 0, true),
    ];
    for v4 in FAMILIES {
        for (protocol, replied, flags, established) in CASES {
            let node = &mut with_two_backends(protocol, v4);
            let backend = backend_of(node, protocol, v4, 40_000, tcp::SYN);
            if replied {
                let answer = segment(protocol, backend, at(Who::Pod, v4, 40_000), tcp::SYN | tcp::ACK);
                send(node, Program::PodEgress, POD, &answer);
            }
            assert_eq!(backend_of(node, protocol, v4, 40_000, flags), backend);
            let sizes = (node.tables.half_open.len(), node.tables.flows.len());
            let expected = if established { (0, 2) } else { (2, 0) };
            assert_eq!(
                sizes, expected,
                "{protocol} replied {replied} {flags:#x}\n{}",
                node.tables
            );
        }
    }
}

#[test]
fn a_reply_entry_that_was_evicted_is_there_again_after_the_next_request() {
    for v4 in FAMILIES {
        let node = &mut with_two_backends(Protocol::Tcp, v4);
        let backend = backend_of(node, Protocol::Tcp, v4, 40_000, tcp::SYN);
        backend_of(node, Protocol::Tcp, v4, 40_000, tcp::ACK);
        node.tables
            .flows
            .retain(|key, _| key.direction == Direction::Forward as u8);
        node.ticks += 1;
        backend_of(node, Protocol::Tcp, v4, 40_000, tcp::ACK);
        let answer = segment(Protocol::Tcp, backend, at(Who::Pod, v4, 40_000), tcp::ACK);
        let reply = send(node, Program::PodEgress, POD, &answer).seen();
        assert_eq!(reply.source, at(Who::Vip, v4, 80));
    }
}

#[test]
fn both_entries_of_a_flow_are_kept_alive_by_packets_of_either_direction() {
    let v4 = true;
    let node = &mut with_two_backends(Protocol::Udp, v4);
    let backend = backend_of(node, Protocol::Udp, v4, 40_000, 0);
    let answer = segment(Protocol::Udp, backend, at(Who::Pod, v4, 40_000), 0);
    send(node, Program::PodEgress, POD, &answer);
    backend_of(node, Protocol::Udp, v4, 40_000, 0);
    for request in [true, false] {
        node.ticks += 5;
        if request {
            backend_of(node, Protocol::Udp, v4, 40_000, 0);
        } else {
            send(node, Program::PodEgress, POD, &answer);
        }
        let seen: Vec<u32> = node.tables.flows.values().map(|flow| flow.seen).collect();
        assert_eq!(seen, [node.ticks, node.ticks], "request {request}\n{}", node.tables);
    }
}

#[test]
fn full_tables_drop_what_is_new_and_carry_what_they_know() {
    let v4 = true;
    let node = &mut with_two_backends(Protocol::Udp, v4);
    let backend = backend_of(node, Protocol::Udp, v4, 40_000, 0);
    node.tables.full = true;
    assert_eq!(backend_of(node, Protocol::Udp, v4, 40_000, 0), backend);
    let packet = segment(Protocol::Udp, at(Who::Pod, v4, 40_001), at(Who::Vip, v4, 80), 0);
    let sent = send(node, Program::PodIngress, POD, &packet);
    assert_eq!(sent.verdict, Verdict::Drop(Reason::FlowTable));
}

#[test]
fn the_end_of_a_transit_connection_is_marked_by_its_replies_too() {
    for v4 in FAMILIES {
        let node = &mut node();
        let backends = [at(Who::RemotePod, v4, 8080), at(Who::RemotePod, v4, 8081)];
        Offer {
            kind: FrontendKind::NodePort,
            ..cluster_ip(1, Protocol::Tcp, at(Who::Node, v4, 30_080), &backends)
        }
        .put(node);
        let request = |flags| {
            segment(
                Protocol::Tcp,
                at(Who::Outside, v4, 40_000),
                at(Who::Node, v4, 30_080),
                flags,
            )
        };
        let first = send(node, Program::UplinkIngress, UPLINK, &request(tcp::SYN)).seen();
        send(node, Program::UplinkIngress, UPLINK, &request(tcp::ACK));
        let fin = segment(Protocol::Tcp, first.destination, first.source, tcp::FIN | tcp::ACK);
        send(node, Program::UplinkIngress, UPLINK, &fin);
        let closing = |(_, flow): (&Tuple, &Flow)| flow.flags & flow_flags::CLOSING != 0;
        assert!(node.tables.flows.iter().any(closing), "{}", node.tables);
        let second = send(node, Program::UplinkIngress, UPLINK, &request(tcp::SYN)).seen();
        assert_ne!(second.destination, first.destination);
    }
}

#[test]
fn the_ends_of_both_sides_are_told_apart_and_a_reset_is_both() {
    for v4 in FAMILIES {
        for (backend, program, ifindex) in [
            (at(Who::LocalPod, v4, 8080), Program::PodEgress, POD),
            (at(Who::RemotePod, v4, 8080), Program::UplinkIngress, UPLINK),
        ] {
            for (client_flags, backend_flags, ends) in [
                (tcp::FIN | tcp::ACK, tcp::ACK, flow_flags::CLIENT_ENDED),
                (tcp::ACK, tcp::FIN | tcp::ACK, flow_flags::BACKEND_ENDED),
                (tcp::FIN | tcp::ACK, tcp::FIN | tcp::ACK, flow_flags::ENDED),
                (tcp::RST, tcp::ACK, flow_flags::ENDED),
                (tcp::ACK, tcp::RST, flow_flags::ENDED),
                (tcp::ACK, tcp::ACK, 0),
            ] {
                let node = &mut node();
                Offer {
                    kind: FrontendKind::NodePort,
                    ..cluster_ip(1, Protocol::Tcp, at(Who::Node, v4, 30_080), &[backend])
                }
                .put(node);
                let (client, to) = (at(Who::Outside, v4, 40_000), at(Who::Node, v4, 30_080));
                let request = |node: &mut _, flags| {
                    let sent = segment(Protocol::Tcp, client, to, flags);
                    send(node, Program::UplinkIngress, UPLINK, &sent).seen()
                };
                let first = request(node, tcp::SYN);
                request(node, tcp::ACK);
                request(node, client_flags);
                let reply = segment(Protocol::Tcp, first.destination, first.source, backend_flags);
                send(node, program, ifindex, &reply);
                let marks = |flags: u16| flags & flow_flags::ENDED;
                let about = format!("v4 {v4} {backend} {client_flags} {backend_flags}: {}", node.tables);
                assert!(!node.tables.flows.is_empty(), "{about}");
                assert!(
                    node.tables.flows.values().all(|flow| marks(flow.flags) == ends),
                    "{about}"
                );
                // Of a flow with a changed source the reply's entry too.
                assert!(
                    node.tables.snat_flows.values().all(|flow| marks(flow.flags) == ends),
                    "{about}"
                );
            }
        }
    }
}

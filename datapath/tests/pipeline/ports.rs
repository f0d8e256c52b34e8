//! Source ports: where two connections would be one, and where there are none left.

use crate::flows::{backend_of, retire, with_two_backends};
use crate::support::{
    FAMILIES, Offer, POD, PROTOCOLS, SNAT_PORTS, Sent, UPLINK, Who, at, cluster_ip, node, segment, send,
};
use crate::wire::Seen;
use ferrogate_common::{Address, Direction, FrontendKind, Port, Protocol, Reason, SnatFlow, Tuple, flow_flags};
use ferrogate_datapath::Verdict;
use ferrogate_datapath::host::{Program, Simulator, tcp};
use std::collections::BTreeMap;
use std::net::SocketAddr;

const NODE_PORT: u16 = 30_080;

/// A node with a NodePort, one backend on another node, and so many ports to hide clients behind.
fn node_port(protocol: Protocol, v4: bool, ports: u16) -> Simulator {
    let mut node = node();
    let backend = [at(Who::RemotePod, v4, 8080)];
    let offer = Offer {
        kind: FrontendKind::NodePort,
        ..cluster_ip(1, protocol, at(Who::Node, v4, NODE_PORT), &backend)
    };
    offer.put(&mut node);
    node.tables.config.snat_port_count = ports;
    node
}

/// A segment of a client outside to that NodePort.
fn knock(node: &mut Simulator, v4: bool, port: u16, flags: u8) -> Sent {
    let packet = segment(
        Protocol::Tcp,
        at(Who::Outside, v4, port),
        at(Who::Node, v4, NODE_PORT),
        flags,
    );
    send(node, Program::UplinkIngress, UPLINK, &packet)
}

#[test]
fn one_client_port_towards_two_services_with_one_backend_is_two_connections() {
    for v4 in FAMILIES {
        for protocol in PROTOCOLS {
            let node = &mut node();
            let backend = [at(Who::RemotePod, v4, 8080)];
            let frontends = [at(Who::Vip, v4, 80), at(Who::OtherVip, v4, 80)];
            cluster_ip(1, protocol, frontends[0], &backend).put(node);
            cluster_ip(2, protocol, frontends[1], &backend).put(node);
            let client = at(Who::Pod, v4, 40_000);
            let mut sources = Vec::new();
            for round in 0..3 {
                for frontend in frontends {
                    let flags = if round == 0 { tcp::SYN } else { tcp::ACK };
                    let packet = segment(protocol, client, frontend, flags);
                    let at_backend = send(node, Program::PodIngress, POD, &packet).seen();
                    assert_eq!(at_backend.destination, backend[0]);
                    assert_eq!(at_backend.source.ip(), client.ip(), "only the port may change");
                    sources.push(at_backend.source);
                    let answer = segment(protocol, backend[0], at_backend.source, tcp::SYN | tcp::ACK);
                    let reply = send(node, Program::PodEgress, POD, &answer).seen();
                    assert_eq!((reply.source, reply.destination), (frontend, client), "{}", node.tables);
                }
            }
            assert_eq!(sources[0], client, "the first keeps its port");
            assert!(
                SNAT_PORTS.contains(&sources[1].port()),
                "the second gets one of the range"
            );
            assert!(
                sources.chunks(2).all(|pair| pair == &sources[..2]),
                "both keep what they have: {sources:?}"
            );
        }
    }
}

#[test]
fn clients_that_share_a_backend_never_share_a_snat_port() {
    for v4 in FAMILIES {
        let node = &mut node_port(Protocol::Udp, v4, 64);
        let mut owners = BTreeMap::new();
        let mut refused = 0;
        for port in 1000..1200 {
            let client = at(Who::Outside, v4, port);
            let packet = segment(Protocol::Udp, client, at(Who::Node, v4, NODE_PORT), 0);
            let sent = send(node, Program::UplinkIngress, UPLINK, &packet);
            if sent.verdict == Verdict::Drop(Reason::NoSnatPort) {
                refused += 1;
                continue;
            }
            let source = sent.seen().source;
            assert!((24_000..24_064).contains(&source.port()));
            assert_eq!(owners.insert(source, client), None, "two clients at {source}");
        }
        assert!(owners.len() > 48, "{} of 64 ports in use", owners.len());
        assert_eq!(owners.len() + refused, 200);
    }
}

#[test]
fn where_all_ports_are_taken_a_connection_that_only_knocked_gives_its_own_to_a_new_one() {
    for v4 in FAMILIES {
        let node = &mut node_port(Protocol::Tcp, v4, 4);
        let knock = |node: &mut Simulator, port, flags| knock(node, v4, port, flags);
        let confirmed: Vec<SocketAddr> = (1..4).map(|port| knock(node, port, tcp::SYN).seen().source).collect();
        for (port, source) in (1..4).zip(&confirmed) {
            assert_eq!(knock(node, port, tcp::ACK).seen().source, *source);
        }
        let mut last = None;
        for port in 100..120 {
            let sent = knock(node, port, tcp::SYN);
            if sent.verdict == Verdict::Drop(Reason::NoSnatPort) {
                continue;
            }
            let source = sent.seen().source;
            assert!(!confirmed.contains(&source), "a confirmed connection keeps its port");
            last = Some((port, source));
        }
        let (port, source) = last.expect("some of them find the fourth port within the probes");
        assert_eq!(knock(node, port, tcp::SYN).seen().source, source, "repeated");
        assert_eq!(knock(node, port, tcp::ACK).seen().source, source, "and confirmed");
        for (port, source) in (1..4).zip(&confirmed) {
            assert_eq!(knock(node, port, tcp::ACK).seen().source, *source);
        }
        let loser = (100..port).next_back().expect("one before");
        assert!(
            !matches!(knock(node, loser, tcp::ACK).verdict, Verdict::Forward(_)),
            "its port is another's"
        );
    }
}

#[test]
fn where_all_ports_are_taken_connections_that_ended_and_are_silent_give_theirs_to_new_ones() {
    for v4 in FAMILIES {
        let node = &mut node_port(Protocol::Tcp, v4, 4);
        let knock = |node: &mut Simulator, port, flags| knock(node, v4, port, flags);
        // Within the probes not every client finds every port: many knock.
        let open = |node: &mut Simulator, ports: std::ops::Range<u16>| {
            let opened = ports.filter(|port| {
                let sent = knock(node, *port, tcp::SYN);
                sent.verdict != Verdict::Drop(Reason::NoSnatPort) && {
                    knock(node, *port, tcp::ACK);
                    true
                }
            });
            opened.collect::<Vec<u16>>()
        };
        let first = open(node, 100..200);
        assert_eq!(first.len(), 4);
        node.ticks += 1000;
        assert_eq!(
            open(node, 200..300),
            [],
            "open connections keep their ports, silent or not"
        );
        for port in &first[..2] {
            knock(node, *port, tcp::FIN | tcp::ACK);
        }
        assert_eq!(open(node, 300..400), [], "the end of a connection takes a moment");
        node.ticks += 3;
        assert_eq!(open(node, 400..500).len(), 2);
        for port in &first[2..] {
            assert!(matches!(knock(node, *port, tcp::ACK).verdict, Verdict::Forward(_)));
        }
    }
}

#[test]
fn ports_that_another_translator_has_taken_are_passed_over_and_its_replies_left_alone() {
    for v4 in FAMILIES {
        let node = &mut node_port(Protocol::Tcp, v4, 8);
        let backend = at(Who::RemotePod, v4, 8080);
        let range: Vec<u16> = (0..8).map(|port| SNAT_PORTS.start() + port).collect();
        // As the agent enters it: no client, and nothing to restore.
        let taken = SnatFlow {
            client: Address::UNSPECIFIED,
            frontend: Address::UNSPECIFIED,
            client_port: Port::ZERO,
            frontend_port: Port::ZERO,
            seen: 0,
            uplink: 0,
            flags: flow_flags::PORT_ONLY | flow_flags::CONFIRMED,
            reserved: 0,
        };
        for port in &range[..7] {
            let (from, to) = (backend, at(Who::Node, v4, *port));
            let key = Tuple::new(
                (from.ip().into(), Port::new(from.port())),
                (to.ip().into(), Port::new(to.port())),
                Protocol::Tcp as u8,
                Direction::Reply,
            );
            node.tables.snat_flows.insert(key, taken);
        }
        let seen = knock(node, v4, 40_000, tcp::SYN).seen();
        assert_eq!(seen.source, at(Who::Node, v4, range[7]));
        for port in &range[..7] {
            let reply = segment(Protocol::Tcp, backend, at(Who::Node, v4, *port), tcp::ACK);
            let sent = send(node, Program::UplinkIngress, UPLINK, &reply);
            assert_eq!(sent.verdict, Verdict::Pass(Reason::NotService));
        }
    }
}

#[test]
fn the_answer_to_a_syn_that_another_translator_sent_from_the_port_of_an_ended_connection_is_left_alone() {
    for v4 in FAMILIES {
        let node = &mut node_port(Protocol::Tcp, v4, 8);
        let opened = knock(node, v4, 40_000, tcp::SYN).seen();
        let (backend, port) = (opened.destination, opened.source);
        let answer = |node: &mut Simulator, flags| {
            let packet = segment(Protocol::Tcp, backend, port, flags);
            send(node, Program::UplinkIngress, UPLINK, &packet)
        };
        let client = at(Who::Outside, v4, 40_000);
        assert_eq!(answer(node, tcp::SYN | tcp::ACK).seen().destination, client);
        knock(node, v4, 40_000, tcp::FIN | tcp::ACK);
        let again = answer(node, tcp::SYN | tcp::ACK).seen();
        assert_eq!(again.destination, client, "sent again: the backend has not ended it");
        assert_eq!(answer(node, tcp::FIN | tcp::ACK).seen().destination, client);
        knock(node, v4, 40_000, tcp::ACK);
        for flags in [tcp::SYN | tcp::ACK, tcp::ACK | tcp::PSH] {
            let verdict = answer(node, flags).verdict;
            assert_eq!(verdict, Verdict::Pass(Reason::NotService), "{}", node.tables);
        }
    }
}

#[test]
fn a_connection_from_the_port_of_one_that_ended_is_open() {
    for v4 in FAMILIES {
        let node = &mut node_port(Protocol::Tcp, v4, 8);
        let client = at(Who::Outside, v4, 40_000);
        for round in 0..3 {
            let opened = knock(node, v4, 40_000, tcp::SYN).seen();
            let answer = |node: &mut Simulator, flags| {
                let packet = segment(Protocol::Tcp, opened.destination, opened.source, flags);
                send(node, Program::UplinkIngress, UPLINK, &packet).seen().destination
            };
            assert_eq!(
                answer(node, tcp::SYN | tcp::ACK),
                client,
                "round {round}: {}",
                node.tables
            );
            knock(node, v4, 40_000, tcp::ACK);
            let marks = node
                .tables
                .snat_flows
                .values()
                .map(|flow| flow.flags & flow_flags::ENDED);
            assert_eq!(marks.fold(0, |all, one| all | one), 0, "{}", node.tables);
            knock(node, v4, 40_000, tcp::FIN | tcp::ACK);
            assert_eq!(answer(node, tcp::FIN | tcp::ACK), client);
        }
    }
}

#[test]
fn a_client_that_refuses_what_its_syn_was_answered_is_connected_by_its_next_one() {
    for v4 in FAMILIES {
        let node = &mut node_port(Protocol::Tcp, v4, 8);
        let client = at(Who::Outside, v4, 40_000);
        let opened = knock(node, v4, 40_000, tcp::SYN).seen();
        let answer = |node: &mut Simulator, flags| {
            let packet = segment(Protocol::Tcp, opened.destination, opened.source, flags);
            send(node, Program::UplinkIngress, UPLINK, &packet).seen().destination
        };
        // The backend answers somebody who had the port before, and is told so.
        assert_eq!(answer(node, tcp::ACK), client);
        knock(node, v4, 40_000, tcp::RST);
        let again = knock(node, v4, 40_000, tcp::SYN).seen();
        assert_eq!((again.source, again.destination), (opened.source, opened.destination));
        assert_eq!(answer(node, tcp::SYN | tcp::ACK), client, "{}", node.tables);
        knock(node, v4, 40_000, tcp::ACK);
        assert_eq!(answer(node, tcp::ACK | tcp::PSH), client, "{}", node.tables);
    }
}

#[test]
fn a_connection_that_has_lost_its_port_is_refused_and_leaves_its_heir_alone() {
    for v4 in FAMILIES {
        let node = &mut node_port(Protocol::Tcp, v4, 1);
        let client = at(Who::Outside, v4, 40_000);
        let answer = |node: &mut Simulator, opened: &Seen, flags| {
            let packet = segment(Protocol::Tcp, opened.destination, opened.source, flags);
            send(node, Program::UplinkIngress, UPLINK, &packet).seen().destination
        };
        let opened = knock(node, v4, 40_000, tcp::SYN).seen();
        assert_eq!(answer(node, &opened, tcp::SYN | tcp::ACK), client);
        knock(node, v4, 40_000, tcp::ACK);
        // The table was full, and its replies' entry the oldest.
        node.tables.snat_flows.clear();
        let heir = knock(node, v4, 40_001, tcp::SYN).seen();
        assert_eq!(heir.source, opened.source);
        let before = node.tables.snat_flows.clone();
        node.ticks += 1;
        let verdict = knock(node, v4, 40_000, tcp::ACK).verdict;
        assert_eq!(verdict.reason(), Reason::NoFlow, "{}", node.tables);
        assert_eq!(node.tables.snat_flows, before);
        assert_eq!(answer(node, &heir, tcp::SYN | tcp::ACK), at(Who::Outside, v4, 40_001));
    }
}

#[test]
fn a_connection_straight_to_an_endpoint_is_not_taken_for_one_through_a_service_that_ended() {
    for v4 in FAMILIES {
        let node = &mut with_two_backends(Protocol::Tcp, v4);
        let pod = at(Who::Pod, v4, 40_000);
        let backend = backend_of(node, Protocol::Tcp, v4, 40_000, tcp::SYN);
        backend_of(node, Protocol::Tcp, v4, 40_000, tcp::ACK);
        backend_of(node, Protocol::Tcp, v4, 40_000, tcp::FIN | tcp::ACK);
        let direct = segment(Protocol::Tcp, pod, backend, tcp::SYN);
        assert_eq!(
            send(node, Program::PodIngress, POD, &direct).seen().destination,
            backend
        );
        let answer = segment(Protocol::Tcp, backend, pod, tcp::SYN | tcp::ACK);
        let reply = send(node, Program::PodEgress, POD, &answer).seen();
        assert_eq!(reply.source, backend, "{}", node.tables);
    }
}

#[test]
fn a_connection_straight_to_an_endpoint_lives_beside_one_through_a_service_from_the_same_port() {
    for v4 in FAMILIES {
        for protocol in PROTOCOLS {
            let node = &mut node();
            let backend = [at(Who::RemotePod, v4, 8080)];
            let frontend = at(Who::Vip, v4, 80);
            cluster_ip(1, protocol, frontend, &backend).put(node);
            let client = at(Who::Pod, v4, 40_000);
            let mut sources = Vec::new();
            for round in 0..3 {
                for destination in [frontend, backend[0]] {
                    let flags = if round == 0 { tcp::SYN } else { tcp::ACK };
                    let packet = segment(protocol, client, destination, flags);
                    let at_backend = send(node, Program::PodIngress, POD, &packet).seen();
                    assert_eq!(at_backend.destination, backend[0]);
                    sources.push(at_backend.source);
                    let answer = segment(protocol, backend[0], at_backend.source, tcp::SYN | tcp::ACK);
                    let reply = send(node, Program::PodEgress, POD, &answer).seen();
                    assert_eq!(
                        (reply.source, reply.destination),
                        (destination, client),
                        "{}",
                        node.tables
                    );
                }
            }
            assert_eq!(sources[0], client, "the Service's keeps its port");
            assert!(SNAT_PORTS.contains(&sources[1].port()), "the straight one does not");
            assert!(sources.chunks(2).all(|pair| pair == &sources[..2]), "{sources:?}");
        }
    }
}

/// What was open before there was a Service, or was opened by the socket edge, is in no table.
#[test]
fn a_connection_through_a_service_lives_beside_one_straight_to_its_endpoint_that_was_there_before() {
    for v4 in FAMILIES {
        let node = &mut node();
        let backend = at(Who::RemotePod, v4, 8080);
        let frontend = at(Who::Vip, v4, 80);
        cluster_ip(1, Protocol::Tcp, frontend, &[backend]).put(node);
        let client = at(Who::Pod, v4, 40_000);
        let ask = |node: &mut Simulator, to, flags| {
            let packet = segment(Protocol::Tcp, client, to, flags);
            send(node, Program::PodIngress, POD, &packet).seen().source
        };
        let answer = |node: &mut Simulator, to, flags| {
            let packet = segment(Protocol::Tcp, backend, to, flags);
            let seen = send(node, Program::PodEgress, POD, &packet).seen();
            (seen.source, seen.destination)
        };
        assert_eq!(ask(node, frontend, tcp::SYN), client);
        // The endpoint takes it for a SYN inside the open connection, and says where that one is. The same for data of it.
        for flags in [tcp::ACK, tcp::ACK | tcp::PSH] {
            assert_eq!(answer(node, client, flags), (backend, client), "{}", node.tables);
        }
        let another = ask(node, frontend, tcp::SYN);
        assert_eq!(another.ip(), client.ip());
        assert!(SNAT_PORTS.contains(&another.port()), "sent again, by {another}");
        assert_eq!(answer(node, another, tcp::SYN | tcp::ACK), (frontend, client));
        for _ in 0..2 {
            assert_eq!(ask(node, frontend, tcp::ACK), another, "{}", node.tables);
            assert_eq!(answer(node, another, tcp::ACK), (frontend, client));
            assert_eq!(ask(node, backend, tcp::ACK), client);
            assert_eq!(answer(node, client, tcp::ACK), (backend, client));
        }
    }
}

#[test]
fn what_follows_the_answer_to_a_syn_is_its_connections() {
    for v4 in FAMILIES {
        let node = &mut with_two_backends(Protocol::Tcp, v4);
        let pod = at(Who::Pod, v4, 40_000);
        let backend = backend_of(node, Protocol::Tcp, v4, 40_000, tcp::SYN);
        // The last one before the client has acknowledged anything, as TCP Fast Open allows.
        for flags in [tcp::SYN | tcp::ACK, tcp::ACK | tcp::PSH] {
            let packet = segment(Protocol::Tcp, backend, pod, flags);
            let seen = send(node, Program::PodEgress, POD, &packet).seen();
            assert_eq!(seen.source, at(Who::Vip, v4, 80), "{}", node.tables);
        }
    }
}

#[test]
fn a_refusal_of_a_services_connection_is_the_services() {
    for v4 in FAMILIES {
        let node = &mut with_two_backends(Protocol::Tcp, v4);
        let pod = at(Who::Pod, v4, 40_000);
        let backend = backend_of(node, Protocol::Tcp, v4, 40_000, tcp::SYN);
        let packet = segment(Protocol::Tcp, backend, pod, tcp::RST | tcp::ACK);
        let seen = send(node, Program::PodEgress, POD, &packet).seen();
        assert_eq!(seen.source, at(Who::Vip, v4, 80), "{}", node.tables);
    }
}

#[test]
fn a_flow_keeps_its_port_when_the_range_becomes_another() {
    for v4 in FAMILIES {
        let node = &mut node_port(Protocol::Tcp, v4, 8);
        let sent = knock(node, v4, 40_000, tcp::SYN).seen();
        let config = &mut node.tables.config;
        (config.known_port_base, config.known_port_count) = (config.snat_port_base, 8);
        (config.snat_port_base, config.snat_port_count) = (10_000, 4096);
        let reply = segment(Protocol::Tcp, sent.destination, sent.source, tcp::SYN | tcp::ACK);
        let seen = send(node, Program::UplinkIngress, UPLINK, &reply).seen();
        let ends = (at(Who::Node, v4, NODE_PORT), at(Who::Outside, v4, 40_000));
        assert_eq!((seen.source, seen.destination), ends, "{}", node.tables);
        assert_eq!(knock(node, v4, 40_000, tcp::ACK).seen().source, sent.source);
        let other = knock(node, v4, 40_001, tcp::SYN).seen().source.port();
        assert!((10_000..14_096).contains(&other), "{other}");
    }
}

#[test]
fn datagrams_straight_to_an_endpoint_keep_their_port_where_the_services_flow_is_over() {
    for v4 in FAMILIES {
        let node = &mut with_two_backends(Protocol::Udp, v4);
        let client = at(Who::Pod, v4, 40_000);
        let backend = backend_of(node, Protocol::Udp, v4, 40_000, 0);
        retire(node, backend);
        let straight = segment(Protocol::Udp, client, backend, 0);
        assert_eq!(send(node, Program::PodIngress, POD, &straight).seen().source, client);
        let answer = segment(Protocol::Udp, backend, client, 0);
        let reply = send(node, Program::PodEgress, POD, &answer).seen();
        assert_eq!((reply.source, reply.destination), (backend, client), "{}", node.tables);
    }
}

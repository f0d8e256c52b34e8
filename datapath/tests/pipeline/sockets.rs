//! The socket edge.

use crate::support::{FAMILIES, Offer, Who, at, cluster_ip, node};
use ferrogate_common::{FrontendKind, Protocol, Reason, config_flags};
use ferrogate_datapath::SocketVerdict;
use ferrogate_datapath::host::{HostSocket, Simulator, SocketSimulator};
use std::collections::BTreeMap;
use std::net::SocketAddr;

const PROCEED: SocketVerdict = SocketVerdict::Proceed(Reason::SocketTranslated);
const NOT_OURS: SocketVerdict = SocketVerdict::Proceed(Reason::NotService);

/// A node whose services n, at port 80 + n of the VIP, have three backends each.
fn with_services(protocol: Protocol, v4: bool, count: u32) -> Simulator {
    let mut node = node();
    for id in 0..count {
        let backends = [0, 1, 2].map(|n| at(Who::LocalPod, v4, 8000 + id as u16 * 10 + n));
        cluster_ip(id, protocol, at(Who::Vip, v4, 80 + id as u16), &backends).put(&mut node);
    }
    node
}

fn socket(protocol: Protocol) -> HostSocket {
    HostSocket::new(7, protocol, false)
}

#[test]
fn connections_take_the_backends_in_turn_and_peers_have_the_service_s_name() {
    for v4 in FAMILIES {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let node = &mut with_services(protocol, v4, 1);
            let vip = at(Who::Vip, v4, 80);
            let mut counts: BTreeMap<SocketAddr, u32> = BTreeMap::new();
            for _ in 0..300 {
                let mut socket = socket(protocol);
                let mut call = SocketSimulator::new(&mut node.tables, &mut socket);
                let (verdict, peer) = call.connect(vip);
                assert_eq!(verdict, PROCEED);
                assert_eq!(call.peer_of(peer), vip);
                *counts.entry(peer).or_default() += 1;
            }
            assert_eq!(counts.into_values().collect::<Vec<_>>(), [100, 100, 100]);
            assert_eq!(node.tables.connections[0], 300);
        }
    }
}

#[test]
fn an_unconnected_udp_socket_keeps_the_backend_of_each_frontend_however_many_it_uses() {
    for v4 in FAMILIES {
        let node = &mut with_services(Protocol::Udp, v4, 5);
        let mut socket = socket(Protocol::Udp);
        let mut first = Vec::new();
        for round in 0..3 {
            for id in 0..5 {
                let frontend = at(Who::Vip, v4, 80 + id);
                let mut call = SocketSimulator::new(&mut node.tables, &mut socket);
                let (verdict, backend) = call.sendmsg(frontend);
                assert_eq!(verdict, PROCEED);
                if round == 0 {
                    first.push(backend);
                }
                assert_eq!(backend, first[id as usize], "frontend {id} in round {round}");
                assert_eq!(call.peer_of(backend), frontend, "frontend {id} in round {round}");
            }
        }
    }
}

#[test]
fn an_unconnected_udp_socket_leaves_a_backend_that_is_gone() {
    for v4 in FAMILIES {
        let node = &mut with_services(Protocol::Udp, v4, 5);
        let mut socket = socket(Protocol::Udp);
        for id in 0..5 {
            let frontend = at(Who::Vip, v4, 80 + id);
            let (_, before) = SocketSimulator::new(&mut node.tables, &mut socket).sendmsg(frontend);
            for backend in &mut node.tables.backends {
                if backend.port.get() == before.port() {
                    backend.generation += 1;
                }
            }
            let (_, after) = SocketSimulator::new(&mut node.tables, &mut socket).sendmsg(frontend);
            assert_ne!(after, before, "frontend {id}");
        }
    }
}

#[test]
fn calls_that_are_refused_and_calls_that_are_none_of_ours() {
    for v4 in FAMILIES {
        let node = &mut with_services(Protocol::Tcp, v4, 1);
        cluster_ip(1, Protocol::Tcp, at(Who::OtherVip, v4, 80), &[]).put(node);
        let cases = [
            (at(Who::OtherVip, v4, 80), SocketVerdict::Refuse(Reason::NoEndpoints)),
            (at(Who::Outside, v4, 80), NOT_OURS),
            (at(Who::Vip, !v4, 80), NOT_OURS),
        ];
        for (peer, expected) in cases {
            let mut socket = socket(Protocol::Tcp);
            let mut call = SocketSimulator::new(&mut node.tables, &mut socket);
            assert_eq!(call.connect(peer), (expected, peer));
            assert_eq!(call.peer_of(peer), peer);
        }
    }
}

#[test]
fn a_node_port_on_loopback_is_for_processes_of_the_node() {
    for v4 in FAMILIES {
        let loopback: SocketAddr = if v4 { "127.0.0.1:30080" } else { "[::1]:30080" }.parse().unwrap();
        let backend = [at(Who::LocalPod, v4, 8080)];
        let node = &mut node();
        Offer {
            kind: FrontendKind::NodePort,
            ..cluster_ip(1, Protocol::Tcp, at(Who::Node, v4, 30_080), &backend)
        }
        .put(node);
        for (process, expected) in [(true, (PROCEED, backend[0])), (false, (NOT_OURS, loopback))] {
            let mut socket = HostSocket::new(1, Protocol::Tcp, process);
            let mut call = SocketSimulator::new(&mut node.tables, &mut socket);
            assert_eq!(call.connect(loopback), expected, "node process {process}");
        }
    }
}

#[test]
fn a_bound_tcp_socket_of_a_pod_is_left_to_the_pod_edge_where_there_is_one() {
    /// Pod edge on, bound, process of the node, protocol; whether the call is translated.
    const CASES: [(bool, bool, bool, Protocol, bool); 5] = [
        (true, true, false, Protocol::Tcp, false),
        (false, true, false, Protocol::Tcp, true),
        (true, false, false, Protocol::Tcp, true),
        (true, true, true, Protocol::Tcp, true),
        (true, true, false, Protocol::Udp, true),
    ];
    for v4 in FAMILIES {
        for (pod_edge, bound, node_process, protocol, translated) in CASES {
            let node = &mut with_services(protocol, v4, 1);
            node.tables.config.flags = if pod_edge { config_flags::POD_EDGE } else { 0 };
            let mut socket = HostSocket::new(1, protocol, node_process);
            socket.bound = bound;
            let vip = at(Who::Vip, v4, 80);
            let (_, peer) = SocketSimulator::new(&mut node.tables, &mut socket).connect(vip);
            assert_eq!(peer != vip, translated, "{pod_edge} {bound} {node_process} {protocol}");
        }
    }
}

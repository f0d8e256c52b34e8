//! The socket edge.

use crate::support::{FAMILIES, NODE_NETNS, Offer, POD_NETNS, Who, at, cluster_ip, node};
use ferrogate_common::{Frontend, FrontendKey, FrontendKind, Protocol, Reason, cgroup_scope, config_flags};
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
    let alone = FrontendKey::address_alone(at(Who::Vip, v4, 80).ip().into());
    node.tables
        .frontends
        .insert(alone, Frontend::new(0, FrontendKind::Address));
    node
}

/// A node with two UDP Services, their frontends, and the endpoint that both have.
fn sharing_an_endpoint(v4: bool) -> (Simulator, [SocketAddr; 2], SocketAddr) {
    let mut node = node();
    let frontends = [at(Who::Vip, v4, 80), at(Who::OtherVip, v4, 80)];
    let backend = at(Who::LocalPod, v4, 8080);
    for (id, frontend) in frontends.into_iter().enumerate() {
        cluster_ip(id as u32, Protocol::Udp, frontend, &[backend]).put(&mut node);
    }
    (node, frontends, backend)
}

fn socket(protocol: Protocol) -> HostSocket {
    HostSocket::new(7, protocol, POD_NETNS)
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
            assert_eq!(
                (node.tables.socket_connections[0], node.tables.connections[0]),
                (300, 0)
            );
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
fn an_unconnected_udp_socket_with_one_endpoint_behind_two_services_is_told_the_right_one() {
    for v4 in FAMILIES {
        let (mut node, frontends, backend) = sharing_an_endpoint(v4);
        for (netns, flags, others_serve) in [
            (POD_NETNS, config_flags::POD_EDGE, true),
            (NODE_NETNS, 0, true),
            (POD_NETNS, 0, false),
            (NODE_NETNS, config_flags::NODE_EDGE_OFF, false),
        ] {
            node.tables.config.flags = flags;
            let mut socket = HostSocket::new(7, Protocol::Udp, netns);
            let mut call = SocketSimulator::new(&mut node.tables, &mut socket);
            for _ in 0..3 {
                assert_eq!(call.sendmsg(frontends[0]), (PROCEED, backend));
                assert_eq!(call.peer_of(backend), frontends[0]);
                // Its packets are translated at another edge, which tells the two apart by the client's port.
                let second = if others_serve { frontends[1] } else { backend };
                assert_eq!(call.sendmsg(frontends[1]), (PROCEED, second), "{netns} {flags}");
            }
            let told = call.peer_of(if others_serve { frontends[1] } else { backend });
            assert_eq!(told, frontends[usize::from(others_serve)]);
            assert_eq!(call.peer_of(backend), frontends[0]);
        }
    }
}

#[test]
fn what_a_backend_was_for_a_service_before_is_forgotten_when_it_serves_another_one() {
    for v4 in FAMILIES {
        let (mut node, frontends, backend) = sharing_an_endpoint(v4);
        let mut socket = socket(Protocol::Udp);
        let before = SocketSimulator::new(&mut node.tables, &mut socket).sendmsg(frontends[0]);
        assert_eq!(before, (PROCEED, backend));
        // Of the first Service.
        node.tables.backends[0].generation = 0;
        let mut call = SocketSimulator::new(&mut node.tables, &mut socket);
        assert_eq!(call.sendmsg(frontends[1]), (PROCEED, backend));
        assert_eq!(call.peer_of(backend), frontends[1]);
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
        for (netns, expected) in [(NODE_NETNS, (PROCEED, backend[0])), (POD_NETNS, (NOT_OURS, loopback))] {
            let mut socket = HostSocket::new(1, Protocol::Tcp, netns);
            let mut call = SocketSimulator::new(&mut node.tables, &mut socket);
            assert_eq!(call.connect(loopback), expected, "namespace {netns}");
        }
    }
}

#[test]
fn a_bound_tcp_socket_of_a_pod_is_left_to_the_pod_edge_where_there_is_one() {
    /// Pod edge on, bound, network namespace, protocol; whether the call is translated.
    const CASES: [(bool, bool, u64, Protocol, bool); 5] = [
        (true, true, POD_NETNS, Protocol::Tcp, false),
        (false, true, POD_NETNS, Protocol::Tcp, true),
        (true, false, POD_NETNS, Protocol::Tcp, true),
        (true, true, NODE_NETNS, Protocol::Tcp, true),
        (true, true, POD_NETNS, Protocol::Udp, true),
    ];
    for v4 in FAMILIES {
        for (pod_edge, bound, netns, protocol, translated) in CASES {
            let node = &mut with_services(protocol, v4, 1);
            node.tables.config.flags = if pod_edge { config_flags::POD_EDGE } else { 0 };
            let mut socket = HostSocket::new(1, protocol, netns);
            socket.bound = bound;
            let vip = at(Who::Vip, v4, 80);
            let (_, peer) = SocketSimulator::new(&mut node.tables, &mut socket).connect(vip);
            assert_eq!(peer != vip, translated, "{pod_edge} {bound} {netns} {protocol}");
        }
    }
}

#[test]
fn a_node_that_is_handed_over_has_no_new_sockets_translated() {
    for v4 in FAMILIES {
        let node = &mut with_services(Protocol::Tcp, v4, 1);
        node.tables.config.flags = config_flags::HAND_OVER;
        let mut socket = HostSocket::new(1, Protocol::Tcp, POD_NETNS);
        let vip = at(Who::Vip, v4, 80);
        let (_, peer) = SocketSimulator::new(&mut node.tables, &mut socket).connect(vip);
        assert_eq!(peer, vip);
    }
}

/// Nothing, or one scope at one level of the hierarchy.
fn scopes(level: usize, scope: u32) -> [u32; 4] {
    let mut scopes = [0; 4];
    scopes[level] = scope;
    scopes
}

#[test]
fn the_socket_edge_serves_those_whom_it_is_for() {
    use cgroup_scope::{OFF, ONLY, SERVED};
    let everywhere = u32::MAX;
    /// Flags, levels with listed cgroups, network namespace, what is listed of the caller's cgroups; whether it is served.
    type Case = (u32, u32, u64, [u32; 4], bool);
    let cases: [Case; 13] = [
        (0, 0, POD_NETNS, [0; 4], true),
        // Only below listed cgroups, and the node's own processes.
        (0, 1 | 1 << 1, POD_NETNS, [0; 4], false),
        (0, 1 | 1 << 1, POD_NETNS, scopes(1, SERVED), true),
        (0, 1 | 1 << 1, NODE_NETNS, [0; 4], true),
        // A cgroup at a level that nobody asks about.
        (0, 1 | 1 << 2, POD_NETNS, scopes(1, SERVED), false),
        (0, everywhere, POD_NETNS, scopes(3, SERVED), true),
        // Opted out: also below a cgroup that is served, and in the node's own network namespace.
        (0, 1 << 3, POD_NETNS, scopes(3, OFF), false),
        (0, 1 << 3, POD_NETNS, [0; 4], true),
        (0, 1 << 3, NODE_NETNS, scopes(3, OFF), false),
        (0, everywhere, POD_NETNS, [0, SERVED, 0, OFF], false),
        // --socket-edge node.
        (config_flags::SOCKETS_OF_NODE, 0, POD_NETNS, [0; 4], false),
        (config_flags::SOCKETS_OF_NODE, 0, NODE_NETNS, [0; 4], true),
        (config_flags::SOCKETS_OF_NODE, 1 << 2, POD_NETNS, scopes(2, ONLY), true),
    ];
    for v4 in FAMILIES {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (flags, levels, netns, scopes, served) in cases {
                let node = &mut with_services(protocol, v4, 1);
                node.tables.config.flags = flags;
                node.tables.config.cgroup_levels = levels;
                let mut socket = HostSocket::new(1, protocol, netns);
                socket.scopes = scopes;
                let vip = at(Who::Vip, v4, 80);
                let mut call = SocketSimulator::new(&mut node.tables, &mut socket);
                let (_, peer) = call.connect(vip);
                assert_eq!(peer != vip, served, "{flags} {levels:#x} {netns} {scopes:?}");
                let (_, peer) = call.sendmsg(vip);
                assert_eq!(peer != vip, served, "{flags} {levels:#x} {netns} {scopes:?}");
                // Nor is it refused what a ClusterIP does not have.
                let unknown = at(Who::Vip, v4, 81);
                let refused = call.sendmsg(unknown).0 == SocketVerdict::Refuse(Reason::NoSuchPort);
                assert_eq!(refused, served, "{flags} {levels:#x} {netns} {scopes:?}");
            }
        }
    }
}

#[test]
fn a_pod_that_only_the_socket_edge_serves_leaves_nothing_to_the_pod_edge() {
    for v4 in FAMILIES {
        let node = &mut with_services(Protocol::Tcp, v4, 1);
        node.tables.config.flags = config_flags::POD_EDGE;
        node.tables.config.cgroup_levels = 1 << 2;
        let vip = at(Who::Vip, v4, 80);
        for (scope, translated) in [(0, false), (cgroup_scope::ONLY, true)] {
            let mut socket = socket(Protocol::Tcp);
            socket.bound = true;
            socket.scopes = scopes(2, scope);
            let (_, peer) = SocketSimulator::new(&mut node.tables, &mut socket).connect(vip);
            assert_eq!(peer != vip, translated, "scope {scope}");
        }
    }
}

#[test]
fn a_port_that_the_cluster_ip_does_not_have_refuses_all_but_a_probe_for_the_way() {
    for v4 in FAMILIES {
        let unknown = at(Who::Vip, v4, 1025);
        let refused = SocketVerdict::Refuse(Reason::NoSuchPort);
        let node = &mut with_services(Protocol::Tcp, v4, 1);
        let connect = |node: &mut Simulator, protocol| {
            let mut socket = socket(protocol);
            SocketSimulator::new(&mut node.tables, &mut socket).connect(unknown).0
        };
        assert_eq!(connect(node, Protocol::Tcp), refused);
        assert_eq!(
            connect(node, Protocol::Udp),
            NOT_OURS,
            "ping asks for its own address so"
        );
        assert_eq!(connect(node, Protocol::Sctp), NOT_OURS);
        let mut socket = socket(Protocol::Udp);
        let mut call = SocketSimulator::new(&mut node.tables, &mut socket);
        assert_eq!(call.sendmsg(unknown).0, refused);
    }
}

#[test]
fn a_socket_that_goes_straight_to_an_endpoint_later_is_told_its_real_peer() {
    for v4 in FAMILIES {
        let node = &mut with_services(Protocol::Udp, v4, 5);
        let mut socket = socket(Protocol::Udp);
        let mut backends = Vec::new();
        for id in 0..5 {
            let frontend = at(Who::Vip, v4, 80 + id);
            backends.push(SocketSimulator::new(&mut node.tables, &mut socket).sendmsg(frontend).1);
        }
        for backend in backends {
            let mut call = SocketSimulator::new(&mut node.tables, &mut socket);
            assert_ne!(call.peer_of(backend), backend, "by way of its Service so far");
            assert_eq!(call.connect(backend), (NOT_OURS, backend));
            assert_eq!(call.peer_of(backend), backend);
        }
    }
}

#[test]
fn a_connected_udp_socket_is_noted_until_it_goes_elsewhere() {
    for v4 in FAMILIES {
        let node = &mut with_services(Protocol::Udp, v4, 1);
        let mut socket = socket(Protocol::Udp);
        let mut call = SocketSimulator::new(&mut node.tables, &mut socket);
        let (_, backend) = call.connect(at(Who::Vip, v4, 80));
        let noted = socket.connected.expect("noted");
        let held = node.tables.backends[noted.backend as usize];
        assert_eq!((held.port.get(), held.generation), (backend.port(), noted.generation));
        assert_eq!(SocketAddr::new(noted.address.ip(), noted.port.get()), backend);
        SocketSimulator::new(&mut node.tables, &mut socket).connect(at(Who::Outside, v4, 80));
        assert_eq!(socket.connected, None);
        let mut tcp = HostSocket::new(8, Protocol::Tcp, POD_NETNS);
        let node = &mut with_services(Protocol::Tcp, v4, 1);
        SocketSimulator::new(&mut node.tables, &mut tcp).connect(at(Who::Vip, v4, 80));
        assert_eq!(tcp.connected, None, "TCP stays with its backend");
    }
}

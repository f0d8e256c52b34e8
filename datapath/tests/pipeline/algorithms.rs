//! How a backend is chosen: the algorithms of a service's flags.

use crate::support::{FAMILIES, NODE_NETNS, Offer, UPLINK, Who, at, cluster_ip, node, segment, send};
use ferrogate_common::{Algorithm, FrontendKind, Protocol, Reason};
use ferrogate_datapath::host::{HostSocket, Program, Simulator, SocketSimulator, tcp};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A node with one load balancer's service and this many backends.
fn with(algorithm: Algorithm, v4: bool, backends: u16) -> Simulator {
    let mut node = node();
    let backends: Vec<SocketAddr> = (0..backends).map(|n| at(Who::LocalPod, v4, 8000 + n)).collect();
    Offer {
        kind: FrontendKind::LoadBalancer,
        flags: algorithm.bits(),
        ..cluster_ip(1, Protocol::Tcp, at(Who::Vip, v4, 80), &backends)
    }
    .put(&mut node);
    node
}

/// A new connection from a port; the port of its backend.
fn connect(node: &mut Simulator, v4: bool, client: SocketAddr) -> u16 {
    let syn = segment(Protocol::Tcp, client, at(Who::Vip, v4, 80), tcp::SYN);
    let sent = send(node, Program::UplinkIngress, UPLINK, &syn);
    assert_eq!(sent.verdict.reason(), Reason::NewFlow);
    sent.seen().destination.port()
}

/// How many of a thousand connections each backend got.
fn spread(node: &mut Simulator, v4: bool) -> BTreeMap<u16, u32> {
    let mut counts = BTreeMap::new();
    for port in 0..1000 {
        node.tables.clear_flows();
        *counts
            .entry(connect(node, v4, at(Who::Outside, v4, 10_000 + port)))
            .or_default() += 1;
    }
    counts
}

#[test]
fn random_and_maglev_spread_connections_and_round_robin_counts_them_out() {
    for v4 in FAMILIES {
        let exact = spread(&mut with(Algorithm::RoundRobin, v4, 5), v4);
        assert!(exact.values().all(|count| *count == 200), "{exact:?}");
        for algorithm in [Algorithm::Random, Algorithm::Maglev] {
            let counts = spread(&mut with(algorithm, v4, 5), v4);
            assert_eq!(counts.len(), 5);
            // Five standard deviations of a thousand fair draws.
            assert!(
                counts.values().all(|count| count.abs_diff(200) < 64),
                "{algorithm:?} {counts:?}"
            );
        }
    }
}

#[test]
fn maglev_gives_a_connection_the_same_backend_on_every_node_and_source_hash_a_client() {
    for v4 in FAMILIES {
        let (one, other) = (&mut with(Algorithm::Maglev, v4, 7), &mut with(Algorithm::Maglev, v4, 7));
        other.tables.cursors[1] = 5;
        other.tables.random = 77;
        for port in 0..100 {
            let client = at(Who::Outside, v4, 20_000 + port);
            assert_eq!(connect(one, v4, client), connect(other, v4, client));
        }
        let by_source = &mut with(Algorithm::SourceHash, v4, 7);
        let first = connect(by_source, v4, at(Who::Outside, v4, 1));
        for port in 0..100 {
            assert_eq!(connect(by_source, v4, at(Who::Outside, v4, 20_000 + port)), first);
        }
    }
}

#[test]
fn least_connections_goes_to_the_backend_with_the_fewest_and_counts_the_end_of_each_once() {
    for v4 in FAMILIES {
        let node = &mut with(Algorithm::LeastConnections, v4, 3);
        // Slots and backends of service 1 are 16 and up.
        let active = |node: &Simulator| [16, 17, 18].map(|id| node.tables.active[id]);
        let clients: Vec<SocketAddr> = (0..9).map(|n| at(Who::Outside, v4, 30_000 + n)).collect();
        let given: Vec<u16> = clients.iter().map(|client| connect(node, v4, *client)).collect();
        assert_eq!(active(node), [3, 3, 3]);
        // All of one backend's end, seen from both sides.
        for (client, _) in clients.iter().zip(&given).filter(|(_, port)| **port == 8001) {
            for flags in [tcp::ACK, tcp::FIN | tcp::ACK, tcp::FIN | tcp::ACK] {
                let packet = segment(Protocol::Tcp, *client, at(Who::Vip, v4, 80), flags);
                send(node, Program::UplinkIngress, UPLINK, &packet);
                let reply = segment(Protocol::Tcp, at(Who::LocalPod, v4, 8001), *client, flags);
                send(node, Program::UplinkEgress, UPLINK, &reply);
            }
        }
        assert_eq!(active(node), [3, 0, 3]);
        for port in 0..3 {
            assert_eq!(connect(node, v4, at(Who::Outside, v4, 40_000 + port)), 8001);
        }
        assert_eq!(active(node), [3, 3, 3]);
    }
}

#[test]
fn the_end_of_a_connection_to_a_former_backend_is_not_counted_for_the_next_one() {
    let node = &mut with(Algorithm::LeastConnections, true, 1);
    let (client, vip) = (at(Who::Outside, true, 40_000), at(Who::Vip, true, 80));
    connect(node, true, client);
    node.tables.backends[16].generation = 2;
    node.tables.active[16] = 5;
    let fin = segment(Protocol::Tcp, client, vip, tcp::FIN | tcp::ACK);
    assert_eq!(
        send(node, Program::UplinkIngress, UPLINK, &fin).verdict.reason(),
        Reason::Translated
    );
    assert_eq!(node.tables.active[16], 5);
}

#[test]
fn sockets_get_a_backend_by_every_algorithm() {
    for algorithm in Algorithm::ALL {
        let node = &mut with(algorithm, true, 4);
        let mut counts: BTreeMap<SocketAddr, u32> = BTreeMap::new();
        for cookie in 0..400 {
            let mut socket = HostSocket::new(cookie, Protocol::Tcp, NODE_NETNS);
            let (_, peer) = SocketSimulator::new(&mut node.tables, &mut socket).connect(at(Who::Vip, true, 80));
            *counts.entry(peer).or_default() += 1;
        }
        let backends = if algorithm == Algorithm::SourceHash { 1 } else { 4 };
        assert_eq!(counts.len(), backends, "{algorithm:?}: {counts:?}");
    }
}

//! sessionAffinity ClientIP.

use crate::support::{FAMILIES, NODE_NETNS, Offer, POD, POD_NETNS, UPLINK, Who, at, cluster_ip, node, segment, send};
use ferrogate_common::{FrontendKind, Protocol, TICK_SHIFT, backend_flags, config_flags, service_flags};
use ferrogate_datapath::host::{HostSocket, Program, Simulator, SocketSimulator, tcp};
use std::collections::BTreeSet;
use std::net::SocketAddr;

const TIMEOUT_SECONDS: u32 = 10;
const SERVICE: u32 = 1;

/// Three backends, by the service's ClusterIP and its NodePort.
fn with_affinity(v4: bool) -> Simulator {
    let mut node = node();
    let backends = [8080, 8081, 8082].map(|port| at(Who::LocalPod, v4, port));
    let by_cluster_ip = Offer {
        flags: TIMEOUT_SECONDS << service_flags::AFFINITY_SHIFT | service_flags::NEEDS_CLIENT,
        ..cluster_ip(SERVICE, Protocol::Tcp, at(Who::Vip, v4, 80), &backends)
    };
    by_cluster_ip.put(&mut node);
    let by_node_port = Offer {
        kind: FrontendKind::NodePort,
        frontend: at(Who::Node, v4, 30_080),
        ..by_cluster_ip
    };
    by_node_port.put(&mut node);
    node
}

/// Where a new connection goes.
fn connect(node: &mut Simulator, from: Who, to: SocketAddr, port: u16) -> SocketAddr {
    let (program, ifindex) = if from == Who::Outside {
        (Program::UplinkIngress, UPLINK)
    } else {
        (Program::PodIngress, POD)
    };
    let syn = segment(Protocol::Tcp, at(from, to.is_ipv4(), port), to, tcp::SYN);
    send(node, program, ifindex, &syn).seen().destination
}

fn seconds(count: u32) -> u32 {
    (u64::from(count) * 1_000_000_000).div_ceil(1 << TICK_SHIFT) as u32
}

#[test]
fn a_client_keeps_its_backend_and_others_have_theirs() {
    for v4 in FAMILIES {
        let node = &mut with_affinity(v4);
        let vip = at(Who::Vip, v4, 80);
        let of = |node: &mut Simulator, who| -> BTreeSet<SocketAddr> {
            (0..50).map(|n| connect(node, who, vip, 40_000 + n)).collect()
        };
        let (one, other) = (of(node, Who::Pod), of(node, Who::RemotePod));
        assert_eq!((one.len(), other.len()), (1, 1), "{}", node.tables);
        assert_ne!(one, other, "the next client has the next backend");
    }
}

#[test]
fn every_address_of_a_service_leads_to_the_same_backend() {
    for v4 in FAMILIES {
        let node = &mut with_affinity(v4);
        let first = connect(node, Who::Pod, at(Who::Vip, v4, 80), 40_000);
        assert_eq!(connect(node, Who::Pod, at(Who::Node, v4, 30_080), 40_001), first);
    }
}

#[test]
fn affinity_ends_its_timeout_after_the_last_connection() {
    for v4 in FAMILIES {
        let node = &mut with_affinity(v4);
        let vip = at(Who::Node, v4, 30_080);
        let first = connect(node, Who::Outside, vip, 40_000);
        // Each connection counts anew.
        for n in 1..4 {
            node.ticks += seconds(TIMEOUT_SECONDS - 2);
            assert_eq!(connect(node, Who::Outside, vip, 40_000 + n), first);
        }
        node.ticks += seconds(TIMEOUT_SECONDS + 1);
        assert_ne!(connect(node, Who::Outside, vip, 40_010), first);
    }
}

#[test]
fn a_backend_that_is_gone_is_replaced_and_the_new_one_kept() {
    for v4 in FAMILIES {
        let node = &mut with_affinity(v4);
        let vip = at(Who::Vip, v4, 80);
        let first = connect(node, Who::Pod, vip, 40_000);
        let gone = node
            .tables
            .backends
            .iter_mut()
            .find(|one| one.generation != 0 && one.port.get() == first.port());
        gone.unwrap().generation = 0;
        let base = SERVICE * 16;
        let left: Vec<u32> = (base..base + 3)
            .filter(|id| node.tables.backends[*id as usize].generation != 0)
            .collect();
        for (slot, id) in (base..).zip(&left) {
            node.tables.slots[slot as usize] = *id;
        }
        let range = ferrogate_common::SlotRange {
            base,
            cluster: 2,
            local: 0,
        };
        node.tables.services[SERVICE as usize].range = range.pack();
        let second = connect(node, Who::Pod, vip, 40_001);
        assert_ne!(second, first);
        assert_eq!(connect(node, Who::Pod, vip, 40_002), second);
    }
}

/// A new connection at the socket edge.
fn call(node: &mut Simulator, netns: u64, to: SocketAddr) -> SocketAddr {
    let mut socket = HostSocket::new(7, Protocol::Tcp, netns);
    SocketSimulator::new(&mut node.tables, &mut socket).connect(to).1
}

#[test]
fn without_a_pod_edge_a_pod_is_its_network_namespace() {
    for v4 in FAMILIES {
        let node = &mut with_affinity(v4);
        let vip = at(Who::Vip, v4, 80);
        let of =
            |node: &mut Simulator, netns| -> BTreeSet<SocketAddr> { (0..20).map(|_| call(node, netns, vip)).collect() };
        let (one, other) = (of(node, 11), of(node, 12));
        assert_eq!((one.len(), other.len()), (1, 1));
        assert_ne!(one, other);
    }
}

#[test]
fn affinity_to_an_endpoint_of_the_local_set_alone_does_not_bind_clients_of_the_cluster_set() {
    for v4 in FAMILIES {
        let node = &mut with_affinity(v4);
        let vip = at(Who::Vip, v4, 80);
        let first = connect(node, Who::Pod, vip, 40_000);
        let base = SERVICE * 16;
        let (marked, others): (Vec<u32>, Vec<u32>) =
            (base..base + 3).partition(|id| node.tables.backends[*id as usize].port.get() == first.port());
        node.tables.backends[marked[0] as usize].flags |= backend_flags::LOCAL_ONLY;
        for (slot, id) in (base..).zip(others) {
            node.tables.slots[slot as usize] = id;
        }
        let range = ferrogate_common::SlotRange {
            base,
            cluster: 2,
            local: 0,
        };
        node.tables.services[SERVICE as usize].range = range.pack();
        let second = connect(node, Who::Pod, vip, 40_001);
        assert_ne!(second, first);
        assert_eq!(connect(node, Who::Pod, vip, 40_002), second);
    }
}

#[test]
fn with_a_pod_edge_a_pod_is_left_to_it_and_so_has_one_backend() {
    for v4 in FAMILIES {
        let node = &mut with_affinity(v4);
        node.tables.config.flags = config_flags::POD_EDGE;
        for to in [at(Who::Vip, v4, 80), at(Who::Node, v4, 30_080)] {
            assert_eq!(call(node, POD_NETNS, to), to);
        }
    }
}

#[test]
fn a_process_of_the_node_has_one_backend_whichever_edge_it_meets() {
    for v4 in FAMILIES {
        let node = &mut with_affinity(v4);
        node.tables.config.flags = config_flags::POD_EDGE;
        let vip = at(Who::Vip, v4, 80);
        let first = call(node, NODE_NETNS, at(Who::Node, v4, 30_080));
        let syn = segment(Protocol::Tcp, at(Who::Node, v4, 41_000), vip, tcp::SYN);
        let sent = send(node, Program::UplinkEgress, UPLINK, &syn);
        assert_eq!(sent.seen().destination, first);
    }
}

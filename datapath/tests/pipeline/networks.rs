//! What is decided by the networks that addresses are in: source ranges, ServiceCIDRs, the cluster's own networks.

use crate::support::{
    FAMILIES, NODE_NETNS, Offer, POD, POD_NETNS, UPLINK, Who, at, cluster_ip, ip, node, segment, send,
};
use ferrogate_common::{Address, Frontend};
use ferrogate_common::{FrontendKey, FrontendKind, Network, NetworkKey, Protocol, Reason, config_flags, service_flags};
use ferrogate_datapath::Verdict;
use ferrogate_datapath::host::{HostSocket, Program, Simulator, SocketSimulator, tcp};

/// A node with a load balancer's address and a NodePort of one service, whose source ranges are these addresses alone.
fn guarded(v4: bool, flags: u32, ranges: &[Who]) -> Simulator {
    let mut node = node();
    let backend = [at(Who::LocalPod, v4, 8080)];
    for (kind, frontend) in [
        (FrontendKind::LoadBalancer, at(Who::Vip, v4, 80)),
        (FrontendKind::NodePort, at(Who::Node, v4, 30_080)),
        (FrontendKind::ClusterIp, at(Who::OtherVip, v4, 80)),
    ] {
        Offer {
            kind,
            flags: flags | service_flags::SOURCE_RANGES,
            ..cluster_ip(1, Protocol::Tcp, frontend, &backend)
        }
        .put(&mut node);
    }
    for who in ranges {
        let key = NetworkKey::new(1, ip(*who, v4).into(), 128);
        node.tables.networks.insert(key);
        // Another service's say nothing here.
        let other = NetworkKey::new(2, ip(Who::Outside, v4).into(), 128);
        node.tables.networks.insert(other);
    }
    node
}

#[test]
fn a_load_balancer_address_answers_its_source_ranges_and_all_others_are_dropped() {
    let passed = Verdict::Pass(Reason::NewFlow);
    let dropped = Verdict::Drop(Reason::SourceRange);
    for v4 in FAMILIES {
        for (ranges, outside, pod) in [
            (&[Who::Outside][..], passed, dropped),
            (&[Who::Pod], dropped, passed),
            (&[Who::Node], dropped, dropped),
        ] {
            let node = &mut guarded(v4, 0, ranges);
            for (who, program, ifindex, expected) in [
                (Who::Outside, Program::UplinkIngress, UPLINK, outside),
                (Who::Outside, Program::UplinkXdp, UPLINK, outside),
                (Who::Pod, Program::PodIngress, POD, pod),
            ] {
                node.tables.clear_flows();
                let syn = segment(Protocol::Tcp, at(who, v4, 40_000), at(Who::Vip, v4, 80), tcp::SYN);
                assert_eq!(
                    send(node, program, ifindex, &syn).verdict,
                    expected,
                    "{ranges:?} {who:?}"
                );
            }
        }
    }
}

#[test]
fn source_ranges_come_before_everything_else_and_bind_no_other_kind_of_address() {
    for v4 in FAMILIES {
        let node = &mut guarded(v4, 0, &[Who::Pod]);
        let client = at(Who::Outside, v4, 40_000);
        let ack = segment(Protocol::Tcp, client, at(Who::Vip, v4, 80), tcp::ACK);
        let sent = send(node, Program::UplinkIngress, UPLINK, &ack);
        assert_eq!(sent.verdict, Verdict::Drop(Reason::SourceRange), "not even a reset");
        node.tables.services[1].range = 0;
        let syn = segment(Protocol::Tcp, client, at(Who::Vip, v4, 80), tcp::SYN);
        let sent = send(node, Program::UplinkIngress, UPLINK, &syn);
        assert_eq!(sent.verdict, Verdict::Drop(Reason::SourceRange), "not even refused");

        let node = &mut guarded(v4, 0, &[Who::Pod]);
        let to_node = segment(Protocol::Tcp, client, at(Who::Node, v4, 30_080), tcp::SYN);
        let sent = send(node, Program::UplinkIngress, UPLINK, &to_node);
        assert_eq!(sent.verdict, Verdict::Pass(Reason::NewFlow));
        let to_cluster_ip = segment(
            Protocol::Tcp,
            at(Who::LocalPod, v4, 40_000),
            at(Who::OtherVip, v4, 80),
            tcp::SYN,
        );
        let sent = send(node, Program::PodIngress, POD, &to_cluster_ip);
        assert_eq!(sent.verdict, Verdict::Bounce(Reason::NewFlow));
    }
}

#[test]
fn a_connection_that_was_let_in_lives_on_when_its_range_goes() {
    let node = &mut guarded(true, 0, &[Who::Outside]);
    let (client, vip) = (at(Who::Outside, true, 40_000), at(Who::Vip, true, 80));
    let syn = segment(Protocol::Tcp, client, vip, tcp::SYN);
    assert_eq!(
        send(node, Program::UplinkIngress, UPLINK, &syn).verdict.reason(),
        Reason::NewFlow
    );
    node.tables.networks.clear();
    let ack = segment(Protocol::Tcp, client, vip, tcp::ACK);
    assert_eq!(
        send(node, Program::UplinkIngress, UPLINK, &ack).verdict.reason(),
        Reason::Translated
    );
}

#[test]
fn the_socket_edge_judges_the_node_by_its_own_address_and_leaves_pods_to_the_packets() {
    let left = ferrogate_datapath::SocketVerdict::Proceed(Reason::NotService);
    let translated = ferrogate_datapath::SocketVerdict::Proceed(Reason::SocketTranslated);
    for v4 in FAMILIES {
        for (flags, of_node, expected) in [
            (service_flags::NODE_ALLOWED, true, translated),
            (service_flags::NODE_ALLOWED, false, left),
            (0, true, left),
            (0, false, left),
        ] {
            let node = &mut guarded(v4, flags, &[Who::Node]);
            let netns = if of_node { NODE_NETNS } else { POD_NETNS };
            let mut socket = HostSocket::new(7, Protocol::Tcp, netns);
            let (verdict, _) = SocketSimulator::new(&mut node.tables, &mut socket).connect(at(Who::Vip, v4, 80));
            assert_eq!(verdict, expected);
            let mut socket = HostSocket::new(8, Protocol::Tcp, netns);
            let (verdict, _) = SocketSimulator::new(&mut node.tables, &mut socket).connect(at(Who::OtherVip, v4, 80));
            assert_eq!(verdict, translated, "the ClusterIP is open");
        }
    }
}

#[test]
fn an_address_of_a_service_cidr_that_no_service_has_is_dropped_and_nothing_else() {
    for v4 in FAMILIES {
        let node = &mut node();
        let known: Address = ip(Who::Vip, v4).into();
        // IPv4: a /24.
        node.tables.service_cidrs.networks[3] = Network::new(known, 120);
        cluster_ip(1, Protocol::Tcp, at(Who::Vip, v4, 80), &[at(Who::LocalPod, v4, 8080)]).put(node);
        let key = FrontendKey::address_alone(known);
        node.tables
            .frontends
            .insert(key, Frontend::new(1, FrontendKind::Address));
        let to = |who, port, protocol, flags| segment(protocol, at(Who::Pod, v4, 40_000), at(who, v4, port), flags);
        let unknown = Verdict::Drop(Reason::UnknownClusterIp);
        let nothing = Verdict::Pass(Reason::NotService);
        for (packet, expected) in [
            (to(Who::OtherVip, 80, Protocol::Tcp, tcp::SYN), unknown),
            (to(Who::OtherVip, 80, Protocol::Udp, 0), unknown),
            // Part of a connection that was there before.
            (to(Who::OtherVip, 80, Protocol::Tcp, tcp::ACK), nothing),
            (to(Who::RemotePod, 80, Protocol::Udp, 0), nothing),
            (
                to(Who::Vip, 80, Protocol::Tcp, tcp::SYN),
                Verdict::Pass(Reason::NewFlow),
            ),
            (
                to(Who::Vip, 81, Protocol::Tcp, tcp::SYN),
                Verdict::Bounce(Reason::NoSuchPort),
            ),
        ] {
            assert_eq!(
                send(node, Program::PodIngress, POD, &packet).verdict,
                expected,
                "{packet:?}"
            );
        }
        let from_outside = segment(
            Protocol::Udp,
            at(Who::Outside, v4, 40_000),
            at(Who::OtherVip, v4, 80),
            0,
        );
        assert_eq!(
            send(node, Program::UplinkIngress, UPLINK, &from_outside).verdict,
            unknown
        );
        let from_node = segment(Protocol::Udp, at(Who::Node, v4, 40_000), at(Who::OtherVip, v4, 80), 0);
        assert_eq!(send(node, Program::UplinkEgress, UPLINK, &from_node).verdict, unknown);
        // An address of the node itself, and one that a local DNS cache answers.
        node.tables.node_addresses.insert(ip(Who::OtherVip, v4).into());
        assert_eq!(
            send(node, Program::UplinkIngress, UPLINK, &from_outside).verdict,
            nothing
        );
        node.tables.node_addresses.clear();
        let key = FrontendKey::address_alone(ip(Who::OtherVip, v4).into());
        node.tables
            .frontends
            .insert(key, Frontend::new(1, FrontendKind::Foreign));
        assert_eq!(
            send(node, Program::UplinkIngress, UPLINK, &from_outside).verdict,
            nothing
        );
    }
}

#[test]
fn an_address_that_is_only_known_as_a_load_balancer_s_refuses_nothing() {
    let node = &mut node();
    let key = FrontendKey::address_alone(ip(Who::Vip, true).into());
    node.tables.frontends.insert(key, Frontend::new(1, FrontendKind::Vip));
    let syn = segment(
        Protocol::Tcp,
        at(Who::Pod, true, 40_000),
        at(Who::Vip, true, 81),
        tcp::SYN,
    );
    assert_eq!(
        send(node, Program::PodIngress, POD, &syn).verdict,
        Verdict::Pass(Reason::NotService)
    );
    let mut socket = HostSocket::new(7, Protocol::Tcp, POD_NETNS);
    let (verdict, _) = SocketSimulator::new(&mut node.tables, &mut socket).connect(at(Who::Vip, true, 81));
    assert_eq!(verdict, ferrogate_datapath::SocketVerdict::Proceed(Reason::NotService));
}

#[test]
fn a_client_of_the_cluster_s_networks_is_inside_wherever_it_is_met() {
    for v4 in FAMILIES {
        let node = &mut node();
        let (local, remote) = ([at(Who::LocalPod, v4, 8080)], [at(Who::RemotePod, v4, 8080)]);
        cluster_ip(1, Protocol::Tcp, at(Who::Vip, v4, 80), &local).put(node);
        Offer {
            kind: FrontendKind::NodePort,
            flags: service_flags::EXTERNAL_LOCAL,
            ..cluster_ip(2, Protocol::Tcp, at(Who::Node, v4, 30_080), &remote)
        }
        .put(node);
        let to_cluster_ip = segment(
            Protocol::Tcp,
            at(Who::Outside, v4, 40_000),
            at(Who::Vip, v4, 80),
            tcp::SYN,
        );
        let to_node_port = segment(
            Protocol::Tcp,
            at(Who::Outside, v4, 40_000),
            at(Who::Node, v4, 30_080),
            tcp::SYN,
        );
        let ask = |node: &mut Simulator| {
            node.tables.clear_flows();
            [&to_cluster_ip, &to_node_port].map(|packet| send(node, Program::UplinkIngress, UPLINK, packet).verdict)
        };
        let outside = [
            Verdict::Drop(Reason::ExternalClusterIp),
            Verdict::Drop(Reason::NoLocalEndpoints),
        ];
        let inside = [Verdict::Pass(Reason::NewFlow), Verdict::Forward(Reason::NewFlow)];
        let network = NetworkKey::new(NetworkKey::CLUSTER, ip(Who::Outside, v4).into(), 128);
        node.tables.networks.insert(network);
        assert_eq!(ask(node), outside, "without the flag nothing is looked up");
        node.tables.config.flags = config_flags::CLUSTER_CIDRS;
        assert_eq!(ask(node), inside);
        // Its address is kept, also where other clients' are not.
        node.tables.config.flags |= config_flags::SNAT_ALWAYS;
        assert_eq!(ask(node), inside);
        node.tables.networks.clear();
        assert_eq!(ask(node), outside);
    }
}

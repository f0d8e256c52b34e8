//! Which clients a frontend answers, and with which backends.

use crate::support::{FAMILIES, Offer, POD, UPLINK, Who, at, cluster_ip, node, segment, send};
use ferrogate_common::{FrontendKind, Protocol, Reason, config_flags, service_flags};
use ferrogate_datapath::Verdict;
use ferrogate_datapath::host::{Program, tcp};

#[test]
fn a_node_port_answers_in_the_families_that_have_one_and_on_addresses_of_the_node_only() {
    let offer = |v4| Offer {
        kind: FrontendKind::NodePort,
        ..cluster_ip(1, Protocol::Udp, at(Who::Node, v4, 30_080), &[])
    };
    for with in FAMILIES {
        for asked in FAMILIES {
            let node = &mut node();
            let backend = [at(Who::LocalPod, with, 8080)];
            Offer {
                cluster: &backend,
                ..offer(with)
            }
            .put(node);
            let cases = [
                (at(Who::Node, asked, 30_080), with == asked),
                (at(Who::Node, asked, 30_081), false),
                (at(Who::RemotePod, asked, 30_080), false),
            ];
            for (frontend, answered) in cases {
                let packet = segment(Protocol::Udp, at(Who::Outside, asked, 40_000), frontend, 0);
                let sent = send(node, Program::UplinkIngress, UPLINK, &packet);
                let expected = if answered { Reason::NewFlow } else { Reason::NotService };
                assert_eq!(sent.verdict, Verdict::Pass(expected), "{with} {asked} {frontend}");
            }
        }
    }
}

#[test]
fn traffic_policies_choose_the_set_and_what_becomes_of_clients_without_one() {
    use FrontendKind::{ClusterIp, LoadBalancer, NodePort};
    const INTERNAL: u32 = service_flags::INTERNAL_LOCAL;
    const EXTERNAL: u32 = service_flags::EXTERNAL_LOCAL;
    /// Kind, policies, whether the client is a pod, whether there is a local backend, and who gets the packet or why nobody.
    type Case = (FrontendKind, u32, bool, bool, Result<Who, Reason>);
    #[rustfmt::skip]
    const CASES: [Case; 14] = [
        (ClusterIp, 0, true, true, Ok(Who::RemotePod)),
        (ClusterIp, INTERNAL, true, true, Ok(Who::LocalPod)),
        (ClusterIp, INTERNAL, true, false, Err(Reason::NoLocalEndpoints)),
        (ClusterIp, EXTERNAL, true, false, Ok(Who::RemotePod)),
        (ClusterIp, 0, false, true, Err(Reason::ExternalClusterIp)),
        (NodePort, 0, false, true, Ok(Who::RemotePod)),
        (NodePort, EXTERNAL, false, true, Ok(Who::LocalPod)),
        (NodePort, EXTERNAL, false, false, Err(Reason::NoLocalEndpoints)),
        (NodePort, EXTERNAL, true, true, Ok(Who::RemotePod)),
        (NodePort, INTERNAL, false, true, Ok(Who::RemotePod)),
        (LoadBalancer, 0, false, true, Ok(Who::RemotePod)),
        (LoadBalancer, EXTERNAL, false, true, Ok(Who::LocalPod)),
        (LoadBalancer, EXTERNAL, false, false, Err(Reason::NoLocalEndpoints)),
        (LoadBalancer, EXTERNAL, true, false, Ok(Who::RemotePod)),
    ];
    for v4 in FAMILIES {
        for case in CASES {
            let (kind, flags, inside, with_local, expected) = case;
            let node = &mut node();
            let (cluster, local) = ([at(Who::RemotePod, v4, 8080)], [at(Who::LocalPod, v4, 8080)]);
            let frontend = at(if kind == NodePort { Who::Node } else { Who::Vip }, v4, 30_080);
            Offer {
                kind,
                flags,
                local: if with_local { &local } else { &[] },
                ..cluster_ip(1, Protocol::Tcp, frontend, &cluster)
            }
            .put(node);
            let (program, ifindex, client) = if inside {
                (Program::PodIngress, POD, Who::Pod)
            } else {
                (Program::UplinkIngress, UPLINK, Who::Outside)
            };
            let packet = segment(Protocol::Tcp, at(client, v4, 40_000), frontend, tcp::SYN);
            let sent = send(node, program, ifindex, &packet);
            match expected {
                Ok(who) => {
                    let seen = sent.seen();
                    assert_eq!(seen.destination, at(who, v4, 8080), "{case:?}");
                    if flags & EXTERNAL != 0 && who == Who::LocalPod {
                        assert_eq!(seen.source, packet.source, "policy Local keeps the client's address");
                    }
                }
                Err(reason) => assert_eq!(sent.verdict, Verdict::Drop(reason), "{case:?}"),
            }
        }
    }
}

#[test]
fn options_of_the_node_open_cluster_ips_and_masquerade_clients() {
    for v4 in FAMILIES {
        let node = &mut node();
        let local = [at(Who::LocalPod, v4, 8080)];
        cluster_ip(1, Protocol::Tcp, at(Who::Vip, v4, 80), &local).put(node);
        let packet = |port| {
            segment(
                Protocol::Tcp,
                at(Who::Outside, v4, port),
                at(Who::Vip, v4, 80),
                tcp::SYN,
            )
        };
        let sent = send(node, Program::UplinkIngress, UPLINK, &packet(1));
        assert_eq!(sent.verdict, Verdict::Drop(Reason::ExternalClusterIp));
        node.tables.config.flags = config_flags::EXTERNAL_CLUSTER_IP;
        let sent = send(node, Program::UplinkIngress, UPLINK, &packet(2));
        assert_eq!(sent.seen().source, at(Who::Outside, v4, 2));
        node.tables.config.flags |= config_flags::SNAT_ALWAYS;
        let sent = send(node, Program::UplinkIngress, UPLINK, &packet(3));
        assert_eq!(sent.seen().source.ip(), at(Who::Node, v4, 0).ip());
    }
}

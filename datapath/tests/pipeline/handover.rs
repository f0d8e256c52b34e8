//! Nodes on their way from another proxy to this one, and back.

use crate::support::{FAMILIES, POD, WITH_CONNECTIONS, Who, at, cluster_ip, node, segment, send};
use ferrogate_common::{Protocol, Reason, config_flags};
use ferrogate_datapath::Verdict;
use ferrogate_datapath::host::{Program, Simulator, tcp};

fn node_with_a_service(protocol: Protocol, v4: bool) -> Simulator {
    let mut node = node();
    let backends = [at(Who::RemotePod, v4, 8080), at(Who::LocalPod, v4, 8080)];
    cluster_ip(1, protocol, at(Who::Vip, v4, 80), &backends).put(&mut node);
    node
}

/// What becomes of a packet from this port of the pod to the Service.
fn reason(node: &mut Simulator, protocol: Protocol, v4: bool, port: u16, flags: u8) -> Verdict {
    let packet = segment(protocol, at(Who::Pod, v4, port), at(Who::Vip, v4, 80), flags);
    send(node, Program::PodIngress, POD, &packet).verdict
}

#[test]
fn while_a_node_is_taken_over_connections_of_the_other_proxy_are_left_to_the_kernel() {
    for v4 in FAMILIES {
        for protocol in WITH_CONNECTIONS {
            let node = &mut node_with_a_service(protocol, v4);
            node.tables.config.flags |= config_flags::TAKE_OVER;
            let begun = reason(node, protocol, v4, 40_000, tcp::ACK);
            assert_eq!(begun, Verdict::Pass(Reason::LeftToKernel));
            let new = reason(node, protocol, v4, 40_000, tcp::SYN);
            assert_eq!(new.reason(), Reason::NewFlow, "what begins is ours");
        }
    }
}

#[test]
fn a_node_that_is_handed_over_keeps_its_flows_and_makes_none() {
    for v4 in FAMILIES {
        for protocol in WITH_CONNECTIONS {
            let node = &mut node_with_a_service(protocol, v4);
            reason(node, protocol, v4, 40_000, tcp::SYN);
            node.tables.config.flags |= config_flags::HAND_OVER;
            let kept = reason(node, protocol, v4, 40_000, tcp::ACK);
            assert_eq!(kept.reason(), Reason::Translated);
            for flags in [tcp::SYN, tcp::ACK] {
                let left = reason(node, protocol, v4, 40_001, flags);
                assert_eq!(left, Verdict::Pass(Reason::LeftToKernel));
            }
        }
    }
}

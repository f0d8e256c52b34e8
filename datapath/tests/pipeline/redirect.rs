//! `--forwarding redirect`: packets go past the host's stack, both ways or neither.

use crate::paths::{PATHS, Path, Way, assert_way, offering};
use crate::second::pass;
use crate::support::{FAMILIES, PAIR, PROTOCOLS, UPLINK, WITH_CONNECTIONS, Who, at, cluster_ip, ip, segment, send};
use crate::wire::{Seen, What};
use ferrogate_common::{Protocol, Reason, flow_flags, interface_flags};
use ferrogate_datapath::Verdict;
use ferrogate_datapath::host::{Program, Segment, Simulator, tcp};

/// Those whose requests go past the stack.
fn paths() -> impl Iterator<Item = &'static Path> {
    PATHS.iter().filter(|path| path.request.2 == Way::Peer)
}

fn every_case(mut check: impl FnMut(&Path, Protocol, bool, &mut Simulator)) {
    let mut cases = 0;
    for path in paths() {
        for v4 in FAMILIES {
            for protocol in PROTOCOLS {
                check(path, protocol, v4, &mut offering(path, protocol, v4));
                cases += 1;
            }
        }
    }
    assert!(cases > 0);
}

fn request(path: &Path, protocol: Protocol, v4: bool, flags: u8) -> Segment {
    segment(
        protocol,
        at(path.client, v4, 40_000),
        at(path.frontend, v4, 30_080),
        flags,
    )
}

fn answer(path: &Path, protocol: Protocol, v4: bool, flags: u8) -> Segment {
    segment(protocol, at(path.backend, v4, 8080), at(path.client, v4, 40_000), flags)
}

/// Sends a request and its answer, and checks which way they go.
#[track_caller]
fn exchange(node: &mut Simulator, path: &Path, protocol: Protocol, v4: bool, past: bool, flags: u8) {
    let about = format!("{} {protocol} v4 {v4}", path.name);
    let sent = send(
        node,
        path.request.0,
        path.request.1,
        &request(path, protocol, v4, flags),
    );
    assert_way(&sent, if past { Way::Peer } else { Way::Pass }, &about);
    assert_eq!(sent.seen().destination, at(path.backend, v4, 8080), "{about}");
    let reply = answer(path, protocol, v4, flags | tcp::ACK);
    let back = send(node, path.reply.0, path.reply.1, &reply);
    if past {
        assert_way(&back, Way::Forward, &about);
        assert_eq!(back.seen().source, at(path.frontend, v4, 30_080), "{about}");
    } else {
        assert_eq!(back.verdict, Verdict::Pass(Reason::NotService), "{about}");
        assert_eq!(
            back.bytes,
            reply.ethernet(),
            "{about}: to be translated where it leaves"
        );
    }
}

#[test]
fn a_packet_is_addressed_to_the_pod_itself() {
    every_case(|path, protocol, v4, node| {
        let sent = send(
            node,
            path.request.0,
            path.request.1,
            &request(path, protocol, v4, tcp::SYN),
        );
        assert_eq!(sent.bytes[..6], [2, 0, 0, 0, 2, PAIR as u8], "the pod's");
        assert_eq!(sent.bytes[6..12], [2, 0, 0, 0, 1, PAIR as u8], "the node's");
    });
}

#[test]
fn where_it_is_off_both_ways_lead_through_the_stack_and_flows_go_on_when_it_changes() {
    every_case(|path, protocol, v4, node| {
        for (past, flags) in [(false, tcp::SYN), (false, tcp::ACK)] {
            node.tables.is_redirect = past;
            exchange(node, path, protocol, v4, past, flags);
        }
        // What has begun in the stack stays there.
        node.tables.is_redirect = true;
        exchange(node, path, protocol, v4, false, tcp::ACK);
    });
    every_case(|path, protocol, v4, node| {
        exchange(node, path, protocol, v4, true, tcp::SYN);
        exchange(node, path, protocol, v4, true, tcp::ACK);
        node.tables.is_redirect = false;
        exchange(node, path, protocol, v4, false, tcp::ACK);
        node.tables.is_redirect = true;
        exchange(node, path, protocol, v4, true, tcp::ACK);
    });
}

#[test]
fn without_another_end_to_hand_packets_to_both_ways_lead_through_the_stack() {
    every_case(|path, protocol, v4, node| {
        let interface = node.tables.interfaces.get_mut(&PAIR).expect("a device");
        interface.flags &= !interface_flags::PEER;
        exchange(node, path, protocol, v4, false, tcp::SYN);
        exchange(node, path, protocol, v4, false, tcp::ACK);
    });
}

#[test]
fn the_stack_gets_what_waits_for_a_neighbour() {
    every_case(|path, protocol, v4, node| {
        let neighbour = (PAIR, ip(path.backend, v4).into());
        let mac = node.fib.neighbours.remove(&neighbour).expect("a neighbour");
        let sent = send(
            node,
            path.request.0,
            path.request.1,
            &request(path, protocol, v4, tcp::SYN),
        );
        assert_eq!(sent.verdict, Verdict::Pass(Reason::NewFlow));
        assert_eq!(sent.seen().hop_limit, 64, "the stack counts its hop");
        node.fib.neighbours.insert(neighbour, mac);
        exchange(node, path, protocol, v4, true, tcp::SYN);
        assert_eq!(node.tables.connections[1], 1, "one flow");
    });
}

#[test]
fn xdp_leaves_them_to_tcx() {
    for v4 in FAMILIES {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let path = paths().find(|path| path.client == Who::Outside).expect("one");
            let node = &mut offering(path, protocol, v4);
            for flags in [tcp::SYN, tcp::ACK] {
                let packet = request(path, protocol, v4, flags);
                let left = send(node, Program::UplinkXdp, UPLINK, &packet);
                assert_eq!(left.verdict, Verdict::Pass(Reason::LeftToTcx));
                assert_eq!(left.bytes, packet.ethernet());
                exchange(node, path, protocol, v4, true, flags);
            }
            assert_eq!(node.tables.connections[1], 1, "one flow");
        }
    }
}

#[test]
fn what_is_too_long_or_has_gone_too_far_is_answered_as_a_router_does() {
    every_case(|path, protocol, v4, node| {
        exchange(node, path, protocol, v4, true, tcp::SYN);
        let (program, ifindex, _) = path.request;
        let mut old = request(path, protocol, v4, tcp::ACK);
        old.hop_limit = 1;
        let told = pass(node, program, ifindex, &old.ip());
        assert_eq!(told.verdict, Verdict::Bounce(Reason::HopLimit));
        let mut long = request(path, protocol, v4, tcp::ACK);
        long.payload = vec![7; 1400];
        node.fib.devices.get_mut(&PAIR).expect("a device").mtu = 1300;
        let told = pass(node, program, ifindex, &long.ip());
        assert_eq!(told.verdict, Verdict::Bounce(Reason::TooBig));
        let What::Icmp { .. } = told.seen().what else {
            panic!("{:?}", told.seen());
        };
    });
}

#[test]
fn two_frontends_of_one_backend_and_one_port_are_told_apart_in_the_stack() {
    for path in paths() {
        for v4 in FAMILIES {
            for protocol in WITH_CONNECTIONS {
                let node = &mut offering(path, protocol, v4);
                let other = at(Who::OtherVip, v4, 80);
                let backend = [at(path.backend, v4, 8080)];
                let offer = cluster_ip(2, protocol, other, &backend);
                crate::support::Offer {
                    kind: ferrogate_common::FrontendKind::LoadBalancer,
                    ..offer
                }
                .put(node);
                exchange(node, path, protocol, v4, true, tcp::SYN);
                let (program, ifindex, _) = path.request;
                let client = at(path.client, v4, 40_000);
                let second = send(node, program, ifindex, &segment(protocol, client, other, tcp::SYN));
                assert_eq!(second.verdict, Verdict::Pass(Reason::NewFlow));
                let seen: Seen = second.seen();
                assert_ne!(seen.source.port(), client.port());
                let reply = segment(protocol, seen.destination, seen.source, tcp::SYN | tcp::ACK);
                let back = send(node, path.reply.0, path.reply.1, &reply);
                assert_eq!(back.verdict, Verdict::Pass(Reason::NotService));
                exchange(node, path, protocol, v4, true, tcp::ACK);
            }
        }
    }
}

#[test]
fn both_entries_say_so_and_a_lost_one_is_rebuilt() {
    every_case(|path, protocol, v4, node| {
        exchange(node, path, protocol, v4, true, tcp::SYN);
        exchange(node, path, protocol, v4, true, tcp::ACK);
        let flags: Vec<u16> = node.tables.flows.values().map(|flow| flow.flags).collect();
        assert!(
            flags.len() == 2 && flags.iter().all(|flags| flags & flow_flags::REDIRECT != 0),
            "{flags:?}"
        );
        node.tables
            .flows
            .retain(|key, _| key.direction == ferrogate_common::Direction::Forward as u8);
        node.ticks += 1;
        exchange(node, path, protocol, v4, true, tcp::ACK);
    });
}

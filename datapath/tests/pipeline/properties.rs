//! What holds for every packet.

use crate::support::{
    FAMILIES, Offer, POD, PROTOCOLS, UPLINK, Who, as_backends_see, at, cluster_ip, ip, node, run, segment, send,
};
use ferrogate_common::{Direction, Flow, FrontendKind, Reason, Tuple};
use ferrogate_datapath::Verdict;
use ferrogate_datapath::host::{HostPacket, Program, Segment, Simulator, tcp};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A node with services of both families and all protocols: two ClusterIPs that share their backends, and a NodePort.
fn busy_node() -> Simulator {
    let mut node = node();
    let mut id = 0;
    for v4 in FAMILIES {
        let backends = [Who::Pod, Who::LocalPod, Who::RemotePod, Who::NarrowPod].map(|who| at(who, v4, 8080));
        for protocol in PROTOCOLS {
            for frontend in [
                at(Who::Vip, v4, 80),
                at(Who::OtherVip, v4, 80),
                at(Who::Node, v4, 30_080),
            ] {
                let kind = if frontend.port() == 80 {
                    FrontendKind::ClusterIp
                } else {
                    FrontendKind::NodePort
                };
                Offer {
                    kind,
                    ..cluster_ip(id, protocol, frontend, &backends)
                }
                .put(&mut node);
                id += 1;
            }
        }
    }
    node
}

/// Whether a packet may come out changed.
fn may_change(verdict: Verdict) -> bool {
    match verdict {
        Verdict::Pass(reason) => matches!(reason, Reason::Translated | Reason::NewFlow | Reason::Reply),
        Verdict::Drop(_) | Verdict::Forward(_) | Verdict::Peer(_) | Verdict::Bounce(_) | Verdict::Loopback(_) => true,
    }
}

fn programs() -> impl Strategy<Value = Program> {
    select(&Program::ALL[..])
}

/// A packet of any client to any frontend, or of any backend to any client.
fn segments() -> impl Strategy<Value = Segment> {
    let clients = select(vec![Who::Pod, Who::Outside, Who::Node]);
    let frontends = select(vec![
        (Who::Vip, 80),
        (Who::OtherVip, 80),
        (Who::Node, 30_080),
        (Who::RemotePod, 8080),
    ]);
    let flags = select(vec![
        tcp::SYN,
        tcp::SYN | tcp::ACK,
        tcp::ACK,
        tcp::FIN | tcp::ACK,
        tcp::RST,
    ]);
    let protocol = select(&PROTOCOLS[..]);
    let addresses = (clients, 40_000..40_004u16, frontends, any::<bool>(), any::<bool>());
    (addresses, flags, protocol, vec(any::<u8>(), 0..40)).prop_map(
        |((client, port, (frontend, frontend_port), v4, turned), flags, protocol, payload)| {
            let mut segment = segment(protocol, at(client, v4, port), at(frontend, v4, frontend_port), flags);
            segment.payload = payload;
            if turned { segment.turned() } else { segment }
        },
    )
}

/// A packet as a hook of this program meets it.
fn met(program: Program, bytes: Vec<u8>, from_this_node: bool) -> HostPacket {
    let ifindex = if matches!(program, Program::PodIngress | Program::PodEgress) {
        POD
    } else {
        UPLINK
    };
    let packet = if program.is_layer3() {
        HostPacket::layer3(bytes, ifindex)
    } else {
        HostPacket::ethernet(bytes, ifindex)
    };
    HostPacket {
        from_this_node,
        ..packet
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60_000))]

    #[test]
    fn any_bytes_at_any_program_are_survived_and_changed_only_where_there_is_a_flow(
        program in programs(),
        bytes in vec(any::<u8>(), 0..120),
        from_this_node: bool,
    ) {
        thread_local! {
            static NODE: std::cell::RefCell<Simulator> = busy_node().into();
        }
        NODE.with_borrow_mut(|node| {
            let sent = run(node, program, met(program, bytes.clone(), from_this_node));
            if !may_change(sent.verdict) {
                prop_assert_eq!(sent.bytes, bytes);
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_packet_with_bits_flipped_or_its_end_cut_off_is_survived_and_changed_only_where_there_is_a_flow(
        program in programs(),
        segment in segments(),
        flips in vec((any::<Index>(), 0u8..8), 0..4),
        end in any::<Index>(),
        cut: bool,
        from_this_node: bool,
    ) {
        thread_local! {
            static NODE: std::cell::RefCell<Simulator> = busy_node().into();
        }
        let mut bytes = if program.is_layer3() { segment.ip() } else { segment.ethernet() };
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        if cut {
            bytes.truncate(end.index(bytes.len()));
        }
        NODE.with_borrow_mut(|node| {
            node.tables.clear_flows();
            let sent = run(node, program, met(program, bytes.clone(), from_this_node));
            if !may_change(sent.verdict) {
                prop_assert_eq!(&sent.bytes, &bytes);
            }
            Ok(())
        })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn over_any_conversation_every_packet_that_goes_on_is_well_formed_and_no_two_flows_are_one_to_a_backend(
        packets in vec((programs(), segments(), any::<bool>(), 0u32..2), 1..40),
    ) {
        let mut node = busy_node();
        for (program, segment, from_this_node, ticks) in packets {
            node.ticks += ticks;
            let bytes = if program.is_layer3() { segment.ip() } else { segment.ethernet() };
            let sent = run(&mut node, program, met(program, bytes.clone(), from_this_node));
            match sent.verdict {
                // Reads the packet, and panics where it is wrong.
                Verdict::Forward(_) | Verdict::Peer(_) | Verdict::Bounce(_) | Verdict::Loopback(_) => drop(sent.seen()),
                Verdict::Pass(_) if may_change(sent.verdict) => drop(sent.seen()),
                Verdict::Pass(_) => prop_assert_eq!(sent.bytes, bytes),
                Verdict::Drop(_) => {}
            }
        }
        let mut owners = BTreeMap::new();
        let forward = |(key, _): &(&Tuple, &Flow)| key.direction == Direction::Forward as u8;
        for (key, flow) in node.tables.flows.iter().chain(&node.tables.half_open).filter(forward) {
            let seen = as_backends_see(&node.tables, key, flow);
            if let Some(other) = owners.insert(seen, *key) {
                prop_assert_eq!(other, *key, "both are {:?}\n{}", seen, node.tables);
            }
        }
    }

    #[test]
    fn whatever_the_addresses_a_reply_undoes_its_request(
        v4: bool,
        protocol in select(&PROTOCOLS[..]),
        client in (any::<[u8; 16]>(), any::<u16>()),
        backend in (any::<[u8; 16]>(), 1u16..),
        vip in (any::<[u8; 16]>(), any::<u16>()),
        payload in vec(any::<u8>(), 0..60),
    ) {
        let address = |bytes: [u8; 16]| -> std::net::IpAddr {
            if v4 { <[u8; 4]>::try_from(&bytes[..4]).unwrap().into() } else { bytes.into() }
        };
        let [client, backend, vip] = [client, backend, vip].map(|(bytes, port)| SocketAddr::new(address(bytes), port));
        // Replies to the SNAT range are looked for there first; a hairpin is another path; loopback addresses are forged.
        prop_assume!(![client, backend, vip].iter().any(|address| v4 && address.ip().is_loopback()));
        prop_assume!(client.ip() != backend.ip() && vip.ip() != ip(Who::Node, v4) && vip != client);
        let mut node = node();
        let backends = [backend];
        cluster_ip(1, protocol, vip, &backends).put(&mut node);
        let mut request = segment(protocol, client, vip, tcp::SYN);
        request.payload = payload;
        let at_backend = send(&mut node, Program::PodIngress, POD, &request).seen();
        prop_assert_eq!((at_backend.source, at_backend.destination), (client, backend));
        prop_assert_eq!(at_backend.payload(), &request.payload[..]);
        let mut answer = request.turned();
        answer.source = backend;
        let reply = send(&mut node, Program::PodEgress, POD, &answer).seen();
        prop_assert_eq!((reply.source, reply.destination), (vip, client));
    }
}

//! What only SCTP has: its own refusals, and a checksum that depends on all of a packet.

use crate::support::{FAMILIES, Offer, POD, UPLINK, Who, at, cluster_ip, ip, node, run, segment, send};
use crate::wire::What;
use ferrogate_common::{Frontend, FrontendKey, FrontendKind, Protocol, Reason};
use ferrogate_datapath::Verdict;
use ferrogate_datapath::host::{HostPacket, Program, Segment, Simulator, sctp, tcp};

/// A node whose service at port 80 of the VIP, and at the NodePort, has these backends.
fn serving(v4: bool, backends: &[std::net::SocketAddr]) -> Simulator {
    let mut node = node();
    cluster_ip(1, Protocol::Sctp, at(Who::Vip, v4, 80), backends).put(&mut node);
    Offer {
        kind: FrontendKind::NodePort,
        ..cluster_ip(2, Protocol::Sctp, at(Who::Node, v4, 30_080), backends)
    }
    .put(&mut node);
    node
}

/// Clients at every hook that can answer.
const CLIENTS: [(Program, u32, Who, Who, u16); 5] = [
    (Program::PodIngress, POD, Who::Pod, Who::Vip, 80),
    (Program::UplinkIngress, UPLINK, Who::Outside, Who::Node, 30_080),
    (Program::UplinkIngressL3, UPLINK, Who::Outside, Who::Node, 30_080),
    (Program::UplinkEgress, UPLINK, Who::Node, Who::Vip, 80),
    (Program::UplinkEgressL3, UPLINK, Who::Node, Who::Vip, 80),
];

#[test]
fn a_packet_to_a_service_without_endpoints_is_answered_as_by_an_endpoint_that_does_not_know_it() {
    // The chunk; chunk, flags and tag of the answer (RFC 9260 section 8.4).
    let cases = [
        (sctp::INIT, (sctp::ABORT, 0, 2000)),
        (sctp::DATA, (sctp::ABORT, 1, 1000)),
        (sctp::COOKIE_ECHO, (sctp::ABORT, 1, 1000)),
        (sctp::SHUTDOWN_ACK, (sctp::SHUTDOWN_COMPLETE, 1, 1000)),
    ];
    for v4 in FAMILIES {
        for (program, ifindex, client, frontend, port) in CLIENTS {
            for (number, expected) in cases {
                let node = &mut serving(v4, &[]);
                let packet = Segment::sctp(at(client, v4, 40_000), at(frontend, v4, port), number);
                let sent = send(node, program, ifindex, &packet);
                assert!(
                    matches!(sent.verdict, Verdict::Bounce(_)),
                    "{program:?} {:?}",
                    sent.verdict
                );
                let seen = sent.seen();
                assert_eq!((seen.source, seen.destination), (packet.destination, packet.source));
                let What::Sctp {
                    tag,
                    chunk,
                    flags,
                    payload,
                } = seen.what
                else {
                    panic!("not SCTP: {seen:?}");
                };
                assert_eq!((chunk, flags, tag), expected, "{program:?} chunk {number}");
                assert!(payload.is_empty());
            }
        }
    }
}

#[test]
fn an_abort_and_the_last_word_of_a_shutdown_are_never_answered() {
    for v4 in FAMILIES {
        for chunk in [sctp::ABORT, sctp::SHUTDOWN_COMPLETE] {
            let node = &mut serving(v4, &[]);
            let packet = Segment::sctp(at(Who::Pod, v4, 40_000), at(Who::Vip, v4, 80), chunk);
            let sent = send(node, Program::PodIngress, POD, &packet);
            assert!(matches!(sent.verdict, Verdict::Drop(_)), "{:?}", sent.verdict);
        }
    }
}

#[test]
fn an_answer_to_a_packet_whose_checksum_is_left_to_the_device_leaves_it_there_too() {
    for v4 in FAMILIES {
        let node = &mut serving(v4, &[]);
        let mut packet = segment(Protocol::Sctp, at(Who::Pod, v4, 40_000), at(Who::Vip, v4, 80), tcp::SYN);
        packet.partial = true;
        let sent = send(node, Program::PodIngress, POD, &packet);
        let l4 = 14 + if v4 { 20 } else { 40 };
        assert_eq!(sent.bytes[l4 + 8..l4 + 13], [0, 0, 0, 0, sctp::ABORT]);
    }
}

#[test]
fn packets_of_every_length_arrive_with_the_right_checksum_and_so_do_their_replies() {
    for v4 in FAMILIES {
        let backend = [at(Who::RemotePod, v4, 8080)];
        let node = &mut serving(v4, &backend);
        let mut packet = segment(
            Protocol::Sctp,
            at(Who::Outside, v4, 40_000),
            at(Who::Node, v4, 30_080),
            tcp::SYN,
        );
        for length in 0..1400 {
            packet.payload = (0..length).map(|n| (n * 7) as u8).collect();
            // Reads the packet, and panics where a checksum is wrong.
            let seen = send(node, Program::UplinkIngress, UPLINK, &packet).seen();
            assert_eq!((seen.destination, seen.payload()), (backend[0], &packet.payload[..]));
            let answer = Segment {
                source: seen.destination,
                destination: seen.source,
                flags: sctp::DATA,
                ..packet.clone()
            };
            let reply = send(node, Program::UplinkIngress, UPLINK, &answer).seen();
            assert_eq!((reply.source, reply.destination), (packet.destination, packet.source));
            packet.flags = sctp::DATA;
        }
    }
}

#[test]
fn one_port_number_serves_all_three_protocols_each_with_backends_of_its_own() {
    for v4 in FAMILIES {
        let node = &mut node();
        let services = [
            (Protocol::Tcp, Who::LocalPod),
            (Protocol::Udp, Who::RemotePod),
            (Protocol::Sctp, Who::NarrowPod),
        ];
        for (id, (protocol, who)) in (1..).zip(services) {
            cluster_ip(id, protocol, at(Who::Vip, v4, 80), &[at(who, v4, 8080)]).put(node);
        }
        for (protocol, who) in services {
            let packet = segment(protocol, at(Who::Pod, v4, 40_000), at(Who::Vip, v4, 80), tcp::SYN);
            let seen = send(node, Program::PodIngress, POD, &packet).seen();
            assert_eq!(seen.destination, at(who, v4, 8080), "{protocol}");
        }
    }
}

#[test]
fn a_fragment_of_which_the_checksum_covers_more_than_is_there_is_not_translated() {
    // IPv4: the field; more to come, or the last of two.
    for field in [0x2000u16, 0x0010] {
        let node = &mut serving(true, &[at(Who::LocalPod, true, 8080)]);
        let alone = FrontendKey::address_alone(ip(Who::Vip, true).into());
        node.tables
            .frontends
            .insert(alone, Frontend::new(1, FrontendKind::Address));
        let packet = segment(
            Protocol::Sctp,
            at(Who::Pod, true, 40_000),
            at(Who::Vip, true, 80),
            tcp::SYN,
        );
        let mut bytes = packet.ethernet();
        bytes[20..22].copy_from_slice(&field.to_be_bytes());
        let sent = run(node, Program::PodIngress, HostPacket::ethernet(bytes, POD));
        assert_eq!(sent.verdict, Verdict::Drop(Reason::LostFragment));
        assert!(node.tables.half_open.is_empty());
    }
}

#[test]
fn an_icmp_error_quotes_the_packet_that_its_client_sent() {
    let v4 = true;
    let backend = at(Who::LocalPod, v4, 8080);
    let node = &mut serving(v4, &[backend]);
    let packet = segment(Protocol::Sctp, at(Who::Pod, v4, 40_000), at(Who::Vip, v4, 80), tcp::SYN);
    let was = packet.ip();
    let at_backend = send(node, Program::PodIngress, POD, &packet);
    // 28 bytes of the packet as the backend has it, in "fragmentation needed" from the backend's address.
    let mut error = Segment::udp(backend, packet.source, &at_backend.bytes[14..14 + 32]).ip();
    error[9] = 1;
    error[20..28].copy_from_slice(&[3, 4, 0, 0, 0, 0, 5, 0]);
    for (from, to, at) in [(0, 20, 10), (20, error.len(), 22)] {
        error[at..at + 2].fill(0);
        let mut sum: u32 = error[from..to]
            .chunks(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        error[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    let frame = [&packet.ethernet()[..14], &error].concat();
    let sent = run(node, Program::PodEgress, HostPacket::ethernet(frame, POD));
    assert_eq!(sent.verdict, Verdict::Pass(Reason::IcmpError));
    // Reads the error, and panics where its own checksum is wrong.
    let seen = sent.seen();
    assert_eq!(
        (seen.source.ip(), seen.destination.ip()),
        (packet.destination.ip(), packet.source.ip())
    );
    // All but TTL and header checksum, which change on the way, and a checksum of more than there is.
    assert_eq!(seen.payload()[12..28], was[12..28], "addresses, ports and tag");
}

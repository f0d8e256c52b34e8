//! What the second programs do: ICMP errors on every way through the node, echo requests, extension headers.

use crate::paths::{PATHS, Path, Source, assert_way, offering};
use crate::support::{FAMILIES, Offer, POD, Sent, UPLINK, Who, at, cluster_ip, ip, node, run, segment, send};
use crate::wire::{Seen, What};
use etherparse::PacketBuilder;
use ferrogate_common::{Address, Frontend, FrontendKey, FrontendKind, Protocol, Reason, config_flags};
use ferrogate_datapath::Verdict;
use ferrogate_datapath::host::{HostPacket, Program, Segment, Simulator, tcp};
use std::net::IpAddr;

/// How much of a packet an error quotes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Quote {
    Whole,
    /// The IP header and 8 bytes (RFC 792).
    Short,
}

/// "Fragmentation needed" or "packet too big", from `sender` to the sender of what it quotes.
pub(crate) fn error(sender: IpAddr, quoted: &[u8]) -> Vec<u8> {
    let (to, kind) = match sender {
        IpAddr::V4(_) => (IpAddr::from(<[u8; 4]>::try_from(&quoted[12..16]).unwrap()), (3, 4)),
        IpAddr::V6(_) => (IpAddr::from(<[u8; 16]>::try_from(&quoted[8..24]).unwrap()), (2, 0)),
    };
    icmp(sender, to, kind, [0, 0, 5, 0], quoted)
}

/// An ICMP or ICMPv6 message.
fn icmp(from: IpAddr, to: IpAddr, (kind, code): (u8, u8), rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64)
            .icmpv4_raw(kind, code, rest)
            .write(&mut bytes, payload),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64)
            .icmpv6_raw(kind, code, rest)
            .write(&mut bytes, payload),
        _ => panic!("two families"),
    }
    .unwrap();
    bytes
}

/// Runs bytes from the IP header on through a program.
pub(crate) fn pass(node: &mut Simulator, program: Program, ifindex: u32, ip: &[u8]) -> Sent {
    // XDP leaves all this to the tcx program behind it.
    let program = if program == Program::UplinkXdp {
        Program::UplinkIngress
    } else {
        program
    };
    let packet = if program.is_layer3() {
        HostPacket::layer3(ip.to_vec(), ifindex)
    } else {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        bytes.extend(if ip[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] });
        bytes.extend(ip);
        HostPacket::ethernet(bytes, ifindex)
    };
    let packet = HostPacket {
        from_this_node: program.is_egress(),
        ..packet
    };
    run(node, program, packet)
}

/// The IP packet that came out.
pub(crate) fn inner(sent: &Sent) -> Vec<u8> {
    sent.bytes[sent.link..].to_vec()
}

/// Checks that an error quotes `original`, which has passed a router since.
#[track_caller]
fn assert_quotes(error: &Seen, original: &[u8], quote: Quote, about: &str) {
    let quoted = error.payload();
    let header = if original[0] >> 4 == 4 { 20 } else { 40 };
    let hop_limit = if header == 20 { 8 } else { 7 };
    let mut expected = original.to_vec();
    expected[hop_limit] = quoted[hop_limit];
    if header == 20 {
        expected[10..12].copy_from_slice(&quoted[10..12]);
    }
    if quote == Quote::Short {
        expected.truncate(header + 8);
    } else {
        Seen::read(quoted, 0);
    }
    assert_eq!(quoted, expected, "{about}");
}

/// A conversation on a path: the request as it was sent and as the backend saw it, the reply as it was sent and as the client
/// saw it; all from the IP header on.
struct Talk {
    request: Vec<u8>,
    at_backend: Vec<u8>,
    reply: Vec<u8>,
    at_client: Vec<u8>,
}

fn talk(node: &mut Simulator, path: &Path, protocol: Protocol, v4: bool) -> Talk {
    let sent = segment(
        protocol,
        at(path.client, v4, 40_000),
        at(path.frontend, v4, 30_080),
        tcp::SYN,
    );
    let out = send(node, path.request.0, path.request.1, &sent);
    let seen = out.seen();
    let answer = segment(protocol, seen.destination, seen.source, tcp::SYN | tcp::ACK);
    let back = send(node, path.reply.0, path.reply.1, &answer);
    Talk {
        request: sent.ip(),
        at_backend: inner(&out),
        reply: answer.ip(),
        at_client: inner(&back),
    }
}

fn cut(packet: &[u8], quote: Quote) -> &[u8] {
    let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
    match quote {
        Quote::Whole => packet,
        Quote::Short => &packet[..header + 8],
    }
}

fn every_case(mut check: impl FnMut(&Path, Protocol, bool, Quote, &str)) {
    for path in PATHS {
        for v4 in FAMILIES {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for quote in [Quote::Whole, Quote::Short] {
                    let about = format!("{} {protocol} v4 {v4} {quote:?}", path.name);
                    check(path, protocol, v4, quote, &about);
                }
            }
        }
    }
}

#[test]
fn an_error_about_a_request_reaches_its_client_on_every_path_with_the_request_that_it_sent() {
    every_case(|path, protocol, v4, quote, about| {
        let node = &mut offering(path, protocol, v4);
        let talk = talk(node, path, protocol, v4);
        let before = node.tables.clone();
        for sender in [path.backend, Who::Gateway] {
            let complaint = error(ip(sender, v4), cut(&talk.at_backend, quote));
            let (program, ifindex, way) = path.reply;
            let out = pass(node, program, ifindex, &complaint);
            assert_way(&out, way, about);
            assert_eq!(out.verdict.reason(), Reason::IcmpError, "{about}");
            let seen = out.seen();
            assert_eq!(seen.destination.ip(), ip(path.client, v4), "{about}");
            let from = if sender == path.backend { path.frontend } else { sender };
            assert_eq!(seen.source.ip(), ip(from, v4), "{about}");
            assert_quotes(&seen, &talk.request, quote, about);
        }
        assert_eq!(
            node.tables.flows, before.flows,
            "{about}: an error makes and marks no flow"
        );
        assert_eq!(node.tables.half_open, before.half_open, "{about}");
        assert_eq!(node.tables.snat_flows, before.snat_flows, "{about}");
    });
}

#[test]
fn an_error_about_a_reply_reaches_its_backend_on_every_path_with_the_reply_that_it_sent() {
    every_case(|path, protocol, v4, quote, about| {
        let node = &mut offering(path, protocol, v4);
        let talk = talk(node, path, protocol, v4);
        let backend_sees = Seen::read(&talk.at_backend, 0).source.ip();
        for sender in [path.client, Who::Gateway] {
            let complaint = error(ip(sender, v4), cut(&talk.at_client, quote));
            let (program, ifindex, way) = path.request;
            let out = pass(node, program, ifindex, &complaint);
            assert_way(&out, way, about);
            assert_eq!(out.verdict.reason(), Reason::IcmpError, "{about}");
            let seen = out.seen();
            assert_eq!(seen.destination.ip(), ip(path.backend, v4), "{about}");
            // Where the client's address is hidden, so is that of a router on its side.
            let hidden = path.source != Source::Kept;
            let expected = if hidden { backend_sees } else { ip(sender, v4) };
            assert_eq!(seen.source.ip(), expected, "{about}");
            assert_quotes(&seen, &talk.reply, quote, about);
        }
    });
}

#[test]
fn an_error_about_no_flow_passes_as_it_is() {
    every_case(|path, protocol, v4, quote, about| {
        let node = &mut offering(path, protocol, v4);
        let stray = segment(
            protocol,
            at(path.client, v4, 40_001),
            at(path.backend, v4, 8080),
            tcp::ACK,
        );
        let complaint = error(ip(Who::Gateway, v4), cut(&stray.ip(), quote));
        for (program, ifindex, _) in [path.request, path.reply] {
            let out = pass(node, program, ifindex, &complaint);
            assert_eq!(out.verdict, Verdict::Pass(Reason::NotService), "{about}");
            assert_eq!(inner(&out), complaint, "{about}");
        }
        assert!(node.tables.half_open.is_empty(), "{about}: an error makes no flow");
    });
}

#[test]
fn a_redirect_about_a_flow_is_dropped_and_another_passes() {
    for v4 in FAMILIES {
        let path = &PATHS[0];
        let node = &mut offering(path, Protocol::Udp, v4);
        let talk = talk(node, path, Protocol::Udp, v4);
        let stray = segment(Protocol::Udp, at(path.client, v4, 1), at(path.backend, v4, 2), 0).ip();
        for (quoted, expected) in [
            (&talk.at_backend, Verdict::Drop(Reason::IcmpRedirect)),
            (&stray, Verdict::Pass(Reason::NotService)),
        ] {
            let from = ip(Who::PodGateway, v4);
            let redirect = if v4 {
                icmp(from, ip(path.client, v4), (5, 1), [10, 244, 1, 3], quoted)
            } else {
                let target = ip(path.backend, v4);
                let IpAddr::V6(target) = target else { panic!("IPv6") };
                // Target, destination, then the option "redirected header" (RFC 4861 section 4.6.3).
                let mut rest = [target.octets(), target.octets()].concat();
                rest.extend([4, (1 + quoted.len() / 8) as u8, 0, 0, 0, 0, 0, 0]);
                rest.extend(quoted);
                icmp(from, ip(path.client, v4), (137, 0), [0; 4], &rest)
            };
            let out = pass(node, Program::PodEgress, POD, &redirect);
            assert_eq!(out.verdict, expected, "v4 {v4}");
        }
    }
}

/// A node whose VIP has an entry of its own, of this kind.
pub(crate) fn with_address(kind: FrontendKind, v4: bool) -> Simulator {
    let mut node = node();
    cluster_ip(1, Protocol::Udp, at(Who::Vip, v4, 80), &[]).put(&mut node);
    let key = FrontendKey::address_alone(Address::from(ip(Who::Vip, v4)));
    node.tables.frontends.insert(key, Frontend::new(1, kind));
    node
}

fn echo_request(v4: bool, to: Who) -> Vec<u8> {
    let kind = if v4 { 8 } else { 128 };
    icmp(
        ip(Who::Pod, v4),
        ip(to, v4),
        (kind, 0),
        [1, 2, 3, 4],
        b"are you there, odd",
    )
}

#[test]
fn a_ping_to_a_cluster_ip_is_answered_by_the_node() {
    for v4 in FAMILIES {
        for program in [Program::PodIngress, Program::UplinkEgress, Program::UplinkEgressL3] {
            let node = &mut with_address(FrontendKind::Address, v4);
            let out = pass(node, program, POD, &echo_request(v4, Who::Vip));
            assert_eq!(out.verdict, Verdict::Bounce(Reason::Echo), "{program:?}");
            let seen = out.seen();
            assert_eq!(
                (seen.source.ip(), seen.destination.ip()),
                (ip(Who::Vip, v4), ip(Who::Pod, v4))
            );
            assert_eq!(seen.hop_limit, 64);
            let What::Icmp {
                kind, rest, payload, ..
            } = seen.what
            else {
                panic!("not ICMP");
            };
            assert_eq!((kind, rest), (if v4 { 0 } else { 129 }, [1, 2, 3, 4]));
            assert_eq!(payload, b"are you there, odd");
        }
    }
}

#[test]
fn a_ping_to_a_cluster_ip_from_outside_is_dropped_unless_clients_there_may_use_it() {
    for v4 in FAMILIES {
        let node = &mut with_address(FrontendKind::Address, v4);
        let ping = echo_request(v4, Who::Vip);
        let out = pass(node, Program::UplinkIngress, UPLINK, &ping);
        assert_eq!(out.verdict, Verdict::Drop(Reason::ExternalClusterIp));
        node.tables.config.flags |= config_flags::EXTERNAL_CLUSTER_IP;
        let out = pass(node, Program::UplinkIngress, UPLINK, &ping);
        assert_eq!(out.verdict, Verdict::Bounce(Reason::Echo));
    }
}

#[test]
fn a_ping_to_anything_else_passes() {
    for v4 in FAMILIES {
        let node = &mut with_address(FrontendKind::Address, v4);
        for program in [
            Program::PodIngress,
            Program::PodEgress,
            Program::UplinkIngress,
            Program::UplinkEgress,
        ] {
            let ping = echo_request(v4, Who::RemotePod);
            let out = pass(node, program, POD, &ping);
            assert_eq!(out.verdict, Verdict::Pass(Reason::NotService), "{program:?}");
            assert_eq!(inner(&out), ping);
        }
    }
}

/// An IPv6 packet with extension headers in front of its transport header.
fn extended(segment: &Segment, headers: &[(u8, &[u8])]) -> Vec<u8> {
    let packet = segment.ip();
    let mut chain = Vec::new();
    for (index, (_, body)) in headers.iter().enumerate() {
        let next = headers.get(index + 1).map_or(packet[6], |(number, _)| *number);
        chain.extend([next, ((body.len() + 2) / 8 - 1) as u8]);
        chain.extend(*body);
    }
    let mut bytes = packet[..40].to_vec();
    bytes[6] = headers[0].0;
    bytes[4..6].copy_from_slice(&((packet.len() - 40 + chain.len()) as u16).to_be_bytes());
    bytes.extend(chain);
    bytes.extend(&packet[40..]);
    bytes
}

/// Hop-by-hop, routing and destination options, with padding only.
const PADDING: &[u8] = &[1, 4, 0, 0, 0, 0];
const LONG_PADDING: &[u8] = &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// A routing header that has been used up.
const ROUTED: &[u8] = &[4, 0, 0, 0, 0, 0];
const STILL_TO_ROUTE: &[u8] = &[4, 1, 0, 0, 0, 0];

#[test]
fn a_packet_with_extension_headers_is_translated_behind_them() {
    for headers in [
        &[(0, PADDING)][..],
        &[(0, LONG_PADDING), (43, ROUTED), (60, PADDING)],
        &[(60, LONG_PADDING)],
    ] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let path = &PATHS[0];
            let node = &mut offering(path, protocol, false);
            let sent = segment(
                protocol,
                at(path.client, false, 40_000),
                at(path.frontend, false, 30_080),
                tcp::SYN,
            );
            let out = pass(node, Program::PodIngress, POD, &extended(&sent, headers));
            assert_eq!(out.verdict, Verdict::Pass(Reason::NewFlow), "{headers:?}");
            let seen = out.seen();
            assert_eq!(seen.destination, at(path.backend, false, 8080));
            assert_eq!(seen.payload(), sent.payload);
        }
    }
}

#[test]
fn a_packet_that_is_still_to_be_routed_elsewhere_or_never_ends_passes() {
    let too_many = vec![(60, PADDING); 9];
    for headers in [&[(43, STILL_TO_ROUTE)][..], &too_many] {
        let path = &PATHS[0];
        let node = &mut offering(path, Protocol::Udp, false);
        let sent = segment(
            Protocol::Udp,
            at(path.client, false, 40_000),
            at(path.frontend, false, 30_080),
            0,
        );
        let packet = extended(&sent, headers);
        let out = pass(node, Program::PodIngress, POD, &packet);
        assert!(matches!(out.verdict, Verdict::Pass(_)), "{:?}", out.verdict);
        assert_eq!(inner(&out), packet);
    }
}

#[test]
fn a_packet_with_options_or_extension_headers_is_refused_like_any_other() {
    for v4 in FAMILIES {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let node = &mut with_address(FrontendKind::Address, v4);
            Offer {
                protocol,
                ..cluster_ip(1, protocol, at(Who::Vip, v4, 80), &[])
            }
            .put(node);
            let mut sent = segment(protocol, at(Who::Pod, v4, 40_000), at(Who::Vip, v4, 80), tcp::SYN);
            let packet = if v4 {
                sent.option_words = 10;
                sent.ip()
            } else {
                extended(&sent, &[(0, LONG_PADDING), (60, LONG_PADDING)])
            };
            let out = pass(node, Program::PodIngress, POD, &packet);
            assert_eq!(out.verdict, Verdict::Bounce(Reason::NoEndpoints), "{protocol} v4 {v4}");
            // What is behind the length that the IP header says is padding.
            let mut answer = inner(&out);
            let length = if v4 {
                usize::from(u16::from_be_bytes([answer[2], answer[3]]))
            } else {
                40 + usize::from(u16::from_be_bytes([answer[4], answer[5]]))
            };
            answer.truncate(length);
            let seen = Seen::read(&answer, 0);
            assert_eq!(seen.source.ip(), ip(Who::Vip, v4));
            match seen.what {
                What::Tcp { rst, .. } => assert!(rst && protocol == Protocol::Tcp),
                What::Icmp { payload, .. } => {
                    assert_eq!(protocol, Protocol::Udp);
                    let ports = &payload[payload.len() - 8..][..4];
                    assert_eq!(ports, [0x9c, 0x40, 0, 80], "the ports that were sent");
                }
                What::Udp { .. } | What::Sctp { .. } => panic!("an answer in UDP or SCTP"),
            }
        }
    }
}

//! What the second programs do with fragments.

use crate::paths::{PATHS, Path, Way, assert_way, offering};
use crate::second::{inner, pass, with_address};
use crate::support::{FAMILIES, POD, Who, at, cluster_ip, segment};
use crate::wire::Seen;
use ferrogate_common::{FrontendKind, Protocol, Reason};
use ferrogate_datapath::Verdict;
use ferrogate_datapath::host::{Program, Segment};

/// The packet in fragments of at most `size` bytes of payload, a multiple of 8.
fn fragments(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let v4 = packet[0] >> 4 == 4;
    let header = if v4 { 20 } else { 40 };
    let payload = &packet[header..];
    let count = payload.len().div_ceil(size);
    let part = |(index, part): (usize, &[u8])| {
        let more = index + 1 < count;
        let offset = (index * size / 8) as u16;
        let mut bytes = packet[..header].to_vec();
        if v4 {
            bytes[2..4].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
            bytes[6..8].copy_from_slice(&(offset | u16::from(more) << 13).to_be_bytes());
            bytes[10..12].fill(0);
            let sum: u32 = bytes
                .chunks(2)
                .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
                .sum();
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            bytes[4..6].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
            let next = std::mem::replace(&mut bytes[6], 44);
            bytes.extend([next, 0]);
            bytes.extend((offset << 3 | u16::from(more)).to_be_bytes());
            bytes.extend([0xca, 0xfe, 0xba, 0xbe]);
        }
        bytes.extend(part);
        bytes
    };
    payload.chunks(size).enumerate().map(part).collect()
}

/// Puts fragments together again.
fn whole(fragments: &[Vec<u8>]) -> Vec<u8> {
    let v4 = fragments[0][0] >> 4 == 4;
    let (header, skip) = if v4 { (20, 20) } else { (40, 48) };
    let mut packet = fragments[0][..header].to_vec();
    for fragment in fragments {
        packet.extend(&fragment[skip..]);
    }
    let length = packet.len();
    if v4 {
        packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        packet[6..8].fill(0);
        packet[10..12].fill(0);
        let mut sum: u32 = packet[..20]
            .chunks(2)
            .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
            .sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    } else {
        packet[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
        packet[6] = fragments[0][40];
    }
    packet
}

fn datagram(path: &Path, v4: bool) -> Segment {
    let mut datagram = segment(
        Protocol::Udp,
        at(path.client, v4, 40_000),
        at(path.frontend, v4, 30_080),
        0,
    );
    datagram.payload = (0..3000u32).map(|i| (i * 7) as u8).collect();
    datagram
}

#[test]
fn a_datagram_in_fragments_arrives_whole_both_ways_on_every_path() {
    for path in PATHS {
        for v4 in FAMILIES {
            let about = &format!("{} v4 {v4}", path.name);
            let node = &mut offering(path, Protocol::Udp, v4);
            let sent = datagram(path, v4);
            let mut through = |packet: &[u8], (program, ifindex, way): (Program, u32, Way)| {
                let mut parts = Vec::new();
                for fragment in fragments(packet, 1000) {
                    let out = pass(node, program, ifindex, &fragment);
                    assert_way(&out, way, about);
                    parts.push(inner(&out));
                }
                Seen::read(&whole(&parts), 0)
            };
            let at_backend = through(&sent.ip(), path.request);
            assert_eq!(at_backend.destination, at(path.backend, v4, 8080), "{about}");
            assert_eq!(at_backend.payload(), sent.payload, "{about}");
            let mut answer = datagram(path, v4);
            (answer.source, answer.destination) = (at_backend.destination, at_backend.source);
            let at_client = through(&answer.ip(), path.reply);
            assert_eq!(at_client.source, sent.destination, "{about}");
            assert_eq!(at_client.destination, sent.source, "{about}");
            assert_eq!(node.tables.connections[1], 1, "{about}: one flow");
        }
    }
}

/// One's complement sum of 16-bit words.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(u16::from_ne_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

#[test]
fn a_device_s_sum_over_a_fragment_without_any_checksum_stays_right() {
    for path in PATHS.iter().filter(|path| path.request.2 == Way::Pass) {
        for v4 in FAMILIES {
            let node = &mut offering(path, Protocol::Udp, v4);
            let (program, ifindex, _) = path.request;
            for fragment in fragments(&datagram(path, v4).ip(), 1000).iter().skip(1) {
                pass(node, program, ifindex, &fragments(&datagram(path, v4).ip(), 1000)[0]);
                let out = pass(node, program, ifindex, fragment);
                assert_ne!(&inner(&out), fragment, "{}: translated", path.name);
                // 0 and 0xffff are the same number.
                let mended = (sum(fragment) + out.mended % 0xffff) % 0xffff;
                assert_eq!(mended, sum(&inner(&out)) % 0xffff, "{} v4 {v4}", path.name);
            }
        }
    }
}

#[test]
fn a_fragment_that_overtakes_the_first_is_never_sent_astray() {
    for v4 in FAMILIES {
        let node = &mut with_address(FrontendKind::Address, v4);
        cluster_ip(1, Protocol::Udp, at(Who::Vip, v4, 80), &[at(Who::LocalPod, v4, 8080)]).put(node);
        let mut to_vip = segment(Protocol::Udp, at(Who::Pod, v4, 40_000), at(Who::Vip, v4, 80), 0);
        to_vip.payload = vec![1; 2000];
        let later = &fragments(&to_vip.ip(), 1000)[1];
        let out = pass(node, Program::PodIngress, POD, later);
        assert_eq!(out.verdict, Verdict::Drop(Reason::LostFragment));
        to_vip.destination = at(Who::Node, v4, 30_080);
        let later = &fragments(&to_vip.ip(), 1000)[1];
        let out = pass(node, Program::PodIngress, POD, later);
        assert_eq!(out.verdict, Verdict::Pass(Reason::Fragment));
        assert_eq!(&inner(&out), later);
    }
}

#[test]
fn only_the_first_fragment_of_a_refused_datagram_is_answered() {
    for v4 in FAMILIES {
        let node = &mut with_address(FrontendKind::Address, v4);
        let mut packet = segment(Protocol::Udp, at(Who::Pod, v4, 40_000), at(Who::Vip, v4, 80), 0);
        packet.payload = vec![1; 2000];
        let parts = fragments(&packet.ip(), 1000);
        let out = pass(node, Program::PodIngress, POD, &parts[0]);
        assert_eq!(out.verdict, Verdict::Bounce(Reason::NoEndpoints));
        let out = pass(node, Program::PodIngress, POD, &parts[1]);
        assert_eq!(out.verdict, Verdict::Drop(Reason::NoEndpoints));
    }
}

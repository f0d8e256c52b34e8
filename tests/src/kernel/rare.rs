//! Packets for the second programs, made from plain ones: fragments, ICMP errors, extension headers, echo requests.
use fastrand::Rng;
use ferrogate_datapath::host::Segment;

/// Identifications of fragmented packets: few, so that fragments find their first one.
const IDENTIFICATIONS: u8 = 3;

/// Made from `segment`, from the IP header on, so that it belongs to the same flow, if there is one.
pub(super) fn rare(rng: &mut Rng, segment: &Segment) -> Vec<u8> {
    let v6 = segment.source.is_ipv6();
    match rng.u8(..8) {
        0..3 => fragment(rng, segment.ip(), v6),
        3..6 => about(rng, segment, v6),
        6 if v6 => extended(rng, segment.ip()),
        _ => echo(rng, &segment.ip(), v6),
    }
}

/// The first fragment, or a later one.
fn fragment(rng: &mut Rng, mut packet: Vec<u8>, v6: bool) -> Vec<u8> {
    let first = rng.bool();
    let offset = if first { 0 } else { rng.u16(1..100) };
    let more = first || rng.bool();
    let identification = rng.u8(..IDENTIFICATIONS);
    if !v6 {
        packet[4..6].copy_from_slice(&[0, identification]);
        packet[6..8].copy_from_slice(&(offset | u16::from(more) << 13).to_be_bytes());
        return packet;
    }
    let next = std::mem::replace(&mut packet[6], 44);
    let [a, b] = (offset << 3 | u16::from(more)).to_be_bytes();
    packet.splice(40..40, [next, 0, a, b, 0, 0, 0, identification]);
    if rng.u8(..4) == 0 {
        return extended(rng, packet);
    }
    packet
}

/// With up to seven extension headers: one more than are followed.
fn extended(rng: &mut Rng, mut packet: Vec<u8>) -> Vec<u8> {
    for _ in 0..=rng.u8(..7) {
        let number = rng.choice([0u8, 43, 60]).unwrap_or(0);
        let words = rng.choice([0u8, 0, 0, 1, 2, 40]).unwrap_or(0);
        let next = std::mem::replace(&mut packet[6], number);
        let segments_left = u8::from(rng.u8(..20) == 0);
        let mut header = vec![next, words, 4, segments_left, 0, 0, 0, 0];
        header.resize(8 + 8 * words as usize, 0);
        packet.splice(40..40, header);
    }
    packet
}

/// An ICMP error or redirect about a packet the other way.
fn about(rng: &mut Rng, segment: &Segment, v6: bool) -> Vec<u8> {
    let mut quoted = segment.turned().ip();
    if v6 && rng.u8(..6) == 0 {
        quoted = extended(rng, quoted);
    }
    if rng.u8(..4) == 0 {
        quoted.truncate(rng.usize(..=quoted.len()));
    }
    let kinds: &[u8] = if v6 {
        &[1, 2, 3, 4, 137, 137]
    } else {
        &[3, 3, 11, 12, 5, 4]
    };
    let kind = rng.choice(kinds).copied().unwrap_or(3);
    let mut message = vec![kind, rng.u8(..5), rng.u8(..), rng.u8(..), 0, 0, 5, 0];
    if kind == 137 {
        message.resize(40, 0);
        if rng.bool() {
            message.extend([2, 1, 0, 0, 0, 0, 0, 0]);
        }
        message.extend([4, 9, 0, 0, 0, 0, 0, 0]);
    }
    message.extend(quoted);
    carried(rng, segment, v6, &message)
}

/// An echo request to the segment's destination.
fn echo(rng: &mut Rng, packet: &[u8], v6: bool) -> Vec<u8> {
    let header = if v6 { 40 } else { (packet[0] & 15) as usize * 4 };
    let mut echo = packet[..header].to_vec();
    echo[if v6 { 6 } else { 9 }] = if v6 { 58 } else { 1 };
    echo.extend([if v6 { 128 } else { 8 }, 0, rng.u8(..), rng.u8(..), 0, 1, 0, 2, 3, 4]);
    echo
}

/// A message of ICMP to the segment's destination, from its source or somebody else.
fn carried(rng: &mut Rng, segment: &Segment, v6: bool, message: &[u8]) -> Vec<u8> {
    let mut packet = segment.ip();
    packet.truncate(if v6 { 40 } else { (packet[0] & 15) as usize * 4 });
    packet[if v6 { 6 } else { 9 }] = if v6 { 58 } else { 1 };
    if rng.bool() {
        // A router on the way.
        let last = if v6 { 23 } else { 15 };
        packet[last] ^= 0x55;
    }
    let length = packet.len() + message.len() - if v6 { 40 } else { 0 };
    let at = if v6 { 4 } else { 2 };
    packet[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
    packet.extend(message);
    packet
}

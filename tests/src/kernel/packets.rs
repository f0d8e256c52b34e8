//! Packets that go wrong, and what became of those that went right.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fastrand::Rng;
use ferrogate_datapath::host::Segment;

/// Spoils a packet whose IP header is at `l3` in one of the ways that must not matter, or must be noticed.
pub(super) fn damage(rng: &mut Rng, bytes: &mut Vec<u8>, l3: usize) {
    let last = bytes.len() - 1;
    let v6 = bytes[l3] >> 4 == 6;
    match rng.u8(..8) {
        // Cut short.
        0 => bytes.truncate(rng.usize(l3..=last)),
        // Bits flipped anywhere.
        1 => {
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..=last);
                bytes[at] ^= 1 << rng.u8(..8);
            }
        }
        // A fragment, first or later.
        2 if !v6 => {
            let field = if rng.bool() { 0x2000u16 } else { rng.u16(1..0x2000) };
            bytes[l3 + 6..l3 + 8].copy_from_slice(&field.to_be_bytes());
        }
        // A v4-mapped address in IPv6.
        2 | 3 if v6 => {
            let at = l3 + if rng.bool() { 8 } else { 24 };
            bytes[at..at + 12].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        }
        // Another protocol or extension header.
        4 => bytes[l3 + if v6 { 6 } else { 9 }] = rng.choice([0, 1, 6, 17, 44, 50, 58, 60, 132, 255]).unwrap_or(0),
        // Another header length.
        5 => bytes[l3] = rng.u8(..),
        // Another length.
        6 => {
            let at = l3 + if v6 { 4 } else { 2 };
            bytes[at..at + 2].copy_from_slice(&rng.u16(..).to_be_bytes());
        }
        // Another hop limit.
        _ => bytes[l3 + if v6 { 7 } else { 8 }] = rng.u8(..3),
    }
}

/// An IP packet in another one (RFC 2003, RFC 2473).
pub(super) fn wrapped(from: IpAddr, to: IpAddr, inner: &[u8]) -> Vec<u8> {
    let mut outer = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = (20 + inner.len() as u16).to_be_bytes();
            let mut outer = vec![0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, 4, 0, 0];
            outer.extend(from.octets());
            outer.extend(to.octets());
            let words = outer.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
            let sum: u32 = words.sum();
            let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
            outer[10..12].copy_from_slice(&checksum.to_be_bytes());
            outer
        }
        (from, to) => {
            let length = (inner.len() as u16).to_be_bytes();
            let mut outer = vec![0x60, 0, 0, 0, length[0], length[1], 41, 64];
            for address in [from, to] {
                if let IpAddr::V6(address) = address {
                    outer.extend(address.octets());
                }
            }
            outer
        }
    };
    outer.extend(inner);
    outer
}

/// The segment with the addresses and ports that `bytes` have, the IP header at `l3`; `None` where it isn't one any more.
pub(super) fn as_sent(segment: &Segment, bytes: &[u8], l3: usize) -> Option<Segment> {
    let ip = bytes.get(l3..)?;
    let (source, destination, l4): (IpAddr, IpAddr, usize) = match ip.first()? >> 4 {
        4 if ip.len() >= 20 => (
            Ipv4Addr::from(<[u8; 4]>::try_from(&ip[12..16]).ok()?).into(),
            Ipv4Addr::from(<[u8; 4]>::try_from(&ip[16..20]).ok()?).into(),
            (ip[0] & 15) as usize * 4,
        ),
        6 if ip.len() >= 40 => (
            Ipv6Addr::from(<[u8; 16]>::try_from(&ip[8..24]).ok()?).into(),
            Ipv6Addr::from(<[u8; 16]>::try_from(&ip[24..40]).ok()?).into(),
            40,
        ),
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(ip.get(at..at + 2)?.try_into().ok()?));
    Some(Segment {
        source: SocketAddr::new(source, port(l4)?),
        destination: SocketAddr::new(destination, port(l4 + 2)?),
        ..segment.clone()
    })
}

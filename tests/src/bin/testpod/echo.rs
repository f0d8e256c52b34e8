//! One echo request of RFC 792 or RFC 4443, over a raw socket.
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// (request, reply) of each family.
const TYPES_V4: (u8, u8) = (8, 0);
const TYPES_V6: (u8, u8) = (128, 129);
const PAYLOAD: &[u8] = b"ferrogate";

/// Whether the address answers in time. A refusal by an ICMP error is no answer.
pub(crate) fn ping(to: IpAddr, timeout: Duration) -> io::Result<bool> {
    let (domain, protocol, (request, reply)) = if to.is_ipv4() {
        (Domain::IPV4, Protocol::ICMPV4, TYPES_V4)
    } else {
        (Domain::IPV6, Protocol::ICMPV6, TYPES_V6)
    };
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.connect(&SocketAddr::new(to, 0).into())?;
    let identifier = (std::process::id() as u16).to_be_bytes();
    let mut message = vec![request, 0, 0, 0, identifier[0], identifier[1], 0, 1];
    message.extend(PAYLOAD);
    if to.is_ipv4() {
        // The kernel computes ICMPv6's, whose sum has a pseudo header.
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
    }
    socket.write_all(&message)?;
    let deadline = Instant::now() + timeout;
    let mut buffer = [0; 2048];
    while let Some(left) = deadline
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        socket.set_read_timeout(Some(left))?;
        let length = match socket.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
            Err(error) => return Err(error),
        };
        let packet = &buffer[..length];
        // A raw IPv4 socket is given the IP header too.
        let skip = if to.is_ipv4() {
            packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4)
        } else {
            0
        };
        let Some(answer) = packet.get(skip..) else { continue };
        if answer.first() == Some(&reply) && answer.get(4..6) == Some(&identifier) && answer.ends_with(PAYLOAD) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

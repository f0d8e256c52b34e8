//! One ICMP echo request, over a raw socket: not every machine has the program `ping`.
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ferrogate_tests::wire::{Failure, FailureKind, PingReport};
use socket2::{Domain, Protocol, Socket, Type};

use super::failure::At as _;

/// What is sent, and must come back.
const PAYLOAD: &[u8] = b"are you there";

pub(super) fn run(to: IpAddr, timeout_ms: u64) -> PingReport {
    match ping(to, Duration::from_millis(timeout_ms)) {
        Ok(from) => PingReport {
            from: Some(from),
            failure: None,
        },
        Err(failure) => PingReport {
            from: None,
            failure: Some(failure),
        },
    }
}

fn ping(to: IpAddr, timeout: Duration) -> Result<IpAddr, Failure> {
    let (protocol, request, reply) = match to {
        IpAddr::V4(_) => (Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Protocol::ICMPV6, 128, 129),
    };
    let address = SocketAddr::new(to, 0);
    let mut socket = Socket::new(Domain::for_address(address), Type::RAW, Some(protocol)).at("bind")?;
    socket.set_read_timeout(Some(timeout)).at("bind")?;
    // Identifier: this process.
    let [a, b] = (std::process::id() as u16).to_be_bytes();
    let mut message = vec![request, 0, 0, 0, a, b, 0, 1];
    message.extend(PAYLOAD);
    if to.is_ipv4() {
        // The kernel fills in that of ICMPv6 only.
        let checksum = checksum(&message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    socket.connect(&address.into()).at("connect")?;
    socket.send(&message).at("send")?;
    let begin = Instant::now();
    while begin.elapsed() < timeout {
        let mut buffer = [0; 2048];
        let length = socket.read(&mut buffer).at("receive")?;
        let mut answer = &buffer[..length];
        if to.is_ipv4() {
            // A raw socket of IPv4 shows the IP header as well.
            let header = usize::from(answer.first().unwrap_or(&0) & 15) * 4;
            answer = answer.get(header..).unwrap_or_default();
        }
        let ours = answer.first() == Some(&reply) && answer.get(4..) == Some(&message[4..]);
        if ours && (to.is_ipv6() || checksum(answer) == 0) {
            return Ok(to);
        }
    }
    Err(Failure {
        stage: "receive".to_owned(),
        kind: FailureKind::Silence,
        text: "no echo reply".to_owned(),
    })
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2);
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

//! `testpod resolve`: one question of RFC 1035, and the addresses in its answer.
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use ferrogate_tests::wire::{Protocol, ResolveReport};

use crate::failure::At;

const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
const QUESTION_ID: u16 = 0x4647;

pub(crate) fn resolve(server: SocketAddr, name: &str, protocol: Protocol, ipv6: bool, timeout: u64) -> ResolveReport {
    let question = question(name, if ipv6 { TYPE_AAAA } else { TYPE_A });
    let timeout = Duration::from_millis(timeout);
    let response = match protocol {
        Protocol::Udp => over_udp(server, &question, timeout),
        Protocol::Tcp => over_tcp(server, &question, timeout),
        Protocol::Sctp => Err(io::Error::new(io::ErrorKind::Unsupported, "DNS goes over UDP or TCP")),
    };
    let parsed = response.and_then(|bytes| {
        parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed DNS response"))
    });
    match parsed.at("receive") {
        Ok(report) => report,
        Err(failure) => ResolveReport {
            aliases: Vec::new(),
            addresses: Vec::new(),
            code: 0,
            failure: Some(failure),
        },
    }
}

fn over_udp(server: SocketAddr, question: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
    let any = if server.is_ipv4() {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(timeout))?;
    // As resolvers do: an answer from another address than the one asked is not an answer.
    socket.connect(server)?;
    socket.send(question)?;
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

fn over_tcp(server: SocketAddr, question: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(&(question.len() as u16).to_be_bytes())?;
    stream.write_all(question)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut buffer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut buffer)?;
    Ok(buffer)
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    let recursion_desired = 0x0100_u16;
    let mut bytes = Vec::new();
    for word in [QUESTION_ID, recursion_desired, 1, 0, 0, 0] {
        bytes.extend(word.to_be_bytes());
    }
    for label in name.trim_end_matches('.').split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(CLASS_IN.to_be_bytes());
    bytes
}

/// What the response says; `None` for anything that ends too early or answers another question.
fn parse(bytes: &[u8]) -> Option<ResolveReport> {
    if word(bytes, 0)? != QUESTION_ID {
        return None;
    }
    let code = bytes.get(3)? & 0x0f;
    let (questions, answers) = (word(bytes, 4)?, word(bytes, 6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = after_name(bytes, at)? + 4;
    }
    let (mut aliases, mut addresses) = (Vec::new(), Vec::new());
    for _ in 0..answers {
        let record = after_name(bytes, at)?;
        let length = usize::from(word(bytes, record + 8)?);
        let data = bytes.get(record + 10..record + 10 + length)?;
        match word(bytes, record)? {
            TYPE_A => addresses.push(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
            TYPE_AAAA => addresses.push(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
            TYPE_CNAME => aliases.push(name(bytes, record + 10)?),
            _ => {}
        }
        at = record + 10 + length;
    }
    Some(ResolveReport {
        aliases,
        addresses,
        code,
        failure: None,
    })
}

/// The name at `at`, in which pointers lead to earlier parts of the message.
fn name(bytes: &[u8], mut at: usize) -> Option<String> {
    let mut labels: Vec<&str> = Vec::new();
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => return Some(labels.join(".")),
            pointer if pointer & 0xc0 == 0xc0 => {
                let to = usize::from(word(bytes, at)? & 0x3fff);
                if to >= at {
                    return None;
                }
                at = to;
            }
            _ => {
                labels.push(std::str::from_utf8(bytes.get(at + 1..at + 1 + length)?).ok()?);
                at += 1 + length;
            }
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Where the name at `at` ends: at a zero label, or after a pointer.
fn after_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match bytes.get(at)? {
            0 => return Some(at + 1),
            label if label & 0xc0 == 0xc0 => return Some(at + 2),
            label => at += 1 + usize::from(*label),
        }
    }
}

//! Packets made from what a test says of them, with right lengths and checksums.

use core::net::{IpAddr, SocketAddr};
use ferrogate_common::Protocol;
use std::vec;
use std::vec::Vec;

/// TCP flags (RFC 9293 section 3.1).
pub mod tcp {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
}

/// Chunk types of SCTP (RFC 9260 section 3.2).
pub mod sctp {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const SACK: u8 = 3;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const COOKIE_ECHO: u8 = 10;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// A TCP, UDP or SCTP packet. Both addresses are of one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub protocol: Protocol,
    /// TCP flags, or the type of SCTP's only chunk.
    pub flags: u8,
    /// Of SCTP the verification tag.
    pub sequence: u32,
    /// Of SCTP the chunk's first word, in an INIT the sender's own tag.
    pub acknowledgment: u32,
    pub payload: Vec<u8>,
    pub hop_limit: u8,
    /// IPv4 options, in words of no-operation.
    pub option_words: usize,
    /// UDP over IPv4 without a checksum.
    pub no_checksum: bool,
    /// The checksum is left to the device: the field holds the pseudo header's sum, of SCTP 0.
    pub partial: bool,
}

/// Ethernet addresses of what [`Segment::ethernet`] makes: destination, source.
const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

impl Segment {
    /// A TCP segment without payload.
    pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8) -> Self {
        Self {
            source,
            destination,
            protocol: Protocol::Tcp,
            flags,
            sequence: 1000,
            acknowledgment: if flags & tcp::ACK != 0 { 2000 } else { 0 },
            payload: Vec::new(),
            hop_limit: 64,
            option_words: 0,
            no_checksum: false,
            partial: false,
        }
    }

    /// A UDP datagram.
    pub fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Self {
        Self {
            protocol: Protocol::Udp,
            payload: payload.to_vec(),
            ..Self::tcp(source, destination, 0)
        }
    }

    /// An SCTP packet with one chunk.
    pub fn sctp(source: SocketAddr, destination: SocketAddr, chunk: u8) -> Self {
        Self {
            protocol: Protocol::Sctp,
            sequence: if chunk == sctp::INIT { 0 } else { 1000 },
            acknowledgment: 2000,
            ..Self::tcp(source, destination, chunk)
        }
    }

    /// The same the other way.
    #[must_use]
    pub fn turned(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            ..self.clone()
        }
    }

    /// With an Ethernet header.
    pub fn ethernet(&self) -> Vec<u8> {
        let mut bytes = MACS.to_vec();
        let ethertype: u16 = if self.source.is_ipv4() { 0x0800 } else { 0x86dd };
        bytes.extend(ethertype.to_be_bytes());
        bytes.extend(self.ip());
        bytes
    }

    /// From the IP header on.
    pub fn ip(&self) -> Vec<u8> {
        let transport = self.transport();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = 20 + 4 * self.option_words;
                let mut ip = vec![0x45 + self.option_words as u8, 0];
                ip.extend(((header + transport.len()) as u16).to_be_bytes());
                ip.extend([0x12, 0x34, 0x40, 0, self.hop_limit, self.protocol as u8, 0, 0]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                ip.resize(header, 1);
                let checksum = !sum(&[&ip]);
                ip[10..12].copy_from_slice(&checksum.to_be_bytes());
                ip.extend(transport);
                ip
            }
            (source, destination) => {
                let mut ip = vec![0x60, 0, 0, 0];
                ip.extend((transport.len() as u16).to_be_bytes());
                ip.extend([self.protocol as u8, self.hop_limit]);
                ip.extend(octets(source));
                ip.extend(octets(destination));
                ip.extend(transport);
                ip
            }
        }
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.source.port().to_be_bytes());
        bytes.extend(self.destination.port().to_be_bytes());
        if self.protocol == Protocol::Sctp {
            return self.sctp_packet(bytes);
        }
        let at = if self.protocol == Protocol::Tcp {
            bytes.extend(self.sequence.to_be_bytes());
            bytes.extend(self.acknowledgment.to_be_bytes());
            bytes.extend([5 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
            16
        } else {
            bytes.extend((8 + self.payload.len() as u16).to_be_bytes());
            bytes.extend([0, 0]);
            6
        };
        bytes.extend(&self.payload);
        let checksum = self.checksum(&bytes);
        bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// The rest of an SCTP packet, whose ports are there. Its checksum is computed by code that has nothing to do with ours.
    fn sctp_packet(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend([self.flags, 0]);
        bytes.extend((8 + self.payload.len() as u16).to_be_bytes());
        bytes.extend(self.acknowledgment.to_be_bytes());
        bytes.extend(&self.payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        if !self.partial {
            let checksum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&bytes);
            bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
        }
        bytes
    }

    fn checksum(&self, transport: &[u8]) -> u16 {
        let (source, destination) = (octets(self.source.ip()), octets(self.destination.ip()));
        let length = (transport.len() as u32).to_be_bytes();
        let protocol = [0, self.protocol as u8];
        let pseudo = [&source[..], &destination, &length, &protocol];
        if self.no_checksum {
            return 0;
        }
        if self.partial {
            return sum(&pseudo);
        }
        let checksum = !sum(&[pseudo[0], pseudo[1], pseudo[2], pseudo[3], transport]);
        if checksum == 0 && self.protocol == Protocol::Udp {
            return 0xffff;
        }
        checksum
    }
}

/// An address's bytes as a pseudo header has them.
fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// One's complement sum of big-endian 16-bit words; all parts but the last are of even length.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for word in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u64::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

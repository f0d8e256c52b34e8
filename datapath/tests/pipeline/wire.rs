//! Packets as `etherparse` reads them.

use etherparse::{Icmpv4Slice, Icmpv6Slice, NetSlice, SlicedPacket, TcpSlice, TransportSlice, UdpSlice};
use std::net::{IpAddr, SocketAddr};

/// What is in a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    /// Port 0 where the packet has none.
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) hop_limit: u8,
    pub(crate) what: What,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Tcp {
        syn: bool,
        ack: bool,
        fin: bool,
        rst: bool,
        sequence: u32,
        acknowledgment: u32,
        payload: Vec<u8>,
    },
    Udp {
        payload: Vec<u8>,
        has_checksum: bool,
    },
    /// The first chunk's type, flags, and what it holds behind its first word.
    Sctp {
        tag: u32,
        chunk: u8,
        flags: u8,
        payload: Vec<u8>,
    },
    /// Type, code, second word, and what follows.
    Icmp {
        kind: u8,
        code: u8,
        rest: [u8; 4],
        payload: Vec<u8>,
    },
}

impl Seen {
    /// Reads a packet and checks every checksum and length in it.
    #[track_caller]
    pub(crate) fn read(bytes: &[u8], link: usize) -> Self {
        let packet = SlicedPacket::from_ip(&bytes[link..]).unwrap_or_else(|error| panic!("{error} in {bytes:02x?}"));
        let (source, destination, hop_limit): (IpAddr, IpAddr, u8) = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header().to_header();
                assert_eq!(
                    header.header_checksum,
                    header.calc_header_checksum(),
                    "IPv4 header {bytes:02x?}"
                );
                assert_eq!(
                    usize::from(header.total_len),
                    bytes.len() - link,
                    "length of {bytes:02x?}"
                );
                let header = ip.header();
                (
                    header.source_addr().into(),
                    header.destination_addr().into(),
                    header.ttl(),
                )
            }
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header();
                assert_eq!(
                    usize::from(header.payload_length()) + 40,
                    bytes.len() - link,
                    "{bytes:02x?}"
                );
                (
                    header.source_addr().into(),
                    header.destination_addr().into(),
                    header.hop_limit(),
                )
            }
            other => panic!("not IP: {other:?} {bytes:02x?}"),
        };
        let (ports, what) = match &packet.transport {
            Some(TransportSlice::Tcp(tcp)) => read_tcp(tcp, source, destination),
            Some(TransportSlice::Udp(udp)) => read_udp(udp, source, destination),
            Some(TransportSlice::Icmpv4(icmp)) => ((0, 0), read_icmp_v4(icmp)),
            Some(TransportSlice::Icmpv6(icmp)) => ((0, 0), read_icmp_v6(icmp, source, destination)),
            None => read_sctp(&packet, bytes),
            other => panic!("no transport: {other:?} {bytes:02x?}"),
        };
        Self {
            source: SocketAddr::new(source, ports.0),
            destination: SocketAddr::new(destination, ports.1),
            hop_limit,
            what,
        }
    }

    /// What is carried.
    pub(crate) fn payload(&self) -> &[u8] {
        match &self.what {
            What::Tcp { payload, .. }
            | What::Udp { payload, .. }
            | What::Sctp { payload, .. }
            | What::Icmp { payload, .. } => payload,
        }
    }
}

#[track_caller]
fn read_tcp(tcp: &TcpSlice<'_>, source: IpAddr, destination: IpAddr) -> ((u16, u16), What) {
    let right = match (source, destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => tcp.calc_checksum_ipv4(a.octets(), b.octets()).unwrap(),
        (IpAddr::V6(a), IpAddr::V6(b)) => tcp.calc_checksum_ipv6(a.octets(), b.octets()).unwrap(),
        _ => panic!("two families"),
    };
    assert_eq!(tcp.checksum(), right, "TCP checksum");
    let what = What::Tcp {
        syn: tcp.syn(),
        ack: tcp.ack(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        sequence: tcp.sequence_number(),
        acknowledgment: tcp.acknowledgment_number(),
        payload: tcp.payload().to_vec(),
    };
    ((tcp.source_port(), tcp.destination_port()), what)
}

#[track_caller]
fn read_udp(udp: &UdpSlice<'_>, source: IpAddr, destination: IpAddr) -> ((u16, u16), What) {
    let header = udp.to_header();
    let payload = udp.payload();
    let right = match (source, destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => header.calc_checksum_ipv4_raw(a.octets(), b.octets(), payload).unwrap(),
        (IpAddr::V6(a), IpAddr::V6(b)) => header.calc_checksum_ipv6_raw(a.octets(), b.octets(), payload).unwrap(),
        _ => panic!("two families"),
    };
    let has_checksum = header.checksum != 0;
    assert!(has_checksum || source.is_ipv4(), "IPv6 demands a UDP checksum");
    assert!(
        !has_checksum || header.checksum == right,
        "UDP checksum {:04x}, not {right:04x}",
        header.checksum
    );
    let what = What::Udp {
        payload: payload.to_vec(),
        has_checksum,
    };
    ((header.source_port, header.destination_port), what)
}

/// SCTP, which `etherparse` does not read; its CRC32c is computed by code that has nothing to do with ours.
#[track_caller]
fn read_sctp(packet: &SlicedPacket<'_>, bytes: &[u8]) -> ((u16, u16), What) {
    let ip = packet.ip_payload().unwrap_or_else(|| panic!("no payload {bytes:02x?}"));
    assert_eq!(ip.ip_number.0, 132, "{bytes:02x?}");
    let mut sctp = ip.payload.to_vec();
    let sum = u32::from_le_bytes(sctp[8..12].try_into().unwrap());
    sctp[8..12].fill(0);
    let right = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&sctp);
    assert_eq!(sum, right, "CRC32c in {bytes:02x?}");
    let word = |at: usize| u16::from_be_bytes([sctp[at], sctp[at + 1]]);
    let length = usize::from(word(14));
    assert_eq!(
        length.next_multiple_of(4),
        sctp.len() - 12,
        "length of the chunk in {bytes:02x?}"
    );
    let what = What::Sctp {
        tag: u32::from_be_bytes(sctp[4..8].try_into().unwrap()),
        chunk: sctp[12],
        flags: sctp[13],
        payload: sctp.get(20..12 + length).unwrap_or_default().to_vec(),
    };
    ((word(0), word(2)), what)
}

#[track_caller]
fn read_icmp_v4(icmp: &Icmpv4Slice<'_>) -> What {
    let header = icmp.header();
    assert_eq!(
        header.checksum,
        header.icmp_type.calc_checksum(icmp.payload()),
        "ICMP checksum"
    );
    What::Icmp {
        kind: icmp.type_u8(),
        code: icmp.code_u8(),
        rest: icmp.bytes5to8(),
        payload: icmp.payload().to_vec(),
    }
}

#[track_caller]
fn read_icmp_v6(icmp: &Icmpv6Slice<'_>, source: IpAddr, destination: IpAddr) -> What {
    let (IpAddr::V6(a), IpAddr::V6(b)) = (source, destination) else {
        panic!("ICMPv6 in IPv4");
    };
    assert!(icmp.is_checksum_valid(a.octets(), b.octets()), "ICMPv6 checksum");
    What::Icmp {
        kind: icmp.type_u8(),
        code: icmp.code_u8(),
        rest: icmp.bytes5to8(),
        payload: icmp.payload().to_vec(),
    }
}

//! Headers as they are on the wire, in native words that hold network-order bytes.

use bytemuck::{Pod, Zeroable};

/// Ethernet II (IEEE 802.3).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct EthernetHeader {
    pub destination: [u16; 3],
    pub source: [u16; 3],
    /// Network order.
    pub ethertype: u16,
}

/// IPv4 without options (RFC 791).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Ipv4Header {
    /// Version 4 in the high, header length in words in the low four bits.
    pub version_ihl: u8,
    pub tos: u8,
    /// Network order.
    pub total_length: u16,
    pub identification: u16,
    /// Network order: flags in the upper three bits, offset in units of 8 bytes.
    pub fragment: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: u16,
    /// Network order.
    pub source: u32,
    /// Network order.
    pub destination: u32,
}

/// IPv6 (RFC 8200).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Ipv6Header {
    /// Version 6 in the high four bits.
    pub version_class: u8,
    pub class_flow: [u8; 3],
    /// Network order; without this header.
    pub payload_length: u16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub source: [u32; 4],
    pub destination: [u32; 4],
}

/// TCP without options (RFC 9293).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct TcpHeader {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// Network order.
    pub(crate) sequence: u32,
    /// Network order.
    pub(crate) acknowledgment: u32,
    /// Header length in words in the high four bits.
    pub(crate) data_offset: u8,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) checksum: u16,
    pub(crate) urgent: u16,
}

/// SCTP's common header and the head of its first chunk (RFC 9260 sections 3.1 and 3.2).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct SctpHeader {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// Verification tag.
    pub(crate) tag: u32,
    /// CRC32c, little-endian.
    pub(crate) checksum: u32,
    pub(crate) chunk: u8,
    pub(crate) chunk_flags: u8,
    /// Network order; of the chunk, its head included.
    pub(crate) chunk_length: u16,
}

/// Types of SCTP chunks.
pub(crate) mod chunk {
    pub(crate) const INIT: u8 = 1;
    pub(crate) const INIT_ACK: u8 = 2;
    pub(crate) const ABORT: u8 = 6;
    pub(crate) const SHUTDOWN: u8 = 7;
    pub(crate) const SHUTDOWN_ACK: u8 = 8;
    pub(crate) const SHUTDOWN_COMPLETE: u8 = 14;
}

/// The fixed part of an ICMP or ICMPv6 error (RFC 792, RFC 4443).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct IcmpHeader {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) checksum: u16,
    /// Network order; ICMP "fragmentation needed" has the MTU in its second half, ICMPv6 "packet too big" in all of it.
    pub(crate) rest: u32,
}

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;

pub(crate) const TCP_FIN: u8 = 0x01;
pub(crate) const TCP_SYN: u8 = 0x02;
pub(crate) const TCP_RST: u8 = 0x04;
pub(crate) const TCP_ACK: u8 = 0x10;

// IPv6 extension headers (RFC 8200 section 4).
pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;

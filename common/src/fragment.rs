//! Fragments: only the first of a packet has its ports.

use crate::{Address, Port};
use bytemuck::{Pod, Zeroable};

/// Key of `FRAGMENTS`: what all fragments of one packet have in common (RFC 791 section 2.3, RFC 8200 section 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct FragmentKey {
    pub source: Address,
    pub destination: Address,
    /// Identification as it is on the wire, in one native word; IPv4 has 16 bits of it.
    pub identification: u32,
    /// IPv4: the IP protocol number. IPv6: 0, the identification alone decides.
    pub protocol: u32,
}

/// Value of `FRAGMENTS`: what the first fragment had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct FragmentPorts {
    pub source_port: Port,
    pub destination_port: Port,
    /// IP protocol number of the transport header.
    pub protocol: u8,
    pub reserved: [u8; 3],
}

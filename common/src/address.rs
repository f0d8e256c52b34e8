//! Addresses, ports and protocols as they are on the wire.

use bytemuck::{Pod, Zeroable};
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 or IPv6 address in 16 bytes, network order; IPv4 is kept v4-mapped (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
///
/// One type for both families: no table and no function exists twice. Words, not bytes, so that eBPF code compares and
/// copies it in four aligned loads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct Address {
    /// The address's 16 bytes as they lie in memory, seen as four native words.
    words: [u32; 4],
}

/// Third word of a v4-mapped address.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Address {
    /// `::`, which no packet is ever sent to: stands for "any IPv6 node address" in a NodePort's [`crate::FrontendKey`].
    pub const UNSPECIFIED: Self = Self { words: [0; 4] };

    /// `0.0.0.0`, the same for IPv4: the two families of a NodePort have backends of their own.
    pub const UNSPECIFIED_V4: Self = Self::from_v4_word(0);

    /// `127.0.0.1`.
    pub const LOOPBACK_V4: Self = Self::from_v4_word(u32::from_ne_bytes([127, 0, 0, 1]));

    /// From the four bytes of an IPv4 header, read as one native word.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self {
            words: [0, 0, MAPPED, word],
        }
    }

    /// From the 16 bytes of an IPv6 header, read as four native words.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// The 16 bytes, network order, as four native words.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        self.words
    }

    /// The last four bytes as one native word: the IPv4 address, where this is one.
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.words[3]
    }

    /// Whether this is an IPv4 address in its v4-mapped form.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }

    /// The address that stands for "any node address" of this one's family: the NodePort look-up for a packet to `self`.
    #[inline(always)]
    pub const fn unspecified(&self) -> Self {
        if self.is_v4() {
            Self::UNSPECIFIED_V4
        } else {
            Self::UNSPECIFIED
        }
    }

    /// The 16 bytes in network order.
    #[inline(always)]
    pub const fn octets(&self) -> [u8; 16] {
        let [a, b, c, d] = [
            self.words[0].to_ne_bytes(),
            self.words[1].to_ne_bytes(),
            self.words[2].to_ne_bytes(),
            self.words[3].to_ne_bytes(),
        ];
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3],
        ]
    }

    /// The address as the standard library has it, IPv4 unmapped.
    pub fn ip(&self) -> IpAddr {
        let v6 = Ipv6Addr::from(self.octets());
        match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(v6),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(v4: Ipv4Addr) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(v4.octets()))
    }
}

impl From<Ipv6Addr> for Address {
    fn from(v6: Ipv6Addr) -> Self {
        let o = v6.octets();
        Self {
            words: [
                u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
            ],
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

/// A TCP, UDP or SCTP port in network order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(transparent)]
pub struct Port {
    be: u16,
}

impl Port {
    pub const ZERO: Self = Self { be: 0 };

    /// From host order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self { be: host.to_be() }
    }

    /// From the two bytes of a packet read as one native word.
    #[inline(always)]
    pub const fn from_be(be: u16) -> Self {
        Self { be }
    }

    /// The two wire bytes as one native word.
    #[inline(always)]
    pub const fn be(self) -> u16 {
        self.be
    }

    /// In host order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.be)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// IP protocol numbers that a Service port can have (IANA protocol numbers), and the two ICMPs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Protocol {
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

impl Protocol {
    pub const ICMP: u8 = 1;
    pub const ICMPV6: u8 = 58;
    /// IPv4 in another packet.
    pub const IPIP: u8 = 4;
    /// IPv6 in another packet.
    pub const IPV6: u8 = 41;

    /// The protocol of this number, if a Service can use it.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The name Kubernetes uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

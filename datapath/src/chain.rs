//! From an IP header to what it carries: options, extension headers, fragments.

use crate::env::{Env, Packet};
use crate::headers::{DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, Ipv4Header, Ipv6Header, ROUTING};
use ferrogate_common::{Address, Reason};

/// Extension headers that are followed; senders use one or two.
const LONGEST_CHAIN: usize = 6;

/// No header begins behind this offset.
pub(crate) const FARTHEST: u32 = 0x1ff;

/// An IP packet, whole or quoted, up to its transport header.
pub(crate) struct Chain {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    /// Offset of the transport header; of a later fragment, of its part of the payload.
    pub(crate) l4: usize,
    /// IP protocol number of the transport header; of a later fragment it may be that of an extension header.
    pub(crate) protocol: u8,
    pub(crate) hop_limit: u8,
    /// Length of the IP packet as its header says, host order.
    pub(crate) length: u16,
    /// A fragment's offset in units of 8 bytes and, as bit 15, whether more follow; 0: not a fragment.
    pub(crate) fragment: u16,
    /// Identification of a fragment as it is on the wire.
    pub(crate) identification: u32,
}

/// More fragments follow.
pub(crate) const MORE: u16 = 1 << 15;

impl Chain {
    /// To be filled in.
    pub(crate) const NONE: Self = Self {
        source: Address::UNSPECIFIED,
        destination: Address::UNSPECIFIED,
        l4: 0,
        protocol: 0,
        hop_limit: 0,
        length: 0,
        fragment: 0,
        identification: 0,
    };

    /// A fragment behind the first.
    pub(crate) fn is_later_fragment(&self) -> bool {
        self.fragment & !MORE != 0
    }
}

/// [`follow`] came to the transport header.
pub(crate) const FOLLOWED: Reason = Reason::Translated;

/// Reads the IP header at `at` and all that follows it up to the transport header. [`FOLLOWED`], or why it could not be.
#[inline(never)]
pub(crate) fn follow<E: Env>(env: &E, at: usize, v6: u32, chain: &mut Chain) -> Reason {
    let at = (env.opaque(at as u32) & FARTHEST) as usize;
    let reason = if v6 != 0 {
        follow_v6(env, at, chain)
    } else {
        follow_v4(env, at, chain)
    };
    chain.l4 = (env.opaque(chain.l4 as u32) & FARTHEST) as usize;
    chain.protocol = env.opaque(chain.protocol.into()) as u8;
    chain.fragment = env.opaque(chain.fragment.into()) as u16;
    chain.identification = env.opaque(chain.identification);
    reason
}

#[inline(always)]
fn follow_v4<P: Packet>(packet: &P, at: usize, chain: &mut Chain) -> Reason {
    let Some(ip) = packet.load::<Ipv4Header>(at) else {
        return Reason::Malformed;
    };
    let ihl = (ip.version_ihl & 0x0f) as usize * 4;
    if ip.version_ihl >> 4 != 4 || ihl < 20 {
        return Reason::Malformed;
    }
    let fragment = u16::from_be(ip.fragment);
    *chain = Chain {
        source: Address::from_v4_word(ip.source),
        destination: Address::from_v4_word(ip.destination),
        l4: at + ihl,
        protocol: ip.protocol,
        hop_limit: ip.ttl,
        length: u16::from_be(ip.total_length),
        fragment: fragment & 0x1fff | (fragment & 0x2000) << 2,
        identification: ip.identification as u32,
    };
    FOLLOWED
}

#[inline(always)]
fn follow_v6<E: Env>(env: &E, at: usize, chain: &mut Chain) -> Reason {
    let Some(ip) = env.load::<Ipv6Header>(at) else {
        return Reason::Malformed;
    };
    if ip.version_class >> 4 != 6 {
        return Reason::Malformed;
    }
    *chain = Chain {
        source: Address::from_words(ip.source),
        destination: Address::from_words(ip.destination),
        l4: at + 40,
        protocol: ip.next_header,
        hop_limit: ip.hop_limit,
        length: u16::from_be(ip.payload_length).saturating_add(40),
        fragment: 0,
        identification: 0,
    };
    // On the wire a v4-mapped address means nothing, and here it would alias an IPv4 frontend.
    if chain.source.is_v4() || chain.destination.is_v4() {
        return Reason::NotService;
    }
    for _ in 0..LONGEST_CHAIN {
        let is_fragment = chain.protocol == FRAGMENT;
        let is_extension = matches!(chain.protocol, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS);
        // Behind a later fragment's header is no header.
        if chain.is_later_fragment() || !(is_fragment || is_extension) {
            return FOLLOWED;
        }
        let Some([next, length, second, third, id @ ..]) = env.load::<[u8; 8]>(chain.l4) else {
            return Reason::Malformed;
        };
        let mut bytes = 8;
        if is_fragment {
            let word = u16::from_be_bytes([second, third]);
            chain.fragment = word >> 3 | word << 15;
            chain.identification = u32::from_ne_bytes(id);
        } else {
            // Segments left: the destination is not the last one yet.
            if chain.protocol == ROUTING && third != 0 {
                return Reason::NotService;
            }
            bytes += length as usize * 8;
        }
        chain.protocol = env.opaque(next.into()) as u8;
        chain.l4 = (env.opaque((chain.l4 + bytes) as u32) & FARTHEST) as usize;
        if chain.l4 <= at {
            return Reason::Malformed;
        }
    }
    Reason::NotIp
}

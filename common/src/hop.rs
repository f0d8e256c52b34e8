//! Ways that packets took a moment ago, so that not each one asks for its route.

use crate::Address;
use bytemuck::{Pod, Zeroable};

/// Element of `NEXT_HOPS`: the way of the last packet whose question fell on this place. Each CPU has elements of its own, which its
/// programs alone read and write.
///
/// It holds for a packet that asks the same, in the same tick ([`crate::TICK_SHIFT`]) and generation of `ROUTES`, and that is no
/// longer than the way out allows. So the programs follow a change of routes within a tick where no agent tells them of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct NextHop {
    /// The packet's addresses, as it leaves; of the source [what counts](Self::source_that_counts).
    pub source: Address,
    pub destination: Address,
    /// ifindex of the device that it came in by, or has to leave by.
    pub from: u32,
    /// What else the answer depends on: [`NextHop::kind`].
    pub kind: u32,
    /// What the one element of `ROUTES` was; 0: this is no answer.
    pub generation: u32,
    pub tick: u32,
    /// The neighbour: a gateway or the destination itself.
    pub next_hop: Address,
    /// The device that it leaves by.
    pub ifindex: u32,
    pub destination_mac: [u16; 3],
    pub source_mac: [u16; 3],
    /// Bytes of IP packet that fit.
    pub mtu: u16,
    /// Bits of [`crate::interface_flags`] of the device that it leaves by, where anybody asks for them.
    pub flags: u16,
}

impl NextHop {
    /// Bit of the element of `ROUTES`: no way of this node depends on a packet's source, so that all sources share an answer.
    pub const BY_DESTINATION: u32 = 1 << 31;

    /// What counts of a source, as the element of `ROUTES` has it.
    #[inline(always)]
    pub const fn source_that_counts(source: &Address, routes: u32) -> Address {
        // All bits where the bit is not set. Without a branch, of which the verifier would follow both sides.
        let mask = (routes >> 31).wrapping_sub(1);
        let [a, b, c, d] = source.words();
        Address::from_words([a & mask, b & mask, c & mask, d & mask])
    }

    /// No answer.
    pub const NONE: Self = Self {
        source: Address::UNSPECIFIED,
        destination: Address::UNSPECIFIED,
        from: 0,
        kind: 0,
        generation: 0,
        tick: 0,
        next_hop: Address::UNSPECIFIED,
        ifindex: 0,
        destination_mac: [0; 3],
        source_mac: [0; 3],
        mtu: 0,
        flags: 0,
    };

    /// IP protocol number and whether the device to leave by was given, as the program packs them, and whether only devices that frames
    /// can be sent by will do.
    #[inline(always)]
    pub const fn kind(packed: u16, frames: bool) -> u32 {
        packed as u32 | (frames as u32) << 16
    }

    /// Where a question falls among `entries`, a power of two.
    #[inline(always)]
    pub const fn place(source: &Address, destination: &Address, from: u32, entries: u32) -> u32 {
        let ([a, b, c, d], [e, f, g, h]) = (destination.words(), source.words());
        let mixed = d ^ a ^ b.rotate_left(8) ^ c.rotate_left(16) ^ (e ^ f ^ g ^ h).rotate_left(13) ^ from;
        // The byte of an address that varies most is the last one, and a product's upper bits depend on all of it.
        let product = (mixed.swap_bytes() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (product >> 32) as u32 & (entries - 1)
    }

    /// Whether this is the answer for these addresses and `from`, `kind`, `generation` and `tick`; without branches, of which the
    /// verifier would follow each.
    #[inline(always)]
    pub fn answers(&self, source: &Address, destination: &Address, others: [u32; 4]) -> bool {
        let mut difference = 0;
        let held = [self.from, self.kind, self.generation, self.tick];
        for (held, asked) in [
            (held, others),
            (self.source.words(), source.words()),
            (self.destination.words(), destination.words()),
        ] {
            for word in 0..4 {
                difference |= held[word] ^ asked[word];
            }
        }
        difference == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    fn address(number: u32) -> Address {
        Ipv4Addr::from(number).into()
    }

    #[test]
    fn clients_next_to_each_other_fall_on_places_of_their_own() {
        let mut taken = [0u16; 1024];
        for number in 0..1024 {
            let place = NextHop::place(&address(0xc000_0201), &address(0x0a00_0000 + number), 3, 1024);
            taken[place as usize] += 1;
        }
        let used = taken.iter().filter(|count| **count != 0).count();
        assert!(used > 600, "{used} of 1024 places");
    }

    #[test]
    fn whatever_an_answer_depends_on_makes_it_another_question() {
        let (source, destination) = (address(1), address(2));
        let held = NextHop {
            source,
            destination,
            from: 3,
            kind: NextHop::kind(6, false),
            generation: 5,
            tick: 7,
            ..NextHop::NONE
        };
        let asked = [held.from, held.kind, held.generation, held.tick];
        assert!(held.answers(&source, &destination, asked));
        assert!(!held.answers(&destination, &destination, asked));
        assert!(!held.answers(&source, &source, asked));
        for word in 0..4 {
            let mut other = asked;
            other[word] += 1;
            assert!(!held.answers(&source, &destination, other), "word {word}");
        }
        assert_ne!(NextHop::kind(6, true), NextHop::kind(6, false));
    }

    #[test]
    fn a_source_counts_unless_ways_go_by_destination() {
        let source = address(1);
        assert_eq!(NextHop::source_that_counts(&source, 7), source);
        let of_all = NextHop::source_that_counts(&source, NextHop::BY_DESTINATION | 7);
        assert_eq!(of_all, Address::UNSPECIFIED);
    }
}

//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624), over native words.
//!
//! A *difference* is the one's complement sum of new words and complemented old words. It is the same in either byte order
//! as long as words are read natively and keep their alignment within the 16-bit grid.

use crate::env::ChecksumChange;
use ferrogate_common::{Address, Port};

/// One's complement addition of 32-bit sums.
#[inline(always)]
pub(crate) const fn add(a: u32, b: u32) -> u32 {
    let sum = a as u64 + b as u64;
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

/// The one's complement sum of what was added up in 64 bits, where nothing is carried.
#[inline(always)]
const fn carried(sum: u64) -> u32 {
    add(sum as u32, (sum >> 32) as u32)
}

/// Sum of an address's words, not carried. The prefix of a v4-mapped one sums up to 0xffff, which is 0 in one's complement.
#[inline(always)]
fn words(a: &Address) -> u64 {
    let [w, x, y, z] = a.words();
    w as u64 + x as u64 + y as u64 + z as u64
}

/// Sum of an address's words.
#[inline(always)]
pub(crate) fn address(a: &Address) -> u32 {
    carried(words(a))
}

/// Sum of a pseudo header (RFC 793, RFC 8200 section 8.1); `length` is that of the segment.
#[inline(always)]
pub(crate) fn pseudo_header(source: &Address, destination: &Address, protocol: u8, length: u16) -> u16 {
    let rest = u64::from(length.to_be()) + u64::from(u16::from(protocol).to_be());
    fold(carried(words(source) + words(destination) + rest))
}

/// Whether two sums are one number: in one's complement zero is written in two ways. Their difference is then either of them.
#[inline(always)]
pub const fn same(a: u16, b: u16) -> bool {
    let difference = a as u32 + !b as u32;
    let difference = (difference & 0xffff) + (difference >> 16);
    (difference + 1) & 0xffff <= 1
}

/// Difference that replacing address `old` by `new` of the same family makes.
#[inline(always)]
pub(crate) fn address_difference(old: &Address, new: &Address, v6: bool) -> u32 {
    let (old, new) = (old.words(), new.words());
    let word = |at: usize| u64::from(new[at]) + u64::from(!old[at]);
    let last = word(3);
    if !v6 {
        return carried(last);
    }
    carried(word(0) + word(1) + word(2) + last)
}

/// Difference that replacing 16-bit word `old` by `new` makes.
#[inline(always)]
pub(crate) const fn word_difference(old: u16, new: u16) -> u32 {
    add(new as u32, !(old as u32))
}

/// Difference that replacing one port by another makes.
#[inline(always)]
pub(crate) const fn port_difference(old: Port, new: Port) -> u32 {
    word_difference(old.be(), new.be())
}

/// Folds a sum to 16 bits.
#[inline(always)]
pub(crate) const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// A checksum after a difference (RFC 1624, equation 3).
#[inline(always)]
pub const fn update(checksum: u16, difference: u32) -> u16 {
    !fold(add(difference, !(checksum as u32)))
}

/// A transport checksum after a change, as `bpf_l4_csum_replace` computes it: 0 stays 0 where that means "none", and a
/// result of 0 is sent as 0xffff there (RFC 768).
#[inline(always)]
pub const fn updated(checksum: u16, change: &ChecksumChange) -> u16 {
    if change.optional && checksum == 0 {
        return 0;
    }
    let mut new = update(checksum, change.addresses);
    if change.optional && new == 0 {
        new = 0xffff;
    }
    new = update(new, change.rest);
    if change.optional && new == 0 {
        new = 0xffff;
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn two_sums_are_the_same_where_they_differ_by_nothing_or_all_ones() {
        for a in 0..=u16::MAX {
            for b in [0, 1, 0x7fff, 0xfffe, 0xffff, a, !a, a.wrapping_add(1)] {
                assert_eq!(same(a, b), a % 0xffff == b % 0xffff, "{a:#06x} {b:#06x}");
            }
        }
    }

    #[test]
    fn the_sum_of_a_pseudo_header_is_that_of_its_words() {
        let [source, destination] =
            [[192, 0, 2, 1], [10, 96, 0, 10]].map(|octets| Address::from(Ipv4Addr::from(octets)));
        let words = [0xc000u32, 0x0201, 0x0a60, 0x000a, 6, 20];
        let expected = words.iter().sum::<u32>() as u16;
        let sum = pseudo_header(&source, &destination, 6, 20);
        assert!(same(sum, expected.to_be()), "{sum:#06x} {:#06x}", expected.to_be());
    }
}

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

/// Sum of an address's words. The prefix of a v4-mapped one sums up to 0xffff, which is 0 in one's complement.
#[inline(always)]
pub(crate) fn address(a: &Address) -> u32 {
    let [w, x, y, z] = a.words();
    add(add(w, x), add(y, z))
}

/// Difference that replacing address `old` by `new` of the same family makes.
#[inline(always)]
pub(crate) fn address_difference(old: &Address, new: &Address, v6: bool) -> u32 {
    let (old, new) = (old.words(), new.words());
    let last = add(new[3], !old[3]);
    if !v6 {
        return last;
    }
    add(
        add(add(new[0], !old[0]), add(new[1], !old[1])),
        add(add(new[2], !old[2]), last),
    )
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

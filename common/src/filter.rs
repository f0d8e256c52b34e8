//! The filter in front of all look-ups: most packets are no Service's, and most of these are known by one address.

use crate::address::Address;

/// Where an address's bits are in `ADDRESSES`, by its hash: a Bloom filter with one hash function. Addresses share places; so what a
/// bit says is "perhaps", and only its absence is certain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FilterPlace {
    /// Element.
    pub index: u32,
    /// How far the place's bits are shifted within it.
    pub shift: u32,
}

/// log2 of the number of elements, of 8 bytes with 32 places each.
pub const FILTER_SHIFT: u32 = 14;

/// log2 of the places in an element.
const PLACES_SHIFT: u32 = 5;

/// Bits of a place in `ADDRESSES`.
pub mod address_roles {
    use crate::{Address, Direction, Tuple};

    /// Packets to it may be a Service's: of a frontend, of the node, or of a flow.
    pub const DESTINATION: u32 = 1;
    /// Packets from it may be replies: of a backend, or of one that was.
    pub const BACKEND: u32 = 1 << 1;
    /// Both.
    pub const ALL: u32 = DESTINATION | BACKEND;

    /// The address by which the packets of a flow's entry are known, and what it is.
    pub const fn of_flow(key: &Tuple) -> (&Address, u32) {
        if key.direction == Direction::Forward as u8 {
            (&key.destination, DESTINATION)
        } else {
            (&key.source, BACKEND)
        }
    }
}

impl FilterPlace {
    /// The place of an address.
    #[inline(always)]
    pub const fn of(address: &Address) -> Self {
        let [a, b, c, d] = address.words();
        let high = (a as u64) << 32 | b as u64;
        let low = (c as u64) << 32 | d as u64;
        // A product's top bits depend on all bits of both numbers. One is not enough: addresses of a network differ in few of theirs.
        let mut mixed = (high.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ mixed >> 32).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        let place = mixed >> (64 - FILTER_SHIFT - PLACES_SHIFT);
        Self {
            index: (place >> PLACES_SHIFT) as u32,
            shift: (place as u32 & 0x1f) * 2,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::collections::BTreeSet;
    use std::net::IpAddr;
    use std::vec::Vec;

    #[test]
    fn the_addresses_of_a_large_cluster_hardly_share_places() {
        let v4 = (0..30_000u32).map(|n| IpAddr::from([10, 96 + (n >> 16) as u8, (n >> 8) as u8, n as u8]));
        let v6 = (0..30_000u16).map(|n| IpAddr::from([0xfd00, 0x96, 0, 0, 0, 0, 0, n]));
        for addresses in [v4.collect::<Vec<_>>(), v6.collect()] {
            let places: BTreeSet<(u32, u32)> = addresses
                .into_iter()
                .map(|address| FilterPlace::of(&address.into()))
                .map(|place| (place.index, place.shift))
                .collect();
            assert!(places.len() > 28_500, "{} places of 30,000", places.len());
            assert!(
                places
                    .iter()
                    .all(|(index, shift)| *index < 1 << FILTER_SHIFT && *shift < 64)
            );
        }
    }
}

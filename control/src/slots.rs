//! From endpoints and their weights to slots: which backend stands where, so that the datapath only counts or hashes.
//!
//! For round-robin, random and least-connections an endpoint has as many slots as its weight, spread evenly. For maglev and
//! source-hash the slots are a Maglev table (Eisenbud et al., NSDI 2016, section 3.4): every node makes the same one of the same
//! endpoints, and when one goes, few connections of the others move.

use crate::desired::Endpoint;
use ferrogate_common::Algorithm;

/// Most slots of one set: what [`ferrogate_common::SlotRange`] can count.
pub(crate) const MOST: usize = u16::MAX as usize;

/// Default size of a Maglev table: of 100 endpoints one goes, and about 1.4 % of the others' connections move (ADR 14).
pub const MAGLEV_TABLE_SIZE: u16 = 16_381;

/// The largest prime that is a number of slots.
const LARGEST_TABLE: u16 = 65_521;

/// The slots of one set. `endpoints` are in order of address and port, with their weights, of which 0 means: no new
/// connections, unless all have it.
pub(crate) fn slots(algorithm: Algorithm, table_size: u16, endpoints: Vec<(Endpoint, u16)>) -> Vec<Endpoint> {
    let all_drained = endpoints.iter().all(|(_, weight)| *weight == 0);
    let weigh = |weight: u16| if all_drained { 1 } else { weight };
    let weighed = endpoints
        .into_iter()
        .map(|(endpoint, weight)| (endpoint, weigh(weight)));
    let weighed: Vec<(Endpoint, u16)> = weighed.filter(|(_, weight)| *weight > 0).collect();
    match algorithm {
        Algorithm::Maglev | Algorithm::SourceHash => maglev(table_size, &weighed),
        Algorithm::RoundRobin | Algorithm::Random | Algorithm::LeastConnections => interleaved(weighed),
    }
}

/// Each endpoint as often as its weight says, one's slots as far from each other as can be.
fn interleaved(mut endpoints: Vec<(Endpoint, u16)>) -> Vec<Endpoint> {
    let divisor = endpoints.iter().fold(0, |divisor, (_, weight)| gcd(divisor, *weight));
    if endpoints.iter().all(|(_, weight)| *weight == divisor) {
        return endpoints.into_iter().map(|(endpoint, _)| endpoint).collect();
    }
    let total: usize = endpoints.iter().map(|(_, weight)| usize::from(weight / divisor)).sum();
    // Each has one slot at least, however small its part.
    let room = MOST.saturating_sub(endpoints.len());
    for (_, weight) in &mut endpoints {
        *weight /= divisor;
        if total > MOST {
            *weight = (usize::from(*weight) * room / total).max(1) as u16;
        }
    }
    // The k-th of w slots belongs at (2k + 1) / 2w of the round.
    let mut places: Vec<(u32, u32, usize)> = Vec::with_capacity(total.min(MOST));
    for (index, (_, weight)) in endpoints.iter().enumerate() {
        let weight = u32::from(*weight);
        places.extend((0..weight).map(|k| (2 * k + 1, 2 * weight, index)));
    }
    places.sort_by(|a, b| {
        let (left, right) = (u64::from(a.0) * u64::from(b.1), u64::from(b.0) * u64::from(a.1));
        left.cmp(&right).then(a.2.cmp(&b.2))
    });
    places.into_iter().map(|(_, _, index)| endpoints[index].0).collect()
}

fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A Maglev table: the endpoints take turns, heavier ones more often, and each takes the next free slot of an order of its own.
fn maglev(size: u16, endpoints: &[(Endpoint, u16)]) -> Vec<Endpoint> {
    let size = if endpoints.len() * 2 > usize::from(size) {
        LARGEST_TABLE
    } else {
        size
    };
    if endpoints.len() < 2 || endpoints.len() > usize::from(size) {
        return endpoints.iter().map(|(endpoint, _)| *endpoint).collect();
    }
    let modulus = u64::from(size);
    let mut orders: Vec<Order> = endpoints
        .iter()
        .map(|(endpoint, _)| Order::new(endpoint, modulus))
        .collect();
    let heaviest = endpoints
        .iter()
        .map(|(_, weight)| u32::from(*weight))
        .max()
        .unwrap_or(1);
    let mut credit = vec![0; endpoints.len()];
    let mut table: Vec<Option<Endpoint>> = vec![None; usize::from(size)];
    let mut free = table.len();
    loop {
        for (index, (endpoint, weight)) in endpoints.iter().enumerate() {
            credit[index] += u32::from(*weight);
            if credit[index] < heaviest {
                continue;
            }
            credit[index] -= heaviest;
            // There is a free one: the order holds every slot once.
            while table[orders[index].next()].is_some() {
                orders[index].step();
            }
            table[orders[index].next()] = Some(*endpoint);
            free -= 1;
            if free == 0 {
                return table.into_iter().flatten().collect();
            }
        }
    }
}

/// Every slot of a table once, in the order of an endpoint: `next`, then each `stride` further.
struct Order {
    next: u64,
    stride: u64,
    /// Size of the table, a prime.
    modulus: u64,
}

impl Order {
    fn new(endpoint: &Endpoint, modulus: u64) -> Self {
        Self {
            next: hash(endpoint, 1) % modulus,
            stride: hash(endpoint, 2) % (modulus - 1) + 1,
            modulus,
        }
    }

    fn next(&self) -> usize {
        self.next as usize
    }

    fn step(&mut self) {
        self.next = (self.next + self.stride) % self.modulus;
    }
}

/// The same on every node, whatever its byte order.
fn hash(endpoint: &Endpoint, seed: u64) -> u64 {
    let address = u128::from_be_bytes(endpoint.address.octets());
    let words = [(address >> 64) as u64, address as u64, u64::from(endpoint.port.get())];
    words.into_iter().fold(mix(seed), |sum, word| mix(sum ^ word))
}

/// The output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrogate_common::Port;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    fn endpoint(number: u32) -> Endpoint {
        Endpoint {
            address: Ipv4Addr::from(0x0af4_0000 + number).into(),
            port: Port::new(8080),
            local: false,
        }
    }

    fn endpoints(weights: &[u16]) -> Vec<(Endpoint, u16)> {
        (0..).map(endpoint).zip(weights.iter().copied()).collect()
    }

    /// How many slots each endpoint has.
    fn counts(slots: &[Endpoint]) -> BTreeMap<Endpoint, usize> {
        let mut counts = BTreeMap::new();
        for slot in slots {
            *counts.entry(*slot).or_default() += 1;
        }
        counts
    }

    /// The slots of the endpoints' numbers.
    fn numbers(algorithm: Algorithm, weights: &[u16]) -> Vec<usize> {
        let endpoints = endpoints(weights);
        let slots = slots(algorithm, 13, endpoints.clone());
        let number = |slot: &Endpoint| endpoints.iter().position(|(one, _)| one == slot);
        slots.iter().filter_map(number).collect()
    }

    #[test]
    fn equal_weights_are_one_slot_each_in_order() {
        assert_eq!(numbers(Algorithm::RoundRobin, &[1, 1, 1]), [0, 1, 2]);
        assert_eq!(numbers(Algorithm::Random, &[50, 50]), [0, 1]);
        assert_eq!(numbers(Algorithm::RoundRobin, &[]), [0; 0]);
    }

    #[test]
    fn slots_of_one_endpoint_are_spread_over_the_round() {
        assert_eq!(numbers(Algorithm::RoundRobin, &[3, 1]), [0, 0, 1, 0]);
        assert_eq!(numbers(Algorithm::RoundRobin, &[4, 2, 2]), [0, 1, 2, 0]);
        assert_eq!(numbers(Algorithm::RoundRobin, &[5, 1, 1]), [0, 0, 0, 1, 2, 0, 0]);
    }

    #[test]
    fn weight_zero_takes_no_connection_unless_nobody_else_does() {
        assert_eq!(numbers(Algorithm::RoundRobin, &[0, 2, 2]), [1, 2]);
        assert_eq!(numbers(Algorithm::RoundRobin, &[0, 0]), [0, 1]);
        assert!(!numbers(Algorithm::Maglev, &[1, 0, 1]).contains(&1));
    }

    #[test]
    fn more_slots_than_a_range_can_count_are_scaled_down_and_nobody_is_left_out() {
        let mut weights = vec![100; 2000];
        weights[7] = 1;
        let slots = slots(Algorithm::RoundRobin, MAGLEV_TABLE_SIZE, endpoints(&weights));
        assert!(slots.len() <= MOST && slots.len() > MOST * 9 / 10, "{}", slots.len());
        let counts = counts(&slots);
        assert_eq!(counts.len(), 2000);
        assert_eq!(counts[&endpoint(7)], 1);
    }

    #[test]
    fn a_maglev_table_is_full_even_and_of_more_slots_where_there_are_many_endpoints() {
        for count in [2, 3, 10, 100, 1000] {
            let slots = slots(Algorithm::Maglev, MAGLEV_TABLE_SIZE, endpoints(&vec![1; count]));
            assert_eq!(slots.len(), usize::from(MAGLEV_TABLE_SIZE));
            let counts = counts(&slots);
            let (fewest, most) = (counts.values().min(), counts.values().max());
            assert_eq!(counts.len(), count);
            assert!(
                most.zip(fewest).is_some_and(|(most, fewest)| most - fewest <= 1),
                "{counts:?}"
            );
        }
        let many = slots(Algorithm::SourceHash, 1009, endpoints(&vec![1; 600]));
        assert_eq!((many.len(), counts(&many).len()), (usize::from(LARGEST_TABLE), 600));
        assert_eq!(slots(Algorithm::Maglev, 1009, endpoints(&[7])), [endpoint(0)]);
    }

    #[test]
    fn a_maglev_table_has_the_weights_within_two_percent() {
        let weights = [1, 2, 3, 10];
        let slots = slots(Algorithm::Maglev, MAGLEV_TABLE_SIZE, endpoints(&weights));
        let counts = counts(&slots);
        for (endpoint, weight) in endpoints(&weights) {
            let expected = f64::from(MAGLEV_TABLE_SIZE) * f64::from(weight) / 16.0;
            let found = counts[&endpoint] as f64;
            assert!(
                (found - expected).abs() < expected * 0.02,
                "weight {weight}: {found} of {expected}"
            );
        }
    }

    #[test]
    fn of_a_hundred_endpoints_one_goes_and_two_percent_of_the_others_move_at_most() {
        let all = endpoints(&[1; 100]);
        let before = slots(Algorithm::Maglev, MAGLEV_TABLE_SIZE, all.clone());
        let mut worst = 0.0_f64;
        for (gone, _) in &all {
            let rest = all.iter().filter(|(one, _)| one != gone).copied().collect();
            let after = slots(Algorithm::Maglev, MAGLEV_TABLE_SIZE, rest);
            let others = before.iter().zip(&after).filter(|(old, _)| *old != gone);
            let (moved, others) = others.fold((0, 0), |(moved, others), (old, new)| {
                (moved + usize::from(old != new), others + 1)
            });
            worst = worst.max(moved as f64 / f64::from(others));
        }
        println!(
            "worst of 100 removals: {:.2}% of the other endpoints' slots moved",
            worst * 100.0
        );
        assert!(worst <= 0.02, "{worst}");
    }

    proptest! {
        #[test]
        fn over_a_round_each_endpoint_has_exactly_its_weight(weights in proptest::collection::vec(0..=100u16, 1..40)) {
            let slots = slots(Algorithm::RoundRobin, MAGLEV_TABLE_SIZE, endpoints(&weights));
            let counts = counts(&slots);
            let total: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
            for (endpoint, weight) in endpoints(&weights) {
                let found = counts.get(&endpoint).copied().unwrap_or_default();
                if total == 0 {
                    prop_assert_eq!(found, 1);
                } else {
                    prop_assert_eq!(found * total, usize::from(weight) * slots.len());
                }
            }
            // Evenly: after any part of the round each has its share of it, to within what rounding can do.
            let mut seen: BTreeMap<Endpoint, f64> = BTreeMap::new();
            for (place, slot) in slots.iter().enumerate() {
                let number = seen.entry(*slot).or_default();
                *number += 1.0;
                let share = counts[slot] as f64 / slots.len() as f64;
                let off = (*number - share * (place + 1) as f64).abs();
                prop_assert!(off <= share * counts.len() as f64 / 2.0 + 1.0, "{off} at {place}");
            }
        }
    }
}

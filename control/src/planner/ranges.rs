//! Which stretches of an array are free.

use std::collections::{BTreeMap, BTreeSet};

/// Contiguous ranges of `0..size`. A request gets the smallest free stretch that holds it, at its low end; what is
/// given back merges with its free neighbours. Both cost O(log n) of the number of free stretches.
#[derive(Debug)]
pub(crate) struct Ranges {
    size: u32,
    /// Start to length. No two touch each other.
    by_start: BTreeMap<u32, u32>,
    /// (length, start) of the same.
    by_length: BTreeSet<(u32, u32)>,
}

impl Ranges {
    pub(crate) fn new(size: u32) -> Self {
        let mut ranges = Self {
            size,
            by_start: BTreeMap::new(),
            by_length: BTreeSet::new(),
        };
        if size > 0 {
            ranges.insert(0, size);
        }
        ranges
    }

    /// The same for `1..size`: the first element is never given out.
    pub(crate) fn from_one(size: u32) -> Self {
        let mut ranges = Self::new(size);
        ranges.reserve(0, 1);
        ranges
    }

    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// Start of `length` elements; none when there is no such stretch. No elements at all are at 0.
    pub(crate) fn allocate(&mut self, length: u32) -> Option<u32> {
        if length == 0 {
            return Some(0);
        }
        let &(found, start) = self.by_length.range((length, 0)..).next()?;
        self.remove(start, found);
        if found > length {
            self.insert(start + length, found - length);
        }
        Some(start)
    }

    /// Takes a given range; false, and nothing is taken, when not all of it is free.
    pub(crate) fn reserve(&mut self, start: u32, length: u32) -> bool {
        if length == 0 {
            return true;
        }
        let Some((&free_start, &free_length)) = self.by_start.range(..=start).next_back() else {
            return false;
        };
        let (end, free_end) = (
            u64::from(start) + u64::from(length),
            u64::from(free_start) + u64::from(free_length),
        );
        if end > free_end {
            return false;
        }
        self.remove(free_start, free_length);
        if free_start < start {
            self.insert(free_start, start - free_start);
        }
        if end < free_end {
            self.insert(start + length, (free_end - end) as u32);
        }
        true
    }

    /// Gives back what [`Self::allocate`] or [`Self::reserve`] took.
    pub(crate) fn free(&mut self, start: u32, length: u32) {
        if length == 0 {
            return;
        }
        let (mut start, mut length) = (start, length);
        if let Some((&before, &before_length)) = self.by_start.range(..start).next_back()
            && before + before_length == start
        {
            self.remove(before, before_length);
            (start, length) = (before, before_length + length);
        }
        if let Some(&after_length) = self.by_start.get(&(start + length)) {
            self.remove(start + length, after_length);
            length += after_length;
        }
        self.insert(start, length);
    }

    fn insert(&mut self, start: u32, length: u32) {
        self.by_start.insert(start, length);
        self.by_length.insert((length, start));
    }

    fn remove(&mut self, start: u32, length: u32) {
        self.by_start.remove(&start);
        self.by_length.remove(&(length, start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_smallest_fitting_stretch_is_taken() {
        let mut ranges = Ranges::new(100);
        assert_eq!(ranges.allocate(10), Some(0));
        assert_eq!(ranges.allocate(5), Some(10));
        assert_eq!(ranges.allocate(10), Some(15));
        ranges.free(10, 5);
        assert_eq!(ranges.allocate(6), Some(25));
        assert_eq!(ranges.allocate(5), Some(10));
        assert_eq!(ranges.allocate(70), None);
        assert_eq!(ranges.allocate(69), Some(31));
        assert_eq!(ranges.allocate(1), None);
    }

    #[test]
    fn freed_neighbours_merge() {
        let mut ranges = Ranges::new(30);
        for start in [0, 10, 20] {
            assert_eq!(ranges.allocate(10), Some(start));
        }
        ranges.free(0, 10);
        ranges.free(20, 10);
        ranges.free(10, 10);
        assert_eq!(ranges.allocate(30), Some(0));
    }

    #[test]
    fn a_reserved_range_is_not_given_out() {
        let mut ranges = Ranges::from_one(10);
        assert!(ranges.reserve(3, 4));
        assert!(!ranges.reserve(6, 1));
        assert!(!ranges.reserve(8, 3));
        assert!(!ranges.reserve(0, 1));
        assert!(!ranges.reserve(u32::MAX, u32::MAX));
        assert_eq!(ranges.allocate(3), Some(7));
        assert_eq!(ranges.allocate(2), Some(1));
        assert_eq!(ranges.allocate(1), None);
    }

    #[test]
    fn an_empty_table_has_nothing_to_give() {
        assert_eq!(Ranges::new(0).allocate(1), None);
        assert_eq!(Ranges::from_one(0).allocate(1), None);
    }

    proptest! {
        #[test]
        fn no_element_is_given_out_twice_and_all_come_back(
            steps in proptest::collection::vec((any::<bool>(), 1..9u32), 1..200),
        ) {
            let mut ranges = Ranges::new(64);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (allocate, number) in steps {
                if allocate {
                    if let Some(start) = ranges.allocate(number) {
                        let overlaps = |&(other, length): &(u32, u32)| start < other + length && other < start + number;
                        prop_assert!(!held.iter().any(overlaps) && start + number <= 64);
                        held.push((start, number));
                    }
                } else if !held.is_empty() {
                    let (start, length) = held.swap_remove(number as usize % held.len());
                    ranges.free(start, length);
                }
            }
            for (start, length) in held {
                ranges.free(start, length);
            }
            prop_assert_eq!(ranges.allocate(64), Some(0));
        }
    }
}

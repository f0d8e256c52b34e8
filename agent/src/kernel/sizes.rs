//! How many entries each map is created with.

use super::state::StateDir;
use super::tables::pinned_entries;
use ferrogate_common::maps::{self, BYTES, MapSpec, Size};
use std::collections::BTreeMap;

/// How much memory the maps may take; what they take is less while a bound of theirs holds them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum MapMemory {
    Bytes(u64),
    /// Percent of the node's memory.
    Percent(f64),
}

impl MapMemory {
    /// Half a percent: 120 MiB of 24 GiB.
    pub const DEFAULT: Self = Self::Percent(0.5);

    /// Bytes, on a node with so many.
    fn of_node(self, bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => (bytes as f64 * percent / 100.0) as u64,
        }
    }
}

/// The node's memory, bytes.
fn node_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(info.mem_unit.max(1).into())
}

/// A map that keeps another size than an option asks for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the map {map} keeps its {entries} entries, though --map-entries asks for {wanted}: it holds what goes on working, until \
     `ferrogate cleanup`"
)]
pub struct KeptSize {
    pub map: &'static str,
    pub entries: u32,
    pub wanted: u32,
}

/// The numbers of entries of one start.
pub(super) struct Sizes<'a> {
    memory: u64,
    chosen: &'a BTreeMap<String, u32>,
}

impl<'a> Sizes<'a> {
    pub(super) fn new(memory: MapMemory, chosen: &'a BTreeMap<String, u32>) -> Self {
        Self {
            memory: memory.of_node(node_memory()),
            chosen,
        }
    }

    /// What a map is created with where there is none.
    pub(super) fn wanted(&self, spec: &MapSpec) -> u32 {
        let chosen = self.chosen.get(spec.name).copied();
        match spec.size {
            Size::Fixed | Size::Like(_) => spec.entries,
            Size::Chosen => chosen.unwrap_or(spec.entries),
            Size::Memory { least, most } => chosen.unwrap_or_else(|| {
                let entries = u128::from(spec.entries) * u128::from(self.memory) / u128::from(BYTES);
                u32::try_from(entries).unwrap_or(u32::MAX).clamp(least, most)
            }),
        }
    }

    /// The same where some maps are pinned: they keep their size, and those that share an index with one have its.
    pub(super) fn beside_pins(&self, state: &StateDir, spec: &MapSpec) -> u32 {
        match spec.size {
            Size::Like(name) => {
                let leader = maps::ALL.iter().find(|map| map.name == name);
                leader.map_or(spec.entries, |leader| {
                    pinned_entries(state, leader).unwrap_or_else(|| self.wanted(leader))
                })
            }
            _ => self.wanted(spec),
        }
    }

    /// Says so where a pinned map is not as an option has it.
    pub(super) fn kept(&self, state: &StateDir) -> Vec<KeptSize> {
        let all = maps::ALL.iter().filter(|spec| spec.is_sizable());
        all.filter_map(|spec| {
            let (entries, wanted) = (pinned_entries(state, spec)?, self.wanted(spec));
            if entries == wanted {
                return None;
            }
            if !self.chosen.contains_key(spec.name) {
                tracing::debug!(
                    map = spec.name,
                    entries,
                    now = wanted,
                    "a pinned map keeps the size that it was created with"
                );
                return None;
            }
            Some(KeptSize {
                map: spec.name,
                entries,
                wanted,
            })
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(memory: u64, chosen: &BTreeMap<String, u32>) -> BTreeMap<&'static str, u32> {
        let sizes = Sizes { memory, chosen };
        let all = maps::ALL.iter().filter(|spec| spec.is_sizable());
        all.map(|spec| (spec.name, sizes.wanted(spec))).collect()
    }

    #[test]
    fn sizes_follow_the_memory_within_bounds() {
        let none = BTreeMap::new();
        let (tiny, usual, large, huge) = (
            sizes(0, &none),
            sizes(BYTES, &none),
            sizes(2 * BYTES, &none),
            sizes(u64::MAX, &none),
        );
        assert_eq!((tiny["FLOWS"], usual["FLOWS"]), (65_536, 262_144));
        assert_eq!((large["FLOWS"], huge["FLOWS"]), (524_288, 4_194_304));
        // A small node has as many Services as the others of its cluster.
        assert_eq!((tiny["FRONTENDS"], usual["FRONTENDS"]), (131_072, 131_072));
        assert_eq!((large["SLOTS"], huge["SLOTS"]), (2_097_152, 4_194_304));
        assert_eq!(huge["INTERFACES"], usual["INTERFACES"]);
    }

    #[test]
    fn an_option_goes_before_the_memory_and_knows_no_bounds() {
        let chosen = BTreeMap::from([("FLOWS".to_owned(), 100), ("SERVICES".to_owned(), 10)]);
        let sizes = sizes(BYTES, &chosen);
        assert_eq!(
            (sizes["FLOWS"], sizes["SERVICES"], sizes["HALF_OPEN"]),
            (100, 10, 65_536)
        );
    }

    #[test]
    fn maps_that_share_an_index_share_a_size() {
        let chosen = BTreeMap::from([("SERVICES".to_owned(), 10)]);
        let sizes = Sizes {
            memory: 0,
            chosen: &chosen,
        };
        let nowhere = StateDir::new("/nonexistent");
        assert_eq!(sizes.beside_pins(&nowhere, &maps::CURSORS), 10);
        assert_eq!(sizes.beside_pins(&nowhere, &maps::CONNECTIONS), 10);
        assert_eq!(sizes.beside_pins(&nowhere, &maps::ACTIVE), maps::BACKENDS.entries);
    }

    #[test]
    fn a_share_is_of_the_nodes_memory() {
        assert_eq!(MapMemory::Percent(0.5).of_node(24 << 30), (24 << 30) / 200);
        assert_eq!(MapMemory::Bytes(7).of_node(24 << 30), 7);
        assert!(node_memory() > 1 << 20);
    }
}

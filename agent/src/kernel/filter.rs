//! ADDRESSES: what the programs look at before all else, and mostly need no more than.

use super::error::{During as _, Result};
use super::tables::{Tables, reading};
use ferrogate_common::maps;
use ferrogate_common::{Address, FilterPlace, Flow, Tuple, address_roles, config_flags};
use std::sync::atomic::Ordering;

impl Tables {
    /// Says of an address what it may be. Comes before the entry that makes it so.
    pub(super) fn add_role(&self, address: &Address, role: u32) {
        let place = FilterPlace::of(address);
        let bits = u64::from(role) << place.shift;
        let before = self.addresses.add_bits(place.index, bits);
        if before.is_some_and(|before| before & bits == 0) {
            self.filter_news.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes the filter anew from all that the tables hold, without what is no more; from then on the programs use it. Until then
    /// they do without.
    pub fn fill_filter(&self) -> Result<()> {
        self.set_flag(config_flags::FILTER, false)?;
        self.grace()?;
        // Programs add the destination of a flow that they are about to make. After a grace period such flows are in the tables.
        for index in 0..self.addresses.entries() {
            self.addresses.publish_wide(index, 0, 0);
        }
        self.grace()?;
        self.frontends
            .for_each(|key, _| {
                self.add_role(&key.address, address_roles::DESTINATION);
                true
            })
            .during(|| reading(maps::FRONTENDS))?;
        for address in self.node_addresses()? {
            self.add_role(&address, address_roles::DESTINATION);
        }
        for backend in (0..self.backends.entries()).filter_map(|id| self.backends.read(id)) {
            if backend.address != Address::UNSPECIFIED {
                self.add_role(&backend.address, address_roles::BACKEND);
            }
        }
        for (map, spec) in [(&self.flows, maps::FLOWS), (&self.half_open, maps::HALF_OPEN)] {
            map.for_each(|key: &Tuple, _: &[Flow]| {
                let (address, role) = address_roles::of_flow(key);
                self.add_role(address, role);
                true
            })
            .during(|| reading(spec))?;
        }
        self.attend_stuck(&self.stuck_sockets()?);
        self.filter_news.store(0, Ordering::Relaxed);
        self.set_flag(config_flags::FILTER, true)
    }

    /// Whether so many addresses came since it was filled that those of them that went are worth being forgotten.
    pub fn filter_is_stale(&self) -> bool {
        const PLACES_AN_ELEMENT: u32 = u64::BITS / 2;
        self.filter_news.load(Ordering::Relaxed) > self.addresses.entries() * PLACES_AN_ELEMENT / 8
    }
}

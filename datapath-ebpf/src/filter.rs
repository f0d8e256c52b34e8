//! The filter in front of the look-ups.

use crate::maps::ADDRESSES;
use crate::tables::config;
use core::intrinsics::{AtomicOrdering, atomic_or};
use ferrogate_common::{Address, FilterPlace, address_roles, config_flags};

#[inline(always)]
pub(crate) fn roles(address: &Address) -> u32 {
    if config().flags & config_flags::FILTER == 0 {
        return address_roles::ALL;
    }
    let place = FilterPlace::of(address);
    let bits = ADDRESSES.get(place.index).copied().unwrap_or(u64::MAX);
    (bits >> place.shift) as u32 & address_roles::ALL
}

#[inline(never)]
pub(crate) fn add_destination(address: &Address) {
    let place = FilterPlace::of(address);
    if let Some(bits) = ADDRESSES.get_ptr_mut(place.index) {
        // SAFETY: the pointer is to a live array element, 8-byte aligned.
        unsafe {
            atomic_or::<u64, u64, { AtomicOrdering::SeqCst }>(
                bits,
                u64::from(address_roles::DESTINATION) << place.shift,
            )
        };
    }
}

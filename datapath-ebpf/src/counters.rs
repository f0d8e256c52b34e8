//! Counters: each CPU adds to its own.

use crate::maps::{REASONS, REFUSALS};
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::maps::PerCpuArray;
use ferrogate_common::RefusalKey;

#[inline(always)]
pub(crate) fn count(index: u32) {
    if let Some(counter) = REASONS.get_ptr_mut(index) {
        // SAFETY: this CPU's own element.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
pub(crate) fn count_connection(counters: &PerCpuArray<u64>, service: u32) {
    if let Some(counter) = counters.get_ptr_mut(service) {
        // SAFETY: this CPU's own element.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
pub(crate) fn count_refusal(key: &RefusalKey) {
    match REFUSALS.get_ptr_mut(key) {
        // SAFETY: this CPU's own value.
        Some(counter) => unsafe { *counter += 1 },
        // It sets this CPU's value alone. What does not fit is not counted by service.
        None => drop(REFUSALS.insert(key, 1, BPF_ANY.into())),
    }
}

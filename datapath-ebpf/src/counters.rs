//! Counters: each CPU adds to its own.

use crate::maps::{REFUSALS, TRAFFIC};
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::maps::PerCpuArray;
use bytemuck::Zeroable;
use ferrogate_common::{Direction, RefusalKey, Traffic};

#[inline(always)]
pub(crate) fn count(counters: &PerCpuArray<u64>, index: u32) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: this CPU's own element.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
pub(crate) fn count_refusal(key: &RefusalKey) {
    match REFUSALS.get_ptr_mut(key) {
        // SAFETY: this CPU's own value.
        Some(counter) => unsafe { *counter += 1 },
        None => {
            // It sets this CPU's value alone. What does not fit is not counted by service.
            let _ = REFUSALS.insert(key, 1, BPF_ANY.into());
        }
    }
}

/// [`Traffic::WANTED`]; written by the agent before the programs are loaded, a constant to the verifier.
#[unsafe(no_mangle)]
static SERVICE_TRAFFIC: u32 = 0;

#[inline(always)]
pub(crate) fn counts_traffic() -> bool {
    // SAFETY: read-only data of this object; volatile, since what is loaded is not what was compiled.
    unsafe { core::ptr::read_volatile(&raw const SERVICE_TRAFFIC) != 0 }
}

#[inline(always)]
pub(crate) fn count_traffic(service: u32, direction: Direction, packets: u32, bytes: u32) {
    match TRAFFIC.get_ptr_mut(service) {
        // SAFETY: this CPU's own value.
        Some(traffic) => unsafe { (*traffic).add(direction, packets, bytes) },
        None => {
            let mut first = Traffic::zeroed();
            first.add(direction, packets, bytes);
            // It sets this CPU's value alone.
            let _ = TRAFFIC.insert(service, first, BPF_ANY.into());
        }
    }
}

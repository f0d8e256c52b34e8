//! The clock: jiffies, which the verifier turns into a load, where a call of the helper for CLOCK_MONOTONIC_COARSE costs as much as a
//! look-up. Both move together, so the agent can say once how one comes from the other.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use ferrogate_common::Jiffies;

/// [`Jiffies`]; written by the agent before the programs are loaded, constants to the verifier.
#[unsafe(no_mangle)]
static JIFFY_NANOS: u64 = 0;
#[unsafe(no_mangle)]
static JIFFIES_AHEAD: u64 = 0;

/// The boot clock, to a jiffy.
#[inline(always)]
pub(crate) fn nanos() -> u64 {
    // SAFETY: read-only data of this object; volatile, since what is loaded is not what was compiled.
    let jiffies = unsafe {
        Jiffies {
            nanos: core::ptr::read_volatile(&raw const JIFFY_NANOS),
            ahead: core::ptr::read_volatile(&raw const JIFFIES_AHEAD),
        }
    };
    if jiffies.nanos == 0 {
        // SAFETY: a helper without arguments.
        return unsafe { bpf_ktime_get_coarse_ns() };
    }
    // SAFETY: a helper without arguments.
    jiffies.clock(unsafe { bpf_jiffies64() })
}

//! What the programs have to know to read the boot clock off the kernel's jiffies.

use super::sys::JiffiesReader;
use aya::EbpfLoader;
use ferrogate_common::Jiffies;
use rustix::time::{ClockId, clock_getres, clock_gettime};
use std::io;

/// Times that the clocks are read until the clock stands still meanwhile.
const ATTEMPTS: u32 = 100;

/// Without it, the programs call the helper for the clock with every packet.
///
/// # Errors
/// Without CAP_BPF; before Linux 5.14.
pub(super) fn measure() -> io::Result<Jiffies> {
    let reader = JiffiesReader::load()?;
    // What the clock moves on by.
    let jiffy = clock_getres(ClockId::MonotonicCoarse).tv_nsec.cast_unsigned();
    for _ in 0..ATTEMPTS {
        let nanos = coarse_nanos();
        let jiffies = reader.read()?;
        // While the clock stood still no jiffy has passed.
        if nanos == coarse_nanos() {
            return Ok(Jiffies::at_once(jiffy, jiffies, nanos));
        }
    }
    Err(io::Error::other("the clock never stands still while jiffies are read"))
}

/// What `bpf_ktime_get_coarse_ns` would say.
fn coarse_nanos() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Writes it into the programs' read-only data, before they are loaded.
pub(super) fn tell<'a>(jiffies: &'a Jiffies, loader: &mut EbpfLoader<'a>) {
    loader.override_global(Jiffies::NANOS, &jiffies.nanos, true);
    loader.override_global(Jiffies::AHEAD, &jiffies.ahead, true);
}

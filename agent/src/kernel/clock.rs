//! What the programs have to know to read the boot clock off the kernel's jiffies.

use super::sys::ClockReader;
use aya::EbpfLoader;
use ferrogate_common::Jiffies;
use rustix::time::{ClockId, clock_getres};
use std::io;

/// Times that the clocks are read until no jiffy passes meanwhile.
const ATTEMPTS: u32 = 100;

/// Without it, the programs call the helper for the clock with every packet.
///
/// # Errors
/// Without CAP_BPF; before Linux 5.14.
pub(super) fn measure() -> io::Result<Jiffies> {
    let reader = ClockReader::load()?;
    // What the clock moves on by.
    let jiffy = clock_getres(ClockId::MonotonicCoarse).tv_nsec.cast_unsigned();
    for _ in 0..ATTEMPTS {
        let clocks = reader.read()?;
        if clocks.jiffies == clocks.jiffies_later {
            return Ok(Jiffies::at_once(jiffy, clocks.jiffies, clocks.nanos));
        }
    }
    Err(io::Error::other("jiffies pass faster than they can be read"))
}

/// Writes it into the programs' read-only data, before they are loaded.
pub(super) fn tell<'a>(jiffies: &'a Jiffies, loader: &mut EbpfLoader<'a>) {
    loader.override_global(Jiffies::NANOS, &jiffies.nanos, true);
    loader.override_global(Jiffies::AHEAD, &jiffies.ahead, true);
}

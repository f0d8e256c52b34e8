//! What the programs have to know to read the boot clock off the kernel's jiffies.

use super::sys::{ClockReader, Clocks, jiffy};
use aya::EbpfLoader;
use std::io;

/// Times that the clocks are read until no jiffy passes meanwhile.
const ATTEMPTS: u32 = 100;

/// How CLOCK_MONOTONIC_COARSE comes from jiffies: the kernel moves both on together, by as much, so this stays true until the next
/// boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Jiffies {
    /// Nanoseconds of one.
    nanos: u64,
    /// What all jiffies so far come to, minus the clock: the count does not begin at 0.
    ahead: u64,
}

impl Jiffies {
    /// Without it, the programs call the helper for the clock with every packet.
    ///
    /// # Errors
    /// Without CAP_BPF; before Linux 5.14.
    pub(super) fn measure() -> io::Result<Self> {
        let reader = ClockReader::load()?;
        for _ in 0..ATTEMPTS {
            let clocks = reader.read()?;
            if clocks.jiffies == clocks.jiffies_later {
                return Ok(Self::of(jiffy(), clocks));
            }
        }
        Err(io::Error::other("jiffies pass faster than they can be read"))
    }

    fn of(nanos: u64, clocks: Clocks) -> Self {
        Self {
            nanos,
            ahead: clocks.jiffies.wrapping_mul(nanos).wrapping_sub(clocks.nanos),
        }
    }

    /// Writes it into the programs' read-only data, before they are loaded.
    pub(super) fn tell<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader.override_global("JIFFY_NANOS", &self.nanos, true);
        loader.override_global("JIFFIES_AHEAD", &self.ahead, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jiffies_come_to_the_clock() {
        // As they are two hours after a boot with 300 Hz: counting begins five minutes before 2^32.
        let nanos = 3_333_333;
        let jiffies = (1 << 32) - 300 * 300 + 7200 * 300;
        let clock = 7_200_003_000_000;
        let clocks = Clocks {
            jiffies,
            nanos: clock,
            jiffies_later: jiffies,
        };
        let measured = Jiffies::of(nanos, clocks);
        let at = |jiffies: u64| jiffies.wrapping_mul(measured.nanos).wrapping_sub(measured.ahead);
        assert_eq!(at(jiffies), clock);
        assert_eq!(at(jiffies + 300), clock + 300 * nanos);
    }
}

//! The programs' clock.

/// How the boot clock (CLOCK_MONOTONIC_COARSE) comes from jiffies: the kernel moves both on together, by as much, so this stays true
/// until the next boot. Whoever loads the programs writes both numbers into their read-only data, under these names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Jiffies {
    /// Nanoseconds of one. 0: not known.
    pub nanos: u64,
    /// What all jiffies so far come to, minus the clock: the count does not begin at 0.
    pub ahead: u64,
}

impl Jiffies {
    pub const NANOS: &str = "JIFFY_NANOS";
    pub const AHEAD: &str = "JIFFIES_AHEAD";

    /// From a moment at which both were read; `nanos`: of one jiffy, `clock`: nanoseconds.
    pub const fn at_once(nanos: u64, jiffies: u64, clock: u64) -> Self {
        let ahead = jiffies.wrapping_mul(nanos).wrapping_sub(clock);
        Self { nanos, ahead }
    }

    /// The boot clock at so many jiffies, in nanoseconds.
    #[inline(always)]
    pub const fn clock(&self, jiffies: u64) -> u64 {
        jiffies.wrapping_mul(self.nanos).wrapping_sub(self.ahead)
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
        let measured = Jiffies::at_once(nanos, jiffies, clock);
        assert_eq!(measured.clock(jiffies), clock);
        assert_eq!(measured.clock(jiffies + 300), clock + 300 * nanos);
    }
}

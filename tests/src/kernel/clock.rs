//! The clock of programs under test: jiffies, as on a node, by a reckoning of our own.
use anyhow::Result;
use aya::EbpfLoader;
use rustix::time::{ClockId, clock_getres, clock_gettime};

use super::asm::{Assembler, helper};
use super::bpf::{Kind, RawProgram};

/// What the agent writes into the programs' read-only data (`JIFFY_NANOS`, `JIFFIES_AHEAD`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Jiffies {
    nanos: u64,
    ahead: u64,
}

impl Jiffies {
    pub(super) fn measure() -> Result<Self> {
        let halves = [program(0)?, program(32)?];
        // A frame to run them on: an Ethernet header is the least.
        let frame = [0; 14];
        loop {
            let before = coarse_nanos();
            let [low, high] = [halves[0].run(&frame)?, halves[1].run(&frame)?];
            // While the clock stood still no jiffy has passed.
            if before == coarse_nanos() {
                let jiffies = u64::from(high) << 32 | u64::from(low);
                let nanos = clock_getres(ClockId::MonotonicCoarse).tv_nsec as u64;
                let ahead = jiffies.wrapping_mul(nanos).wrapping_sub(before);
                return Ok(Self { nanos, ahead });
            }
        }
    }

    pub(super) fn tell<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader.override_global("JIFFY_NANOS", &self.nanos, true);
        loader.override_global("JIFFIES_AHEAD", &self.ahead, true);
    }
}

/// CLOCK_MONOTONIC_COARSE.
pub(super) fn coarse_nanos() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A program that returns the jiffies from this bit on.
fn program(bit: i32) -> Result<RawProgram> {
    let mut a = Assembler::default();
    a.call(helper::JIFFIES);
    a.shift_right(0, bit);
    a.end();
    RawProgram::load(Kind::Tc, &a.finish())
}

//! The clock of programs under test: jiffies, as on a node.
use anyhow::{Result, bail};
use aya::EbpfLoader;
use ferrogate_common::Jiffies;
use rustix::time::{ClockId, clock_getres, clock_gettime};

use super::asm::{Assembler, helper};
use super::bpf::{Kind, RawProgram};

/// Times that the clocks are read until the clock stands still meanwhile.
const ATTEMPTS: u32 = 100;

pub(super) fn measure() -> Result<Jiffies> {
    let halves = [program(0)?, program(32)?];
    // A frame to run them on: an Ethernet header is the least.
    let frame = [0; 14];
    let jiffy = clock_getres(ClockId::MonotonicCoarse).tv_nsec as u64;
    for _ in 0..ATTEMPTS {
        let before = coarse_nanos();
        let [low, high] = [halves[0].run(&frame)?, halves[1].run(&frame)?];
        // While the clock stood still no jiffy has passed.
        if before == coarse_nanos() {
            let jiffies = u64::from(high) << 32 | u64::from(low);
            return Ok(Jiffies::at_once(jiffy, jiffies, before));
        }
    }
    bail!("the clock never stands still while jiffies are read");
}

/// As the agent does.
pub(super) fn tell<'a>(jiffies: &'a Jiffies, loader: &mut EbpfLoader<'a>) {
    loader.override_global(Jiffies::NANOS, &jiffies.nanos, true);
    loader.override_global(Jiffies::AHEAD, &jiffies.ahead, true);
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

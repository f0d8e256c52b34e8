//! What the machine's processors did.
use std::fs;

use anyhow::{Context, Result};

/// Clock ticks a second, as /proc counts them (USER_HZ).
const TICKS: f64 = 100.0;

/// Seconds that all processors were busy since boot, interrupts included: what a packet costs is in nobody's process.
pub(super) fn busy() -> Result<f64> {
    let file = "/proc/stat";
    let text = fs::read_to_string(file).context(file)?;
    let line = text.lines().next().context(file)?;
    let numbers: Vec<f64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq
    let sum: f64 = [0, 1, 2, 5, 6].iter().filter_map(|index| numbers.get(*index)).sum();
    Ok(sum / TICKS)
}

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

/// Seconds of processor time that a process has used.
pub(super) fn of_process(id: u32) -> Result<f64> {
    let file = format!("/proc/{id}/stat");
    let text = fs::read_to_string(&file).context(file)?;
    // Behind the name, which may have anything in it: state, then numbers; user and system time are fields 14 and 15.
    let (_, rest) = text.rsplit_once(')').context("a line of /proc without a name")?;
    let field = |index: usize| rest.split_whitespace().nth(index).and_then(|n| n.parse::<f64>().ok());
    let (user, system) = (field(11), field(12));
    Ok((user.context("user time")? + system.context("system time")?) / TICKS)
}

/// Bytes of a process that are in memory.
pub(super) fn resident(id: u32) -> Result<f64> {
    let file = format!("/proc/{id}/status");
    let text = fs::read_to_string(&file).context(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    Ok(kilobytes.context("resident memory")? * 1024.0)
}

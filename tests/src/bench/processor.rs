//! What the machine's processors did, and what a process takes.
use std::fs;

use anyhow::{Context, Result, ensure};

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

/// Seconds of processor time that a process has used, with those it started (kube-proxy has `nft` do the work in the kernel),
/// whether they still run or not.
pub(super) fn of_process(id: u32) -> Result<f64> {
    let own = Ticks::of(id).with_context(|| format!("process {id}"))?;
    ensure!(!own.ended, "process {id} has ended");
    let mut ticks = own.all;
    for entry in fs::read_dir("/proc")? {
        let Some(other) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that ends meanwhile is counted by its parent next time.
        if let Some(other) = Ticks::of(other).filter(|other| other.parent == id) {
            ticks += other.all;
        }
    }
    Ok(ticks / TICKS)
}

/// What /proc says of a process.
struct Ticks {
    parent: u32,
    /// Nobody has waited for it yet.
    ended: bool,
    /// User and system, its own and of its children that have ended.
    all: f64,
}

impl Ticks {
    /// `None`: there is none.
    fn of(id: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // Behind the name, which may have anything in it: fields 3 and further. The state is 3, the parent 4, the times are 14 to 17.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<_> = rest.split_whitespace().collect();
        let all = (11..15)
            .map(|index| fields.get(index)?.parse::<f64>().ok())
            .sum::<Option<f64>>()?;
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            ended: *fields.first()? == "Z",
            all,
        })
    }
}

/// Bytes of a process that are in memory.
pub(super) fn resident(id: u32) -> Result<f64> {
    let file = format!("/proc/{id}/status");
    let text = fs::read_to_string(&file).context(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    Ok(kilobytes.context("resident memory")? * 1024.0)
}

/// Bytes of that which are maps of the kernel's, mapped: they are there whether the process is or not.
pub(super) fn mapped_tables(id: u32) -> Result<f64> {
    let file = format!("/proc/{id}/smaps");
    let text = fs::read_to_string(&file).context(file)?;
    let mut inside = false;
    let mut kilobytes = 0.0;
    for line in text.lines() {
        // `7f00-7fff rw-s 00000000 00:0e 1071 anon_inode:bpf-map`, then lines of `Name: value`.
        if !line.split_whitespace().next().is_some_and(|word| word.ends_with(':')) {
            inside = line.ends_with("bpf-map");
        } else if let Some(resident) = line.strip_prefix("Rss:").filter(|_| inside) {
            kilobytes += resident.trim().trim_end_matches(" kB").parse::<f64>()?;
        }
    }
    Ok(kilobytes * 1024.0)
}

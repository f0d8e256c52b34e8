//! Row 12: kernel memory a flow.
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::{Context, Result};
use ferrogate_common::maps;

use super::command::Settings;
use super::result::{Goal, Measured, Samples};
use crate::kernel::Object;

const ROW_12: (u8, &str) = (12, "kernel memory a flow");

/// What this file measures.
pub(super) const ROWS: &[(u8, &str)] = &[ROW_12];

/// Row 12.
///
/// On the packet edges a flow is two entries; what an entry takes is what the kernel says the whole map takes, buckets and all,
/// by its number of entries, which are all allocated at once.
pub(super) fn measure(settings: &Settings) -> Result<Vec<Measured>> {
    if !settings.wants(ROW_12.0, ROW_12.1) {
        return Ok(Vec::new());
    }
    let object = Object::load_with(|_| {})?;
    let entry = |name: &str, entries: u32| -> Result<f64> {
        Ok(bytes(object.map_descriptor(name)?)? as f64 / f64::from(entries))
    };
    let flows = entry(maps::FLOWS.name, maps::FLOWS.entries)?;
    let half_open = entry(maps::HALF_OPEN.name, maps::HALF_OPEN.entries)?;
    let snat = entry(maps::SNAT_FLOWS.name, maps::SNAT_FLOWS.entries)?;
    [
        ("established, to a pod here", 2.0 * flows),
        ("half open, to a pod here", 2.0 * half_open),
        ("established, transit", flows + snat),
    ]
    .into_iter()
    .map(|(case, value)| {
        let mut samples = Samples::default();
        samples.push("ours", value);
        samples.push("one byte", 1.0);
        samples.measured(ROW_12, case, ("ours", "one byte"), Goal::AtMost(260.0), "bytes")
    })
    .collect()
}

/// What the kernel has for a map.
fn bytes(map: BorrowedFd<'_>) -> Result<u64> {
    let file = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let text = fs::read_to_string(&file).context(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.and_then(|number| number.trim().parse().ok())
        .context("the kernel does not say what a map takes")
}

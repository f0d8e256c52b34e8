//! Keeping the kernel's own port choice out of the SNAT range: `net.ipv4.ip_local_reserved_ports` of this network
//! namespace, which holds for IPv6 too.

use super::error::{During as _, Result};
use super::state::StateDir;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::ops::RangeInclusive;

const SYSCTL: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The longest list there is, every second port, has 190 kB. The kernel answers the first read alone, so it must have
/// room for all.
const LONGEST: usize = 256 * 1024;

/// Adds `range` to the reserved ports, and notes in the state directory which of them were not reserved before. What an earlier run has
/// added stays: flows may have such ports still.
pub(super) fn reserve(state: &StateDir, range: RangeInclusive<u16>) -> Result<()> {
    let mut reserved = read_sysctl()?;
    let missing: Vec<u16> = range.filter(|port| !reserved.contains(port)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    reserved.extend(&missing);
    let note = state.reserved_ports();
    let mut ours = parse_ports(&note.read()?.unwrap_or_default());
    ours.extend(missing);
    // The note first: to give back a port that was never taken harms nobody, the other way round it would stay reserved.
    note.write(&format_ports(&ours))?;
    write_sysctl(&reserved)
}

/// Gives back what [`reserve`] has added; which ports these were.
pub(super) fn release(state: &StateDir) -> Result<Option<String>> {
    let note = state.reserved_ports();
    let ours = parse_ports(&note.read()?.unwrap_or_default());
    if ours.is_empty() {
        return Ok(None);
    }
    let mut reserved = read_sysctl()?;
    reserved.retain(|port| !ours.contains(port));
    write_sysctl(&reserved)?;
    note.remove()?;
    Ok(Some(format_ports(&ours)))
}

fn read_sysctl() -> Result<BTreeSet<u16>> {
    let read = || {
        let mut buffer = vec![0; LONGEST];
        let length = File::open(SYSCTL)?.read(&mut buffer)?;
        buffer.truncate(length);
        io::Result::Ok(parse_ports(&String::from_utf8_lossy(&buffer)))
    };
    read().during(|| format!("cannot read {SYSCTL}"))
}

fn write_sysctl(ports: &BTreeSet<u16>) -> Result<()> {
    let text = format_ports(ports) + "\n";
    // Beyond a page the kernel takes the list in pieces, and adds those after the first to what it has.
    let write = || File::options().write(true).open(SYSCTL)?.write_all(text.as_bytes());
    write().during(|| format!("cannot write {SYSCTL}"))
}

/// A list like `8080,9000-9002`. What is not a port is passed over: the kernel writes nothing else.
fn parse_ports(text: &str) -> BTreeSet<u16> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?)
    };
    text.split(',').filter_map(part).flatten().collect()
}

fn format_ports(ports: &BTreeSet<u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for &port in ports {
        match ranges.last_mut() {
            Some((_, last)) if u32::from(*last) + 1 == u32::from(port) => *last = port,
            _ => ranges.push((port, port)),
        }
    }
    let mut text = String::new();
    for (number, (first, last)) in ranges.into_iter().enumerate() {
        let comma = if number == 0 { "" } else { "," };
        // Writing to a String does not fail.
        let _ = if first == last {
            write!(text, "{comma}{first}")
        } else {
            write!(text, "{comma}{first}-{last}")
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_lists_are_read_and_written_as_the_kernel_has_them() {
        for text in ["", "8080", "1-65535", "8080,9000-9002,65535", "0-1,3"] {
            assert_eq!(format_ports(&parse_ports(text)), text);
        }
        assert_eq!(format_ports(&parse_ports("5-6,7,4\n")), "4-7");
    }

    #[test]
    fn the_longest_list_fits() {
        let odd: BTreeSet<u16> = (0..=u16::MAX).filter(|port| port % 2 == 1).collect();
        assert!(format_ports(&odd).len() < LONGEST);
    }
}

//! Removing every trace.

use super::error::{During as _, Result};
use super::state::{StateDir, entries};
use super::{conntrack, edges, inherit, loopback, ports};
use ferrogate_common::ABI_VERSION;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What [`cleanup`] has removed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CleanupReport {
    /// Programs detached.
    pub links: usize,
    /// Maps removed.
    pub maps: usize,
    /// Ports taken out of `net.ipv4.ip_local_reserved_ports`.
    pub ports: Option<String>,
    /// `net.ipv4.conf.lo.accept_local` was set back.
    pub loopback: bool,
    /// Settings below `net.netfilter` that were set back, and to what.
    pub conntrack: Vec<(String, u64)>,
    /// The state directory was there, and is gone.
    pub directory: bool,
}

impl fmt::Display for CleanupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("Nothing to clean up.");
        }
        writeln!(f, "Detached {} programs.", self.links)?;
        write!(f, "Removed {} maps.", self.maps)?;
        if let Some(ports) = &self.ports {
            write!(f, "\nGave back the reserved ports {ports}.")?;
        }
        if self.loopback {
            write!(f, "\nSet net.ipv4.conf.lo.accept_local back to 0.")?;
        }
        for (name, value) in &self.conntrack {
            write!(f, "\nSet net.netfilter.{name} back to {value}.")?;
        }
        Ok(())
    }
}

/// Detaches all programs, removes all maps of every ABI version and the state directory, and gives back the reserved ports
/// and the setting of the loopback device of this network namespace. Running it again, or where there is nothing, does nothing.
pub fn cleanup(state_dir: &Path) -> Result<CleanupReport> {
    let state = StateDir::new(state_dir);
    let mut report = CleanupReport::default();
    if !state_dir.is_dir() {
        return Ok(report);
    }
    for (_, version) in versions(&state)? {
        let (links, maps) = remove_version(&version)?;
        report.links += links;
        report.maps += maps;
    }
    report.ports = ports::release(&state)?;
    report.loopback = loopback::release(&state)?;
    report.conntrack = conntrack::release(&state)?;
    report.directory = remove_directory(state_dir)?;
    Ok(report)
}

/// Removes what other ABI versions have left, after ours has taken over from them.
pub(super) fn remove_other_versions(state: &StateDir) -> Result<()> {
    for (number, version) in versions(state)? {
        if number != ABI_VERSION {
            let (links, _) = remove_version(&version)?;
            tracing::info!(version = %version.display(), links, "removed the state of another ABI version");
        }
    }
    Ok(())
}

/// The directories `v<number>`, with their numbers.
pub(super) fn versions(state: &StateDir) -> Result<Vec<(u32, PathBuf)>> {
    let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix('v')?.parse().ok();
    let entries = entries(state.root())?.into_iter();
    Ok(entries.filter_map(|path| Some((number(&path)?, path))).collect())
}

/// Removes all of one ABI version; how many links and maps there were. Links first: a program must not run over tables
/// that nobody keeps.
fn remove_version(version: &Path) -> Result<(usize, usize)> {
    let links = remove_pins(&version.join("links"), edges::remove)?;
    let maps = remove_pins(&version.join("maps"), |path| {
        fs::remove_file(path)
            .map(|()| !path.ends_with(inherit::NOTE))
            .during(|| format!("cannot remove {}", path.display()))
    })?;
    remove_directory(version)?;
    Ok((links, maps))
}

/// Removes a directory of pins; how many there were.
fn remove_pins(directory: &Path, remove: impl Fn(&Path) -> Result<bool>) -> Result<usize> {
    let mut count = 0;
    for path in entries(directory)? {
        count += usize::from(remove(&path)?);
    }
    remove_directory(directory)?;
    Ok(count)
}

/// Whether it was there.
fn remove_directory(directory: &Path) -> Result<bool> {
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        result => result
            .map(|()| true)
            .during(|| format!("cannot remove {}", directory.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_nothing_nothing_is_done_and_said_so() {
        let report = cleanup(Path::new("/proc/fg-none")).expect("nothing to do");
        assert_eq!(report.to_string(), "Nothing to clean up.");
    }
}

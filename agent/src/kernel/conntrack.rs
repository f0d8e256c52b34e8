//! The node's conntrack, which keeps the connections that pass the node's stack, translated or not: for as long as our own tables do,
//! and with as much room as kube-proxy gives it. Otherwise a firewall that drops what conntrack does not know would end a half-closed
//! connection after a minute.
//!
//! Settings are raised only. What they were is noted in the state directory, for [`release`].

use super::error::{During as _, Result};
use super::state::StateDir;
use std::fs;
use std::io;
use std::path::Path;
use std::thread::available_parallelism;
use std::time::Duration;

const DIRECTORY: &str = "/proc/sys/net/netfilter";
const ESTABLISHED: &str = "nf_conntrack_tcp_timeout_established";
const CLOSE_WAIT: &str = "nf_conntrack_tcp_timeout_close_wait";
/// Both are those of the machine: other network namespaces than its first can only read them.
const MAX: &str = "nf_conntrack_max";
const BUCKETS: &str = "nf_conntrack_buckets";

/// Entries for each bucket of the hash table.
const CHAIN: u64 = 4;

/// What conntrack's settings are to be at least.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConntrackFloors {
    pub established: Duration,
    pub close_wait: Duration,
    /// Entries for each core; 0: however many there are.
    pub entries_a_core: u32,
    /// However few the cores.
    pub entries: u32,
}

/// What became of conntrack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Raised {
    /// There is no conntrack (yet).
    Absent,
    /// These settings, with their values now.
    Done(Vec<(&'static str, u64)>),
}

/// Raises what is lower than it should be.
///
/// # Errors
/// The first setting that can't be written; those before it are.
pub(super) fn raise(state: &StateDir, floors: &ConntrackFloors) -> Result<Raised> {
    let Some(max) = read(MAX)? else {
        return Ok(Raised::Absent);
    };
    let cores = available_parallelism().map_or(1, |cores| cores.get() as u64);
    let entries = match floors.entries_a_core {
        0 => max,
        each => max.max(cores * u64::from(each)).max(floors.entries.into()),
    };
    let mut raised = Vec::new();
    for (name, least) in [
        (CLOSE_WAIT, floors.close_wait.as_secs()),
        (ESTABLISHED, floors.established.as_secs()),
        (BUCKETS, if entries > max { entries / CHAIN } else { 0 }),
        (MAX, entries),
    ] {
        let Some(held) = read(name)?.filter(|held| *held < least) else {
            continue;
        };
        note(state, name, held)?;
        match write(name, least) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && matches!(name, MAX | BUCKETS) => {
                tracing::debug!(name, "is the machine's, not this network namespace's");
            }
            written => {
                written.during(|| format!("cannot write {DIRECTORY}/{name}"))?;
                raised.push((name, least));
            }
        }
    }
    Ok(Raised::Done(raised))
}

/// Sets back what [`raise`] has raised, and says to what.
pub(super) fn release(state: &StateDir) -> Result<Vec<(String, u64)>> {
    let noted = state.conntrack_note();
    let mut released = Vec::new();
    for (name, before) in noted.numbers()? {
        // Conntrack may be gone by now, or was never ours to set.
        match write(&name, before) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
            written => {
                written.during(|| format!("cannot write {DIRECTORY}/{name}"))?;
                released.push((name, before));
            }
        }
    }
    noted.remove()?;
    Ok(released)
}

fn read(name: &str) -> Result<Option<u64>> {
    match fs::read_to_string(Path::new(DIRECTORY).join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => Ok(text
            .during(|| format!("cannot read {DIRECTORY}/{name}"))?
            .trim()
            .parse()
            .ok()),
    }
}

fn write(name: &str, value: u64) -> io::Result<()> {
    fs::write(Path::new(DIRECTORY).join(name), value.to_string())
}

/// Notes what one more setting was before it was raised for the first time: before it is, so that none is raised for good.
fn note(state: &StateDir, name: &str, value: u64) -> Result<()> {
    let noted = state.conntrack_note();
    let mut all = noted.numbers()?;
    all.entry(name.to_owned()).or_insert(value);
    noted.write_numbers(all.iter().map(|(name, value)| (name.as_str(), *value)))
}

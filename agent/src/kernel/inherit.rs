//! What an agent of another ABI version has left attached becomes ours: its maps, but for those whose layout is another one, and its
//! links. So neither an upgrade nor a way back loses a connection.
//!
//! ```text
//! <state-dir>/v<ABI>/maps/changed -> UDP_SOCKETS=2    since which version these are as they are, for agents of earlier ones
//! ```

use super::cleanup::versions;
use super::error::{During as _, Result};
use super::note::Note;
use super::state::{StateDir, entries};
use super::sys::{object_get, object_pin};
use ferrogate_common::ABI_VERSION;
use ferrogate_common::maps::{self, MapSpec};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

/// Another version whose programs are attached.
#[derive(Debug)]
pub(super) struct Predecessor {
    directory: PathBuf,
    version: u32,
    /// Of a later version, what it has changed, and since when.
    changed: BTreeMap<String, u32>,
}

impl Predecessor {
    /// The one whose programs translate now, if they are not our own version's.
    pub(super) fn find(state: &StateDir) -> Result<Option<Self>> {
        if !entries(&state.links())?.is_empty() {
            return Ok(None);
        }
        let mut others = Vec::new();
        for (version, directory) in versions(state)? {
            if version != ABI_VERSION && !entries(&directory.join("links"))?.is_empty() {
                others.push((version, directory));
            }
        }
        Ok(others.into_iter().max().map(|(version, directory)| Self {
            changed: changed(&directory),
            directory,
            version,
        }))
    }

    /// Pins its maps as ours too, where they mean the same to both. Those that a start has left which failed are removed: nothing
    /// uses them.
    pub(super) fn share_maps(&self, state: &StateDir) -> Result<()> {
        for left in entries(&state.maps())? {
            fs::remove_file(&left).during(|| format!("cannot remove {}", left.display()))?;
        }
        let mut anew = Vec::new();
        for spec in maps::ALL {
            let theirs = self.directory.join("maps").join(spec.name);
            if !self.is_same(spec) {
                anew.push(spec.name);
                continue;
            }
            match object_get(&theirs) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => anew.push(spec.name),
                found => {
                    let map = found.during(|| format!("cannot open the pinned map {}", theirs.display()))?;
                    let ours = state.map(spec.name);
                    object_pin(map.as_fd(), &ours).during(|| format!("cannot pin {}", ours.display()))?;
                }
            }
        }
        tracing::info!(
            from = self.version,
            to = ABI_VERSION,
            anew = anew.join(" "),
            "maps of another ABI version go on"
        );
        Ok(())
    }

    /// Whether a map's entries mean the same to that version and to this one. Programs of one version call no second program of the
    /// other.
    fn is_same(&self, spec: &MapSpec) -> bool {
        let since = if self.version < ABI_VERSION {
            maps::since(spec.name)
        } else {
            self.changed.get(spec.name).copied().unwrap_or(1)
        };
        spec.name != maps::SECOND.name && since <= self.version.min(ABI_VERSION)
    }

    /// Files its links as ours: their programs are replaced next.
    pub(super) fn hand_over_links(&self, state: &StateDir) -> Result<()> {
        for theirs in entries(&self.directory.join("links"))? {
            let ours = state.links().join(theirs.file_name().unwrap_or_default());
            fs::rename(&theirs, &ours).during(|| format!("cannot move {} to {}", theirs.display(), ours.display()))?;
        }
        Ok(())
    }
}

/// Tells agents of earlier versions which of these maps they do not know as they are.
pub(super) fn note(state: &StateDir) -> Result<()> {
    let changed = maps::CHANGED.iter().map(|(name, since)| (*name, u64::from(*since)));
    Note(state.maps().join(NOTE)).write_numbers(changed)
}

/// Name of the note.
pub(super) const NOTE: &str = "changed";

/// What a version has noted. One without a note has changed nothing.
fn changed(directory: &Path) -> BTreeMap<String, u32> {
    let noted = Note(directory.join("maps").join(NOTE)).numbers().unwrap_or_default();
    let since = |(name, since): (String, u64)| Some((name, u32::try_from(since).ok()?));
    noted.into_iter().filter_map(since).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predecessor(version: u32, changed: &[(&str, u32)]) -> Predecessor {
        Predecessor {
            directory: PathBuf::new(),
            version,
            changed: changed
                .iter()
                .map(|(name, since)| ((*name).to_owned(), *since))
                .collect(),
        }
    }

    #[test]
    fn a_map_goes_on_if_no_version_between_has_changed_it() {
        let before = predecessor(1, &[]);
        assert!(before.is_same(&maps::FLOWS));
        assert!(!before.is_same(&maps::UDP_SOCKETS), "changed in 2");
        assert!(!before.is_same(&maps::SECOND), "programs, not state");
        let later = predecessor(ABI_VERSION + 2, &[("FLOWS", ABI_VERSION + 1), ("UDP_SOCKETS", 2)]);
        assert!(!later.is_same(&maps::FLOWS));
        assert!(later.is_same(&maps::BACKENDS));
        assert!(later.is_same(&maps::UDP_SOCKETS), "as both know it");
    }

    #[test]
    fn every_map_that_was_changed_is_one_and_was_changed_by_a_version_that_there_is() {
        for (name, since) in maps::CHANGED {
            assert!(maps::ALL.iter().any(|spec| spec.name == *name), "{name}");
            assert!((2..=ABI_VERSION).contains(since), "{name}: {since}");
        }
    }
}

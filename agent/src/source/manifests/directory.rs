//! What the files of the directory hold, and last held.

use super::parse::{self, Key, Object};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Larger files are no manifests.
const MAX_FILE: u64 = 256 << 20;
/// A file changed this recently may change again within the same tick of its time stamp.
const RACY: Duration = Duration::from_secs(2);

/// The outcome of one reading.
#[derive(Default, Debug)]
pub(super) struct Scan {
    /// Whether objects may have changed.
    pub(super) changed: bool,
    /// Why the directory as a whole cannot be read.
    pub(super) away: Option<String>,
    /// Every file that cannot be read, in each scan that finds it so.
    pub(super) broken: Vec<String>,
    /// What a person may want to know; said once.
    pub(super) notices: Vec<String>,
}

pub(super) struct Directory {
    path: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// Notices that were given already.
    noticed: BTreeSet<String>,
}

#[derive(Default)]
struct File {
    /// What the content was read from; absent: read again.
    stamp: Option<Stamp>,
    /// The last content that could be read.
    objects: Vec<(Key, Arc<Object>)>,
    /// Why what is there now cannot be read.
    broken: Option<String>,
}

/// Identifies a version of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: SystemTime,
}

impl Directory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            files: BTreeMap::new(),
            noticed: BTreeSet::new(),
        }
    }

    /// Reads what has changed since the last time.
    pub(super) fn scan(&mut self) -> Scan {
        let mut scan = Scan::default();
        let paths = match self.list() {
            Ok(mut paths) => {
                // A long listing takes several system calls, and a file that is replaced between two of them may be in neither.
                paths.extend(self.files.keys().filter(|path| path.is_file()).cloned());
                paths
            }
            Err(error) => {
                scan.away = Some(format!("cannot read the directory {}: {error}", self.path.display()));
                return scan;
            }
        };
        let before = self.files.len();
        self.files.retain(|path, _| paths.contains(path));
        scan.changed = self.files.len() != before;
        let mut notices = vec![];
        for path in paths {
            let file = self.files.entry(path.clone()).or_default();
            scan.changed |= file.refresh(&path, &mut notices);
            scan.broken.extend(file.broken.clone());
        }
        self.duplicates(&mut notices);
        scan.notices = notices
            .into_iter()
            .filter(|notice| self.noticed.insert(notice.clone()))
            .collect();
        scan
    }

    /// All objects. One that several files hold is taken from the first of them by name.
    pub(super) fn objects(&self) -> BTreeMap<Key, Arc<Object>> {
        let mut all = BTreeMap::new();
        for (key, object) in self.files.values().flat_map(|file| &file.objects) {
            all.entry(key.clone()).or_insert_with(|| Arc::clone(object));
        }
        all
    }

    /// Manifest files, links followed; hidden ones are left out.
    fn list(&self) -> io::Result<BTreeSet<PathBuf>> {
        let mut paths = BTreeSet::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let hidden = path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            let manifest = path
                .extension()
                .is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
            if manifest && !hidden && path.is_file() {
                paths.insert(path);
            }
        }
        Ok(paths)
    }

    fn duplicates(&self, notices: &mut Vec<String>) {
        let mut first: BTreeMap<&Key, &Path> = BTreeMap::new();
        for (path, file) in &self.files {
            for (key, _) in &file.objects {
                let holder = first.entry(key).or_insert(path);
                if *holder != path.as_path() {
                    let (used, other) = (holder.display(), path.display());
                    notices.push(format!("{key} is in {used} and in {other}: the former is used"));
                }
            }
        }
    }
}

impl File {
    /// Reads the file if it is not the version that was read last. Whether its objects may have changed.
    fn refresh(&mut self, path: &Path, notices: &mut Vec<String>) -> bool {
        let stamp = stamp(path);
        if let (Ok(stamp), Some(known)) = (&stamp, &self.stamp)
            && stamp == known
        {
            return false;
        }
        let content = stamp.and_then(|stamp| {
            self.stamp = Some(stamp).filter(|stamp| stamp.modified.elapsed().is_ok_and(|age| age > RACY));
            read(path, stamp)
        });
        let content = content.map_err(|error| error.to_string()).and_then(|text| {
            if text.is_empty() && !self.objects.is_empty() {
                return Err("is empty; to take its objects away, delete the file".to_owned());
            }
            parse::parse(&text).map_err(|fault| fault.to_string())
        });
        match content {
            Ok(content) => {
                self.broken = None;
                for kind in content.ignored {
                    notices.push(format!(
                        "{kind} in manifests is ignored: only Service, EndpointSlice, Node and Pod count"
                    ));
                }
                let objects: Vec<_> = content
                    .objects
                    .into_iter()
                    .map(|object| (object.key(), Arc::new(object)))
                    .collect();
                let changed = objects != self.objects;
                if changed {
                    self.objects = objects;
                }
                changed
            }
            Err(why) => {
                self.broken = Some(format!("{}: {why}", path.display()));
                false
            }
        }
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    Ok(Stamp {
        inode: metadata.ino(),
        length: metadata.len(),
        modified: metadata.modified()?,
    })
}

fn read(path: &Path, stamp: Stamp) -> io::Result<String> {
    if stamp.length > MAX_FILE {
        return Err(io::Error::other(format!(
            "larger than {} MiB, no manifest",
            MAX_FILE >> 20
        )));
    }
    fs::read_to_string(path)
}

//! A rig's hold on the machine: its id, its folders, and what removes everything again.
//!
//! Everything a rig makes outside its own folder carries the prefix `fg<id>-`: namespaces, the cgroup2 directory and the
//! bpffs directory. The folder holds a file that the owner keeps locked (flock) as long as it lives, so anybody can tell a
//! rig that is in use from the leftovers of one whose program died.
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::mount::{MountFlags, mount};

use super::netns;

const BPFFS: &str = "/sys/fs/bpf";
const LOCK: &str = "lock";

/// Dropping it kills every process of the rig and removes every trace.
#[derive(Debug)]
pub struct Lease {
    id: String,
    directory: PathBuf,
    cgroup: PathBuf,
    bpffs: PathBuf,
    /// Held, never read: closing it ends the lock.
    _lock: File,
}

impl Lease {
    /// Takes an id that no other rig has, after removing what dead rigs left.
    pub(crate) fn take() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            bail!("the rig needs root: it makes network namespaces");
        }
        sweep()?;
        let id = format!("{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = folder().join(&id);
        fs::create_dir_all(&directory)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(directory.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).context("a rig of this id is in use")?;
        ensure_bpffs()?;
        let cgroup = cgroup2()?.join(format!("fg{id}"));
        let bpffs = Path::new(BPFFS).join(format!("fg{id}"));
        fs::create_dir_all(&cgroup).with_context(|| cgroup.display().to_string())?;
        fs::create_dir_all(&bpffs).with_context(|| bpffs.display().to_string())?;
        Ok(Self {
            id,
            directory,
            cgroup,
            bpffs,
            _lock: lock,
        })
    }

    /// What makes the rig's names its own.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `fg<id>-<name>`.
    pub fn name(&self, name: &str) -> String {
        format!("fg{}-{name}", self.id)
    }

    /// The rig's own folder, for files of every kind.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The rig's own bpffs directory.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Makes a cgroup2 directory below the rig's.
    pub fn cgroup(&self, name: &str) -> Result<PathBuf> {
        let path = self.cgroup.join(name);
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        remove(&self.id);
    }
}

/// Removes everything that rigs of ended programs left behind; returns their ids.
pub fn sweep() -> Result<Vec<String>> {
    fs::create_dir_all(folder())?;
    let mut swept = Vec::new();
    for entry in fs::read_dir(folder())? {
        let Ok(id) = entry?.file_name().into_string() else {
            continue;
        };
        let abandoned = match File::open(folder().join(&id).join(LOCK)) {
            Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
            // Between its folder and its lock a rig is being born, unless its program is gone.
            Err(_) => !owner_lives(&id),
        };
        if abandoned {
            remove(&id);
            swept.push(id);
        }
    }
    Ok(swept)
}

/// `<temporary folder>/ferrogate-rigs`.
fn folder() -> PathBuf {
    std::env::temp_dir().join("ferrogate-rigs")
}

/// An id begins with its owner's process id.
fn owner_lives(id: &str) -> bool {
    id.split('x')
        .next()
        .is_some_and(|pid| Path::new("/proc").join(pid).exists())
}

/// Processes first, then what they held; the folder last, so that an interrupted removal is found again.
fn remove(id: &str) {
    if let Ok(root) = cgroup2() {
        let cgroup = root.join(format!("fg{id}"));
        let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        remove_cgroup(&cgroup);
    }
    let _ = fs::remove_dir_all(Path::new(BPFFS).join(format!("fg{id}")));
    let prefix = format!("fg{id}-");
    let names = fs::read_dir(netns::FOLDER).into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        if name.starts_with(&prefix) {
            let _ = netns::delete(&name);
        }
    }
    let _ = fs::remove_dir_all(folder().join(id));
}

/// Removes a tree of cgroups, deepest first; killed processes take a moment to leave.
fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    let deadline = Instant::now() + Duration::from_secs(3);
    while path.exists() && fs::remove_dir(path).is_err() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
}

/// The mount point of cgroup2, wherever it is: on hybrid machines it is not `/sys/fs/cgroup`.
pub(crate) fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let point = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (point, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(point))
    });
    point.into_iter().next().context("no cgroup2 mount in /proc/mounts")
}

fn ensure_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS)) {
        return Ok(());
    }
    mount("bpf", BPFFS, "bpf", MountFlags::empty(), None::<&std::ffi::CStr>).context("mounting bpffs at /sys/fs/bpf")
}

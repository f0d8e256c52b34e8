//! The state directory: where the agent's maps and links are pinned.
//!
//! ```text
//! <state-dir>/v<ABI>/maps/<NAME>                    one map of `ferrogate_common::maps`; beside them a note (`inherit.rs`)
//! <state-dir>/v<ABI>/links/<program>-<ifindex>      a tcx link, or the program that is a filter of clsact
//! <state-dir>/v<ABI>/links/<program>-<mode>-<ifindex>   an XDP link; native or generic
//! <state-dir>/v<ABI>/links/<program>                a link of the socket edge
//! <state-dir>/reserved-ports -> 14000-29999         what was added to net.ipv4.ip_local_reserved_ports
//! <state-dir>/conntrack -> nf_conntrack_max=65536   what was raised below net.netfilter, and from what
//! <state-dir>/loopback -> accept_local              net.ipv4.conf.lo.accept_local was 0
//! ```

use super::error::{During as _, Error, Result};
use super::note::Note;
use ferrogate_common::ABI_VERSION;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open, statfs};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Default of `--state-dir`.
pub const DEFAULT_STATE_DIR: &str = "/sys/fs/bpf/ferrogate";

/// Where a bpffs belongs.
const BPFFS: &str = "/sys/fs/bpf";
/// BPF_FS_MAGIC (include/uapi/linux/magic.h).
const BPFFS_MAGIC: u32 = 0xcafe_4a11;

/// Paths below a state directory.
#[derive(Clone, Debug)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of this ABI.
    pub fn version(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}"))
    }

    /// The directory of the maps' pins.
    pub(super) fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    /// The pin of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// The directory of the links' pins.
    pub fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    pub(super) fn reserved_ports(&self) -> Note {
        Note(self.root.join("reserved-ports"))
    }

    pub(super) fn conntrack_note(&self) -> Note {
        Note(self.root.join("conntrack"))
    }

    pub(super) fn loopback_note(&self) -> Note {
        Note(self.root.join("loopback"))
    }

    /// Mounts a bpffs at `/sys/fs/bpf` where the directory is to be there and none is: needs CAP_SYS_ADMIN then.
    pub fn mount(&self) -> Result<()> {
        if self.root.starts_with(BPFFS) && !is_bpffs(Path::new(BPFFS))? {
            mount_bpffs()?;
        }
        Ok(())
    }

    /// Makes the directories.
    pub(super) fn create(&self) -> Result<()> {
        for directory in [self.maps(), self.links()] {
            self.create_all(&directory)?;
        }
        Ok(())
    }

    /// `create_dir_all`, but nothing is made outside of a bpffs.
    fn create_all(&self, directory: &Path) -> Result<()> {
        if directory.is_dir() {
            return if is_bpffs(directory)? {
                Ok(())
            } else {
                Err(Error::NotBpffs(self.root.clone()))
            };
        }
        let parent = directory.parent().ok_or_else(|| Error::NotBpffs(self.root.clone()))?;
        self.create_all(parent)?;
        match fs::create_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result.during(|| format!("cannot make {}", directory.display())),
        }
    }

    /// Takes the lock that keeps a second agent away. The lock is on the directory itself, so it holds across mount and
    /// network namespaces; it ends with the descriptor, at the latest with the process.
    pub(super) fn lock(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            open(&self.root, flags, Mode::empty()).during(|| format!("cannot open {}", self.root.display()))?;
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(directory),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked(self.root.clone())),
            Err(errno) => Err(errno).during(|| format!("cannot lock {}", self.root.display())),
        }
    }
}

fn is_bpffs(path: &Path) -> Result<bool> {
    match statfs(path) {
        // f_type is a signed or an unsigned long, by architecture; the magic number is its low half.
        Ok(status) => Ok(status.f_type as u32 == BPFFS_MAGIC),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno).during(|| format!("cannot look at {}", path.display())),
    }
}

fn mount_bpffs() -> Result<()> {
    use rustix::mount::{MountFlags, mount};
    fs::create_dir_all(BPFFS).during(|| format!("cannot make {BPFFS}"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RELATIME;
    mount("bpf", BPFFS, "bpf", flags, None).during(|| format!("cannot mount a BPF file system at {BPFFS}"))?;
    tracing::info!(path = BPFFS, "mounted a BPF file system: none was there");
    Ok(())
}

/// What is in a directory, if there is one.
pub(super) fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let listed = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        listed => listed.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()),
    };
    listed.during(|| format!("cannot list {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_elsewhere_is_refused_and_nothing_is_made_there() {
        let base = std::env::temp_dir().join(format!("fg-state-{}", std::process::id()));
        fs::create_dir_all(&base).expect("temporary directory");
        let error = StateDir::new(base.join("state")).create().expect_err("not a bpffs");
        assert!(matches!(error, Error::NotBpffs(_)), "{error}");
        assert!(error.to_string().contains("mount -t bpf"));
        assert_eq!(fs::read_dir(&base).expect("directory").count(), 0);
        fs::remove_dir_all(&base).expect("clean-up");
    }
}

//! What can go wrong between the agent and the kernel. A message does not repeat its source: print the whole chain.

use std::io;
use std::path::PathBuf;

/// An error of the kernel layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed; `action` says what it was for.
    #[error("{action}")]
    Io { action: String, source: io::Error },
    /// The embedded object could not be parsed, or one of its maps could not be created.
    #[error("cannot load the eBPF object")]
    Object(#[from] aya::EbpfError),
    /// The verifier refused a program, or its type cannot be loaded.
    #[error("cannot load the eBPF program {program}")]
    Program {
        program: String,
        source: Box<aya::programs::ProgramError>,
    },
    /// A hook's second program cannot be made reachable for its first one.
    #[error("cannot enter the eBPF program {program} in the map SECOND")]
    Second {
        program: String,
        source: Box<aya::maps::MapError>,
    },
    /// The object has no program of this name, or one of another type than its name promises.
    #[error("the eBPF object has no program {0} of a known type")]
    NoProgram(String),
    /// Packet logging was asked for, but the object has no log map.
    #[error("packet logging is not available")]
    Logging(#[from] aya_log::Error),
    /// A map at a pinned path is not the one this agent works with.
    #[error(
        "pinned map {path} has keys of {found_key} and values of {found_value} bytes, not {key} and {value}: \
         it is not of ABI {abi}; `ferrogate cleanup` removes it"
    )]
    Layout {
        path: PathBuf,
        key: u32,
        value: u32,
        found_key: u32,
        found_value: u32,
        abi: u32,
    },
    /// A map that must be mapped into memory was not created for it.
    #[error("pinned map {0} cannot be mapped (it lacks BPF_F_MMAPABLE); `ferrogate cleanup` removes it")]
    NotMappable(PathBuf),
    /// An element outside of a map; a plan was made for larger tables than the kernel's.
    #[error("{map} has {entries} entries, there is no {index}")]
    OutOfRange {
        map: &'static str,
        entries: u32,
        index: u32,
    },
    /// A map of the network or of cgroups has no room. What it holds stays, and what is left out is tried again.
    #[error(
        "the map {map} is full ({entries} entries): {left_out} more are left out; `ferrogate cleanup` and a start with \
         --map-entries {map}=N widens it"
    )]
    Full {
        map: &'static str,
        entries: u32,
        left_out: usize,
    },
    /// The state directory is not on a bpffs.
    #[error(
        "{0} is not on a BPF file system: mount one with `mount -t bpf bpf /sys/fs/bpf`, or name another --state-dir"
    )]
    NotBpffs(PathBuf),
    /// Another agent works with the same state directory.
    #[error("another agent uses the state directory {0}")]
    Locked(PathBuf),
    /// `--cgroup` names something that is not a directory of cgroup version 2.
    #[error("{0} is not on a cgroup2 file system")]
    NotCgroup2(PathBuf),
    /// There is no pinned state to read.
    #[error("no ferrogate state at {0}: is the agent running, with this --state-dir?")]
    NoState(PathBuf),
}

/// Result of the kernel layer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what a system call was for.
pub(crate) trait During<T> {
    fn during(self, action: impl FnOnce() -> String) -> Result<T>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io {
            action: action(),
            source,
        })
    }
}

impl<T> During<T> for rustix::io::Result<T> {
    fn during(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Error::Io {
            action: action(),
            source: errno.into(),
        })
    }
}

//! Waiting until no program can still use what it looked up before.

use super::{Command, CreateAttr, bpf, create_map, raw};
use bytemuck::{Pod, Zeroable};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

/// MEMBARRIER_CMD_GLOBAL (include/uapi/linux/membarrier.h).
const MEMBARRIER_GLOBAL: i32 = 1;
/// BPF_MAP_TYPE_ARRAY and BPF_MAP_TYPE_ARRAY_OF_MAPS.
const ARRAY: u32 = 2;
const ARRAY_OF_MAPS: u32 = 12;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct UpdateAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// A way to wait for an RCU grace period, under which every program of ours runs.
///
/// `membarrier(MEMBARRIER_CMD_GLOBAL)` is `synchronize_rcu()`, but returns EINVAL where a CPU is nohz_full (and ENOSYS
/// where it is not built in). There, an update of a map of maps from user space waits instead: since Linux 4.17 the
/// kernel promises that no program still uses the old inner map when the call returns (`maybe_wait_bpf_programs`).
#[derive(Debug)]
pub(crate) enum Grace {
    Membarrier,
    MapOfMaps { outer: OwnedFd, inner: OwnedFd },
}

impl Grace {
    /// Chooses what this kernel has.
    pub(crate) fn new() -> io::Result<Self> {
        match membarrier() {
            Ok(()) => Ok(Self::Membarrier),
            Err(_) => Self::map_of_maps(),
        }
    }

    fn map_of_maps() -> io::Result<Self> {
        let attr = CreateAttr {
            map_type: ARRAY,
            key_size: 4,
            value_size: 4,
            max_entries: 1,
            map_flags: 0,
            inner_map_fd: 0,
        };
        let inner = create_map(attr)?;
        let outer = create_map(CreateAttr {
            map_type: ARRAY_OF_MAPS,
            inner_map_fd: raw(inner.as_fd()),
            ..attr
        })?;
        Ok(Self::MapOfMaps { outer, inner })
    }

    /// Returns when every program that was running when it was called has ended.
    pub(crate) fn wait(&self) -> io::Result<()> {
        match self {
            Self::Membarrier => membarrier(),
            Self::MapOfMaps { outer, inner } => {
                let (key, value) = (0_u32, raw(inner.as_fd()));
                let mut attr = UpdateAttr {
                    map_fd: raw(outer.as_fd()),
                    padding: 0,
                    key: (&raw const key).addr() as u64,
                    value: (&raw const value).addr() as u64,
                    flags: 0,
                };
                // SAFETY: key and value are live words of 4 bytes, which is what the map was created with.
                unsafe { bpf(Command::MapUpdateElem, &mut attr) }.map(drop)
            }
        }
    }
}

fn membarrier() -> io::Result<()> {
    // SAFETY: the call takes no addresses and changes nothing.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_wait_return() {
        match Grace::map_of_maps() {
            Ok(grace) => grace.wait().expect("update of a map of maps"),
            Err(error) => {
                assert_eq!(
                    error.raw_os_error(),
                    Some(libc::EPERM),
                    "only a missing privilege excuses this"
                );
                eprintln!("skipped: creating a map needs CAP_BPF");
                return;
            }
        }
        Grace::new().and_then(|grace| grace.wait()).expect("grace period");
    }
}

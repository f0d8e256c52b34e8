//! Which programs are attached somewhere, whoever attached them.

use super::{Command, bpf, object_info, owned};
use bytemuck::{Pod, Zeroable};
use std::io;

/// More programs than a hook can have (BPF_MPROG_MAX is 64).
const ROOM: usize = 64;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    padding: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct IdAttr {
    id: u32,
    next: u32,
    flags: u32,
}

/// The beginning of `struct bpf_prog_info`, up to the name.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    numbers: [u64; 7],
    name: [u8; 16],
}

/// Ids of the programs at a hook, in the order in which they run. `target` is an ifindex or the descriptor of a cgroup's directory,
/// by the `enum bpf_attach_type`.
pub(crate) fn attached(target: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; ROOM];
    let mut attr = QueryAttr {
        target,
        attach_type,
        programs: ids.as_mut_ptr().addr() as u64,
        count: ROOM as u32,
        ..QueryAttr::zeroed()
    };
    // SAFETY: there is room for `count` ids where `programs` says, and the memory outlives the call.
    unsafe { bpf(Command::ProgramQuery, &mut attr) }?;
    Ok(ids.into_iter().take(attr.count as usize).collect())
}

/// The name that a program was loaded by, 15 bytes at most; empty where it has none.
pub(crate) fn program_name(id: u32) -> io::Result<String> {
    let mut attr = IdAttr { id, next: 0, flags: 0 };
    // SAFETY: the attributes hold no addresses.
    let fd = unsafe { bpf(Command::ProgramFdById, &mut attr) }.map(owned)?;
    let info: ProgramInfo = object_info(std::os::fd::AsFd::as_fd(&fd))?;
    let end = info.name.iter().position(|byte| *byte == 0).unwrap_or(info.name.len());
    Ok(String::from_utf8_lossy(&info.name[..end]).into_owned())
}

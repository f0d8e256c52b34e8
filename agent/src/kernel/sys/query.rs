//! Which programs are attached somewhere, whoever attached them.

use super::{Command, bpf, object_info, program_by_id};
use bytemuck::{Pod, Zeroable};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

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

/// The id of a program.
pub(crate) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    object_info::<ProgramInfo>(program).map(|info| info.id)
}

/// The name that a program was loaded by, 15 bytes at most; empty where it has none.
pub(crate) fn program_name(id: u32) -> io::Result<String> {
    let info: ProgramInfo = object_info(program_by_id(id)?.as_fd())?;
    let end = info.name.iter().position(|byte| *byte == 0).unwrap_or(info.name.len());
    Ok(String::from_utf8_lossy(&info.name[..end]).into_owned())
}

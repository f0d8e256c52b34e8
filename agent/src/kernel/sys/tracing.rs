//! Programs that run before and behind another eBPF program, as on a kernel function: aya attaches them to functions only.

use super::map::put_only;
use super::{Command, bpf, object_info_with, owned, raw};
use aya_obj::generated::bpf_insn;
use bytemuck::{Pod, Zeroable};
use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// BPF_PROG_TYPE_TRACING (include/uapi/linux/bpf.h).
const TRACING: u32 = 26;
/// Bytes of the verifier's words that are shown when it refuses.
const LOG: usize = 1 << 16;
/// As `bpftool prog` shows them.
const NAME: [u8; 16] = *b"ferrogate_pcap\0\0";
const LICENSE: &CStr = c"Dual MIT/GPL";

/// When such a program runs: its `enum bpf_attach_type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum When {
    Entry = 24,
    Exit = 25,
}

/// `bpf_attr` of BPF_PROG_LOAD up to the program that is attached to.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct LoadAttr {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach_type: u32,
    btf: u32,
    func_info_size: u32,
    func_info: u64,
    func_info_count: u32,
    line_info_size: u32,
    line_info: u64,
    line_info_count: u32,
    target_type: u32,
    target: u32,
    padding: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct OpenAttr {
    name: u64,
    program: u32,
    padding: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct FreezeAttr {
    map: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct IdAttr {
    id: u32,
    next: u32,
    flags: u32,
}

/// `struct bpf_prog_info` up to its functions.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    /// Tag, sizes and addresses of code, times, maps.
    code: [u64; 7],
    name: [u8; 16],
    ifindex: u32,
    licence: u32,
    namespace: [u64; 2],
    jited_counts: [u32; 2],
    jited: [u64; 2],
    btf: u32,
    function_size: u32,
    functions: u64,
    function_count: u32,
    line_count: u32,
}

/// `struct bpf_func_info`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Function {
    offset: u32,
    kind: u32,
}

/// A descriptor of a loaded program. Needs CAP_SYS_ADMIN.
pub(crate) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = IdAttr { id, next: 0, flags: 0 };
    // SAFETY: the attributes hold no addresses.
    unsafe { bpf(Command::ProgramFdById, &mut attr) }.map(owned)
}

/// The BTF type of a program's main function; none where the program was loaded without types.
pub(crate) fn main_function(program: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let mut first = Function::zeroed();
    let wanted = ProgramInfo {
        function_size: size_of::<Function>() as u32,
        function_count: 1,
        functions: (&raw mut first).addr() as u64,
        ..ProgramInfo::zeroed()
    };
    // SAFETY: room for one function, as said, which is exclusively ours.
    let info = unsafe { object_info_with(program, wanted) }?;
    Ok((info.function_count > 0).then_some(first.kind))
}

/// Loads a program that runs before or behind `target`, whose main function has that BTF type.
///
/// # Errors
/// The verifier's, with its words behind it.
pub(crate) fn load_tracing(
    instructions: &[bpf_insn],
    when: When,
    target: BorrowedFd<'_>,
    target_type: u32,
) -> io::Result<OwnedFd> {
    let mut attr = LoadAttr {
        kind: TRACING,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr().addr() as u64,
        license: LICENSE.as_ptr().addr() as u64,
        name: NAME,
        attach_type: when as u32,
        target_type,
        target: raw(target),
        ..LoadAttr::zeroed()
    };
    // SAFETY: as many instructions as said, and a string with its NUL, which outlive the call.
    let error = match unsafe { bpf(Command::ProgramLoad, &mut attr) } {
        Ok(fd) => return Ok(owned(fd)),
        Err(error) => error,
    };
    let mut log = vec![0_u8; LOG];
    attr.log_level = 1;
    attr.log_size = LOG as u32;
    attr.log = log.as_mut_ptr().addr() as u64;
    // SAFETY: as above, and room for the log, which is exclusively ours.
    match unsafe { bpf(Command::ProgramLoad, &mut attr) } {
        Ok(fd) => Ok(owned(fd)),
        Err(_) => {
            if log[0] == 0 {
                // It was refused before it was looked at.
                return Err(error);
            }
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            let said = String::from_utf8_lossy(&log[..end]);
            let last: Vec<&str> = said.lines().rev().take(3).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            Err(io::Error::new(error.kind(), format!("{error}: {}", last.join("; "))))
        }
    }
}

/// Attaches it, for as long as the result lives.
pub(crate) fn attach_tracing(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = OpenAttr {
        program: raw(program),
        ..OpenAttr::zeroed()
    };
    // SAFETY: the attributes hold no addresses.
    unsafe { bpf(Command::RawTracepointOpen, &mut attr) }.map(owned)
}

/// Writes a map of one element, of read-only data, and makes it constant to the verifier.
pub(crate) fn fill(map: BorrowedFd<'_>, data: &[u8]) -> io::Result<()> {
    put_only(map, data)?;
    let mut attr = FreezeAttr { map: raw(map) };
    // SAFETY: the attributes hold no addresses.
    unsafe { bpf(Command::MapFreeze, &mut attr) }.map(drop)
}

//! The kernel's jiffies, which no system call tells.

use super::{Command, bpf, owned, raw};
use bytemuck::{Pod, Zeroable};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// BPF_PROG_TYPE_SYSCALL and BPF_F_SLEEPABLE (include/uapi/linux/bpf.h).
const SYSCALL: u32 = 31;
const SLEEPABLE: u32 = 1 << 4;
/// bpf_jiffies64. Any license will do for it.
const JIFFIES: i32 = 118;
const LICENSE: &CStr = c"Apache-2.0";

/// An instruction (`struct bpf_insn`).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// The destination in the low half, the source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

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
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RunAttr {
    program: u32,
    result: u32,
    data_in_size: u32,
    data_out_size: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_in_size: u32,
    context_out_size: u32,
    context_in: u64,
    context_out: u64,
}

/// A program that reads the kernel's jiffies.
pub(crate) struct JiffiesReader(OwnedFd);

impl JiffiesReader {
    /// Needs CAP_BPF and Linux 5.14.
    pub(crate) fn load() -> io::Result<Self> {
        let program = [
            // r6 = r1, the context.
            instruction(0xbf, 0x16, 0, 0),
            instruction(0x85, 0, 0, JIFFIES),
            // *(u64 *)r6 = r0
            instruction(0x7b, 0x06, 0, 0),
            // r0 = 0; exit
            instruction(0xb7, 0, 0, 0),
            instruction(0x95, 0, 0, 0),
        ];
        let mut attr = LoadAttr {
            kind: SYSCALL,
            instruction_count: program.len() as u32,
            instructions: program.as_ptr().addr() as u64,
            license: LICENSE.as_ptr().addr() as u64,
            flags: SLEEPABLE,
            ..Zeroable::zeroed()
        };
        // SAFETY: as many instructions as said, and a string with its NUL, which outlive the call.
        unsafe { bpf(Command::ProgramLoad, &mut attr) }.map(|fd| Self(owned(fd)))
    }

    pub(crate) fn read(&self) -> io::Result<u64> {
        let mut jiffies = 0;
        let mut attr = run(self.0.as_fd(), &mut jiffies);
        // SAFETY: the context has the stated length, is exclusively ours, and any bytes are valid there.
        unsafe { bpf(Command::ProgramTestRun, &mut attr) }?;
        Ok(jiffies)
    }
}

fn run(program: BorrowedFd<'_>, context: &mut u64) -> RunAttr {
    RunAttr {
        program: raw(program),
        context_in_size: size_of::<u64>() as u32,
        context_in: std::ptr::from_mut(context).addr() as u64,
        ..Zeroable::zeroed()
    }
}

const fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers,
        offset,
        immediate,
    }
}

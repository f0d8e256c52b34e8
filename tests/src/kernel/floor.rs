//! What no XDP program can be cheaper than: a program that does nothing, and one that looks into an LRU map once. Assembled
//! by hand and loaded by bpf(2), so that nothing else is measured.
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use ferrogate_common::Tuple;

/// The first bytes of `union bpf_attr` for BPF_PROG_LOAD (linux/bpf.h).
#[repr(C)]
struct LoadAttributes {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// The same for BPF_PROG_TEST_RUN.
#[repr(C)]
struct RunAttributes {
    program: u32,
    return_value: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_PROG_TYPE_XDP: u32 = 6;
const XDP_PASS: i32 = 2;

/// A loaded program.
pub struct Floor {
    program: OwnedFd,
}

impl Floor {
    /// Returns at once.
    pub fn nothing() -> Result<Self> {
        Self::load(&[mov(0, XDP_PASS), EXIT])
    }

    /// One look-up of a [`Tuple`] of zeros in this map.
    pub fn one_look_up(map: BorrowedFd<'_>) -> Result<Self> {
        const BPF_FUNC_MAP_LOOKUP_ELEM: i32 = 1;
        const KEY: i16 = size_of::<Tuple>() as i16;
        let mut instructions = Vec::new();
        for at in (-KEY..0).step_by(8) {
            instructions.push(store_zero(at));
        }
        instructions.extend([
            copy(2, 10),
            add(2, -i32::from(KEY)),
            // Two slots: the descriptor of the map becomes its address.
            encode(0x18, 1, 1, 0, map.as_raw_fd()),
            0,
            encode(0x85, 0, 0, 0, BPF_FUNC_MAP_LOOKUP_ELEM),
            mov(0, XDP_PASS),
            EXIT,
        ]);
        Self::load(&instructions)
    }

    fn load(instructions: &[u64]) -> Result<Self> {
        let attributes = LoadAttributes {
            kind: BPF_PROG_TYPE_XDP,
            instruction_count: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buffer: 0,
            kernel_version: 0,
            flags: 0,
        };
        // SAFETY: the attributes are as large as said, and what they point to outlives the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_LOAD,
                &raw const attributes,
                size_of_val(&attributes),
            )
        };
        let fd = i32::try_from(fd)?;
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("loading a program of a few instructions");
        }
        // SAFETY: the call returned a descriptor that nobody else has.
        let program = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { program })
    }

    /// Mean time of `repeat` runs over a packet.
    pub fn run(&self, packet: &[u8], repeat: u32) -> Result<Duration> {
        // SAFETY: a structure of integers.
        let mut attributes: RunAttributes = unsafe { std::mem::zeroed() };
        attributes.program = self.program.as_raw_fd() as u32;
        attributes.data_in = packet.as_ptr() as u64;
        attributes.data_size_in = packet.len() as u32;
        attributes.repeat = repeat;
        // SAFETY: as in `load`; the kernel writes to the attributes only.
        let result = unsafe {
            let size = size_of_val(&attributes);
            libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attributes, size)
        };
        if result < 0 {
            return Err(io::Error::last_os_error()).context("running a floor program");
        }
        Ok(Duration::from_nanos(attributes.duration.into()))
    }
}

/// One instruction (`struct bpf_insn`): code, destination and source register, offset, immediate.
const fn encode(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    code as u64
        | (destination as u64) << 8
        | (source as u64) << 12
        | (offset as u16 as u64) << 16
        | (immediate as u32 as u64) << 32
}

const EXIT: u64 = encode(0x95, 0, 0, 0, 0);

const fn mov(register: u8, value: i32) -> u64 {
    encode(0xb7, register, 0, 0, value)
}

const fn copy(register: u8, from: u8) -> u64 {
    encode(0xbf, register, from, 0, 0)
}

const fn add(register: u8, value: i32) -> u64 {
    encode(0x07, register, 0, 0, value)
}

/// Eight zero bytes on the stack.
const fn store_zero(at: i16) -> u64 {
    encode(0x7a, 10, 0, at, 0)
}

//! bpf(2), mmap(2) and membarrier(2): what aya has no interface for. The agent's only `unsafe` is below this module.

mod clock;
mod grace;
mod heap;
mod link;
mod map;
mod mapping;
mod netns;
mod query;
mod tracing;

pub(crate) use clock::JiffiesReader;
pub(crate) use grace::Grace;
pub(crate) use heap::{one_heap, trim_heap};
pub(crate) use link::{Link, LinkTarget, TCX_EGRESS, TCX_INGRESS, attach};
pub(crate) use map::{Map, MapInfo};
pub(crate) use mapping::{MMAPABLE, Mapping};
pub use netns::netns_cookie;
pub(crate) use query::{attached, program_id, program_name};
pub(crate) use tracing::{When, attach_tracing, fill, load_tracing, main_function, program_by_id};

use aya_log::EbpfLogger;
use bytemuck::{Pod, Zeroable};
use log::Log;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Commands of bpf(2) (`enum bpf_cmd` in include/uapi/linux/bpf.h).
#[derive(Clone, Copy)]
#[repr(i32)]
pub(crate) enum Command {
    MapCreate = 0,
    MapLookupElem = 1,
    MapUpdateElem = 2,
    MapDeleteElem = 3,
    MapGetNextKey = 4,
    ProgramLoad = 5,
    ObjPin = 6,
    ObjGet = 7,
    ProgramTestRun = 10,
    ProgramFdById = 13,
    ObjGetInfoByFd = 15,
    ProgramQuery = 16,
    RawTracepointOpen = 17,
    MapFreeze = 22,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    MapDeleteBatch = 27,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDetach = 34,
}

/// Calls bpf(2) with `attr` as the part of `union bpf_attr` that `command` reads; the kernel takes what is missing as zero.
///
/// # Safety
/// Every address in `attr` must point to memory that is valid for what `command` reads or writes there.
pub(crate) unsafe fn bpf<A: Pod>(command: Command, attr: &mut A) -> io::Result<i32> {
    // SAFETY: attr is exclusively borrowed memory of the stated size; the caller vouches for the addresses in it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as i32, std::ptr::from_mut(attr), size_of::<A>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

/// Makes the descriptor that a successful command returned ours.
fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor to us; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ObjectAttr {
    pathname: u64,
    fd: u32,
    flags: u32,
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Opens the map, program or link pinned at `path`.
pub(crate) fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjectAttr {
        pathname: path.as_ptr().addr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: pathname is the address of a NUL-terminated string that outlives the call.
    unsafe { bpf(Command::ObjGet, &mut attr) }.map(owned)
}

/// Whether a descriptor is that of a program.
pub(crate) fn is_program(object: BorrowedFd<'_>) -> io::Result<bool> {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd()))?;
    Ok(target.as_os_str() == "anon_inode:bpf-prog")
}

/// Pins a map, program or link at `path`, which must be on a bpffs and not exist.
pub(crate) fn object_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjectAttr {
        pathname: path.as_ptr().addr() as u64,
        fd: raw(fd),
        flags: 0,
    };
    // SAFETY: as in object_get.
    unsafe { bpf(Command::ObjPin, &mut attr) }.map(drop)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

/// What the kernel tells of an object: `T` is a prefix of the info structure of the object's type.
fn object_info<T: Pod>(fd: BorrowedFd<'_>) -> io::Result<T> {
    // SAFETY: there are no addresses in it.
    unsafe { object_info_with(fd, T::zeroed()) }
}

/// The same where more is to be written to what `info` has the addresses of.
///
/// # Safety
/// These must point to memory that may be written, of the sizes that are said there.
unsafe fn object_info_with<T: Pod>(fd: BorrowedFd<'_>, mut info: T) -> io::Result<T> {
    let mut attr = InfoAttr {
        fd: raw(fd),
        length: u32::try_from(size_of::<T>()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?,
        info: (&raw mut info).addr() as u64,
    };
    // SAFETY: info has the stated length, is exclusively ours, and any bytes are a valid T.
    unsafe { bpf(Command::ObjGetInfoByFd, &mut attr) }?;
    Ok(info)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

/// Creates a map without a name or BTF.
fn create_map(attr: CreateAttr) -> io::Result<OwnedFd> {
    let mut attr = attr;
    // SAFETY: the attributes hold no addresses.
    unsafe { bpf(Command::MapCreate, &mut attr) }.map(owned)
}

/// Registers the log's ring buffer with tokio, to be waited for. Needs a runtime.
pub(crate) fn wait_for_log(logger: EbpfLogger<&'static dyn Log>) -> io::Result<AsyncFd<EbpfLogger<&'static dyn Log>>> {
    // SAFETY: the logger owns its map's descriptor, and neither closes nor replaces it before it is dropped.
    unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }.map_err(io::Error::from)
}

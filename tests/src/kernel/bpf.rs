//! bpf(2) without a library: programs of [`super::asm`], their maps, and how they are run.
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use aya::Btf;
use aya_obj::btf::BtfKind;

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_MAP_FREEZE: libc::c_int = 22;
const BPF_LINK_CREATE: libc::c_int = 28;

const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const BPF_CGROUP_INET4_CONNECT: u32 = 10;
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
const BPF_F_BEFORE: u32 = 1 << 3;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;

/// Program types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Tc = 3,
    Xdp = 6,
}

/// Map types.
#[derive(Clone, Copy)]
pub(super) enum MapKind {
    Array = 2,
    ProgramArray = 3,
    PerCpuArray = 6,
    LruHash = 9,
}

/// The first bytes of `union bpf_attr` for BPF_PROG_LOAD (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
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
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
    /// BTF, and what is said of functions and lines by it.
    types: [u32; 2],
    functions: u64,
    function_counts: [u32; 2],
    lines: u64,
    line_count: u32,
    attach_btf_id: u32,
}

/// The same for BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
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

/// The same for BPF_MAP_CREATE.
#[repr(C)]
#[derive(Default)]
struct MapAttributes {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
}

/// The same for BPF_MAP_LOOKUP_ELEM and BPF_MAP_UPDATE_ELEM.
#[repr(C)]
#[derive(Default)]
struct ElementAttributes {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The same for BPF_OBJ_PIN.
#[repr(C)]
#[derive(Default)]
struct PinAttributes {
    path: u64,
    object: u32,
    flags: u32,
}

/// The same for BPF_LINK_CREATE.
#[repr(C)]
#[derive(Default)]
struct LinkAttributes {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// The system call. What the attributes point to must be as large as they say, and outlive the call.
fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the attributes are as large as said; callers keep what they point to alive, as described.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}

fn descriptor<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the call returned a descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Where bytes are; nothing is nowhere.
fn pointer(bytes: &[u8]) -> u64 {
    if bytes.is_empty() { 0 } else { bytes.as_ptr() as u64 }
}

/// Loads a program; `kind` is an `enum bpf_prog_type`.
fn load(kind: u32, expected_attach_type: u32, instructions: &[u64]) -> Result<OwnedFd> {
    load_for(kind, expected_attach_type, 0, instructions)
        .map_err(|refusal| anyhow!("the kernel does not load a program put together by hand: {refusal}"))
}

/// Whether this kernel takes programs that run before and behind its functions (fentry, fexit); a hardened one may not.
pub fn takes_tracing() -> Result<bool> {
    /// BPF_PROG_TYPE_TRACING and BPF_TRACE_FENTRY.
    const TRACING: u32 = 26;
    const ENTRY: u32 = 24;
    /// r0 = 0; exit
    const NOTHING: [u64; 2] = [0xb7, 0x95];
    let function = Btf::from_sys_fs()?.id_by_type_name_kind("tcp_connect", BtfKind::Func)?;
    Ok(load_for(TRACING, ENTRY, function, &NOTHING).is_ok())
}

/// The program, or what the verifier says of it. `function` is a BTF number of what it looks at.
fn load_for(kind: u32, expected_attach_type: u32, function: u32, instructions: &[u64]) -> Result<OwnedFd, String> {
    let mut log = vec![0u8; 1 << 16];
    let mut attributes = LoadAttributes {
        kind,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log_buffer: log.as_mut_ptr() as u64,
        expected_attach_type,
        attach_btf_id: function,
        ..LoadAttributes::default()
    };
    match descriptor(BPF_PROG_LOAD, &mut attributes) {
        Ok(fd) => Ok(fd),
        Err(error) => {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            Err(format!("{error}\n{}", String::from_utf8_lossy(&log[..end])))
        }
    }
}

fn link(program: BorrowedFd<'_>, target: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attributes = LinkAttributes {
        program: program.as_raw_fd() as u32,
        ifindex: target,
        attach_type,
        flags,
    };
    descriptor(BPF_LINK_CREATE, &mut attributes)
}

/// Loads a program for `connect4` and attaches it to a cgroup, behind those that are there; it goes with what is returned.
pub(super) fn attach_connect(cgroup: BorrowedFd<'_>, instructions: &[u64]) -> Result<OwnedFd> {
    let program = load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, instructions)?;
    // The target is a union of an interface's index and a descriptor.
    link(program.as_fd(), cgroup.as_raw_fd() as u32, BPF_CGROUP_INET4_CONNECT, 0)
        .context("attaching a program to a cgroup")
}

/// A loaded program.
#[derive(Debug)]
pub struct RawProgram {
    fd: OwnedFd,
    kind: Kind,
}

impl RawProgram {
    pub(super) fn load(kind: Kind, instructions: &[u64]) -> Result<Self> {
        let attach_type = if kind == Kind::Xdp { BPF_XDP } else { 0 };
        let fd = load(kind as u32, attach_type, instructions)?;
        Ok(Self { fd, kind })
    }

    /// Mean time of `repeat` runs over a packet, in nanoseconds, of which the kernel tells whole ones. The caller's own clock would
    /// be no better: around the runs of an XDP program the kernel waits for grace periods. `context`: of the kind's own type, for
    /// the interface.
    pub fn time(&self, packet: &[u8], context: &[u8], repeat: u32) -> Result<f64> {
        let mut attributes = RunAttributes {
            program: self.fd.as_raw_fd() as u32,
            data_in: packet.as_ptr() as u64,
            data_size_in: packet.len() as u32,
            context_in: pointer(context),
            context_size_in: context.len() as u32,
            repeat,
            ..RunAttributes::default()
        };
        bpf(BPF_PROG_TEST_RUN, &mut attributes).with_context(|| format!("a test run of {:?}", self.kind))?;
        Ok(attributes.duration.into())
    }

    /// Runs it once over a packet; what it returns.
    pub(super) fn run(&self, packet: &[u8]) -> Result<u32> {
        let mut attributes = RunAttributes {
            program: self.fd.as_raw_fd() as u32,
            data_in: packet.as_ptr() as u64,
            data_size_in: packet.len() as u32,
            ..RunAttributes::default()
        };
        bpf(BPF_PROG_TEST_RUN, &mut attributes).with_context(|| format!("a test run of {:?}", self.kind))?;
        Ok(attributes.return_value)
    }

    /// Runs `repeat` times, each over a frame that then really goes where the program says.
    pub fn run_live(&self, packet: &[u8], context: &[u8], repeat: u32, batch: u32) -> Result<()> {
        let mut attributes = RunAttributes {
            program: self.fd.as_raw_fd() as u32,
            data_in: packet.as_ptr() as u64,
            data_size_in: packet.len() as u32,
            context_in: pointer(context),
            context_size_in: context.len() as u32,
            repeat,
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            batch_size: batch,
            ..RunAttributes::default()
        };
        bpf(BPF_PROG_TEST_RUN, &mut attributes).context("a run with live frames (BPF_F_TEST_XDP_LIVE_FRAMES)")?;
        Ok(())
    }

    /// Attaches an XDP program in the driver; it goes with what is returned.
    pub(super) fn attach(&self, ifindex: u32) -> Result<OwnedFd> {
        self.link(ifindex, BPF_XDP, XDP_FLAGS_DRV_MODE)
            .with_context(|| format!("attaching an XDP program to interface {ifindex}"))
    }

    /// Attaches a program for packets at tcx ingress, before all others or behind them; it goes with what is returned.
    pub(super) fn attach_ingress(&self, ifindex: u32, first: bool) -> Result<OwnedFd> {
        self.link(ifindex, BPF_TCX_INGRESS, if first { BPF_F_BEFORE } else { 0 })
            .with_context(|| format!("attaching a program to tcx ingress of interface {ifindex}"))
    }

    /// Attaches a program for packets at tcx egress, behind all others; it goes with what is returned.
    pub(super) fn attach_egress(&self, ifindex: u32) -> Result<OwnedFd> {
        self.link(ifindex, BPF_TCX_EGRESS, 0)
            .with_context(|| format!("attaching a program to tcx egress of interface {ifindex}"))
    }

    fn link(&self, ifindex: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
        link(self.fd.as_fd(), ifindex, attach_type, flags)
    }
}

impl AsFd for RawProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes a map refuse every further write from user space (EPERM), for as long as it lives. Programs write on.
pub fn freeze(map: BorrowedFd<'_>) -> Result<()> {
    let mut number = map.as_raw_fd() as u32;
    bpf(BPF_MAP_FREEZE, &mut number).context("freezing a map")?;
    Ok(())
}

/// Makes an LRU hash map with keys and values of these sizes, and pins it.
pub fn pin_map(path: &Path, key: usize, value: usize) -> Result<()> {
    let map = RawMap::create(MapKind::LruHash, key, value, 64)?;
    let text = CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut attributes = PinAttributes {
        path: text.as_ptr() as u64,
        object: map.fd.as_raw_fd() as u32,
        flags: 0,
    };
    bpf(BPF_OBJ_PIN, &mut attributes).with_context(|| format!("pinning {}", path.display()))?;
    Ok(())
}

/// A map.
#[derive(Debug)]
pub(super) struct RawMap {
    fd: OwnedFd,
}

impl AsFd for RawMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl RawMap {
    pub(super) fn create(kind: MapKind, key: usize, value: usize, entries: u32) -> Result<Self> {
        let mut attributes = MapAttributes {
            kind: kind as u32,
            key_size: key as u32,
            value_size: value as u32,
            entries,
            flags: 0,
        };
        let fd = descriptor(BPF_MAP_CREATE, &mut attributes)
            .with_context(|| format!("a map of {entries} entries of {value} bytes"))?;
        Ok(Self { fd })
    }

    /// A map that hands programs of one kind on to this one.
    pub(super) fn to(program: BorrowedFd<'_>) -> Result<Self> {
        let map = Self::create(MapKind::ProgramArray, 4, 4, 1)?;
        map.put(&0u32.to_ne_bytes(), &program.as_raw_fd().to_ne_bytes())?;
        Ok(map)
    }

    pub(super) fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Writes an entry; key and value are as long as those of the map.
    pub(super) fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut attributes = ElementAttributes {
            map: self.fd.as_raw_fd() as u32,
            key: key.as_ptr() as u64,
            value: value.as_ptr() as u64,
            ..ElementAttributes::default()
        };
        bpf(BPF_MAP_UPDATE_ELEM, &mut attributes).context("a map entry")?;
        Ok(())
    }

    /// Sum of the element of all CPUs of a per-CPU array of 64-bit numbers.
    pub(super) fn sum(&self, index: u32) -> Result<u64> {
        let cpus = aya::util::nr_cpus().map_err(|(what, error)| io::Error::other(format!("{what}: {error}")))?;
        let (key, mut values) = (index.to_ne_bytes(), vec![0u64; cpus]);
        let mut attributes = ElementAttributes {
            map: self.fd.as_raw_fd() as u32,
            key: key.as_ptr() as u64,
            value: values.as_mut_ptr() as u64,
            ..ElementAttributes::default()
        };
        bpf(BPF_MAP_LOOKUP_ELEM, &mut attributes).context("a map entry")?;
        Ok(values.iter().sum())
    }
}

//! The embedded object: its programs and, through the loader, its maps.

use super::error::{Error, Result};
use super::sizes::{KeptSize, Sizes};
use super::state::StateDir;
use super::{DatapathOptions, clock, sys, tables};
use aya::maps::ProgramArray;
use aya::programs::{Program, ProgramError, ProgramFd};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use aya_log::EbpfLogger;
use ferrogate_common::maps::{self, Size};
use ferrogate_common::{Dsr, Redirect, TcxHook, Traffic};
use log::Log;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Programs of the pod edge and of the uplink edge (which carries the node edge on its egress), and the socket edge's with
/// their `enum bpf_attach_type`.
pub(super) const POD_INGRESS: &str = "pod_ingress";
pub(super) const POD_EGRESS: &str = "pod_egress";
pub(super) const UPLINK_INGRESS: &str = "uplink_ingress";
pub(super) const UPLINK_EGRESS: &str = "uplink_egress";
pub(super) const UPLINK_INGRESS_L3: &str = "uplink_ingress_l3";
pub(super) const UPLINK_EGRESS_L3: &str = "uplink_egress_l3";
pub(super) const UPLINK_XDP: &str = "uplink_xdp";
pub(super) const SOCKET: [(&str, u32); 8] = [
    // What undoes a translation goes first, so that no translated socket is ever without it.
    ("recvmsg4", 19),
    ("recvmsg6", 20),
    ("getpeername4", 29),
    ("getpeername6", 30),
    ("connect4", 10),
    ("connect6", 11),
    ("sendmsg4", 14),
    ("sendmsg6", 15),
];

/// Whether a program of this name meets packets, and not socket calls.
pub(super) fn is_of_packets(name: &str) -> bool {
    let of_packets = [
        POD_INGRESS,
        POD_EGRESS,
        UPLINK_INGRESS,
        UPLINK_EGRESS,
        UPLINK_INGRESS_L3,
        UPLINK_EGRESS_L3,
        UPLINK_XDP,
    ];
    of_packets.contains(&name)
}

static OBJECT: &[u8] = include_bytes_aligned!(env!("FERROGATE_BPF_OBJECT_PATH"));

/// The embedded eBPF object, an ELF file. For tests and tools that load it by other means.
pub fn object() -> &'static [u8] {
    OBJECT
}

/// Loaded programs. What they were loaded from is megabytes, and given up.
#[derive(Debug)]
pub(super) struct Programs {
    loaded: BTreeMap<String, ProgramFd>,
    /// Where there is anything to read.
    packet_log: Option<PacketLog>,
    kept: Vec<KeptSize>,
    /// Why they have to ask a helper for the time.
    clock_error: Option<io::Error>,
}

impl Programs {
    /// Creates or opens the maps below `state`, then loads every program. Maps that are pinned already keep their size.
    pub(super) fn load(state: &StateDir, options: &DatapathOptions) -> Result<Self> {
        tables::check_pins(state)?;
        let sizes = Sizes::new(options.map_memory, &options.map_entries);
        let kept = sizes.kept(state);
        let jiffies = clock::measure();
        let mut loader = EbpfLoader::new();
        for spec in maps::ALL {
            loader.map_pin_path(spec.name, state.map(spec.name));
            if spec.size != Size::Fixed {
                loader.map_max_entries(spec.name, sizes.beside_pins(state, spec));
            }
        }
        // The highest level that is logged, in read-only data: at 0 the verifier removes the logging code altogether.
        let level: u8 = if options.log_packets { u8::MAX } else { 0 };
        loader.override_global(aya_log::LEVEL, &level, false);
        let wanted = u32::from(options.service_traffic);
        loader.override_global(Traffic::WANTED, &wanted, options.service_traffic);
        let wraps = u32::from(options.dsr);
        loader.override_global(Dsr::WANTED, &wraps, options.dsr);
        let redirects = u32::from(options.redirect);
        loader.override_global(Redirect::WANTED, &redirects, options.redirect);
        if let Ok(jiffies) = &jiffies {
            clock::tell(jiffies, &mut loader);
        }
        let mut ebpf = match &options.object {
            Some(file) => loader.load_file(file)?,
            None => loader.load(OBJECT)?,
        };
        load_all(&mut ebpf)?;
        enter_second(&mut ebpf)?;
        let packet_log = match options.log_packets {
            true => Some(PacketLog {
                logger: EbpfLogger::init(&mut ebpf)?,
            }),
            false => None,
        };
        Ok(Self {
            loaded: descriptors(&ebpf)?,
            packet_log,
            kept,
            clock_error: jiffies.err(),
        })
    }

    pub(super) fn fd(&self, name: &str) -> Result<BorrowedFd<'_>> {
        let program = self.loaded.get(name);
        let program = program.ok_or_else(|| Error::NoProgram(name.to_owned()))?;
        Ok(program.as_fd())
    }

    pub(super) fn kept_sizes(&self) -> &[KeptSize] {
        &self.kept
    }

    pub(super) fn clock_error(&self) -> Option<&io::Error> {
        self.clock_error.as_ref()
    }

    /// The reader of the programs' log records, once, where they write any.
    pub(super) fn packet_log(&mut self) -> Option<PacketLog> {
        self.packet_log.take()
    }
}

fn failed(name: &str, source: ProgramError) -> Error {
    Error::Program {
        program: name.to_owned(),
        source: Box::new(source),
    }
}

fn descriptors(ebpf: &Ebpf) -> Result<BTreeMap<String, ProgramFd>> {
    let descriptor = |(name, program): (&str, &Program)| {
        let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?));
        Ok((name.to_owned(), fd.map_err(|source| failed(name, source))?))
    };
    ebpf.programs().map(descriptor).collect()
}

/// Threads that programs are loaded by: each of them has the kernel's memory for one program's verification.
const LOADERS: usize = 4;

/// Loads every program. The verifier walks each for itself, on whatever processors there are.
fn load_all(ebpf: &mut Ebpf) -> Result<()> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(LOADERS);
    let programs = Mutex::new(ebpf.programs_mut());
    let next = || programs.lock().unwrap_or_else(PoisonError::into_inner).next();
    let load = || {
        while let Some((name, program)) = next() {
            load_one(name, program)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let loaders: Vec<_> = (0..threads).map(|_| scope.spawn(load)).collect();
        loaders
            .into_iter()
            .try_for_each(|loader| loader.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

fn load_one(name: &str, program: &mut Program) -> Result<()> {
    let loaded = match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        _ => return Err(Error::NoProgram(name.to_owned())),
    };
    loaded.map_err(|source| failed(name, source))
}

/// Enters every hook's second program in `SECOND`. At an upgrade a first program of the old version may call a second one of the
/// new one: it sees the packet as it came, and needs nothing else.
fn enter_second(ebpf: &mut Ebpf) -> Result<()> {
    for hook in TcxHook::ALL {
        let name = hook.second();
        let program = ebpf.program(name).ok_or_else(|| Error::NoProgram(name.to_owned()))?;
        let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?));
        let fd = fd.map_err(|source| failed(name, source))?;
        let map = ebpf.map_mut(maps::SECOND.name);
        let map = map.ok_or_else(|| Error::NoProgram(maps::SECOND.name.to_owned()))?;
        let entered = ProgramArray::try_from(map).and_then(|mut second| second.set(hook as u32, &fd, 0));
        entered.map_err(|source| Error::Second {
            program: name.to_owned(),
            source: Box::new(source),
        })?;
    }
    Ok(())
}

/// Reads the programs' log records and hands them to the `log` crate's logger.
pub struct PacketLog {
    logger: EbpfLogger<&'static dyn Log>,
}

impl fmt::Debug for PacketLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketLog").finish_non_exhaustive()
    }
}

impl PacketLog {
    /// Runs until its future is dropped.
    ///
    /// # Errors
    /// When the ring buffer's descriptor cannot be waited for.
    pub async fn run(self) -> io::Result<()> {
        let mut logger = sys::wait_for_log(self.logger)?;
        loop {
            let mut ready = logger.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}

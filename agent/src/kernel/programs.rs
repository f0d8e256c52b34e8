//! The embedded object: its programs and, through the loader, its maps.

use super::error::{Error, Result};
use super::sizes::{KeptSize, Sizes};
use super::state::StateDir;
use super::{DatapathOptions, clock, sys, tables};
use aya::maps::ProgramArray;
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use aya_log::EbpfLogger;
use ferrogate_common::maps::{self, Size};
use ferrogate_common::{Dsr, Redirect, TcxHook, Traffic};
use log::Log;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

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

/// What the verifier said of one program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramReport {
    pub name: String,
    /// Instructions it walked; None where the kernel does not tell (before 5.16).
    pub verified_instructions: Option<u32>,
    /// Bytes of machine code; 0 without a JIT.
    pub jited_bytes: u32,
}

/// Loaded programs.
#[derive(Debug)]
pub(super) struct Programs {
    ebpf: Ebpf,
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
        for (name, program) in ebpf.programs_mut() {
            let loaded = match program {
                Program::SchedClassifier(program) => program.load(),
                Program::Xdp(program) => program.load(),
                Program::CgroupSockAddr(program) => program.load(),
                _ => return Err(Error::NoProgram(name.to_owned())),
            };
            loaded.map_err(|source| Error::Program {
                program: name.to_owned(),
                source: Box::new(source),
            })?;
        }
        enter_second(&mut ebpf)?;
        let clock_error = jiffies.err();
        Ok(Self {
            ebpf,
            kept,
            clock_error,
        })
    }

    pub(super) fn fd(&self, name: &str) -> Result<BorrowedFd<'_>> {
        let program = self
            .ebpf
            .program(name)
            .ok_or_else(|| Error::NoProgram(name.to_owned()))?;
        let fd = program.fd().map_err(|source| Error::Program {
            program: name.to_owned(),
            source: Box::new(source),
        })?;
        Ok(fd.as_fd())
    }

    pub(super) fn kept_sizes(&self) -> &[KeptSize] {
        &self.kept
    }

    pub(super) fn clock_error(&self) -> Option<&io::Error> {
        self.clock_error.as_ref()
    }

    /// One report a program, by name.
    pub(super) fn reports(&self) -> Result<Vec<ProgramReport>> {
        let mut reports = Vec::new();
        for (name, program) in self.ebpf.programs() {
            let info = program.info().map_err(|source| Error::Program {
                program: name.to_owned(),
                source: Box::new(source),
            })?;
            reports.push(ProgramReport {
                name: name.to_owned(),
                verified_instructions: info.verified_instruction_count(),
                jited_bytes: info.size_jitted(),
            });
        }
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(reports)
    }

    /// The reader of the programs' log records.
    pub(super) fn packet_log(&mut self) -> Result<PacketLog> {
        Ok(PacketLog {
            logger: EbpfLogger::init(&mut self.ebpf)?,
        })
    }
}

/// Enters every hook's second program in `SECOND`. At an upgrade a first program of the old version may call a second one of the
/// new one: it sees the packet as it came, and needs nothing else.
fn enter_second(ebpf: &mut Ebpf) -> Result<()> {
    for hook in TcxHook::ALL {
        let name = hook.second();
        let program = ebpf.program(name).ok_or_else(|| Error::NoProgram(name.to_owned()))?;
        let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?));
        let fd = fd.map_err(|source| Error::Program {
            program: name.to_owned(),
            source: Box::new(source),
        })?;
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

//! The eBPF object: loaded, and run packet by packet.
use std::env;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::maps::{Map, ProgramArray};
use aya::programs::{Program as AyaProgram, TestRun, TestRunOptions, XdpMode};
use aya::{Ebpf, EbpfLoader};
use ferrogate_common::{DONE_MARK, Dsr, Redirect, TICK_SHIFT, TcxHook, Traffic, maps};
use ferrogate_datapath::host::{HostPacket, Program, Sizes};

use super::clock::{self, coarse_nanos};

/// Entries of each LRU map: so many that nothing is evicted behind a test's back.
const FLOW_ENTRIES: u32 = 65_536;

/// Room for what a program adds to a packet: an ICMPv6 error's headers, or an Ethernet header.
const GROWTH: usize = 64;

/// Entries of the tables of [`pass_frames`], which stay empty.
const NONE: u32 = 64;

/// Puts the XDP program on devices of this thread's network namespace, with tables of its own, which are empty: it passes every
/// frame. It goes when what is returned is dropped.
///
/// A veth registers its queues with its first XDP program: only then can a test run name it. And it takes frames that its peer
/// sends by XDP_TX only while it runs a program itself (`veth_xdp_flush` in drivers/net/veth.c). A program under test does not
/// do for that: the kernel's own packets (multicast listener reports, say) would pass it and be counted.
pub fn pass_frames(devices: &[String]) -> Result<Ebpf> {
    let bytes = bytes()?;
    let mut loader = EbpfLoader::new();
    for spec in maps::ALL.iter().filter(|spec| spec.entries > NONE) {
        loader.map_max_entries(spec.name, NONE);
    }
    loader.override_global("AYA_LOG_LEVEL", &0u8, false);
    let mut ebpf = loader.load(&bytes).context("loading the object")?;
    let name = Program::UplinkXdp.name();
    let Some(AyaProgram::Xdp(program)) = ebpf.program_mut(name) else {
        bail!("no XDP program {name}");
    };
    program.load().with_context(|| format!("loading {name}"))?;
    for device in devices {
        program
            .attach(device, XdpMode::Driver)
            .with_context(|| format!("attaching {name} to {device}"))?;
    }
    Ok(ebpf)
}

fn bytes() -> Result<Vec<u8>> {
    let path = Object::path();
    std::fs::read(&path).with_context(|| format!("no object at {}: `cargo xtask build` makes it", path.display()))
}

/// The loaded object.
pub struct Object {
    pub ebpf: Ebpf,
}

/// What one run came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// The program's return value.
    pub code: i32,
    /// The packet after it.
    pub bytes: Vec<u8>,
    /// Mean time of a repetition.
    pub duration: Duration,
}

impl Object {
    /// Where the object is: `FERROGATE_BPF_OBJECT`, or where `cargo xtask build` leaves it.
    pub fn path() -> PathBuf {
        env::var_os("FERROGATE_BPF_OBJECT").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/ferrogate.o")),
            PathBuf::from,
        )
    }

    /// Loads every program; its maps are nobody else's, and as large as `sizes` says.
    pub fn load(sizes: Sizes, variant: Variant) -> Result<Self> {
        Self::load_with(|loader| {
            variant.set(loader);
            for (spec, entries) in [
                (maps::SERVICES, sizes.services as u32),
                (maps::CURSORS, sizes.services as u32),
                (maps::CONNECTIONS, sizes.services as u32),
                (maps::SOCKET_CONNECTIONS, sizes.services as u32),
                (maps::SLOTS, sizes.slots as u32),
                (maps::BACKENDS, sizes.backends as u32),
                (maps::ACTIVE, sizes.backends as u32),
                (maps::SOURCES, sizes.sources as u32),
                (maps::FRONTENDS, 4096),
                (maps::FLOWS, FLOW_ENTRIES),
                (maps::HALF_OPEN, FLOW_ENTRIES),
                (maps::SNAT_FLOWS, FLOW_ENTRIES),
                (maps::FRAGMENTS, FLOW_ENTRIES),
            ] {
                loader.map_max_entries(spec.name, entries);
            }
        })
    }

    /// Loads every program after `adjust` has had its way with the loader.
    pub fn load_with(adjust: impl FnOnce(&mut EbpfLoader<'_>)) -> Result<Self> {
        let bytes = bytes()?;
        let jiffies = clock::measure()?;
        let mut loader = EbpfLoader::new();
        adjust(&mut loader);
        loader.override_global("AYA_LOG_LEVEL", &0u8, false);
        clock::tell(&jiffies, &mut loader);
        let mut ebpf = loader.load(&bytes).context("loading the object")?;
        for (name, program) in ebpf.programs_mut() {
            match program {
                AyaProgram::SchedClassifier(program) => program.load(),
                AyaProgram::Xdp(program) => program.load(),
                AyaProgram::CgroupSockAddr(program) => program.load(),
                _ => bail!("program {name} is of a type that is not expected"),
            }
            .with_context(|| format!("loading program {name}"))?;
        }
        enter_second(&mut ebpf)?;
        Ok(Self { ebpf })
    }

    /// The descriptor of one of the maps of hashes, arrays and socket-local storage.
    pub fn map_descriptor(&self, name: &str) -> Result<BorrowedFd<'_>> {
        match self.ebpf.map(name) {
            Some(Map::LruHashMap(map) | Map::HashMap(map) | Map::Array(map) | Map::SkStorage(map)) => {
                Ok(map.fd().as_fd())
            }
            _ => bail!("no hash map, array or storage {name}"),
        }
    }

    /// The descriptor of one of the packet programs.
    pub fn descriptor(&self, program: Program) -> Result<BorrowedFd<'_>> {
        Ok(match self.ebpf.program(program.name()) {
            Some(AyaProgram::SchedClassifier(program)) => program.fd()?.as_fd(),
            Some(AyaProgram::Xdp(program)) => program.fd()?.as_fd(),
            _ => bail!("no program {}", program.name()),
        })
    }

    /// What a test run of a program says of the packet, beside its bytes.
    pub fn context(program: Program, packet: &HostPacket) -> Vec<u8> {
        if program == Program::UplinkXdp {
            xdp_context(packet)
        } else {
            skb_context(packet)
        }
    }

    /// Runs a packet through a program `repeat` times, each time on what the last left.
    pub fn run(&self, program: Program, packet: &HostPacket, repeat: u32) -> Result<Run> {
        let mut bytes = vec![0; packet.bytes.len() + GROWTH];
        let context = Self::context(program, packet);
        let mut options = TestRunOptions::new();
        options.data_in = Some(&packet.bytes);
        options.data_out = Some(&mut bytes);
        options.ctx_in = Some(&context);
        options.repeat = repeat;
        let result = match self.ebpf.program(program.name()) {
            Some(AyaProgram::SchedClassifier(program)) => program.test_run(options),
            Some(AyaProgram::Xdp(program)) => program.test_run(options),
            _ => bail!("no program {}", program.name()),
        }?;
        bytes.truncate(result.data_size_out as usize);
        if program == Program::UplinkXdp {
            // A run gives a frame with its metadata in front.
            bytes.drain(..DONE_MARK);
        }
        Ok(Run {
            code: result.return_value as i32,
            bytes,
            duration: result.duration,
        })
    }
}

/// Enters every hook's second program where its first one looks for it.
fn enter_second(ebpf: &mut Ebpf) -> Result<()> {
    for hook in TcxHook::ALL {
        let name = hook.second();
        let program = ebpf.program(name).with_context(|| format!("no program {name}"))?;
        let fd = program.fd()?.try_clone()?;
        let map = ebpf.map_mut(maps::SECOND.name).context("no map SECOND")?;
        ProgramArray::try_from(map)?.set(hook as u32, &fd, 0)?;
    }
    Ok(())
}

/// What the programs are told before they are loaded, and the verifier takes for constants.
#[derive(Clone, Copy, Default, Debug)]
pub struct Variant {
    /// They count packets and bytes by service, as with `--service-traffic`.
    pub counts_traffic: bool,
    /// They wrap and unwrap packets, as with `--dsr`.
    pub dsr: bool,
    /// Packets go past the host's stack, as with `--forwarding redirect`.
    pub redirect: bool,
}

impl Variant {
    /// As nothing is left out.
    pub const ALL: Self = Self {
        counts_traffic: true,
        dsr: true,
        redirect: true,
    };

    /// Has the programs loaded so.
    pub fn set(self, loader: &mut EbpfLoader<'_>) {
        let word = |wanted| if wanted { &1_u32 } else { &0 };
        loader.override_global(Traffic::WANTED, word(self.counts_traffic), true);
        loader.override_global(Dsr::WANTED, word(self.dsr), true);
        loader.override_global(Redirect::WANTED, word(self.redirect), true);
    }
}

/// A `struct __sk_buff` (linux/bpf.h) that says what a test run lets one say.
fn skb_context(packet: &HostPacket) -> Vec<u8> {
    const SIZE: usize = 192;
    const INGRESS_IFINDEX: usize = 36;
    const IFINDEX: usize = 40;
    const GSO_SEGS: usize = 164;
    const GSO_SIZE: usize = 176;
    let mut context = vec![0; SIZE];
    let mut set = |at: usize, value: u32| context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    set(IFINDEX, packet.ifindex);
    if !packet.from_this_node {
        set(INGRESS_IFINDEX, packet.ifindex);
    }
    if packet.segmented {
        set(GSO_SEGS, 2);
        set(GSO_SIZE, 1000);
    }
    context
}

/// A `struct xdp_md` (linux/bpf.h): the whole packet is data, the device its own.
fn xdp_context(packet: &HostPacket) -> Vec<u8> {
    let fields = [0, packet.bytes.len() as u32, 0, packet.ifindex, 0, 0];
    fields.iter().flat_map(|field: &u32| field.to_ne_bytes()).collect()
}

/// The programs' clock, at a moment when it is not about to move on: what runs within the next milliseconds sees the same.
pub fn clock_ticks() -> u32 {
    /// Longer than a run takes.
    const MARGIN: Duration = Duration::from_millis(20);
    loop {
        let nanoseconds = coarse_nanos();
        let left = (1 << TICK_SHIFT) - nanoseconds % (1 << TICK_SHIFT);
        if left > MARGIN.as_nanos() as u64 {
            return (nanoseconds >> TICK_SHIFT) as u32;
        }
        sleep(MARGIN);
    }
}

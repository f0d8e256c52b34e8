//! `ferrogate trace --pcap`: copies of the packets that come to our programs and leave them. Programs of a second object are attached
//! before and behind each of ours (fentry, fexit) and gone with this; while nobody captures, nothing of it is there
//! (docs/adr/0065-packets-are-captured-around-the-programs.md).

mod layout;

use super::attached::pinned_program;
use super::error::{During as _, Error, Result};
use super::programs::{self, UPLINK_XDP};
use super::state::{StateDir, entries};
use super::sys::{self, Map, When};
use aya::include_bytes_aligned;
use aya::maps::{MapData, RingBuf};
use aya_obj::{EbpfSectionKind, Object};
use bytemuck::bytes_of;
use ferrogate_common::{CaptureKey, CaptureSettings, CapturedPacket};
use layout::Layout;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

static OBJECT: &[u8] = include_bytes_aligned!(env!("FERROGATE_CAPTURE_OBJECT_PATH"));

/// Bytes of an Ethernet header; devices without link-layer header have programs of their own.
const ETHERNET: u32 = 14;

/// Captures while it lives.
pub struct Capture {
    layout: Layout,
    /// What all loads of the object share.
    shared: Shared,
    all: bool,
    wanted: BTreeSet<CaptureKey>,
    /// By the id of the program that is looked at: what is attached to it.
    hooks: HashMap<u32, [OwnedFd; 4]>,
    /// Names of programs, by [`CapturedPacket::hook`].
    names: Vec<String>,
}

struct Shared {
    ring: RingBuf<MapData>,
    wanted: Map<CaptureKey, u8>,
    lost: Map<u32, u64>,
    fds: BTreeMap<&'static str, OwnedFd>,
}

/// The maps that all loads of the object share.
const CAPTURED: &str = "CAPTURED";
const WANTED: &str = "WANTED";
const LOST: &str = "LOST";

impl Capture {
    /// Attaches to the programs that are pinned below `state`. `wanted`: whose packets are copied; all, where there is none.
    ///
    /// # Errors
    /// No program is attached; this may not be (it needs CAP_SYS_ADMIN), or cannot on this kernel.
    pub fn start(state: &StateDir, wanted: Option<BTreeSet<CaptureKey>>) -> Result<Self> {
        let layout = Layout::of_kernel().during(|| "cannot capture packets".to_owned())?;
        let mut capture = Self {
            layout,
            shared: Shared::make()?,
            all: wanted.is_none(),
            wanted: BTreeSet::new(),
            hooks: HashMap::new(),
            names: Vec::new(),
        };
        capture.want(wanted.unwrap_or_default())?;
        capture.follow(state)?;
        if capture.hooks.is_empty() {
            return Err(Error::NoState(state.root().to_owned()));
        }
        Ok(capture)
    }

    /// Whose packets are copied from now on. Of no use where all are.
    pub fn want(&mut self, wanted: BTreeSet<CaptureKey>) -> Result<()> {
        let writing = || format!("cannot write the map {WANTED}");
        for gone in self.wanted.difference(&wanted) {
            self.shared.wanted.delete(gone).during(writing)?;
        }
        for new in wanted.difference(&self.wanted) {
            if !self.shared.wanted.put_if_room(new, &1).during(writing)? {
                let full = io::Error::from_raw_os_error(libc::ENOSPC);
                return Err(full)
                    .during(|| "too many endpoints to capture the packets of; name a port or an address".to_owned());
            }
        }
        self.wanted = wanted;
        Ok(())
    }

    /// Attaches to programs that have come since, at an upgrade; to be called once a second.
    pub fn follow(&mut self, state: &StateDir) -> Result<()> {
        let mut present = HashSet::new();
        for pin in entries(&state.links())? {
            let name = pin.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let (name, _) = name.split_once('-').unwrap_or((name, ""));
            if !programs::is_of_packets(name) {
                continue;
            }
            let id = match pinned_program(&pin) {
                // It has just gone.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                id => id.during(|| format!("cannot look at {}", pin.display()))?,
            };
            present.insert(id);
            if !self.hooks.contains_key(&id) {
                let attached = self
                    .attach(id, name)
                    .during(|| format!("cannot capture packets at {name}"))?;
                self.hooks.insert(id, attached);
            }
        }
        self.hooks.retain(|id, _| present.contains(id));
        Ok(())
    }

    /// Two programs and two links, which end with what is returned.
    fn attach(&mut self, id: u32, name: &str) -> io::Result<[OwnedFd; 4]> {
        let target = sys::program_by_id(id).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => io::Error::new(error.kind(), "it needs CAP_SYS_ADMIN: run it as root on the node"),
            _ => error,
        })?;
        let kind = sys::main_function(target.as_fd())?;
        let kind = kind.ok_or_else(|| io::Error::other("the program was loaded without types (BTF)"))?;
        let settings = CaptureSettings {
            hook: self.names.len() as u32,
            link: if name.ends_with("_l3") { 0 } else { ETHERNET },
            all: u32::from(self.all),
            ..self.layout.settings(name == UPLINK_XDP)
        };
        // The maps live on in what is loaded.
        let (object, _maps) = self.shared.load(&settings)?;
        let load = |program: &str, when: When| {
            let found = object.programs.get(program);
            let found = found.and_then(|found| object.functions.get(&(found.section_index, found.address)));
            let function = found.ok_or_else(|| io::Error::other(format!("the object has no program {program}")))?;
            sys::load_tracing(&function.instructions, when, target.as_fd(), kind).map_err(refused)
        };
        let entry = load("capture_entry", When::Entry)?;
        let exit = load("capture_exit", When::Exit)?;
        // What comes is only marked as wanted once what leaves is looked at.
        let behind = sys::attach_tracing(exit.as_fd())?;
        let before = sys::attach_tracing(entry.as_fd())?;
        self.names.push(name.to_owned());
        Ok([before, behind, entry, exit])
    }

    /// The next packet, and the name of the program that it came to, if there is one.
    pub fn take(&mut self) -> Option<(CapturedPacket, &str)> {
        let packet = loop {
            let item = self.shared.ring.next()?;
            if let Ok(packet) = bytemuck::try_pod_read_unaligned::<CapturedPacket>(&item) {
                break packet;
            }
        };
        let name = self.names.get(packet.hook as usize).map_or("", String::as_str);
        Some((packet, name))
    }

    /// Packets that had no room.
    pub fn lost(&self) -> Result<u64> {
        let copies = self
            .shared
            .lost
            .get(&0)
            .during(|| format!("cannot read the map {LOST}"))?;
        Ok(copies.unwrap_or_default().iter().sum())
    }
}

/// What a kernel means that takes no such program, whatever it does.
fn refused(error: io::Error) -> io::Error {
    if error.raw_os_error() != Some(libc::EPERM) {
        return error;
    }
    let why = "this kernel takes no programs that look at others (fentry): it is locked down or hardened, or CAP_PERFMON is missing";
    io::Error::new(error.kind(), why)
}

impl Shared {
    fn make() -> Result<Self> {
        let object = Object::parse(OBJECT).map_err(io::Error::other);
        let object = object.during(|| "cannot read the embedded object".to_owned())?;
        let make = |name: &str| {
            let map = object
                .maps
                .get(name)
                .ok_or_else(|| io::Error::other(format!("no map {name}")));
            map.and_then(|map| MapData::create(map.clone(), name, None).map_err(io::Error::other))
                .during(|| format!("cannot make the map {name}"))
        };
        let (ring, wanted, lost) = (make(CAPTURED)?, make(WANTED)?, make(LOST)?);
        let mut fds = BTreeMap::new();
        for (name, map) in [(CAPTURED, &ring), (WANTED, &wanted), (LOST, &lost)] {
            let fd = map.fd().as_fd().try_clone_to_owned();
            fds.insert(name, fd.during(|| format!("cannot keep the map {name}"))?);
        }
        let cpus = aya::util::nr_cpus()
            .map_err(|(path, error)| io::Error::new(error.kind(), format!("{path}: {error}")))
            .during(|| "cannot count the CPUs".to_owned())?;
        let handle = |map: &MapData| map.fd().as_fd().try_clone_to_owned();
        let ring = RingBuf::try_from(aya::maps::Map::RingBuf(ring)).map_err(io::Error::other);
        Ok(Self {
            ring: ring.during(|| format!("cannot read the map {CAPTURED}"))?,
            wanted: handle(&wanted)
                .and_then(|fd| Map::new(fd, 1))
                .during(|| format!("cannot open the map {WANTED}"))?,
            lost: handle(&lost)
                .and_then(|fd| Map::new(fd, cpus))
                .during(|| format!("cannot open the map {LOST}"))?,
            fds,
        })
    }

    /// The object with these settings, and the maps that its programs are to be loaded with.
    fn load(&self, settings: &CaptureSettings) -> io::Result<(Object, Vec<OwnedFd>)> {
        let mut object = Object::parse(OBJECT).map_err(io::Error::other)?;
        let constants = HashMap::from([(CaptureSettings::NAME, (bytes_of(settings), true))]);
        object.patch_map_data(constants).map_err(io::Error::other)?;
        let mut own = Vec::new();
        let maps: Vec<_> = object
            .maps
            .iter()
            .map(|(name, map)| (name.clone(), map.clone()))
            .collect();
        for (name, map) in &maps {
            let fd = match self.fds.get(name.as_str()) {
                Some(fd) => fd.try_clone()?,
                None => {
                    let made = MapData::create(map.clone(), name, None).map_err(io::Error::other)?;
                    made.fd().as_fd().try_clone_to_owned()?
                }
            };
            if map.section_kind() == EbpfSectionKind::Rodata {
                sys::fill(fd.as_fd(), map.data())?;
            }
            own.push(fd);
        }
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let known = maps
            .iter()
            .zip(&own)
            .map(|((name, map), fd)| (name.as_str(), fd.as_raw_fd(), map));
        object.relocate_maps(known, &text).map_err(io::Error::other)?;
        object.relocate_calls(&text).map_err(io::Error::other)?;
        Ok((object, own))
    }
}

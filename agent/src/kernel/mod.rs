//! The kernel side: eBPF maps, programs and links.
//!
//! [`Datapath`] is the agent's: it loads, attaches and writes. [`Tables`] are the pinned maps alone, which commands can read
//! without an agent. Nothing is detached or removed when either is dropped: the pins keep the datapath working.

mod apply;
mod attached;
mod capture;
mod cgroup;
mod cleanup;
mod clock;
mod clsact;
mod conntrack;
mod diff;
mod edges;
mod error;
mod filter;
mod inherit;
mod inspect;
mod interfaces;
mod loopback;
mod networks;
mod nodes;
mod note;
mod ports;
mod programs;
mod read;
mod scope;
mod sizes;
mod state;
mod stuck;
mod sweep;
mod sys;
mod tables;
mod trace;
mod usage;

pub use capture::Capture;
pub use cgroup::{Cgroup, cgroup_id, cgroup_levels, find_cgroup};
pub use cleanup::{CleanupReport, cleanup};
pub use conntrack::{ConntrackFloors, Raised};
pub use edges::{Attachment, EdgeOptions, XdpMode};
pub use error::{Error, Result};
pub use inspect::{HookReport, inspect, inspect_sockets, with_program_names};
pub use interfaces::NetworkTables;
pub use programs::{PacketLog, object};
pub use read::{Counted, FlowEntry, FlowRow, FlowTable, boot_nanos, boot_seconds};
pub use scope::Scopes;
pub use sizes::{KeptSize, MapMemory};
pub use state::{DEFAULT_STATE_DIR, StateDir};
pub use stuck::StuckSocket;
pub use sweep::{Swept, Timeouts, ticks};
pub use sys::netns_cookie;
pub(crate) use sys::{one_heap, trim_heap};
pub use tables::{Routes, Tables};
pub use trace::Tracer;
pub use usage::Usage;

use crate::net::Network;
use edges::Edges;
use inherit::Predecessor;
use interfaces::Sources;
use programs::Programs;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::{Deref, RangeInclusive};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// How the datapath is loaded.
#[derive(Clone, Debug)]
pub struct DatapathOptions {
    /// `--state-dir`: a directory on a bpffs, of this agent's own.
    pub state_dir: PathBuf,
    /// `--map-memory`: what the sizes of maps follow that have no number of their own.
    pub map_memory: MapMemory,
    /// `--map-entries`: numbers of entries by map name; maps that are pinned keep theirs.
    pub map_entries: BTreeMap<String, u32>,
    /// Which edges are attached by [`Datapath::sync_network`].
    pub edges: EdgeOptions,
    /// Loads the programs with their log statements; see [`Datapath::packet_log`].
    pub log_packets: bool,
    /// Counts packets and bytes by Service port.
    pub service_traffic: bool,
    /// Lets packets be wrapped and unwrapped for direct server return.
    pub dsr: bool,
    /// Lets packets between clients and backends on this node go past the host's stack.
    pub redirect: bool,
    /// An eBPF object to load instead of the embedded one.
    pub object: Option<PathBuf>,
}

impl Default for DatapathOptions {
    fn default() -> Self {
        Self {
            state_dir: DEFAULT_STATE_DIR.into(),
            map_memory: MapMemory::DEFAULT,
            map_entries: BTreeMap::new(),
            edges: EdgeOptions::default(),
            log_packets: false,
            service_traffic: false,
            dsr: false,
            redirect: false,
            object: None,
        }
    }
}

/// The loaded programs, their links, and the tables (reached by `Deref`).
#[derive(Debug)]
pub struct Datapath {
    state: StateDir,
    tables: Tables,
    programs: Programs,
    edges: Edges,
    sources: Sources,
    /// What was last written of the network.
    network: Option<NetworkTables>,
    /// Held as long as the datapath is.
    _lock: OwnedFd,
}

impl Datapath {
    /// Loads the programs over the pinned maps, or new ones, and puts them in place of the programs of an earlier agent.
    /// What an earlier agent attached is translating by the new programs when this returns; nothing else is attached yet.
    ///
    /// # Errors
    /// Among others [`Error::Locked`] when another agent uses the state directory.
    pub fn open(options: &DatapathOptions) -> Result<Self> {
        let state = StateDir::new(&options.state_dir);
        state.create()?;
        let lock = state.lock()?;
        let predecessor = Predecessor::find(&state)?;
        if let Some(predecessor) = &predecessor {
            predecessor.share_maps(&state)?;
        }
        let programs = Programs::load(&state, options)?;
        let tables = Tables::open(&state)?;
        if let Some(predecessor) = &predecessor {
            predecessor.hand_over_links(&state)?;
        }
        inherit::note(&state)?;
        let edges = Edges::take_over(&state, &programs, options.edges)?;
        let sources = Sources::restore(tables.sources()?, tables.sources.entries());
        Ok(Self {
            state,
            tables,
            programs,
            edges,
            sources,
            network: None,
            _lock: lock,
        })
    }

    /// Makes tables and attachments follow the network: addresses and interfaces first, so that a program that is attached
    /// finds its interface known; then the programs of the edges that are on. Also detaches those of edges that are off.
    pub fn sync_network(&mut self, network: &Network) -> Result<()> {
        let xdp = self.edges.xdp_interfaces();
        let mut written = self.write_network(network, &xdp);
        // A table without room leaves out what is too much, and holds up nothing else.
        if !matches!(written, Ok(()) | Err(Error::Full { .. })) {
            return written;
        }
        self.edges.sync(&self.state, &self.programs, network)?;
        let attached = self.edges.xdp_interfaces();
        if attached != xdp {
            written = self.write_network(network, &attached);
        }
        self.tables.routes().go(network.ways_by_source);
        cleanup::remove_other_versions(&self.state)?;
        written
    }

    fn write_network(&mut self, network: &Network, xdp: &BTreeSet<u32>) -> Result<()> {
        let desired = interfaces::desired(network, xdp, &mut self.sources);
        let written = interfaces::write(&self.tables, &desired);
        self.network = Some(desired);
        written
    }

    /// What the tables of the network hold, if nobody else has written there.
    pub fn network_tables(&self) -> Option<&NetworkTables> {
        self.network.as_ref()
    }

    /// Attaches the socket edge to a cgroup2 directory, usually the one of [`find_cgroup`].
    pub fn attach_socket_edge(&mut self, cgroup: &Path) -> Result<()> {
        self.edges.attach_socket_edge(&self.state, &self.programs, cgroup)
    }

    /// Detaches the socket edge; whether it was attached, by this agent or an earlier one. Connections stay as they are.
    pub fn detach_socket_edge(&mut self) -> Result<bool> {
        edges::detach_socket_edge(&self.state)
    }

    /// Serves this node's processes at the loopback device too: needed where no socket edge does it for frontends that are addresses
    /// of the node. It stays until [`cleanup()`]: connections that began there need it.
    ///
    /// # Errors
    /// Among others where `net.ipv4.conf.lo.accept_local` can't be set, without which IPv4 answers would be dropped.
    pub fn attend_loopback(&mut self) -> Result<()> {
        loopback::accept(&self.state)?;
        self.edges.attend_loopback(&self.state, &self.programs)
    }

    /// Keeps the SNAT ports out of the kernel's own choice, in this network namespace, until [`cleanup()`].
    pub fn reserve_ports(&self, ports: RangeInclusive<u16>) -> Result<()> {
        ports::reserve(&self.state, ports)
    }

    /// Gives the node's conntrack no shorter timeouts and no less room than these, until [`cleanup()`].
    pub fn raise_conntrack(&self, floors: &ConntrackFloors) -> Result<Raised> {
        conntrack::raise(&self.state, floors)
    }

    /// The programs on interfaces.
    pub fn attachments(&self) -> Vec<Attachment> {
        self.edges.attachments()
    }

    /// Maps whose size is not what the options say.
    pub fn kept_sizes(&self) -> &[KeptSize] {
        self.programs.kept_sizes()
    }

    /// Why the programs ask a helper for the time, which costs each packet more; `None`: they read it off the kernel's jiffies.
    pub fn clock_error(&self) -> Option<&io::Error> {
        self.programs.clock_error()
    }

    /// The programs' log records, once; `None` without [`DatapathOptions::log_packets`].
    pub fn packet_log(&mut self) -> Option<PacketLog> {
        self.programs.packet_log()
    }

    /// The tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    pub fn state_dir(&self) -> &StateDir {
        &self.state
    }
}

impl Deref for Datapath {
    type Target = Tables;

    fn deref(&self) -> &Tables {
        &self.tables
    }
}

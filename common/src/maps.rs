//! The maps: names and sizes. The agent may create them larger or smaller; the programs never depend on a size.

/// Everything there is to know of a map but its types.
#[derive(Clone, Copy, Debug)]
pub struct MapSpec {
    /// Name in the object file, and of the pin.
    pub name: &'static str,
    /// Number of entries; where it follows the node's memory, that of a node whose maps may take [`BYTES`].
    pub entries: u32,
    pub size: Size,
    /// One line for documents and `ferrogate status`.
    pub purpose: &'static str,
}

/// The maps that a later ABI version has changed, and which: their layout, or what an entry means. If entries of one map speak of
/// another's (a flow of a backend's number), it is changed with that.
pub const CHANGED: &[(&str, u32)] = &[("UDP_SOCKETS", 2)];

/// The ABI version since which a map is as it is.
pub fn since(name: &str) -> u32 {
    let changed = CHANGED.iter().filter(|(changed, _)| *changed == name);
    changed.map(|(_, since)| *since).max().unwrap_or(1)
}

/// What decides how many entries a map is created with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// The programs.
    Fixed,
    /// Another map, by name: both are used by the same index.
    Like(&'static str),
    /// An option.
    Chosen,
    /// An option, else the node's memory, between these two.
    Memory { least: u32, most: u32 },
}

impl MapSpec {
    /// Whether an option can set the number of entries.
    pub const fn is_sizable(&self) -> bool {
        matches!(self.size, Size::Chosen | Size::Memory { .. })
    }
}

/// Kernel memory of all maps with the numbers of entries below, on a node with few CPUs.
pub const BYTES: u64 = 120 << 20;

/// Tables that the cluster fills: no smaller on a small node, which has as many Services as the others.
const fn cluster(entries: u32) -> Size {
    Size::Memory {
        least: entries,
        most: entries * 4,
    }
}

/// Tables that the node's traffic fills.
const fn traffic(entries: u32) -> Size {
    Size::Memory {
        least: entries / 4,
        most: entries * 16,
    }
}

macro_rules! maps {
    ($($(#[$doc:meta])* $name:ident = $entries:expr, $size:expr, $purpose:expr;)*) => {
        $(
            #[doc = $purpose]
            pub const $name: MapSpec =
                MapSpec { name: stringify!($name), entries: $entries, size: $size, purpose: $purpose };
        )*
        /// All of them.
        pub const ALL: &[MapSpec] = &[$($name),*];
    };
}

maps! {
    CONFIG = 1, Size::Fixed, "what the agent tells the datapath about the node";
    FRONTENDS = 131_072, cluster(131_072), "{address, port, protocol} -> service and kind";
    SERVICES = 65_536, cluster(65_536), "service -> its range of slots (one atomic word) and its policies";
    SLOTS = 1_048_576, cluster(1_048_576), "ranges of backend ids: a service's Cluster set, then its Local set";
    BACKENDS = 262_144, cluster(262_144), "backend -> address, port, generation";
    ACTIVE = 262_144, Size::Like("BACKENDS"), "backend -> connections that it has, as far as its flows tell";
    CURSORS = 65_536, Size::Like("SERVICES"), "service -> round-robin cursor, shared by all CPUs and edges";
    ADDRESSES = 1 << crate::FILTER_SHIFT, Size::Fixed, "hash of an address -> whether it may be a Service's or a backend's: what most packets need no more than";
    NODE_ADDRESSES = 1_024, Size::Chosen, "addresses on which NodePorts answer";
    SERVICE_CIDRS = 1, Size::Fixed, "the networks that ClusterIPs are taken from";
    NETWORKS = 65_536, cluster(65_536), "sets of networks: a service's loadBalancerSourceRanges, the cluster's pod networks (LPM trie)";
    NODES = 65_536, Size::Chosen, "with --dsr, address of an endpoint or a node -> its node's address; takes memory only for those";
    SOURCES = 1_024, Size::Chosen, "node addresses that SNAT uses, by index; 0 is unused";
    INTERFACES = 8_192, Size::Chosen, "ifindex -> role, layer-3 device, source addresses";
    ROUTES = 1, Size::Fixed, "generation of the node's routes, neighbours and devices: what NEXT_HOPS has of an earlier one is out of date; 0: nothing is remembered; the highest bit: no way depends on the source";
    NEXT_HOPS = 4_096, Size::Fixed, "per-CPU ways that packets took a moment ago, by their addresses' hash";
    FLOWS = 262_144, traffic(262_144), "established flows, forward and reply entries (LRU)";
    HALF_OPEN = 65_536, traffic(65_536), "flows that only one side has confirmed, forward and reply entries (LRU)";
    SNAT_FLOWS = 131_072, traffic(131_072), "replies to flows whose source was changed too (LRU)";
    AFFINITY = 65_536, traffic(65_536), "{client, service} -> backend, for sessionAffinity ClientIP (LRU)";
    FRAGMENTS = 16_384, traffic(16_384), "fragmented packets on their way: {addresses, identification} -> ports (LRU)";
    SECOND = 8, Size::Fixed, "hook -> the program that takes what the hook's first one leaves: errors, fragments, refusals";
    SOCKETS = 0, Size::Fixed, "socket-local storage: frontends a socket uses and their backends";
    SOCKET_PAIRS = 65_536, traffic(65_536), "the same for sockets that use more than two frontends (LRU)";
    UDP_SOCKETS = 65_536, traffic(65_536), "connected UDP socket that the socket edge translated -> its backend (LRU)";
    CGROUPS = 4_096, Size::Chosen, "cgroups whose processes the socket edge serves, or leaves alone";
    REASONS = 64, Size::Fixed, "per-CPU packet counters, one a verdict reason";
    CONNECTIONS = 65_536, Size::Like("SERVICES"), "per-CPU counters of new connections through packet edges, one a service";
    SOCKET_CONNECTIONS = 65_536, Size::Like("SERVICES"), "the same of the socket edge";
    REFUSALS = 16_384, Size::Chosen, "per-CPU counters of what services refused, by reason and edge; takes memory only for what was";
    TRAFFIC = 65_536, Size::Like("SERVICES"), "with --service-traffic, per-CPU counters of packets and bytes, one a service; takes memory only for those with traffic";
    TRACE = 1, Size::Fixed, "what `ferrogate trace` wants to be told, and until when";
    TRACE_EVENTS = 1 << 20, Size::Chosen, "ring buffer for it; its size is in bytes";
    TRACE_LOST = 1, Size::Fixed, "per-CPU counter of what did not fit there";
}

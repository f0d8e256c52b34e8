//! The maps: names and default sizes. The agent may create them larger or smaller; the programs never depend on a size.

/// Everything there is to know of a map but its types.
#[derive(Clone, Copy, Debug)]
pub struct MapSpec {
    /// Name in the object file, and of the pin.
    pub name: &'static str,
    /// Default number of entries.
    pub entries: u32,
    /// One line for documents and `ferrogate status`.
    pub purpose: &'static str,
}

macro_rules! maps {
    ($($(#[$doc:meta])* $name:ident = $entries:expr, $purpose:expr;)*) => {
        $(
            #[doc = $purpose]
            pub const $name: MapSpec = MapSpec { name: stringify!($name), entries: $entries, purpose: $purpose };
        )*
        /// All of them.
        pub const ALL: &[MapSpec] = &[$($name),*];
    };
}

maps! {
    CONFIG = 1, "what the agent tells the datapath about the node";
    FRONTENDS = 131_072, "{address, port, protocol} -> service and kind";
    SERVICES = 65_536, "service -> its range of slots (one atomic word) and its policies";
    SLOTS = 1_048_576, "ranges of backend ids: a service's Cluster set, then its Local set";
    BACKENDS = 262_144, "backend -> address, port, generation";
    ACTIVE = 262_144, "backend -> connections that it has, as far as its flows tell";
    CURSORS = 65_536, "service -> round-robin cursor, shared by all CPUs and edges";
    ADDRESSES = 1 << crate::FILTER_SHIFT, "hash of an address -> whether it may be a Service's or a backend's: what most packets need no more than";
    NODE_ADDRESSES = 1_024, "addresses on which NodePorts answer";
    SERVICE_CIDRS = 1, "the networks that ClusterIPs are taken from";
    NETWORKS = 65_536, "sets of networks: a service's loadBalancerSourceRanges, the cluster's pod networks (LPM trie)";
    SOURCES = 1_024, "node addresses that SNAT uses, by index; 0 is unused";
    INTERFACES = 8_192, "ifindex -> role, layer-3 device, source addresses";
    FLOWS = 262_144, "established flows, forward and reply entries (LRU)";
    HALF_OPEN = 65_536, "flows that only one side has confirmed, forward and reply entries (LRU)";
    SNAT_FLOWS = 131_072, "replies to flows whose source was changed too (LRU)";
    AFFINITY = 65_536, "{client, service} -> backend, for sessionAffinity ClientIP (LRU)";
    FRAGMENTS = 16_384, "fragmented packets on their way: {addresses, identification} -> ports (LRU)";
    SECOND = 8, "hook -> the program that takes what the hook's first one leaves: errors, fragments, refusals";
    SOCKETS = 0, "socket-local storage: frontends a socket uses and their backends";
    SOCKET_PAIRS = 65_536, "the same for sockets that use more than two frontends (LRU)";
    UDP_SOCKETS = 65_536, "connected UDP socket that the socket edge translated -> its backend (LRU)";
    CGROUPS = 4_096, "cgroups whose processes the socket edge serves, or leaves alone";
    REASONS = 64, "per-CPU packet counters, one a verdict reason";
    CONNECTIONS = 65_536, "per-CPU counters of new connections, one a service";
}

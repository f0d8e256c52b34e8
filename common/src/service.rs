//! Services: one entry a Service port, and the ranges of slots that list its backends.

use crate::Frontend;
use bytemuck::{Pod, Zeroable};

/// Element of the `SERVICES` array: one Service port (`namespace/name:port`) in one address family.
///
/// `range` is read by one load and written by one aligned 8-byte store through the array's mapping, so that all frontends
/// of a service go from its old to its new backends at one instant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Service {
    /// A [`SlotRange`], packed.
    pub range: u64,
    /// Bits of [`service_flags`].
    pub flags: u32,
    pub reserved: u32,
}

impl Service {
    /// The set of backends that a frontend's policy allows a client, internal (a pod or process of the cluster) or not.
    #[inline(always)]
    pub const fn allowed_set(&self, frontend: &Frontend, internal: bool) -> BackendSet {
        let local = if frontend.is_cluster_ip() {
            self.flags & service_flags::INTERNAL_LOCAL != 0
        } else {
            // Clients inside the cluster reach every endpoint through external addresses too.
            !internal && self.flags & service_flags::EXTERNAL_LOCAL != 0
        };
        if local { BackendSet::Local } else { BackendSet::Cluster }
    }
}

/// Bits of [`Service::flags`].
pub mod service_flags {
    /// internalTrafficPolicy: Local.
    pub const INTERNAL_LOCAL: u32 = 1;
    /// externalTrafficPolicy: Local.
    pub const EXTERNAL_LOCAL: u32 = 1 << 1;
    /// From this bit on, three bits: an [`crate::Algorithm`].
    pub const ALGORITHM_SHIFT: u32 = 2;
    /// Backends are chosen by what only the packet edges know, the client's address or its packets: the socket edge leaves
    /// such a service to the pod edge where that is on. Session affinity, source-hash and least-connections have it.
    pub const NEEDS_CLIENT: u32 = 1 << 5;
    /// The service's load balancer addresses answer only sources in the service's set of `NETWORKS`.
    pub const SOURCE_RANGES: u32 = 1 << 6;
    /// With `SOURCE_RANGES`: this node's own address is in that set.
    pub const NODE_ALLOWED: u32 = 1 << 7;
    /// From this bit on: sessionAffinity ClientIP, its timeout in seconds; 0: none.
    pub const AFFINITY_SHIFT: u32 = 8;
    /// The longest timeout, a day: what the API allows.
    pub const AFFINITY_MAX: u32 = 86_400;
}

/// How the backend of a new connection is chosen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u32)]
pub enum Algorithm {
    /// One slot after the other, over all CPUs.
    #[default]
    RoundRobin = 0,
    /// Any slot.
    Random = 1,
    /// The slot that the connection's addresses and ports name; the slots are a Maglev table.
    Maglev = 2,
    /// The slot that the client's address names; the slots are a Maglev table.
    SourceHash = 3,
    /// Of a few slots, the one whose backend has the fewest connections.
    LeastConnections = 4,
}

impl Algorithm {
    /// All of them, by number.
    pub const ALL: [Self; 5] = [
        Self::RoundRobin,
        Self::Random,
        Self::Maglev,
        Self::SourceHash,
        Self::LeastConnections,
    ];

    /// The algorithm in [`Service::flags`]; an unknown number is round robin.
    #[inline(always)]
    pub const fn of(flags: u32) -> Self {
        match flags >> service_flags::ALGORITHM_SHIFT & 7 {
            1 => Self::Random,
            2 => Self::Maglev,
            3 => Self::SourceHash,
            4 => Self::LeastConnections,
            _ => Self::RoundRobin,
        }
    }

    /// The bits of [`Service::flags`].
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        (self as u32) << service_flags::ALGORITHM_SHIFT
    }

    /// Name in annotations and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::Maglev => "maglev",
            Self::SourceHash => "source-hash",
            Self::LeastConnections => "least-connections",
        }
    }
}

/// Where a service's backends stand in `SLOTS`: first the Cluster set, right behind it the Local set.
///
/// Packed as base:32 | cluster:16 | local:16 from the high bits down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlotRange {
    /// First slot.
    pub base: u32,
    /// Number of slots of the Cluster set.
    pub cluster: u16,
    /// Number of slots of the Local set.
    pub local: u16,
}

/// Which of the two sets a client is balanced over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendSet {
    Cluster,
    Local,
}

impl SlotRange {
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            base: (word >> 32) as u32,
            cluster: (word >> 16) as u16,
            local: word as u16,
        }
    }

    #[inline(always)]
    pub const fn pack(self) -> u64 {
        (self.base as u64) << 32 | (self.cluster as u64) << 16 | self.local as u64
    }

    /// Number of slots in both sets.
    pub const fn len(self) -> u32 {
        self.cluster as u32 + self.local as u32
    }

    /// No backend at all.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// First slot and number of slots of one set.
    #[inline(always)]
    pub const fn set(self, set: BackendSet) -> (u32, u32) {
        match set {
            BackendSet::Cluster => (self.base, self.cluster as u32),
            BackendSet::Local => (self.base.wrapping_add(self.cluster as u32), self.local as u32),
        }
    }
}

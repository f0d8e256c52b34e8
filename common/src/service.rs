//! Services: one entry a Service port, and the ranges of slots that list its backends.

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

/// Bits of [`Service::flags`].
pub mod service_flags {
    /// internalTrafficPolicy: Local.
    pub const INTERNAL_LOCAL: u32 = 1;
    /// externalTrafficPolicy: Local.
    pub const EXTERNAL_LOCAL: u32 = 1 << 1;
    /// From this bit on: sessionAffinity ClientIP, its timeout in seconds; 0: none.
    pub const AFFINITY_SHIFT: u32 = 8;
    /// The longest timeout, a day: what the API allows.
    pub const AFFINITY_MAX: u32 = 86_400;
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

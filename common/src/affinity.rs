//! Session affinity: which backend a client had last.

use crate::Address;
use bytemuck::{Pod, Zeroable};

/// Key of the `AFFINITY` map: a client of a service port, whichever of its addresses it uses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct AffinityKey {
    /// The client's address; at the socket edge, where there is none yet, [`AffinityKey::of_netns`].
    pub client: Address,
    /// Index into `SERVICES`.
    pub service: u32,
}

impl AffinityKey {
    /// Stands for the address of the one pod (or the node) whose network namespace has this cookie. No packet comes from it:
    /// it is a multicast address.
    #[inline(always)]
    pub const fn of_netns(cookie: u64) -> Address {
        Address::from_words([0xff, 0, cookie as u32, (cookie >> 32) as u32])
    }
}

/// Value of the `AFFINITY` map.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Affinity {
    /// The client's last new connection, nanoseconds of the boot clock.
    pub seen: u64,
    /// Index into `BACKENDS`.
    pub backend: u32,
    /// The backend's generation then.
    pub generation: u32,
}

//! Backends: the endpoints that connections are sent to.

use crate::{Address, Port};
use bytemuck::{Pod, Zeroable};

/// Element of the `BACKENDS` array: one endpoint of one Service port.
///
/// An endpoint that serves two Service ports has two entries, so that its end in one is not its end in the other.
/// A flow remembers index and generation; it is current while both still match. Reuse of an index: generation to 0, grace
/// period, address and port, generation to its new value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Backend {
    pub address: Address,
    pub port: Port,
    /// Bits of [`backend_flags`].
    pub flags: u16,
    /// 0: not in use. Grows by one at each reuse of the index.
    pub generation: u32,
    /// Index into `SERVICES` of the service this backend belongs to.
    pub service: u32,
    /// The generation that the entry's present or last use has; stays when `generation` goes to 0, so that an agent that
    /// starts over the same maps never gives one generation out twice. The datapath has no use for it.
    pub last_generation: u32,
}

/// Bits of [`Backend::flags`].
pub mod backend_flags {
    /// The endpoint is on this node: the host's stack can deliver to it without SNAT.
    pub const LOCAL: u16 = 1;
    /// The endpoint is in the Local set and not in the Cluster set: hints keep it out, or it is terminating while others are
    /// ready. Session affinity must not bring a client of the Cluster set to it.
    pub const LOCAL_ONLY: u16 = 2;
}

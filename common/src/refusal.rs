//! What Services refused.

use bytemuck::{Pod, Zeroable};

/// Key of `REFUSALS`: whose it was, why, and where. The value counts packets, or socket calls, by CPU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct RefusalKey {
    /// Index into `SERVICES`.
    pub service: u32,
    /// A [`crate::Reason`].
    pub reason: u8,
    /// One of [`crate::trace_edge`].
    pub edge: u8,
    pub reserved: u16,
}

//! Tracing: what the programs tell of single connections while somebody asks.

use crate::{Flow, Tuple};
use bytemuck::{Pod, Zeroable};

/// The one element of the `TRACE` array: what is to be told. Zero, as it is made: nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct TraceSettings {
    /// Until when, nanoseconds of the boot clock. Who traces moves it on, so that nothing is told for long to one who is gone.
    pub until: u64,
    /// Bit n: the reason with this number is told.
    pub reasons: u64,
}

/// An entry of the ring buffer `TRACE_EVENTS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct TraceEvent {
    /// Nanoseconds of the boot clock; coarse, some milliseconds late.
    pub nanos: u64,
    /// Of a socket call: the cookie of its caller's network namespace. Else 0.
    pub netns: u64,
    /// The packet's addresses before translation. Of a socket call: without a source.
    pub tuple: Tuple,
    /// What the packets are translated by; all zero for what is refused or dropped.
    pub flow: Flow,
    /// The interface that the packet was met at; of a socket call 0.
    pub ifindex: u32,
    /// The process that made a socket call, as the kernel's first process namespace numbers it, and the name of the thread that did,
    /// padded with zeros. Else 0.
    pub process: u32,
    pub name: [u8; 16],
    /// One of [`trace_edge`].
    pub edge: u8,
    /// A [`crate::Reason`].
    pub reason: u8,
    pub reserved: [u8; 6],
}

/// Where something happened ([`TraceEvent::edge`]).
pub mod trace_edge {
    /// tcx ingress of a pod's interface.
    pub const POD: u8 = 0;
    /// tcx ingress of an uplink.
    pub const UPLINK: u8 = 1;
    /// tcx egress of an uplink, a request of the node's own process.
    pub const NODE: u8 = 2;
    /// XDP of an uplink.
    pub const XDP: u8 = 3;
    /// A socket call.
    pub const SOCKET: u8 = 4;

    /// What an edge is called in output and metrics.
    pub const fn name(edge: u8) -> &'static str {
        match edge {
            POD => "pod",
            UPLINK => "uplink",
            NODE => "node",
            XDP => "xdp",
            _ => "socket",
        }
    }
}

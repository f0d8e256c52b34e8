//! The packet pipeline: what happens to a packet or a socket call at each edge.
//!
//! Pure code, generic over where packets, tables, routes and time come from ([`Env`], [`SocketEnv`]). The same functions are
//! compiled into the eBPF programs and into host programs (tests, simulator), so what is tested is what is loaded.
//!
//! Read `pipeline.rs` first: the stages in order. Then one file a stage: `parse.rs`, `flow.rs`, `select.rs`, `snat.rs`,
//! `translate.rs`. What needs more (fragments, ICMP, refusals) is in `second.rs`, `chain.rs`, `icmp.rs`, `reject.rs`; `socket.rs` is
//! the socket edge.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "host")]
extern crate std;

mod chain;
pub mod checksum;
mod crc32c;
mod dsr;
mod env;
mod flow;
mod hash;
mod headers;
#[cfg(feature = "host")]
pub mod host;
mod icmp;
mod parse;
mod pipeline;
mod redirect;
mod reject;
mod reply;
mod second;
mod select;
mod snat;
mod socket;
mod straight;
mod translate;

pub use env::{
    ChecksumChange, Clock, Env, Event, Fib, FlowTable, Insert, Opaque, Packet, Random, Route, Routed, Stages, Tables,
    Transport,
};
pub use headers::{EthernetHeader, Ipv4Header, Ipv6Header};
pub use pipeline::{Edge, Left, Verdict, enter, leave};
pub use second::{enter_second, leave_second};
pub use select::{carry, refuse};
pub use snat::allocate;
pub use socket::{SocketCall, SocketEnv, SocketMemory, SocketVerdict, connect, restore_peer, sendmsg};

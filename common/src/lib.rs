//! The ABI between the eBPF programs and user space.
//!
//! Every map key and value is a plain C structure without padding that both sides read and write byte for byte. A change
//! to any layout, map name or meaning here needs a new [`ABI_VERSION`]: the agent pins its maps below a directory of that
//! number, so that programs never meet maps of another layout. A map that is in [`maps::CHANGED`] begins anew with that
//! version; all others go on, with what is in them.
//!
//! Values that travel on the wire in network order ([`Address`], [`Port`]) are types of their own; every plain integer is
//! in host order.
#![no_std]

mod address;
mod affinity;
mod annotation;
mod backend;
mod capture;
mod config;
mod dsr;
mod filter;
mod flow;
mod fragment;
mod frontend;
mod hook;
mod hop;
mod interface;
mod jiffies;
pub mod maps;
mod network;
mod reason;
mod redirect;
mod refusal;
mod service;
mod socket;
mod trace;
mod traffic;

pub use address::{Address, Port, Protocol};
pub use affinity::{Affinity, AffinityKey};
pub use annotation::Annotation;
pub use backend::{Backend, backend_flags};
pub use capture::{CAPTURE_BYTES, CaptureKey, CaptureSettings, CapturedPacket};
pub use config::{CGROUP_LEVELS, Config, DONE_MARK, config_flags};
pub use dsr::Dsr;
pub use filter::{FILTER_SHIFT, FilterPlace, address_roles};
pub use flow::{Direction, Flow, SnatFlow, Tuple, flow_flags};
pub use fragment::{FragmentKey, FragmentPorts};
pub use frontend::{Frontend, FrontendKey, FrontendKind};
pub use hook::TcxHook;
pub use hop::NextHop;
pub use interface::{Interface, LOOPBACK, NodeAddress, interface_flags};
pub use jiffies::Jiffies;
pub use network::{Network, NetworkKey, ServiceCidrs, V4_PREFIX};
pub use reason::Reason;
pub use redirect::Redirect;
pub use refusal::RefusalKey;
pub use service::{Algorithm, BackendSet, Service, SlotRange, service_flags};
pub use socket::{SocketPair, SocketPairKey, SocketState, UdpSocket, cgroup_scope};
pub use trace::{TraceEvent, TraceSettings, trace_edge};
pub use traffic::Traffic;

/// Version of everything in this crate that both sides must agree on.
pub const ABI_VERSION: u32 = 2;

/// Flow time stamps count units of 2^30 ns (1.07 s) of the boot clock: a shift where seconds would need a division.
pub const TICK_SHIFT: u32 = 30;

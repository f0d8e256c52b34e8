//! The pipeline's surroundings on a host: maps, packets, routes and sockets in memory, byte for byte as the kernel has them.
//!
//! Unit and property tests, the differential tests (the loaded programs beside this) and simulators run the pipeline over
//! these. [`Simulator::run`] does for a packet what one of the loaded programs does; [`SocketSimulator`] is a socket's call.

mod build;
mod delegate;
mod display;
mod fib;
mod filter;
mod packet;
mod simulator;
mod socket;
mod tables;
mod touched;

pub use build::{Segment, sctp, tcp};
pub use fib::{HostDevice, HostFib, HostRoute, Target};
pub use packet::HostPacket;
pub use simulator::{Outcome, Program, Simulator};
pub use socket::{HostSocket, SocketSimulator};
pub use tables::{HostTables, Sizes};
pub use touched::Touched;

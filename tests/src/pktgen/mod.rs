//! The packet generator: live frames of `BPF_PROG_TEST_RUN`, written by an XDP program and sent by an interface's driver, so
//! that neither sockets nor the sender's network stack are in the way.
//!
//! [`Traffic`] says what is sent, [`Pace`] how fast, and a [`Generator`] sends it from an interface and counts what comes back.
//! [`run`] is the program `pktgen` (`cargo xtask pktgen`). Needs root.
mod command;
mod generator;
mod traffic;

pub use command::run;
pub use generator::{Generator, Pace, Report, ifindex};
pub use traffic::{Flows, Traffic};

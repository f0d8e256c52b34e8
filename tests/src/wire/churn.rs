//! What `testpod chase` saw, and what the `testpod api-proxy` let pass, by one clock: microseconds of CLOCK_MONOTONIC.
use serde::{Deserialize, Serialize};

/// Services whose slices have names that begin so are watched by the proxy.
pub const PREFIX: &str = "churn-";

/// A change of a slice, at the moment when the API server's event went on to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    pub at: u64,
    pub name: String,
    /// The address of its only endpoint.
    pub address: String,
}

/// One new connection, or one datagram of a new socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Number of the Service, from 0.
    pub service: u32,
    pub udp: bool,
    /// Before the first system call.
    pub begun: u64,
    /// Who answered.
    pub pod: Option<String>,
    pub failure: Option<String>,
}

/// Now.
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1000
}

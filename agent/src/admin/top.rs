//! What `ferrogate top` and `ferrogate trace` ask for: counters at one moment, of which two make rates, and names.

use super::{FrontendRow, MapStatus, ReasonCount, TrafficCount};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Counters at one moment.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Name of the Node.
    pub node: String,
    /// When they were read: nanoseconds of the boot clock.
    pub at_nanos: u64,
    /// Ordered by namespace, name, port, protocol and family.
    pub services: Vec<ServiceCounters>,
    pub reasons: Vec<ReasonCount>,
    /// Counted every 10 s at most.
    pub maps: Vec<MapStatus>,
    /// Of the Service port that was asked about, if one was.
    pub backends: Vec<BackendFlows>,
}

/// One Service port in one family.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServiceCounters {
    /// `namespace/name:port`.
    pub service: String,
    pub protocol: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Index into the map `SERVICES`.
    pub id: u32,
    /// New connections since the id was given to it.
    pub connections: u64,
    /// Packets and socket calls that got no further, since then.
    pub refused: u64,
    /// What packet edges have carried, since then; absent without `--service-traffic`.
    pub traffic: Option<TrafficCount>,
    /// Endpoints that are programmed, and those of them on this node.
    pub endpoints: usize,
    pub local: usize,
}

/// An endpoint and the connections to it that are translated packet by packet; those of the socket edge are not among them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackendFlows {
    pub address: SocketAddr,
    pub local: bool,
    pub flows: u64,
}

/// What addresses are called.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Names {
    pub frontends: Vec<NamedFrontend>,
    /// Of the pod that was asked about.
    pub pod: Vec<IpAddr>,
}

/// A frontend and whose it is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NamedFrontend {
    /// `namespace/name:port`.
    pub service: String,
    pub protocol: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    #[serde(flatten)]
    pub frontend: FrontendRow,
}

//! What the admin socket answers: the JSON of `--output json` is these structures.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// The whole of `ferrogate status`. Absent members are unknown: no agent runs, and only the maps were read.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Name of the Node; empty when no agent runs.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// Version of the map layouts.
    pub abi: u32,
    pub pid: Option<u32>,
    pub uptime_seconds: Option<u64>,
    pub source: Option<SourceStatus>,
    /// Service ports programmed.
    pub services: Option<u64>,
    pub last_apply: Option<ApplyStatus>,
    pub edges: Vec<EdgeStatus>,
    pub interfaces: Vec<InterfaceStatus>,
    pub maps: Vec<MapStatus>,
    pub reasons: Vec<ReasonCount>,
    /// What a person should look at, one sentence each.
    pub problems: Vec<String>,
}

/// Where the desired state comes from.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SourceStatus {
    /// `cluster https://10.0.0.1:6443` or `manifests /etc/ferrogate`.
    pub origin: String,
    pub state: SourceState,
    /// How long it has been so.
    pub since_seconds: u64,
    /// Why, where the state needs a reason.
    pub detail: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    /// Not everything has been read yet: nothing is changed in the kernel.
    Syncing,
    /// Everything was read, and changes arrive.
    Synced,
    /// The source does not answer: the last known state is served.
    Away,
}

/// The last write to the maps.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ApplyStatus {
    /// Counts writes since the agent's start.
    pub generation: u64,
    pub ago_seconds: u64,
    /// From the event's arrival to the last map write.
    pub latency_microseconds: u64,
    /// Of that: planning and writing.
    pub apply_microseconds: u64,
    /// Map writes.
    pub operations: u64,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EdgeStatus {
    /// `socket`, `pod`, `uplink` or `node`.
    pub edge: String,
    pub on: bool,
    /// Where it is attached, or why not.
    pub detail: String,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct InterfaceStatus {
    pub name: String,
    pub ifindex: u32,
    /// `pod` or `uplink`.
    pub role: String,
    /// Names of the programs attached.
    pub hooks: Vec<String>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MapStatus {
    pub name: String,
    pub purpose: String,
    /// Entries in use, where they can be counted.
    pub used: Option<u64>,
    pub limit: u64,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ReasonCount {
    pub reason: String,
    /// Packets or socket calls, of all CPUs, since the maps were made.
    pub count: u64,
    /// Whether they got no further.
    pub drop: bool,
    pub description: String,
}

/// One Service port.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ServiceRow {
    /// Empty when only the maps were read.
    pub namespace: String,
    /// The Service's name; empty when only the maps were read.
    pub name: String,
    /// The Service's port, host order; 0 when only the maps were read.
    pub port: u16,
    pub protocol: String,
    /// `IPv4` or `IPv6`: a dual-stack port has a row of each.
    pub family: String,
    /// `ClusterIP`, `NodePort` or `LoadBalancer`.
    pub kind: String,
    /// Index into `SERVICES`.
    pub id: u32,
    pub frontends: Vec<FrontendRow>,
    /// Endpoints in use, of the Cluster and the Local set together.
    pub endpoints: Vec<EndpointRow>,
    /// New connections since the id was given to it.
    pub connections: u64,
    /// Packets and socket calls that got no further, since then.
    pub refused: u64,
}

/// Where connections are sent.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EndpointRow {
    pub address: SocketAddr,
    /// It is on this node.
    pub local: bool,
}

/// An address that clients use.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FrontendRow {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalIP`.
    pub kind: String,
    /// Absent: every address of the node (NodePort).
    pub address: Option<IpAddr>,
    pub port: u16,
}

/// Connections that are being translated.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct FlowsPage {
    pub flows: Vec<FlowEntry>,
    /// Whether the limit cut the list.
    pub truncated: bool,
}

/// One connection, from its client to its backend.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FlowEntry {
    pub protocol: String,
    pub client: SocketAddr,
    pub frontend: SocketAddr,
    pub backend: SocketAddr,
    /// The node's address and port in the client's place, where the source is changed too.
    pub snat: Option<SocketAddr>,
    /// `namespace/name:port`, where it is known.
    pub service: Option<String>,
    /// `established`, `half-open` or `closing`.
    pub state: String,
    /// `transit`, `hairpin`, `node`, `port`: how else the packets are changed.
    pub marks: Vec<String>,
    /// Seconds since the last packet.
    pub idle_seconds: u64,
}

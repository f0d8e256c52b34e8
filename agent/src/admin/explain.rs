//! What `ferrogate explain` is answered with.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Answer to [`super::Request::Explain`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Explained {
    Service(Box<Explanation>),
    Unknown(Unknown),
}

/// There is no such Service, port or client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Unknown {
    /// The whole sentence.
    pub why: String,
    /// Names like it that exist.
    pub near: Vec<String>,
}

/// One Service as this node serves it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Explanation {
    pub node: String,
    pub namespace: String,
    pub name: String,
    /// `ClusterIP`, `NodePort` or `LoadBalancer`; empty where nothing is programmed.
    pub kind: String,
    /// Why nothing is programmed for it.
    pub nothing: Option<String>,
    /// For whom: a sentence's part, such as `any client` or `pod default/web-1 (10.244.1.5)`.
    pub client: String,
    pub ports: Vec<PortExplanation>,
    /// What else should be known, one sentence each.
    pub notes: Vec<String>,
}

/// One Service port in one family.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PortExplanation {
    pub port: u16,
    pub name: String,
    pub protocol: String,
    pub family: String,
    /// Index into `SERVICES`; absent while it is not programmed.
    pub id: Option<u32>,
    pub algorithm: String,
    /// sessionAffinity ClientIP; absent: none.
    pub affinity_seconds: Option<u32>,
    /// `Cluster` or `Local`.
    pub internal_policy: String,
    /// The same; empty where it governs no address.
    pub external_policy: String,
    /// Networks that the load balancer's addresses answer; empty with `restricted`: nobody.
    pub source_ranges: Vec<String>,
    /// Whether loadBalancerSourceRanges restrict this family.
    pub restricted: bool,
    /// Which hints choose among the endpoints.
    pub hints: Option<String>,
    /// Ways in, in the order that a connection from far away takes them.
    pub ways: Vec<Way>,
    pub endpoints: Vec<EndpointExplanation>,
    /// New connections since the id was given to it, and those of them that the socket edge translated.
    pub connections: u64,
    pub socket_connections: u64,
    /// What got no further, since then.
    pub refusals: Vec<RefusalCount>,
    /// What packet edges have carried, since then; absent without `--service-traffic`.
    pub traffic: Option<TrafficCount>,
    /// Flows of packets now; what the socket edge translated has none.
    pub flows: u64,
    /// What is desired and could not be programmed.
    pub refused: Vec<String>,
}

/// Packets and socket calls to a Service port that got no further.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RefusalCount {
    pub reason: String,
    /// `socket`, `pod`, `uplink`, `node` or `xdp`.
    pub edge: String,
    pub count: u64,
}

/// Requests and replies of a Service port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TrafficCount {
    pub request_packets: u64,
    pub request_bytes: u64,
    pub reply_packets: u64,
    pub reply_bytes: u64,
}

/// One address of a Service port, and what happens to a client that uses it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Way {
    /// `pods and this node`, `outside clients`, `this pod`, ...
    pub client: String,
    /// `LoadBalancer`, `ExternalIP`, `NodePort` or `ClusterIP`.
    pub kind: String,
    /// NodePort: the node's addresses that answer.
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    /// `socket`, `pod`, `uplink` or `node`; empty: no edge takes it.
    pub edge: String,
    /// Programs: those that translate requests, then the one that translates replies.
    pub hooks: Vec<String>,
    /// Why that edge and not the usual one.
    pub edge_why: Option<String>,
    /// The set of endpoints: `Cluster` or `Local`.
    pub set: String,
    /// Whose address the pod sees.
    pub source: String,
    pub works: bool,
    /// What comes of it, and why.
    pub outcome: String,
    /// The reason that the programs count it under.
    pub reason: Option<String>,
    /// How often they have on this node: for this Service port, or for any Service while it is not programmed.
    pub counted: Option<u64>,
}

/// One endpoint, and why it is used or not.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EndpointExplanation {
    pub address: SocketAddr,
    pub pod: Option<String>,
    pub node: Option<String>,
    pub zone: Option<String>,
    /// It is on this node.
    pub local: bool,
    /// `ready`, `terminating`, `not ready`, ...
    pub state: String,
    pub weight: u16,
    /// In the Cluster set.
    pub cluster: bool,
    /// In the Local set; absent where no policy is Local.
    pub local_set: Option<bool>,
    /// Whether new connections are sent there, and why.
    pub verdict: String,
    /// Flows of packets now.
    pub flows: u64,
    /// It is no endpoint any more; its connections live on.
    pub gone: bool,
}

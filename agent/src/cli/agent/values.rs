//! Values of the agent's options that are one of a few words.

use clap::ValueEnum;

/// On or off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

impl Switch {
    pub fn is_on(self) -> bool {
        self == Self::On
    }
}

/// Which processes the socket edge serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum SocketEdge {
    /// The node's own processes and those in pods: below the kubelet's cgroup where there is one, else every process
    #[value(alias = "on")]
    All,
    /// Those in the node's own network namespace; pods are left to the pod edge
    Node,
    /// None: the pod and node edges translate their packets
    Off,
}

/// Where XDP programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum XdpMode {
    /// Where the driver allows it and no sender leaves checksums half done
    Auto,
    /// On every uplink; the agent reports the ones that refuse
    Native,
    /// Nowhere: tcx does the same work
    Off,
}

/// Whose source address is replaced by the node's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum SnatMode {
    /// Outside clients whose backend is on another node
    Remote,
    /// All outside clients of externalTrafficPolicy Cluster, as kube-proxy does
    Always,
}

/// The way of packets between clients and backends on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Forwarding {
    /// Through the host's stack: its routes, firewall and connection tracking, and the network plugin's policies, apply
    Stack,
    /// Past it, right into the backend's network namespace and back: faster, and none of these apply to what comes for a Service
    Redirect,
}

/// Direct server return: the node of the backend answers outside clients itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum DsrMode {
    /// Packets for backends on other nodes are masqueraded, and their replies come back by this node
    Off,
    /// The same, but what other nodes hand over is taken: the first step on the way to on, and the last on the way back
    Accept,
    /// New connections of outside clients to backends on other nodes are handed over to those nodes
    On,
}

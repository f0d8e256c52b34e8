//! The cells of the walk matrix, and what each of them must see.
use std::fmt;

use crate::rig::{Family, FerrogateOptions, Layout, Options, Proxy, SocketEdge, Uplink};
use crate::wire::Protocol;

/// Who asks. The pod and the process are on node 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Client {
    Pod,
    Node,
    Outside,
}

/// Which address of the Service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    ClusterIp,
    /// The NodePort at the address of this node.
    NodePort(u8),
}

/// Where the Service's only endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// A pod on node 1.
    Local,
    /// A pod on node 2.
    Remote,
    /// A pod in the network namespace of node 1.
    HostLocal,
    /// A pod in the network namespace of node 2.
    HostRemote,
    /// The client pod itself.
    Itself,
}

impl Backend {
    pub const ALL: [Backend; 5] = [
        Backend::Local,
        Backend::Remote,
        Backend::HostLocal,
        Backend::HostRemote,
        Backend::Itself,
    ];

    /// The name of the Service with this endpoint.
    pub fn service(self) -> &'static str {
        match self {
            Backend::Local => "local",
            Backend::Remote => "remote",
            Backend::HostLocal => "host-local",
            Backend::HostRemote => "host-remote",
            Backend::Itself => "itself",
        }
    }

    /// The node it runs on.
    pub fn node(self) -> u8 {
        match self {
            Backend::Local | Backend::HostLocal | Backend::Itself => 1,
            Backend::Remote | Backend::HostRemote => 2,
        }
    }

    fn on_host_network(self) -> bool {
        matches!(self, Backend::HostLocal | Backend::HostRemote)
    }
}

/// One walk: a client asks an address over a protocol and a family, and a backend answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    pub client: Client,
    pub target: Target,
    pub protocol: Protocol,
    pub family: Family,
    pub backend: Backend,
}

impl Cell {
    /// Every cell that exists: only a pod can be its own backend.
    pub fn all() -> Vec<Cell> {
        let mut cells = Vec::new();
        for client in [Client::Pod, Client::Node, Client::Outside] {
            for target in [Target::ClusterIp, Target::NodePort(1), Target::NodePort(2)] {
                for (protocol, family) in transports() {
                    let backends = Backend::ALL.into_iter();
                    let existing = backends.filter(|b| *b != Backend::Itself || client == Client::Pod);
                    cells.extend(existing.map(|backend| Cell {
                        client,
                        target,
                        protocol,
                        family,
                        backend,
                    }));
                }
            }
        }
        cells
    }

    /// The cell without its backend, in words: a row of the printed matrix.
    pub fn row(&self) -> String {
        let client = match self.client {
            Client::Pod => "pod",
            Client::Node => "node process",
            Client::Outside => "outside",
        };
        let target = match self.target {
            Target::ClusterIp => "ClusterIP".to_owned(),
            Target::NodePort(node) => format!("n{node}:NodePort"),
        };
        let family = match self.family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        };
        format!("{client:<12} -> {target:<11} {} {family}", self.protocol.kubernetes())
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} backend {}", self.row(), self.backend.service())
    }
}

fn transports() -> impl Iterator<Item = (Protocol, Family)> {
    Protocol::ALL
        .into_iter()
        .flat_map(|protocol| Family::BOTH.map(|family| (protocol, family)))
}

/// Whose address the backend may see as the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The client's own.
    Client,
    /// Any address of this node: it masqueraded, or the client is its process.
    Node(u8),
    /// The one that the client has asked.
    Asked,
    /// The client's own or one of this node's.
    Either(u8),
}

/// What a walk must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// The backend answers, as the address that was asked, and sees this source.
    Answer(Source),
    /// Nothing answers.
    Nothing,
    /// A documented limit: an answer by the right backend or none, both are taken.
    Limit(&'static str),
}

/// What `cell` must see in a rig with these options.
pub fn expectation(cell: &Cell, rig: &Options) -> Expectation {
    match &rig.proxy {
        Proxy::None => Expectation::Nothing,
        Proxy::KubeProxy | Proxy::KubeProxyWith(_) => kube_proxy(cell, rig.layout),
        Proxy::Ferrogate(options) => ferrogate(cell, options, rig.uplink),
    }
}

const SAME_BRIDGE: &str = "kube-proxy needs bridge-nf-call-iptables=1 for backends on the same bridge";

/// Why a proxy cannot serve a pod whose backend is on the client's own bridge, if so.
pub fn same_bridge_limit(layout: Layout, proxy: &Proxy) -> Option<&'static str> {
    (*proxy == Proxy::KubeProxy && layout == Layout::Bridge { netfilter: false }).then_some(SAME_BRIDGE)
}

/// Upstream's nftables mode: everything that reaches a NodePort is masqueraded, and so is every ClusterIP client outside
/// the cluster's pod ranges.
fn kube_proxy(cell: &Cell, layout: Layout) -> Expectation {
    if cell.client == Client::Pod && layout != Layout::Routed && cell.target != Target::NodePort(2) {
        let filtered = layout != (Layout::Bridge { netfilter: false });
        match cell.backend {
            Backend::Itself if filtered => {
                return Expectation::Limit(
                    "kube-proxy needs hairpin mode on the bridge port of a pod that asks itself",
                );
            }
            Backend::Local if !filtered && cell.target == Target::ClusterIp => {
                return Expectation::Limit(SAME_BRIDGE);
            }
            _ => {}
        }
    }
    Expectation::Answer(match (cell.client, cell.target) {
        // What stays on the translating node's own host network never passes postrouting.
        (_, Target::ClusterIp) if cell.backend == Backend::HostLocal => Source::Client,
        (_, Target::NodePort(node)) if cell.backend.on_host_network() && cell.backend.node() == node => Source::Client,
        (Client::Pod, Target::ClusterIp) if cell.backend != Backend::Itself => Source::Client,
        (_, Target::ClusterIp) => Source::Node(1),
        (_, Target::NodePort(node)) => Source::Node(node),
    })
}

/// The client's address is kept wherever the replies come back through the edge that translated the request.
fn ferrogate(cell: &Cell, options: &FerrogateOptions, uplink: Uplink) -> Expectation {
    // No socket call of SCTP comes past the socket edge.
    let by_call = cell.protocol != Protocol::Sctp;
    let pods = options.socket_edge == SocketEdge::All && by_call;
    let node = options.socket_edge != SocketEdge::Off && by_call;
    if uplink == Uplink::Vrf && !node && cell.client == Client::Node && cell.target == Target::NodePort(1) {
        return Expectation::Limit("a node's process reaches its own address in a VRF through the socket edge only");
    }
    Expectation::Answer(match (cell.client, cell.target) {
        (Client::Outside, Target::ClusterIp) if !options.external_cluster_ip => return Expectation::Nothing,
        (Client::Outside, Target::ClusterIp) => Source::Either(1),
        // It comes back into the node as from the Service: no device takes packets from its own node's addresses.
        (Client::Node, Target::ClusterIp) if !node && cell.backend == Backend::HostLocal => Source::Asked,
        (Client::Node, Target::ClusterIp | Target::NodePort(1)) => Source::Node(1),
        // Translated into its own address before a packet exists: the pod talks to itself over lo.
        (Client::Pod, Target::ClusterIp | Target::NodePort(1)) if cell.backend != Backend::Itself || pods => {
            Source::Client
        }
        (Client::Pod, Target::ClusterIp | Target::NodePort(1)) => Source::Node(1),
        (client, Target::NodePort(entry)) if cell.backend.node() == entry => match client {
            Client::Node => Source::Node(1),
            Client::Pod | Client::Outside => Source::Client,
        },
        (Client::Outside, Target::NodePort(_)) if options.dsr => Source::Client,
        (_, Target::NodePort(entry)) => Source::Node(entry),
    })
}

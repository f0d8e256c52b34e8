//! Who asks and who answers: the same pods, machines and nodes for every sequence.
use std::fmt;
use std::net::IpAddr;

use crate::rig::addresses::{self, NODE_BASE, OUTSIDE, lan};
use crate::rig::{Layout, Pair};

/// Nodes of each rig.
pub(super) const NODES: [u8; 2] = [1, 2];
/// Zones that a node can be in.
pub(super) const ZONES: [u8; 3] = [1, 2, 3];
/// Ports that every backend serves.
pub(super) const TARGET_PORTS: [u16; 4] = [8080, 8081, 8082, 8083];
/// The second outside client, whose routes lead to node 2.
pub(super) const OUTSIDE_TWO: u8 = OUTSIDE + 1;
/// The machine outside that serves.
pub(super) const EXTERNAL: u8 = OUTSIDE + 10;

/// Something that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Backend {
    /// The pod that asks, too, on this node.
    Client(u8),
    /// Another pod on this node.
    Pod(u8),
    /// In this node's own network namespace.
    Host(u8),
    /// On no node at all.
    External,
}

impl Backend {
    pub(super) const ALL: [Backend; 7] = [
        Backend::Client(1),
        Backend::Pod(1),
        Backend::Host(1),
        Backend::Client(2),
        Backend::Pod(2),
        Backend::Host(2),
        Backend::External,
    ];

    /// As its server calls itself.
    pub(super) fn name(self) -> String {
        match self {
            Backend::Client(node) => format!("c{node}"),
            Backend::Pod(node) => format!("p{node}"),
            Backend::Host(node) => format!("h{node}"),
            Backend::External => "x".to_owned(),
        }
    }

    pub(super) fn node(self) -> Option<u8> {
        match self {
            Backend::Client(node) | Backend::Pod(node) | Backend::Host(node) => Some(node),
            Backend::External => None,
        }
    }

    /// Where the rigs put it: pods count from 10 on each node.
    pub(super) fn addresses(self) -> Pair {
        match self {
            Backend::Client(node) => addresses::pod(node, 10),
            Backend::Pod(node) => addresses::pod(node, 11),
            Backend::Host(node) => lan(NODE_BASE + node),
            Backend::External => lan(EXTERNAL),
        }
    }
}

/// Somebody who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Client {
    /// A pod of this node.
    Pod(u8),
    /// A process of this node.
    Node(u8),
    /// A machine outside, whose routes to Services lead to this node.
    Outside(u8),
}

impl Client {
    pub(super) const ALL: [Client; 6] = [
        Client::Pod(1),
        Client::Pod(2),
        Client::Node(1),
        Client::Node(2),
        Client::Outside(1),
        Client::Outside(2),
    ];

    /// The node at which its packets to addresses of Services arrive first.
    pub(super) fn node(self) -> u8 {
        match self {
            Client::Pod(node) | Client::Node(node) | Client::Outside(node) => node,
        }
    }

    /// Its own addresses, by which it asks.
    pub(super) fn addresses(self) -> Pair {
        match self {
            Client::Pod(node) => Backend::Client(node).addresses(),
            Client::Node(node) => lan(NODE_BASE + node),
            Client::Outside(1) => lan(OUTSIDE),
            Client::Outside(_) => lan(OUTSIDE_TWO),
        }
    }

    /// Whose address a server sees.
    pub(super) fn source(self, layout: Layout, seen: IpAddr) -> Source {
        let own = match self {
            Client::Node(node) => node_has(layout, node, seen),
            Client::Pod(_) | Client::Outside(_) => self.addresses().contains(seen),
        };
        if own {
            return Source::Client;
        }
        let node = NODES.into_iter().find(|node| node_has(layout, *node, seen));
        node.map_or(Source::Other, Source::Node)
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Client::Pod(node) => write!(f, "pod on n{node}"),
            Client::Node(node) => write!(f, "process of n{node}"),
            Client::Outside(node) => write!(f, "outside by way of n{node}"),
        }
    }
}

/// Whose address a server sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Source {
    /// The client's own; of a process, any address of its node.
    Client,
    /// One of another's node.
    Node(u8),
    Other,
}

fn node_has(layout: Layout, node: u8, address: IpAddr) -> bool {
    lan(NODE_BASE + node).contains(address) || layout.node_addresses(node).iter().any(|pair| pair.contains(address))
}

pub(super) fn node_name(node: u8) -> String {
    format!("n{node}")
}

pub(super) fn zone_name(zone: u8) -> String {
    format!("zone-{zone}")
}

//! What a `testpod ask` and its caller say to each other: a [`Question`] is a line of JSON on its standard input, an
//! [`Answer`] one on its standard output, in the order in which they come to be known. One program asks much at once, so
//! that a thousand questions cost no thousand processes.
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Failure, Protocol, ResolveReport};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Comes back with the answer.
    pub id: usize,
    pub ask: Ask,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// New connections (TCP) or sockets (UDP), until who is wanted has answered.
    Reach(Reach),
    /// Opens a connection or socket, asks once, and keeps it under a name.
    Hold { name: String, reach: Reach },
    /// Asks once more on the connection or socket of that name.
    Resume { name: String, timeout_ms: u64 },
    /// A question for a DNS server.
    Resolve {
        server: SocketAddr,
        name: String,
        protocol: Protocol,
        ipv6: bool,
        timeout_ms: u64,
    },
    /// One ICMP or ICMPv6 echo request.
    Ping { to: IpAddr, timeout_ms: u64 },
    /// `GET <path>` over HTTP/1.1.
    Get {
        to: SocketAddr,
        path: String,
        timeout_ms: u64,
    },
}

/// How a [`Ask::Reach`] goes about it. It ends at the first failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    pub to: SocketAddr,
    pub protocol: Protocol,
    /// Connections that are made in any case.
    pub at_least: u32,
    /// Further ones are made, up to this many, until each of these pods has answered.
    pub at_most: u32,
    pub wanted: Vec<String>,
    /// UDP: without connect(2).
    pub unconnected: bool,
    /// Local port to bind; 0 lets the kernel choose.
    pub source_port: u16,
    /// Pause between connections.
    pub pause_ms: u64,
    /// Longest wait for a connection and for an answer.
    pub timeout_ms: u64,
}

impl Reach {
    /// So many connections, one after another, whoever answers them.
    pub fn times(connections: u32, to: SocketAddr, protocol: Protocol, timeout_ms: u64) -> Self {
        Self {
            to,
            protocol,
            at_least: connections,
            at_most: connections,
            wanted: Vec::new(),
            unconnected: false,
            source_port: 0,
            pause_ms: 0,
            timeout_ms,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub id: usize,
    pub told: Told,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// Who answered, in order, and what ended it before its time.
    Reached {
        seen: Vec<Seen>,
        failure: Option<Failure>,
    },
    Resolved(ResolveReport),
    /// Whether an echo reply came.
    Pinged(bool),
    /// Status code, headers in lower case, body.
    Got {
        status: u16,
        headers: Vec<(String, String)>,
        body: String,
    },
    Failed(Failure),
}

impl Told {
    /// Whether every connection was answered.
    pub fn is_reached(&self) -> bool {
        matches!(self, Self::Reached { failure: None, .. })
    }
}

/// One answer of a `testpod serve`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seen {
    pub pod: String,
    /// The port that the server was reached at.
    pub port: u16,
    /// The client's address as the server saw it.
    pub source: IpAddr,
}

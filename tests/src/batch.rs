//! What `testpod batch` and its caller say to each other: many questions at once, from one process that stays.
//!
//! A request is a line of JSON on standard input, its report a line on standard output. The server is `testpod serve`
//! ([`crate::wire`]).
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::wire::Protocol;

/// Chains run side by side; the questions of a chain one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRequest {
    pub chains: Vec<Vec<Question>>,
}

/// One address, asked a number of times in turn, each time by a socket of its own. What fails ends the tries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    pub to: SocketAddr,
    pub protocol: Protocol,
    pub tries: u32,
    /// Longest wait for each answer, in milliseconds.
    pub patience_ms: u64,
    pub socket: SocketKind,
}

/// How a question's sockets are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SocketKind {
    /// connect(2). A TCP socket's port is the kernel's choice.
    Connected,
    /// TCP: bound to a port before connect(2).
    Bound,
    /// UDP: sendto(2) and recvfrom(2) on a socket without a peer.
    Unconnected,
}

/// What the tries of each question of each chain met, in the order of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchReport {
    pub chains: Vec<Vec<Vec<Seen>>>,
}

/// What one socket met.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Seen {
    Answer(Answer),
    /// ECONNREFUSED, or a reset.
    Refused,
    /// Nothing came in time.
    Silence,
    /// Network or host unreachable.
    Unreachable,
    /// EPERM, EACCES: the host's own netfilter took the packet.
    NotPermitted,
    /// Anything else, in words.
    Broken(String),
}

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Answer {
    pub pod: String,
    /// The port that the server was reached at.
    pub port: u16,
    /// Whom the server saw.
    pub source: IpAddr,
    /// Whether the answer came from the address that was asked, as far as the socket can tell.
    pub from_asked: bool,
    pub micros: u64,
}

//! What a `testpod siege` is asked for, and what it saw.
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Traffic that goes on while something happens. Also the command line of `testpod siege`.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct SiegeRequest {
    /// Whom to ask; everything below is spread over the addresses.
    #[arg(long = "to", required = true)]
    pub to: Vec<SocketAddr>,
    /// TCP connections that are opened at the start and held to the end.
    #[arg(long, default_value_t = 0)]
    pub connections: u32,
    /// UDP sockets that ask all the time, every second one connected.
    #[arg(long, default_value_t = 0)]
    pub flows: u32,
    /// New TCP connections a second: each asks once and ends.
    #[arg(long, default_value_t = 0)]
    pub rate: u32,
    /// Each connection and flow asks this often.
    #[arg(long, default_value_t = 250)]
    pub interval_ms: u64,
    /// Longest wait for a connection and for each answer over it.
    #[arg(long, default_value_t = 8000)]
    pub timeout_ms: u64,
    /// The pods that may answer.
    #[arg(long, value_delimiter = ',')]
    pub pods: Vec<String>,
}

impl SiegeRequest {
    /// The command line that says the same.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--connections={}", self.connections),
            format!("--flows={}", self.flows),
            format!("--rate={}", self.rate),
            format!("--interval-ms={}", self.interval_ms),
            format!("--timeout-ms={}", self.timeout_ms),
            format!("--pods={}", self.pods.join(",")),
        ];
        arguments.extend(self.to.iter().map(|to| format!("--to={to}")));
        arguments
    }
}

/// Everything a `testpod siege` prints when its standard input has ended. Nothing is tried twice, so nothing that went wrong
/// is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiegeReport {
    /// TCP connections that were held, and questions that they were answered.
    pub held: u64,
    pub answered: u64,
    /// Held connections that ended: reset, or silent for too long, or with a wrong answer.
    pub lost: u64,
    /// New connections that were answered; that were refused; that failed in another way.
    pub opened: u64,
    pub refused: u64,
    pub failed: u64,
    /// UDP sockets, the datagrams that they sent, and those that nobody answered.
    pub flows: u64,
    pub datagrams: u64,
    pub unanswered: u64,
    /// UDP flows that were answered by another pod than before.
    pub moved: u64,
    /// Answers of a pod that is no endpoint, or, on one connection, of another pod than before.
    pub misdirected: u64,
    /// Longest wait for an answer, and for a new connection to be made, in milliseconds.
    pub longest_ms: u64,
    pub slowest_connect_ms: u64,
    /// SYNs and other segments that this network namespace's TCP sent again meanwhile.
    pub syns_again: u64,
    pub segments_again: u64,
    /// What went wrong, up to [`SiegeReport::KEPT`] of each process.
    pub losses: Vec<Loss>,
}

impl SiegeReport {
    pub const KEPT: usize = 40;

    /// Adds what another siege saw.
    pub fn add(&mut self, other: Self) {
        self.held += other.held;
        self.answered += other.answered;
        self.lost += other.lost;
        self.opened += other.opened;
        self.refused += other.refused;
        self.failed += other.failed;
        self.flows += other.flows;
        self.datagrams += other.datagrams;
        self.unanswered += other.unanswered;
        self.moved += other.moved;
        self.misdirected += other.misdirected;
        self.longest_ms = self.longest_ms.max(other.longest_ms);
        self.slowest_connect_ms = self.slowest_connect_ms.max(other.slowest_connect_ms);
        self.syns_again += other.syns_again;
        self.segments_again += other.segments_again;
        self.losses.extend(other.losses);
    }
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// `connection`, `new connection` or `flow`.
    pub what: String,
    pub local: Option<SocketAddr>,
    pub to: SocketAddr,
    /// Since the start, in milliseconds.
    pub at_ms: u64,
    pub why: String,
}

//! What the `testpod` program and its callers say to each other.
//!
//! A `testpod serve` listens on TCP, UDP and SCTP and tells everyone who asks who it is and whom it sees. The TCP conversation is
//! lines: `who` is answered with one [`Identity`] as a line of JSON, as often as it is asked; `GET ...` is answered as HTTP
//! with the same JSON and the connection closes; `sink N` reads N bytes of the [`pattern`] and answers with how many were
//! right; `source N` sends N such bytes. A UDP datagram is answered with one datagram of JSON, padded to the question's length, an
//! SCTP message (RFC 9260) with one message of it.
use std::net::{IpAddr, SocketAddr};

pub mod api;
pub mod ask;
pub mod churn;
pub mod siege;

use serde::{Deserialize, Serialize};

/// Who answered, and how the conversation looked from there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Name of the pod, as given to `testpod serve`.
    pub pod: String,
    /// The client's address as the server saw it.
    pub peer: SocketAddr,
    /// The address the server was reached at.
    pub local: SocketAddr,
    /// How many datagrams (UDP) this peer address sent so far, or questions in this connection (TCP) or association (SCTP).
    pub count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// The name as Kubernetes writes it.
    pub fn kubernetes(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }
}

/// What `testpod strain` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrainReport {
    /// Connections, requests, or bytes.
    pub count: u64,
    pub micros: u64,
    /// Of connections and requests: what one took.
    pub p50_nanos: u64,
    pub p99_nanos: u64,
}

impl StrainReport {
    /// By the second.
    pub fn rate(&self) -> f64 {
        self.count as f64 * 1e6 / self.micros.max(1) as f64
    }
}

/// One round of questions. Also the command line of `testpod probe`.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct ProbeRequest {
    /// Whom to ask; the second and later addresses are asked in turn from the same local port.
    #[arg(long = "to", required = true)]
    pub to: Vec<SocketAddr>,
    #[arg(long, value_enum, default_value = "tcp")]
    pub protocol: Protocol,
    /// Rounds, one after the other: a new connection (TCP), socket (UDP) or association (SCTP) each.
    #[arg(long, default_value_t = 1)]
    pub count: u32,
    /// Questions asked in each connection or by each socket.
    #[arg(long, default_value_t = 1)]
    pub questions: u32,
    /// UDP: leave the socket unconnected and use sendto and recvfrom.
    #[arg(long)]
    pub unconnected: bool,
    /// Reach an IPv4 address through an IPv6 socket (::ffff:a.b.c.d).
    #[arg(long)]
    pub mapped: bool,
    /// Local port to bind, with SO_REUSEADDR; 0 lets the kernel choose.
    #[arg(long, default_value_t = 0)]
    pub source_port: u16,
    /// Local address to bind.
    #[arg(long)]
    pub source: Option<IpAddr>,
    /// Longest wait for the connection and for each answer, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    pub timeout_ms: u64,
    /// UDP: bytes of each question, at least; its answer has as many. More than a packet holds goes in fragments.
    #[arg(long, default_value_t = 0)]
    pub size: usize,
    /// Pause before each further question of a connection or socket, in milliseconds.
    #[arg(long, default_value_t = 0)]
    pub pause_ms: u64,
}

impl ProbeRequest {
    /// One question to `to`, waiting for a second at most.
    pub fn new(protocol: Protocol, to: SocketAddr) -> Self {
        Self {
            to: vec![to],
            protocol,
            count: 1,
            questions: 1,
            unconnected: false,
            mapped: false,
            source_port: 0,
            source: None,
            timeout_ms: 1000,
            size: 0,
            pause_ms: 0,
        }
    }

    pub fn size(self, size: usize) -> Self {
        Self { size, ..self }
    }

    pub fn count(self, count: u32) -> Self {
        Self { count, ..self }
    }

    pub fn questions(self, questions: u32) -> Self {
        Self { questions, ..self }
    }

    pub fn timeout_ms(self, timeout_ms: u64) -> Self {
        Self { timeout_ms, ..self }
    }

    pub fn unconnected(self) -> Self {
        Self {
            unconnected: true,
            ..self
        }
    }

    pub fn mapped(self) -> Self {
        Self { mapped: true, ..self }
    }

    pub fn source_port(self, source_port: u16) -> Self {
        Self { source_port, ..self }
    }

    /// Asks this address too, from the same local port.
    pub fn and_to(mut self, to: SocketAddr) -> Self {
        self.to.push(to);
        self
    }

    /// The command line that says the same.
    pub fn arguments(&self) -> Vec<String> {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        let mut arguments = vec![
            format!("--protocol={protocol}"),
            format!("--count={}", self.count),
            format!("--questions={}", self.questions),
            format!("--source-port={}", self.source_port),
            format!("--timeout-ms={}", self.timeout_ms),
            format!("--size={}", self.size),
            format!("--pause-ms={}", self.pause_ms),
        ];
        arguments.extend(self.to.iter().map(|to| format!("--to={to}")));
        arguments.extend(self.source.map(|source| format!("--source={source}")));
        arguments.extend(self.unconnected.then(|| "--unconnected".to_owned()));
        arguments.extend(self.mapped.then(|| "--mapped".to_owned()));
        arguments
    }
}

/// What one socket of a probe met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Whom it asked, as given.
    pub to: SocketAddr,
    /// Its own address, once bound.
    pub local: Option<SocketAddr>,
    /// getpeername(2): connected sockets only.
    pub peer: Option<SocketAddr>,
    /// What recvfrom(2) said with the last answer: UDP only.
    pub from: Option<SocketAddr>,
    /// The answers, one a question, until one failed.
    pub answers: Vec<Identity>,
    pub failure: Option<Failure>,
    /// From the first system call to the last answer or the failure, in microseconds.
    pub micros: u64,
}

/// Why a socket did not get all its answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// `bind`, `connect`, `send`, `receive`, `answer` (what came was not understood) or `close`.
    pub stage: String,
    pub kind: FailureKind,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureKind {
    /// ECONNREFUSED, ECONNRESET or ECONNABORTED; EDESTADDRREQ, which a socket that was aborted says after that.
    Refused,
    /// Nothing came within the time allowed.
    Silence,
    /// ENETUNREACH, EHOSTUNREACH, EACCES, EPERM and the like.
    Unreachable,
    Other,
}

/// Everything a `testpod probe` prints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    pub attempts: Vec<Attempt>,
}

impl ProbeReport {
    pub fn answers(&self) -> impl Iterator<Item = &Identity> {
        self.attempts.iter().flat_map(|attempt| &attempt.answers)
    }

    /// Every question of every attempt was answered.
    pub fn complete(&self) -> bool {
        !self.attempts.is_empty() && self.attempts.iter().all(|attempt| attempt.failure.is_none())
    }

    /// How many attempts each pod answered (by its first answer).
    pub fn tally(&self) -> std::collections::BTreeMap<&str, usize> {
        let mut tally = std::collections::BTreeMap::new();
        for first in self.attempts.iter().filter_map(|attempt| attempt.answers.first()) {
            *tally.entry(first.pod.as_str()).or_default() += 1;
        }
        tally
    }
}

/// What a `testpod tick` prints when it ends: one connection, asked again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TickReport {
    pub pod: Option<String>,
    pub ticks: u64,
    /// The longest wait for one answer, in milliseconds.
    pub longest_ms: u64,
    pub failure: Option<Failure>,
}

/// What a `testpod await-error` prints: a connected UDP socket that waits for a datagram that never comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitReport {
    /// From the last answer to the error, in milliseconds.
    pub waited_ms: u64,
    /// How the wait ended; none if a datagram came after all.
    pub failure: Option<Failure>,
}

/// What a `testpod browse` prints when it ends: HTTP requests that were never tried a second time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrowseReport {
    /// Requests that were answered.
    pub answered: u64,
    pub connections: u64,
    /// Answers by the pod that gave them.
    pub pods: std::collections::BTreeMap<String, u64>,
    /// The longest wait for one answer beyond what the request asked for, in milliseconds.
    pub longest_ms: u64,
    /// How many requests were lost.
    pub lost: u64,
    /// What became of the first of them.
    pub failures: Vec<String>,
}

/// What a `testpod bulk` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkReport {
    pub pod: Option<String>,
    /// Bytes that arrived and were right, in order, from the first on.
    pub intact: u64,
    pub micros: u64,
    pub failure: Option<Failure>,
}

/// What a `testpod ping` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingReport {
    /// Who answered the echo request with what was sent.
    pub from: Option<IpAddr>,
    pub failure: Option<Failure>,
}

/// What a `testpod resolve` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveReport {
    /// Names that the answer leads on to (CNAME), in order, without the dot at their end.
    pub aliases: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// The response code of RFC 1035 (0 is no error, 3 is no such name).
    pub code: u8,
    pub failure: Option<Failure>,
}

/// The bytes of bulk transfers: a block whose length is a prime number, repeated, so that lost, doubled, moved or changed
/// bytes all show.
pub mod pattern {
    /// Bytes before the pattern repeats.
    pub const LENGTH: usize = 1_048_573;

    /// The pattern twice over, so that a window of up to [`LENGTH`] bytes can be taken at any offset.
    pub fn doubled() -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = Vec::with_capacity(2 * LENGTH);
        for _ in 0..LENGTH {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.push((state >> 32) as u8);
        }
        bytes.extend_from_within(..);
        bytes
    }
}

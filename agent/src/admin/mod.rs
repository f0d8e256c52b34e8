//! The admin socket: how the `ferrogate` command asks a running agent.
//!
//! A Unix stream socket of mode 0600. The client sends one line, a [`Request`] as JSON, and reads one line, a [`Response`] as
//! JSON; then the agent closes the connection. Both are bounded: [`MAX_REQUEST`], [`MAX_RESPONSE`].
//!
//! ```text
//! -> {"op":"services","name":"default/order-service"}
//! <- {"ok":[{"namespace":"default","name":"order-service", ...}]}
//! -> {"op":"nonsense"}
//! <- {"error":"unknown variant `nonsense`, expected one of `status`, `metrics`, `services`, `explain`, `diff`, `doctor`, `top`, `names`, `flows` at line 1 column 16"}
//! ```

mod client;
mod doctor;
mod explain;
mod server;
mod top;
mod types;

pub use client::ask;
pub use doctor::{Checkup, Diff, Difference, Finding, Severity};
pub use explain::{
    EndpointExplanation, Explained, Explanation, PortExplanation, RefusalCount, TrafficCount, Unknown, Way,
};
pub use server::{Provider, Server};
pub use top::{BackendFlows, Counters, NamedFrontend, Names, ServiceCounters};
pub use types::{
    ApplyStatus, EdgeStatus, EndpointRow, FlowEntry, FlowsPage, FrontendRow, InterfaceStatus, MapStatus, ReasonCount,
    ServiceRow, SourceState, SourceStatus, Status,
};

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Longest request line, bytes.
pub const MAX_REQUEST: usize = 4 << 10;
/// Longest response line, bytes.
pub const MAX_RESPONSE: usize = 256 << 20;
/// Longest time that either side waits for the other.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What can be asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Answered with a [`Status`].
    Status,
    /// Answered with a text: all metrics, as Prometheus reads them.
    Metrics,
    /// Answered with [`ServiceRow`]s, ordered by namespace, name and port.
    Services {
        /// `name` or `namespace/name`; all, when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// Answered with an [`Explained`].
    Explain {
        /// `[namespace/]name[:port]`.
        service: String,
        /// `[namespace/]pod`, `node`, `outside` or an address; anybody, when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
    },
    /// Answered with a [`Diff`].
    Diff,
    /// Answered with a [`Checkup`].
    Doctor,
    /// Answered with [`Counters`].
    Top {
        /// Index into `SERVICES` of the Service port whose backends are asked for: their flows are counted by a walk.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        backends_of: Option<u32>,
    },
    /// Answered with [`Names`].
    Names {
        /// `[namespace/]pod` of this node, whose addresses are asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pod: Option<String>,
    },
    /// Answered with a [`FlowsPage`].
    Flows {
        /// `name` or `namespace/name`; all, when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<IpAddr>,
        /// Most flows to answer with.
        limit: u32,
    },
}

/// How a request ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    Ok(serde_json::Value),
    Error(String),
}

/// Why a question got no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket there, or nobody behind it.
    #[error("no agent answers at {}; is one running, with this --run-dir?", socket.display())]
    NotRunning { socket: PathBuf },
    #[error(
        "the agent at {} does not answer within {} s: it is still loading its programs, or very busy; its log says more",
        socket.display(), TIMEOUT.as_secs()
    )]
    Silent { socket: PathBuf },
    #[error("cannot talk to the agent at {}", socket.display())]
    Io {
        socket: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the agent at {} sent no valid answer; is it of another version?", socket.display())]
    Protocol {
        socket: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the agent at {} sent more than {MAX_RESPONSE} bytes; ask for less", socket.display())]
    TooLong { socket: PathBuf },
    #[error("the agent refused: {0}")]
    Refused(String),
}

//! How the API server seems, through a `testpod api-proxy`.
use serde::{Deserialize, Serialize};

/// What the proxy does to answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weather {
    /// Nothing.
    Fair,
    /// Every connection ends at once, and none is taken.
    Down,
    /// This many milliseconds pass before each answer, and before each event of a watch.
    Slow(u64),
    /// Watches end with 410 Gone, and none can be resumed: everything is listed anew, once.
    Gone,
    /// The same a few times a second.
    Storm,
    /// Each event of a watch comes twice.
    Duplicate,
    /// Every third event of a watch ends in its middle, with the connection.
    Truncate,
}

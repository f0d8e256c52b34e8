//! What `ferrogate diff` and `ferrogate doctor` are answered with.

use serde::{Deserialize, Serialize};

/// The kernel's tables beside what they should hold.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Diff {
    /// Entries that were compared.
    pub entries: u64,
    pub differences: Vec<Difference>,
    /// What is desired and could not be programmed, one sentence each.
    pub refused: Vec<String>,
    /// Why the desired state may not be what the API has.
    pub source: Option<String>,
}

/// One entry of one map that is not as desired.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Difference {
    pub map: String,
    /// The key.
    pub entry: String,
    /// `namespace/name:port/protocol family`, where it is a Service's.
    pub service: Option<String>,
    /// Absent: there should be none.
    pub desired: Option<String>,
    /// Absent: there is none.
    pub kernel: Option<String>,
}

/// How much a [`Finding`] matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Connections fail.
    Error,
    /// Connections may fail.
    Warning,
    /// Worth knowing.
    Note,
}

/// One thing that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finding {
    pub severity: Severity,
    /// What was looked at: `hooks`, `tables`, `sysctl`, ...
    pub check: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// All that was looked at, and what was found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Checkup {
    /// Name of the Node; empty when no agent runs.
    pub node: String,
    /// Each with what is well, in a few words.
    pub looked_at: Vec<String>,
    pub findings: Vec<Finding>,
}

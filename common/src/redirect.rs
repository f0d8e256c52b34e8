//! `--forwarding redirect`: packets between clients and backends on this node go past the host's stack.

/// What agent and programs agree on.
pub struct Redirect;

impl Redirect {
    /// Name of the constant in the programs' read-only data, a `u32`: not 0 where packets go past the stack.
    pub const WANTED: &'static str = "REDIRECT";
}

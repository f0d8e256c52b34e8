//! What the pipeline has written, for those who compare.

use crate::env::FlowTable;
use ferrogate_common::{FragmentKey, RefusalKey, Tuple};

/// An entry that the pipeline wrote, or removed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Touched {
    Established(Tuple),
    HalfOpen(Tuple),
    Snat(Tuple),
    Fragment(FragmentKey),
    Cursor(u32),
    Connections(u32),
    Refusal(RefusalKey),
    Traffic(u32),
    Active(u32),
    Addresses(u32),
}

impl Touched {
    /// An entry of one of the two flow tables.
    pub const fn flow(table: FlowTable, key: Tuple) -> Self {
        match table {
            FlowTable::Established => Self::Established(key),
            FlowTable::HalfOpen => Self::HalfOpen(key),
        }
    }
}

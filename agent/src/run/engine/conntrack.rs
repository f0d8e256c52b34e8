//! The node's own conntrack, raised once it is there.

use super::{Engine, chain};
use crate::kernel::Raised;
use tracing::{info, warn};

impl Engine {
    /// Raises conntrack's settings, at the first look that finds it: it comes with somebody's first rule that asks it.
    pub(super) fn raise_conntrack(&mut self) {
        let Some(floors) = &self.conntrack else { return };
        match self.datapath.raise_conntrack(floors) {
            Ok(Raised::Absent) => return,
            Ok(Raised::Done(raised)) => {
                for (name, value) in raised {
                    info!("raised net.netfilter.{name} to {value}");
                }
            }
            Err(error) => warn!(
                error = chain(&error),
                "conntrack keeps its own timeouts and size: a firewall that asks it may end connections early"
            ),
        }
        self.conntrack = None;
    }
}

//! Puts the counts of connections right that least-connections goes by.

use super::{Engine, chain};
use ferrogate_common::Algorithm;
use std::time::{Duration, Instant};
use tracing::warn;

/// A walk over the flow tables, so not often.
const PERIOD: Duration = Duration::from_secs(30);

impl Engine {
    /// Counts the flows of services with least-connections anew, if there are any and it is time.
    pub(super) fn recount(&mut self) {
        if self.recounted.elapsed() < PERIOD {
            return;
        }
        self.recounted = Instant::now();
        let backends: Vec<u32> = {
            let model = self.shared.lock();
            let counted = |flags| Algorithm::of(flags) == Algorithm::LeastConnections;
            let ports = model.planner.ports().filter(|port| counted(port.flags));
            ports.flat_map(|port| port.backends.values().copied()).collect()
        };
        if backends.is_empty() {
            return;
        }
        let counted = tokio::task::block_in_place(|| self.datapath.recount_active(backends.into_iter()));
        if let Err(error) = counted {
            warn!(error = chain(&error), "connections cannot be counted");
        }
    }
}

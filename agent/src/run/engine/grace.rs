//! Grace periods that pass beside everything else: a plan frees ids and ranges at its end, and the next one need not wait for them.
use super::{Engine, chain};
use crate::kernel;
use futures::FutureExt;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::error;

/// One that is being waited for.
pub(super) type Waiting = JoinHandle<kernel::Result<()>>;

impl Engine {
    /// Before a plan: what has had its grace period can be given out again.
    pub(super) fn end_grace(&mut self) {
        let Some(outcome) = self.grace.as_mut().and_then(FutureExt::now_or_never) else {
            return;
        };
        self.grace = None;
        match outcome {
            Ok(Ok(())) => self.shared.lock().planner.end_grace(),
            // What was freed stays out of use, until a plan needs it so much that it waits itself.
            Ok(Err(error)) => error!("{}", chain(&error)),
            Err(error) => error!("a grace period was not waited for: {error}"),
        }
    }

    /// After a plan is applied.
    pub(super) fn begin_grace(&mut self) {
        if self.grace.is_none() && self.shared.lock().planner.begin_grace() {
            let wait = self.datapath.grace_period();
            self.grace = Some(spawn_blocking(wait));
        }
    }
}

//! Walks the flow tables now and then, and more often where many connections come and go: on a thread and with map handles of its
//! own, so that no change of a Service waits for it.

use super::model::Shared;
use crate::kernel::{StateDir, Tables, Timeouts};
use anyhow::{Context, Result};
use ferrogate_common::Algorithm;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval_at};
use tracing::{debug, warn};

/// Between two walks, at least.
const PERIOD: Duration = Duration::from_secs(30);
/// And this many times what the last one took, so that walks stay below a hundredth of a processor: one over a million entries takes a
/// third of a second.
const SHARE: u32 = 200;
/// How often it is looked whether one is due before.
const LOOK: Duration = Duration::from_secs(1);

/// Starts walking, until the task is aborted.
pub(super) fn start(state_dir: &Path, shared: Arc<Shared>, timeouts: Timeouts) -> Result<JoinHandle<()>> {
    let tables = Tables::open(&StateDir::new(state_dir)).context("cannot open the maps for sweeping")?;
    let tables = Arc::new(tables);
    Ok(tokio::spawn(async move {
        let mut look = interval_at(tokio::time::Instant::now() + LOOK, LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = (Instant::now(), made(&tables));
        let mut pause = PERIOD;
        loop {
            look.tick().await;
            let made = made(&tables);
            if last.0.elapsed() < pause && !tables.is_sweep_due(made.saturating_sub(last.1)) {
                continue;
            }
            last = (Instant::now(), made);
            let (tables, counted) = (Arc::clone(&tables), counted(&shared));
            let swept = tokio::task::spawn_blocking(move || sweep(&tables, &timeouts, counted)).await;
            match swept {
                Ok(took) => pause = PERIOD.max(took * SHARE),
                Err(error) => warn!(%error, "the walk through the flow tables failed"),
            }
        }
    }))
}

/// New flows so far; those that cannot be read make no walk due.
fn made(tables: &Tables) -> u64 {
    tables.made().unwrap_or_default()
}

/// Walks once. Returns how long that took.
fn sweep(tables: &Tables, timeouts: &Timeouts, counted: Vec<u32>) -> Duration {
    let begun = Instant::now();
    let swept = tables.sweep(timeouts, counted.into_iter());
    let took = begun.elapsed();
    match swept {
        Ok(swept) => debug!(live = swept.live, removed = swept.removed, ?took, "flows swept"),
        Err(error) => warn!(
            error = super::engine::chain(&error),
            "flows that are over cannot be removed"
        ),
    }
    took
}

/// The backends of services with least-connections.
fn counted(shared: &Shared) -> Vec<u32> {
    let model = shared.lock();
    let counted = |flags| Algorithm::of(flags) == Algorithm::LeastConnections;
    let ports = model.planner.ports().filter(|port| counted(port.flags));
    ports.flat_map(|port| port.backends.values().copied()).collect()
}

//! Signals, for commands that run until they are stopped and have something to put back.

use anyhow::{Context as _, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Set by SIGTERM, SIGHUP and SIGINT, which end the process no more.
pub(crate) fn ended_by_signal() -> Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let ended = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot wait for signals")?;
    let waits = {
        let _inside = runtime.enter();
        let wait = |kind| signal(kind).context("cannot wait for signals");
        (
            wait(SignalKind::terminate())?,
            wait(SignalKind::hangup())?,
            wait(SignalKind::interrupt())?,
        )
    };
    let seen = Arc::clone(&ended);
    thread::spawn(move || {
        let (mut terminate, mut hangup, mut interrupt) = waits;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        seen.store(true, Ordering::Release);
    });
    Ok(ended)
}

//! When to end: SIGINT, SIGTERM and SIGHUP set a flag that everything which waits looks at, so that the cluster is always
//! taken down by its owner's drop.
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

static WANTED: AtomicBool = AtomicBool::new(false);

/// Begins to listen for signals, on a thread of its own.
pub(crate) fn watch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _guard = runtime.enter();
        let listen = |kind| signal(kind).context("signals");
        (
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        )
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        WANTED.store(true, Ordering::Relaxed);
        // Still listening, so that an impatient second Ctrl-C does not kill us while we clean up.
        runtime.block_on(std::future::pending::<()>());
    });
    Ok(())
}

/// Whether a signal asked for the end.
pub(crate) fn wanted() -> bool {
    WANTED.load(Ordering::Relaxed)
}

/// An error once a signal asked for the end.
pub(crate) fn check() -> Result<()> {
    if wanted() {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps; an error once a signal asked for the end.
pub(crate) fn sleep(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
}

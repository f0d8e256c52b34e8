//! Waiting for what comes about by itself.
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// Asks until the answer is yes; an error ends it.
pub fn eventually(patience: Duration, what: &str, mut question: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !question()? {
        ensure!(Instant::now() <= deadline, "not within {patience:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

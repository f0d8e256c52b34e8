//! Whose turn it is: events go to whoever reads first, so one reads at a time, and a command goes before the page.

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Held by a command while it traces.
const COMMAND: &str = "trace.lock";
/// Held by whoever reads: a command, or the page while no command wants to.
const READER: &str = "trace-reader.lock";
/// The page looks whether a command traces, and is in a command's way for that moment.
const MOMENT: Duration = Duration::from_millis(200);
/// The page lets go within a part of this.
const PATIENCE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(10);

/// The right to read the programs' events; it ends when this is dropped, and with the process.
#[derive(Debug)]
pub struct Turn {
    /// Never read: the locks are what they are for.
    _files: Vec<File>,
}

impl Turn {
    /// For a command: the page makes way.
    ///
    /// # Errors
    /// Another command traces, or no lock can be made in this directory.
    pub fn of_command(run_dir: &Path) -> Result<Self> {
        let command = take(run_dir, COMMAND, FlockOperation::NonBlockingLockExclusive, MOMENT)?;
        let Some(command) = command else {
            let path = run_dir.join(COMMAND);
            bail!("somebody traces on this node already ({})", path.display());
        };
        let reader = take(run_dir, READER, FlockOperation::NonBlockingLockExclusive, PATIENCE)?;
        let Some(reader) = reader else {
            bail!("the agent's page traces and does not make way; close it, or start the agent without --ui");
        };
        Ok(Self {
            _files: vec![command, reader],
        })
    }

    /// For the page; `None` while a command traces.
    ///
    /// # Errors
    /// No lock can be made in this directory.
    pub fn of_page(run_dir: &Path) -> Result<Option<Self>> {
        if wanted(run_dir)? {
            return Ok(None);
        }
        let reader = take(
            run_dir,
            READER,
            FlockOperation::NonBlockingLockExclusive,
            Duration::ZERO,
        )?;
        Ok(reader.map(|reader| Self { _files: vec![reader] }))
    }
}

/// Whether a command traces, or waits for the page to make way.
///
/// # Errors
/// No lock can be made in this directory.
pub fn wanted(run_dir: &Path) -> Result<bool> {
    let free = take(run_dir, COMMAND, FlockOperation::NonBlockingLockShared, Duration::ZERO)?;
    Ok(free.is_none())
}

/// The locked file; `None`: somebody holds it for longer than `patience`.
fn take(run_dir: &Path, name: &str, how: FlockOperation, patience: Duration) -> Result<Option<File>> {
    let path = run_dir.join(name);
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    let end = Instant::now() + patience;
    loop {
        match flock(&file, how) {
            Ok(()) => return Ok(Some(file)),
            Err(Errno::WOULDBLOCK) if Instant::now() < end => sleep(STEP),
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn one_reads_at_a_time_and_the_page_makes_way_for_a_command() {
        let dir = TempDir::new().expect("a directory");
        let dir = dir.path();
        let page = Turn::of_page(dir).expect("locks").expect("nobody else reads");
        assert!(!wanted(dir).expect("locks"));
        // As the page does it: it looks now and then, and lets go.
        let page = std::thread::scope(|scope| {
            let command = scope.spawn(|| Turn::of_command(dir));
            let end = Instant::now() + PATIENCE;
            while !wanted(dir).expect("locks") {
                assert!(Instant::now() < end, "the command says that it wants to read");
                sleep(STEP);
            }
            assert!(Turn::of_page(dir).expect("locks").is_none());
            drop(page);
            let command = command.join().expect("no panic").expect("its turn");
            let second = Turn::of_command(dir).expect_err("one command at a time");
            assert!(second.to_string().contains("somebody traces"), "{second}");
            assert!(Turn::of_page(dir).expect("locks").is_none(), "a command reads");
            drop(command);
            Turn::of_page(dir).expect("locks")
        });
        assert!(page.is_some(), "and goes on afterwards");
    }
}

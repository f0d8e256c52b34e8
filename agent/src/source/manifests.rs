//! A directory of manifests as a source: Services, EndpointSlices, Nodes and Pods in YAML or JSON files, watched for changes.
//!
//! A file that cannot be read is reported, and what it last held goes on being used; so a half-written or mistyped file
//! never takes a service away. Deleting the file does.

mod directory;
mod parse;

use self::directory::{Directory, Scan};
pub use self::parse::Malformed;
use self::parse::{Key, Object};
use super::{Change, Closed, Event, Health, Sender};
use anyhow::{Context, Result};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// A change is read when nothing more has happened for this long, so that files are not read half written ...
const QUIET: Duration = Duration::from_millis(20);
/// ... or at the latest after this long.
const LATEST: Duration = Duration::from_millis(500);
/// The directory is read anew at this period too: some file systems announce no changes.
const RESCAN: Duration = Duration::from_secs(10);

/// Reads `dir` and follows it on a thread of its own. Returns what to call this source in `status`.
///
/// Fails when the directory cannot be read at the start; later that is reported, and the last known state holds.
pub fn start(dir: &Path, events: Sender) -> Result<String> {
    let dir = std::path::absolute(dir).with_context(|| format!("cannot resolve --manifests {}", dir.display()))?;
    std::fs::read_dir(&dir).with_context(|| format!("cannot read the directory --manifests {}", dir.display()))?;
    let origin = format!("manifests {}", dir.display());
    std::thread::Builder::new()
        .name("manifests".to_owned())
        .spawn(move || {
            // Ends only with the agent: nobody takes events any more.
            let Err(Closed) = Follower::new(dir, events).run();
        })
        .context("cannot start the thread that reads manifests")?;
    Ok(origin)
}

/// Reads the text of one file: what it holds, as it is listed.
///
/// # Errors
/// Where and why it cannot be read.
pub fn read(text: &str) -> Result<Vec<Event>, Malformed> {
    let content = parse::parse(text)?;
    Ok(content.objects.into_iter().map(Object::listed).collect())
}

struct Follower {
    path: PathBuf,
    directory: Directory,
    events: Sender,
    /// What has been sent and not taken back.
    sent: BTreeMap<Key, Arc<Object>>,
    health: Option<Health>,
}

impl Follower {
    fn new(path: PathBuf, events: Sender) -> Self {
        Self {
            directory: Directory::new(path.clone()),
            path,
            events,
            sent: BTreeMap::new(),
            health: None,
        }
    }

    fn run(mut self) -> Result<std::convert::Infallible, Closed> {
        let (wake, woken) = mpsc::channel();
        let mut watch = Watch::new(&self.path, wake);
        self.send_all()?;
        loop {
            match woken.recv_timeout(RESCAN) {
                Ok(()) => settle(&woken),
                Err(RecvTimeoutError::Timeout) => watch.renew(&self.path),
                // The watcher is gone: the periodic reading goes on.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(RESCAN),
            }
            self.send_changes()?;
        }
    }

    /// The first list.
    fn send_all(&mut self) -> Result<(), Closed> {
        let begun = Instant::now();
        let scan = self.directory.scan();
        self.report(&scan)?;
        let current = self.directory.objects();
        for restart in [
            Event::Service(Change::Restart),
            Event::Slice(Change::Restart),
            Event::Node(Change::Restart),
            Event::Pod(Change::Restart),
        ] {
            self.events.blocking_send(restart)?;
        }
        for object in current.values() {
            self.events.blocking_send(Object::clone(object).listed())?;
        }
        for end in [
            Event::Node(Change::Complete),
            Event::Pod(Change::Complete),
            Event::Slice(Change::Complete),
            Event::Service(Change::Complete),
        ] {
            self.events.blocking_send(end)?;
        }
        info!(directory = %self.path.display(), objects = current.len(), took = ?begun.elapsed(), "manifests read");
        self.sent = current;
        Ok(())
    }

    /// What differs from what was sent.
    fn send_changes(&mut self) -> Result<(), Closed> {
        let scan = self.directory.scan();
        self.report(&scan)?;
        if !scan.changed {
            return Ok(());
        }
        let current = self.directory.objects();
        let (mut applied, mut deleted) = (0, 0);
        for (key, object) in &current {
            let known = self.sent.get(key);
            if known.is_none_or(|known| !Arc::ptr_eq(known, object) && known != object) {
                applied += 1;
                self.events.blocking_send(Object::clone(object).applied())?;
            }
        }
        for key in self.sent.keys().filter(|key| !current.contains_key(key)) {
            deleted += 1;
            self.events.blocking_send(key.deleted())?;
        }
        info!(directory = %self.path.display(), applied, deleted, "manifests changed");
        self.sent = current;
        Ok(())
    }

    /// Logs and reports what is newly wrong or right.
    fn report(&mut self, scan: &Scan) -> Result<(), Closed> {
        for notice in &scan.notices {
            info!("{notice}");
        }
        let health = match (&scan.away, scan.broken.is_empty()) {
            (Some(why), _) => Health::Away(why.clone()),
            (None, false) => Health::Partial(scan.broken.clone()),
            (None, true) => Health::Good,
        };
        if self.health.as_ref() == Some(&health) {
            return Ok(());
        }
        match &health {
            Health::Good if self.health.is_some() => {
                info!(directory = %self.path.display(), "all manifests can be read again");
            }
            Health::Good => {}
            Health::Away(why) => warn!(why, "the last known manifests are used until the directory can be read"),
            Health::Partial(problems) => {
                for problem in problems.iter().filter(|&problem| !self.complained(problem)) {
                    warn!("{problem}; what this file last held is used until it is corrected");
                }
            }
        }
        self.health = Some(health.clone());
        self.events.blocking_send(Event::Health(health))
    }

    fn complained(&self, problem: &String) -> bool {
        matches!(&self.health, Some(Health::Partial(known)) if known.contains(problem))
    }
}

/// Waits until the directory is quiet.
fn settle(woken: &mpsc::Receiver<()>) {
    let latest = Instant::now() + LATEST;
    while Instant::now() < latest && woken.recv_timeout(QUIET).is_ok() {}
}

/// The kernel's announcements, where there are any.
struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the directory that is watched: a directory made anew under its old name needs a new watch.
    watched: Option<(u64, u64)>,
}

impl Watch {
    fn new(path: &Path, wake: mpsc::Sender<()>) -> Self {
        let handler = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| event.kind.is_access() && !is_close_write(&event)) {
                return;
            }
            // The other end lives as long as the agent.
            let _ = wake.send(());
        };
        let watcher = notify::recommended_watcher(handler).inspect_err(unwatched).ok();
        let mut watch = Self { watcher, watched: None };
        watch.renew(path);
        watch
    }

    fn renew(&mut self, path: &Path) {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(path)
            .ok()
            .map(|metadata| (metadata.dev(), metadata.ino()));
        let Some(watcher) = self.watcher.as_mut().filter(|_| found != self.watched) else {
            return;
        };
        if self.watched.is_some() {
            // Fails when the directory is gone: then so is the watch.
            let _ = watcher.unwatch(path);
        }
        self.watched = None;
        if found.is_some() {
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => self.watched = found,
                Err(error) => unwatched(&error),
            }
        }
    }
}

fn unwatched(error: &notify::Error) {
    warn!(%error, period = ?RESCAN, "cannot watch for changes; manifests are read periodically");
}

fn is_close_write(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)))
}

#[cfg(test)]
mod tests;

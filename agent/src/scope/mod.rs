//! Whom the socket edge serves: the cgroups of pods, found and followed.
//!
//! Of the processes that are not in the node's own network namespace, those below the kubelet's cgroup are served, where
//! there is one: another engine's containers on the same machine (nested clusters with service ranges of their own) are
//! left alone. A Pod can opt out, or say that no other edge sees its packets.

mod paths;
mod pods;

pub use pods::{PodScope, Wanted, of_pod};

use crate::kernel::{Scopes, cgroup_id, cgroup_levels};
use anyhow::{Context, Result};
use ferrogate_common::cgroup_scope;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc as channel;

/// While the cgroup of a pod is awaited, its paths are looked up this often: a few stat(2) each. The kubelet makes it well
/// before the pod's sandbox, and that well before its first process.
const AWAITED: Duration = Duration::from_millis(20);
/// A pod without a cgroup for so long has none: its node's kubelet is down, or its object is nobody's.
const PATIENCE: Duration = Duration::from_secs(300);
/// Else this often: the kubelet's own directory may be made late, or anew.
const PERIOD: Duration = Duration::from_secs(1);

/// Follows the cgroups on a thread of its own.
pub struct Follower {
    wanted: mpsc::Sender<Wanted>,
    scopes: channel::UnboundedReceiver<Scopes>,
}

impl Follower {
    /// Starts to follow the cgroups below `root`. Also returns what holds at the start, which [`Follower::next`] then does
    /// not repeat.
    ///
    /// `kubelet`: only what is below a kubelet's cgroup is served, where there is one. `held`: what the tables hold; what
    /// pods asked for in an earlier run goes on until the pods are known.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(root: &Path, kubelet: bool, held: Scopes) -> Result<(Self, Scopes)> {
        let (wanted, orders) = mpsc::channel();
        let (sender, scopes) = channel::unbounded_channel();
        let mut state = State {
            root: root.to_owned(),
            kubelet,
            held,
            wanted: None,
            awaited: BTreeMap::new(),
        };
        let first = state.look();
        let mut sent = first.clone();
        let run = move || {
            loop {
                match orders.recv_timeout(state.pause()) {
                    Ok(wanted) => state.take(wanted),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                let found = state.look();
                if found != sent {
                    sent = found.clone();
                    if sender.send(found).is_err() {
                        return;
                    }
                }
            }
        };
        std::thread::Builder::new()
            .name("cgroups".to_owned())
            .spawn(run)
            .context("cannot start the thread that follows cgroups")?;
        Ok((Self { wanted, scopes }, first))
    }

    /// What the pods of this node ask for now, all of them.
    pub fn set_pods(&self, wanted: Wanted) {
        // The thread ends with this end of the channel, not before.
        let _ = self.wanted.send(wanted);
    }

    /// What holds from now on, when it has changed. Safe to cancel.
    pub async fn next(&mut self) -> Scopes {
        match self.scopes.recv().await {
            Some(scopes) => scopes,
            None => std::future::pending().await,
        }
    }
}

struct State {
    root: PathBuf,
    kubelet: bool,
    held: Scopes,
    /// By the pod's uid; none until the pods are known.
    wanted: Option<Wanted>,
    /// Pods whose cgroup is not there, and since when it is awaited.
    awaited: BTreeMap<String, Instant>,
}

impl State {
    fn take(&mut self, wanted: Wanted) {
        self.awaited.retain(|uid, _| wanted.contains_key(uid));
        self.wanted = Some(wanted);
    }

    fn pause(&self) -> Duration {
        if self.awaited.values().any(|since| since.elapsed() < PATIENCE) {
            AWAITED
        } else {
            PERIOD
        }
    }

    fn look(&mut self) -> Scopes {
        let mut found = Scopes::default();
        let mut add = |path: &Path, scope: u32| {
            let id = cgroup_id(path);
            if let Some(id) = id {
                found.cgroups.insert(id, scope);
                found.levels |= cgroup_levels(path);
            }
            id.is_some()
        };
        let mut listed = false;
        for directory in paths::kubelet(&self.root).filter(|_| self.kubelet) {
            listed |= add(&directory, cgroup_scope::SERVED);
        }
        for (uid, scope) in self.wanted.iter().flatten() {
            let mut there = false;
            for directory in paths::pod(&self.root, uid) {
                there |= add(&directory, scope.number());
            }
            if there {
                self.awaited.remove(uid);
            } else {
                self.awaited.entry(uid.clone()).or_insert_with(Instant::now);
            }
        }
        found.levels |= u32::from(listed);
        if self.wanted.is_none() {
            let asked = self.held.cgroups.iter();
            let asked = asked.filter(|(_, scope)| **scope != cgroup_scope::SERVED);
            let before = found.cgroups.len();
            asked.for_each(|(id, scope)| {
                found.cgroups.entry(*id).or_insert(*scope);
            });
            if found.cgroups.len() > before {
                found.levels |= self.held.levels & !1;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests;

//! Taking a node over from kube-proxy: while its rules are in place, what they may be translating is left to them.

use super::{Engine, chain};
use crate::kube_proxy::Rules;
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// iptables-legacy is looked into this often.
const THOROUGH: Duration = Duration::from_secs(60);

/// What was seen of kube-proxy's rules.
#[derive(Debug)]
pub(super) struct KubeProxy {
    rules: Rules,
    looked: Instant,
}

impl KubeProxy {
    /// Looks for the first time. What cannot be seen counts as not there.
    pub(super) fn find() -> Self {
        let rules = Rules::find(true).unwrap_or_else(|error| {
            warn!(%error, "cannot see whether kube-proxy's rules are in place: connections that they translate may be refused");
            Rules::default()
        });
        let found = Self {
            rules,
            looked: Instant::now(),
        };
        if let Some(problem) = found.problem() {
            warn!("{problem}");
        }
        found
    }

    /// What a person should know of it.
    pub(super) fn problem(&self) -> Option<String> {
        let rules = self.rules;
        let text = format!(
            "kube-proxy's rules are in place ({rules}): connections that they translate are left to them; once these have ended, \
             `ferrogate cleanup --kube-proxy` removes the rules"
        );
        rules.any().then_some(text)
    }

    pub(super) fn any(&self) -> bool {
        self.rules.any()
    }

    /// Looks again; whether there is a difference.
    fn look(&mut self) -> bool {
        let thorough = self.looked.elapsed() > THOROUGH;
        let before = self.rules;
        match Rules::find(thorough) {
            Ok(rules) if thorough => {
                self.rules = rules;
                self.looked = Instant::now();
            }
            Ok(rules) => {
                self.rules = Rules {
                    legacy: before.legacy,
                    ..rules
                }
            }
            Err(error) => debug!(%error, "cannot look for kube-proxy's rules"),
        }
        self.rules.any() != before.any()
    }
}

impl Engine {
    /// Has the programs leave to kube-proxy's rules what may be theirs, as long as there are any.
    pub(super) fn follow_kube_proxy(&mut self) {
        let before = self.kube_proxy.rules;
        if !self.kube_proxy.look() {
            return;
        }
        let there = self.kube_proxy.any();
        if let Err(error) = self.datapath.set_take_over(there) {
            warn!(
                error = chain(&error),
                "cannot tell the programs about kube-proxy's rules"
            );
            // The next look finds the difference again.
            self.kube_proxy.rules = before;
            return;
        }
        if let Some(problem) = self.kube_proxy.problem() {
            warn!("{problem}");
        } else {
            info!("kube-proxy's rules are gone: a connection that no table knows is refused");
        }
        self.shared.lock().problems.rival = self.kube_proxy.problem();
    }
}

//! Taking a node over from kube-proxy: while its rules are in place, what they may be translating is left to them.

use super::{Engine, chain};
use crate::kernel::Tables;
use crate::kube_proxy::{self, Rules};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// iptables-legacy is looked into this often, and the ports that masquerading has taken.
const THOROUGH: Duration = Duration::from_secs(60);

/// What was seen of kube-proxy's rules.
#[derive(Debug)]
pub(super) struct KubeProxy {
    rules: Rules,
    looked: Instant,
    /// Our SNAT ports, and when those that its masquerading has taken were last looked for.
    ports: RangeInclusive<u16>,
    passed_over: Option<Instant>,
}

impl KubeProxy {
    /// Looks for the first time. What cannot be seen counts as not there.
    pub(super) fn find(ports: RangeInclusive<u16>) -> Self {
        let rules = Rules::find(true).unwrap_or_else(|error| {
            warn!(%error, "cannot see whether kube-proxy's rules are in place: connections that they translate may be refused");
            Rules::default()
        });
        let found = Self {
            rules,
            looked: Instant::now(),
            ports,
            passed_over: None,
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

    /// Has new flows pass over the ports that its masquerading has taken: its connections' replies would be taken for theirs.
    pub(super) fn pass_over(&self, tables: &Tables) {
        if !self.any() {
            return;
        }
        let passed_over = kube_proxy::masqueraded()
            .map_err(anyhow::Error::from)
            .and_then(|replies| {
                let taken = replies
                    .into_iter()
                    .filter(|replies| self.ports.contains(&replies.to.port()));
                let taken = taken.map(|replies| (replies.protocol, replies.from, replies.to));
                Ok(tables.pass_over(taken)?)
            });
        if let Err(error) = passed_over {
            warn!(
                error = format!("{error:#}"),
                "cannot see the ports that masquerading has taken: a connection of kube-proxy's may lose its replies to one of ours"
            );
        }
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
        let changed = self.kube_proxy.look();
        if self.kube_proxy.passed_over.is_none_or(|at| at.elapsed() > THOROUGH) {
            self.kube_proxy.pass_over(&self.datapath);
            self.kube_proxy.passed_over = Some(Instant::now());
        }
        if !changed {
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

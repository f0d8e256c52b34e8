//! What was seen, held against what was expected.
use std::collections::{BTreeMap, BTreeSet};

use super::expect::{Expectation, Outcome, Walk};
use super::pool::Backend;
use super::select::Target;
use crate::batch::{Answer, Seen};
use crate::rig::{Family, Layout};

/// How long sockets wait for what must come, for a refusal, and for nothing, in milliseconds.
const PATIENCE_MS: u64 = 5000;
const REFUSAL_MS: u64 = 2000;
const SILENCE_MS: u64 = 250;

/// A walk that was taken through one of the proxies.
pub(super) struct Taken<'a> {
    pub(super) walk: &'a Walk,
    pub(super) expectation: &'a Expectation,
    pub(super) seen: &'a [Seen],
}

impl Outcome {
    pub(super) fn patience_ms(&self) -> u64 {
        match self {
            Outcome::Reach { may_fail: false, .. } => PATIENCE_MS,
            Outcome::Refused | Outcome::NotPermitted => REFUSAL_MS,
            _ => SILENCE_MS,
        }
    }

    pub(super) fn is_sure(&self) -> bool {
        matches!(self, Outcome::Reach { may_fail: false, .. })
    }
}

impl Taken<'_> {
    /// What is wrong with it, if something is.
    pub(super) fn fault(&self, layout: Layout, sticky: bool) -> Option<String> {
        match &self.expectation.outcome {
            Outcome::Anything => None,
            Outcome::Refused => self.all(|seen| *seen == Seen::Refused, "is not refused"),
            Outcome::Dropped => self.all(|seen| *seen == Seen::Silence, "is not dropped"),
            Outcome::NotPermitted => self.all(|seen| *seen == Seen::NotPermitted, "is not forbidden"),
            Outcome::Unreached => self.all(
                |seen| {
                    matches!(
                        seen,
                        Seen::Refused | Seen::Silence | Seen::Unreachable | Seen::NotPermitted
                    )
                },
                "is reached, or fails strangely",
            ),
            Outcome::Reach { targets, may_fail } => {
                for seen in self.seen {
                    match seen {
                        Seen::Answer(answer) => {
                            let Some(target) = target(answer) else {
                                return Some(format!("answered by nobody known: {answer:?}"));
                            };
                            let Some(sources) = targets.get(&target) else {
                                return Some(format!("answered by an endpoint that is not to be used: {answer:?}"));
                            };
                            let source = self.walk.normal(self.walk.client.source(layout, answer.source));
                            if !sources.contains(&source) {
                                return Some(format!("the backend sees {source:?}: {answer:?}"));
                            }
                            if !answer.from_asked {
                                return Some(format!("the answer comes from elsewhere: {answer:?}"));
                            }
                        }
                        Seen::Refused | Seen::Silence | Seen::Unreachable if *may_fail => {}
                        other => return Some(format!("no answer: {other:?}")),
                    }
                }
                let answers: BTreeSet<_> = self.answers().filter_map(target).collect();
                (sticky && answers.len() > 1).then(|| format!("session affinity, and several endpoints: {answers:?}"))
            }
        }
    }

    fn all(&self, right: impl Fn(&Seen) -> bool, fault: &str) -> Option<String> {
        let wrong = self.seen.iter().find(|seen| !right(seen))?;
        Some(format!("{fault}: {wrong:?}"))
    }

    fn answers(&self) -> impl Iterator<Item = &Answer> {
        self.seen.iter().filter_map(|seen| match seen {
            Seen::Answer(answer) => Some(answer),
            _ => None,
        })
    }
}

fn target(answer: &Answer) -> Option<Target> {
    let backend = Backend::ALL.into_iter().find(|backend| backend.name() == answer.pod)?;
    Some((backend, answer.port))
}

/// Round robin comes to every endpoint: whether it did, over all walks of a step that share a turn.
#[derive(Default)]
pub(super) struct Turns {
    /// By Service, port, family and node.
    keys: BTreeMap<(usize, usize, Family, u8), Turn>,
}

#[derive(Default)]
struct Turn {
    set: Option<Vec<Target>>,
    /// The walks chose from different sets, whose turns are not the set's own.
    mixed: bool,
    answers: usize,
    seen: BTreeSet<Target>,
}

impl Turns {
    pub(super) fn add(&mut self, taken: &Taken<'_>) {
        let walk = taken.walk;
        let turn = self
            .keys
            .entry((walk.service, walk.port, walk.family, walk.entry()))
            .or_default();
        if taken.expectation.set.is_empty() {
            return;
        }
        let set = &taken.expectation.set;
        turn.mixed |= !taken.expectation.outcome.is_sure() || turn.set.as_ref().is_some_and(|other| other != set);
        turn.set.get_or_insert_with(|| set.clone());
        for answer in taken.answers() {
            turn.answers += 1;
            turn.seen.extend(target(answer));
        }
    }

    /// What was left out, if something was.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for ((service, port, family, node), turn) in &self.keys {
            let Some(set) = turn.set.as_ref().filter(|set| !turn.mixed && turn.answers >= set.len()) else {
                continue;
            };
            let left_out: Vec<_> = set.iter().filter(|target| !turn.seen.contains(target)).collect();
            if !left_out.is_empty() {
                faults.push(format!(
                    "Service {service} port {port} {family:?} on n{node}: {} connections never came to {left_out:?} of {set:?}",
                    turn.answers
                ));
            }
        }
        faults
    }
}

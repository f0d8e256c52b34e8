//! What a run counts, and what it says at its end.
use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::batch_run::is_late;
use super::expect::{Outcome, Profile};
use super::judge::Taken;
use super::rules::Rule;

/// A step that went wrong.
pub(super) struct Failure {
    pub(super) seed: u64,
    pub(super) step: u32,
    pub(super) profile: Profile,
    pub(super) zones: [u8; 2],
    pub(super) log: Vec<String>,
    pub(super) faults: Vec<String>,
    pub(super) objects: Vec<Value>,
    /// The objects fail without the steps before.
    pub(super) alone: bool,
}

/// Everything counted.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) sequences: usize,
    pub(super) steps: usize,
    pub(super) walks: usize,
    pub(super) probes: usize,
    /// Walks with an outcome that is not the same through both, all of them explained.
    pub(super) explained: usize,
    /// How many of them each rule has a part in.
    pub(super) rules: BTreeMap<Rule, usize>,
    /// Outcomes of the walks through Ferrogate: reached, refused, dropped, nobody's.
    pub(super) outcomes: [usize; 4],
    pub(super) late: usize,
    pub(super) failures: Vec<Failure>,
}

impl Totals {
    /// Counts the sockets of a walk.
    pub(super) fn count(&mut self, takens: &[Taken<'_>; 2]) {
        for seen in takens.iter().flat_map(|taken| taken.seen) {
            self.probes += 1;
            self.late += usize::from(is_late(seen));
        }
        match takens[1].expectation.outcome {
            Outcome::Reach { .. } => self.outcomes[0] += 1,
            Outcome::Refused | Outcome::NotPermitted => self.outcomes[1] += 1,
            Outcome::Dropped => self.outcomes[2] += 1,
            Outcome::Unreached | Outcome::Anything => self.outcomes[3] += 1,
        }
    }

    /// Counts a walk whose outcome is to differ; true when no rule says why.
    pub(super) fn explain(&mut self, takens: &[Taken<'_>; 2]) -> bool {
        let [one, other] = takens.each_ref().map(|taken| taken.expectation);
        if one.outcome == other.outcome && one.outcome != Outcome::Anything {
            return false;
        }
        let rules: Vec<_> = one.rules.union(&other.rules).copied().collect();
        for rule in &rules {
            *self.rules.entry(*rule).or_default() += 1;
        }
        self.explained += usize::from(!rules.is_empty());
        rules.is_empty()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "FAILED: seed {} at step {} (`cargo xtask conformance --random 1 --seed {} --steps {}` repeats it); {:?}, zones of n1 and n2 {:?}",
            self.seed, self.step, self.seed, self.step, self.profile, self.zones
        )?;
        let alone = if self.alone {
            "fail by themselves too"
        } else {
            "are all right by themselves: it takes the steps"
        };
        writeln!(f, "  the objects below {alone}")?;
        for (step, what) in self.log.iter().enumerate() {
            writeln!(f, "  step {}: {what}", step + 1)?;
        }
        for fault in &self.faults {
            writeln!(f, "  {fault}")?;
        }
        for object in &self.objects {
            let text = serde_yaml_ng::to_string(object).map_err(|_| fmt::Error)?;
            writeln!(f, "---\n{}", text.trim_end())?;
        }
        Ok(())
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "{failure}")?;
        }
        writeln!(f, "explained differences, by rule (a walk can have several):")?;
        for (rule, count) in &self.rules {
            writeln!(f, "  {count:>8}  {rule:?}: {rule}")?;
        }
        let [reached, refused, dropped, nobody] = self.outcomes;
        writeln!(
            f,
            "walks through ours: {reached} reached, {refused} refused, {dropped} dropped, {nobody} at nobody's address; \
             {} answers came late",
            self.late
        )?;
        writeln!(
            f,
            "{} sequences, {} steps, {} walks, {} probes, {} unexplained differences; explained: {}",
            self.sequences,
            self.steps,
            self.walks,
            self.probes,
            self.failures.iter().map(|failure| failure.faults.len()).sum::<usize>(),
            self.explained
        )
    }
}

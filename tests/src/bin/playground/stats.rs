//! Counts of what the clients of a path met.
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ferrogate_tests::wire::{Attempt, FailureKind};

/// Rates are means over this long.
const WINDOW: Duration = Duration::from_secs(2);

/// Since the last [`Tally::reset`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) answered: u64,
    pub(crate) refused: u64,
    pub(crate) silent: u64,
    /// Every other failure.
    pub(crate) failed: u64,
    pub(crate) by_pod: BTreeMap<String, u64>,
    /// By the node whose door was used.
    pub(crate) by_node: BTreeMap<String, u64>,
    /// In whose name the last request reached each pod.
    pub(crate) seen: BTreeMap<String, IpAddr>,
    /// The longest wait for a refusal, in microseconds.
    pub(crate) slowest_refusal: u64,
    /// Waits for all refusals together, in microseconds.
    refusals: u64,
    /// Waits for all answers together, in microseconds.
    answers: u64,
    recent: VecDeque<Instant>,
}

impl Tally {
    /// Counts an attempt that came in by the door of `node`.
    pub(crate) fn add(&mut self, attempt: &Attempt, node: Option<String>, now: Instant) {
        self.recent.push_back(now);
        match (&attempt.failure, attempt.answers.first()) {
            (None, Some(answer)) => {
                self.answered += 1;
                self.answers += attempt.micros;
                *self.by_pod.entry(answer.pod.clone()).or_default() += 1;
                self.seen.insert(answer.pod.clone(), answer.peer.ip());
                if let Some(node) = node {
                    *self.by_node.entry(node).or_default() += 1;
                }
            }
            (Some(failure), _) if failure.kind == FailureKind::Refused => {
                self.refused += 1;
                self.refusals += attempt.micros;
                self.slowest_refusal = self.slowest_refusal.max(attempt.micros);
            }
            (Some(failure), _) if failure.kind == FailureKind::Silence => self.silent += 1,
            _ => self.failed += 1,
        }
    }

    /// Attempts a second, answered or not.
    pub(crate) fn rate(&mut self, now: Instant) -> f64 {
        while self
            .recent
            .front()
            .is_some_and(|then| now.duration_since(*then) > WINDOW)
        {
            self.recent.pop_front();
        }
        self.recent.len() as f64 / WINDOW.as_secs_f64()
    }

    /// The mean time to an answer, in milliseconds.
    pub(crate) fn answer_ms(&self) -> f64 {
        self.answers as f64 / 1000.0 / self.answered.max(1) as f64
    }

    /// The mean time to a refusal, in milliseconds.
    pub(crate) fn refusal_ms(&self) -> f64 {
        self.refusals as f64 / 1000.0 / self.refused.max(1) as f64
    }

    pub(crate) fn attempts(&self) -> u64 {
        self.answered + self.refused + self.silent + self.failed
    }

    pub(crate) fn pod(&self, name: &str) -> u64 {
        self.by_pod.get(name).copied().unwrap_or(0)
    }

    /// Counts from zero; the rate goes on.
    pub(crate) fn reset(&mut self) {
        *self = Self {
            recent: std::mem::take(&mut self.recent),
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrogate_tests::wire::{Failure, Identity};

    fn attempt(pod: Option<&str>, failure: Option<FailureKind>) -> Attempt {
        let at = "192.0.2.1:80".parse().expect("address");
        let answer = |pod: &str| Identity {
            pod: pod.to_owned(),
            peer: at,
            local: at,
            count: 1,
        };
        Attempt {
            to: at,
            local: None,
            peer: None,
            from: None,
            answers: pod.map(answer).into_iter().collect(),
            failure: failure.map(|kind| Failure {
                stage: "connect".to_owned(),
                kind,
                text: String::new(),
            }),
            micros: 7,
        }
    }

    #[test]
    fn every_attempt_is_counted_once() {
        let (mut tally, now) = (Tally::default(), Instant::now());
        tally.add(&attempt(Some("a"), None), Some("n1".to_owned()), now);
        tally.add(&attempt(Some("b"), None), None, now);
        tally.add(&attempt(None, Some(FailureKind::Refused)), None, now);
        tally.add(&attempt(None, Some(FailureKind::Silence)), None, now);
        tally.add(&attempt(None, Some(FailureKind::Other)), None, now);
        assert_eq!(
            (tally.answered, tally.refused, tally.silent, tally.failed),
            (2, 1, 1, 1)
        );
        assert_eq!((tally.pod("a"), tally.pod("b"), tally.pod("c")), (1, 1, 0));
        assert_eq!((tally.attempts(), tally.slowest_refusal), (5, 7));
        assert_eq!((tally.answer_ms(), tally.refusal_ms()), (0.007, 0.007));
    }

    #[test]
    fn the_rate_is_of_the_last_two_seconds_and_outlives_a_reset() {
        let (mut tally, begin) = (Tally::default(), Instant::now());
        for step in 0..50 {
            tally.add(
                &attempt(Some("a"), None),
                None,
                begin + Duration::from_millis(100 * step),
            );
        }
        tally.reset();
        assert_eq!(tally.attempts(), 0);
        let rate = tally.rate(begin + Duration::from_millis(4900));
        assert!((10.0..=10.5).contains(&rate), "{rate}");
        assert!(tally.rate(begin + Duration::from_secs(60)) < 0.1);
    }
}

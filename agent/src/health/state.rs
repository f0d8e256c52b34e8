//! Whether the proxy is healthy: a state machine over moments that it is given.
//!
//! The rules are kube-proxy's (`pkg/proxy/healthcheck/proxy_health.go`): a family is unhealthy when a change that it was told
//! of has waited for longer than the timeout; what is not known yet is no reason to be unhealthy. One rule is added: a round of
//! the agent's loop that does not end is a change that waits, whatever is in it.

use ferrogate_control::Family;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A point in time, for measuring and for showing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Moment {
    pub(super) instant: Instant,
    pub(super) wall: Timestamp,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self {
            instant: Instant::now(),
            wall: Timestamp::now(),
        }
    }
}

/// One family.
#[derive(Clone, Copy, Default, Debug)]
struct Proxier {
    updated: Option<Timestamp>,
    /// Arrival of the oldest change that is not written.
    waiting: Option<Instant>,
}

/// What is known of the proxy's health.
#[derive(Debug)]
pub(super) struct ProxyHealth {
    timeout: Duration,
    families: BTreeMap<Family, Proxier>,
    node_eligible: bool,
    /// When the round that is under way began.
    round: Option<Instant>,
}

/// The health at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Verdict {
    /// The Node is not taken into account.
    pub(super) healthy: bool,
    pub(super) node_eligible: bool,
    /// When the family that was updated last was; none while starting.
    pub(super) updated: Option<Timestamp>,
    pub(super) now: Timestamp,
    /// When each family was updated, and whether it is healthy; without those that never were.
    pub(super) families: BTreeMap<Family, (Timestamp, bool)>,
}

impl ProxyHealth {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            families: BTreeMap::new(),
            // Until the Node says otherwise.
            node_eligible: true,
            round: None,
        }
    }

    /// The family was told of a change that it has to write.
    pub(super) fn queued(&mut self, family: Family, now: Moment) {
        self.families
            .entry(family)
            .or_default()
            .waiting
            .get_or_insert(now.instant);
    }

    /// The family has written all that it was told of.
    pub(super) fn updated(&mut self, family: Family, now: Moment) {
        self.families.insert(
            family,
            Proxier {
                updated: Some(now.wall),
                waiting: None,
            },
        );
    }

    /// The loop takes something up, or comes to rest.
    pub(super) fn set_busy(&mut self, busy: bool, now: Moment) {
        self.round = busy.then_some(now.instant);
    }

    pub(super) fn set_node_eligible(&mut self, eligible: bool) {
        self.node_eligible = eligible;
    }

    pub(super) fn verdict(&self, now: Moment) -> Verdict {
        let late = |since: Option<Instant>| {
            since.is_some_and(|since| now.instant.saturating_duration_since(since) >= self.timeout)
        };
        let stuck = late(self.round);
        let families: BTreeMap<Family, (Timestamp, bool)> = self
            .families
            .iter()
            .filter_map(|(family, proxier)| Some((*family, (proxier.updated?, !stuck && !late(proxier.waiting)))))
            .collect();
        Verdict {
            healthy: families.values().all(|(_, healthy)| *healthy),
            node_eligible: self.node_eligible,
            updated: families.values().map(|(updated, _)| *updated).max(),
            now: now.wall,
            families,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    /// A clock that stands still until it is moved.
    struct Clock(Moment);

    impl Clock {
        fn new() -> Self {
            Self(Moment {
                instant: Instant::now(),
                wall: "2026-03-01T12:00:00Z".parse().expect("a time"),
            })
        }

        fn forward(&mut self, seconds: u64) -> Moment {
            let by = Duration::from_secs(seconds);
            self.0.instant += by;
            self.0.wall += by;
            self.0
        }
    }

    fn running() -> (ProxyHealth, Clock) {
        let (mut health, clock) = (ProxyHealth::new(TIMEOUT), Clock::new());
        health.updated(Family::V4, clock.0);
        health.updated(Family::V6, clock.0);
        (health, clock)
    }

    #[test]
    fn it_is_healthy_while_it_starts_whatever_waits() {
        let (mut health, mut clock) = (ProxyHealth::new(TIMEOUT), Clock::new());
        health.queued(Family::V4, clock.0);
        let verdict = health.verdict(clock.forward(600));
        assert!(verdict.healthy && verdict.node_eligible);
        assert_eq!((verdict.updated, verdict.families.len()), (None, 0));
    }

    #[test]
    fn a_change_that_waits_for_the_timeout_makes_its_family_and_the_whole_unhealthy() {
        let (mut health, mut clock) = running();
        let begun = clock.0.wall;
        assert!(health.verdict(clock.forward(3600)).healthy, "nothing waits");
        health.queued(Family::V6, clock.0);
        assert!(health.verdict(clock.forward(59)).healthy, "not late yet");
        let verdict = health.verdict(clock.forward(1));
        assert!(!verdict.healthy);
        assert_eq!(verdict.families[&Family::V4], (begun, true));
        assert_eq!(verdict.families[&Family::V6], (begun, false));
        assert_eq!((verdict.updated, verdict.now), (Some(begun), clock.0.wall));
    }

    #[test]
    fn the_oldest_change_counts_and_an_update_takes_all_of_them() {
        let (mut health, mut clock) = running();
        health.queued(Family::V4, clock.0);
        health.queued(Family::V4, clock.forward(50));
        assert!(
            !health.verdict(clock.forward(10)).healthy,
            "the first has waited for 60 s"
        );
        health.updated(Family::V4, clock.0);
        let verdict = health.verdict(clock.forward(600));
        assert!(verdict.healthy, "an update makes it healthy again");
        assert!(verdict.updated < Some(clock.0.wall));
        health.queued(Family::V4, clock.0);
        assert!(health.verdict(clock.forward(59)).healthy, "the count begins anew");
        assert!(!health.verdict(clock.forward(1)).healthy);
    }

    #[test]
    fn a_family_that_is_updated_does_not_hide_the_other() {
        let (mut health, mut clock) = running();
        health.queued(Family::V4, clock.0);
        health.queued(Family::V6, clock.0);
        health.updated(Family::V4, clock.forward(1));
        let verdict = health.verdict(clock.forward(60));
        assert!(!verdict.healthy);
        assert!(verdict.families[&Family::V4].1 && !verdict.families[&Family::V6].1);
    }

    #[test]
    fn a_loop_that_does_not_come_round_is_unhealthy_and_one_that_rests_is_not() {
        let (mut health, mut clock) = running();
        health.set_busy(true, clock.0);
        assert!(health.verdict(clock.forward(59)).healthy);
        assert!(!health.verdict(clock.forward(1)).healthy);
        health.set_busy(false, clock.0);
        assert!(health.verdict(clock.forward(3600)).healthy);
    }

    #[test]
    fn the_node_says_nothing_about_the_proxy() {
        let (mut health, mut clock) = running();
        health.set_node_eligible(false);
        let verdict = health.verdict(clock.forward(1));
        assert!(verdict.healthy && !verdict.node_eligible);
        health.set_node_eligible(true);
        assert!(health.verdict(clock.forward(1)).node_eligible);
    }
}

//! Packets that were dropped because a table had no room: said while it happens, not only counted.

use super::Engine;
use ferrogate_common::Reason;
use std::time::{Duration, Instant};
use tracing::warn;

/// The reasons for which packets are dropped for want of room, and what to do.
const FOR_ROOM: [(Reason, &str); 2] = [
    (
        Reason::FlowTable,
        "flows could not be stored: see FLOWS and HALF_OPEN in `ferrogate status`; --map-memory or --map-entries widens them",
    ),
    (
        Reason::NoSnatPort,
        "new connections to a backend got no free source port: widen --snat-ports, or give the node more addresses",
    ),
];

/// So long after the last one it is not a problem any more.
const MEMORY: Duration = Duration::from_secs(60);

/// What was seen of them so far.
#[derive(Debug, Default)]
pub(super) struct Losses {
    counts: Option<[u64; FOR_ROOM.len()]>,
    /// When the count of each grew last, and what it was when that began.
    recent: [Option<(Instant, u64)>; FOR_ROOM.len()],
}

impl Losses {
    /// Takes in the counters. Returns what is wrong now, a sentence each, and whether it has just begun.
    fn take(&mut self, now: Instant, counts: [u64; FOR_ROOM.len()]) -> Vec<(String, bool)> {
        // What was before this agent is not its news.
        let before = self.counts.replace(counts).unwrap_or(counts);
        let mut wrong = Vec::new();
        for (index, (reason, meaning)) in FOR_ROOM.iter().enumerate() {
            let recent = &mut self.recent[index];
            let begins = recent.is_none();
            if counts[index] != before[index] {
                let since = recent.map_or(before[index], |(_, since)| since);
                *recent = Some((now, since));
            } else if recent.is_some_and(|(last, _)| now.duration_since(last) >= MEMORY) {
                *recent = None;
            }
            if let Some((_, since)) = recent {
                let lost = counts[index].wrapping_sub(*since);
                wrong.push((format!("packets dropped, {lost} ({reason}): {meaning}"), begins));
            }
        }
        wrong
    }
}

impl Engine {
    /// Looks at the counters, which costs one small map a time.
    pub(super) fn look_at_losses(&mut self) {
        let Ok(reasons) = self.datapath.reasons() else { return };
        let of = |wanted: Reason| {
            let found = reasons.iter().find(|(reason, _)| *reason == wanted);
            found.map_or(0, |(_, count)| *count)
        };
        let wrong = self.losses.take(Instant::now(), FOR_ROOM.map(|(reason, _)| of(reason)));
        for (sentence, _) in wrong.iter().filter(|(_, begins)| *begins) {
            warn!("{sentence}");
        }
        self.shared.lock().problems.losses = wrong.into_iter().map(|(sentence, _)| sentence).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_while_they_happen_and_a_minute_longer() {
        let mut losses = Losses::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(losses.take(at(0), [5, 7]), [], "what was before");
        let told = losses.take(at(2), [5, 9]);
        assert!(told[0].0.contains("dropped, 2 (no_snat_port)") && told[0].1, "{told:?}");
        let told = losses.take(at(50), [5, 10]);
        assert!(told[0].0.contains("dropped, 3 ") && !told[0].1, "{told:?}");
        assert_eq!(losses.take(at(109), [5, 10]).len(), 1);
        assert_eq!(losses.take(at(110), [5, 10]), []);
        let told = losses.take(at(112), [6, 10]);
        assert!(told[0].0.contains("dropped, 1 (flow_table)") && told[0].1, "{told:?}");
    }
}

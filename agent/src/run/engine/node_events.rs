//! Events on this Node: what is wrong with it, once each time that it begins.

use super::Engine;
use std::collections::BTreeSet;

impl Engine {
    /// Publishes what has gone wrong since the last look.
    pub(super) fn tell_of_the_node(&mut self) {
        let Some(reporter) = &self.reporter else { return };
        let wrong = self.shared.lock().problems.of_the_node();
        for (reason, sentence) in &wrong {
            if !self.told_of_the_node.contains(reason) {
                reporter.tell_of_node(reason, sentence.clone());
            }
        }
        self.told_of_the_node = wrong.into_iter().map(|(reason, _)| reason).collect::<BTreeSet<_>>();
    }
}

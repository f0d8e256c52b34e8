//! What is out of use, but perhaps still in a program's hands: it is not given out again before a grace period has passed. Nobody
//! waits for one as long as there is something else to give out.

use super::port::Freed;
use super::{Op, Planner};

/// What plans have freed, in the order of the grace periods that it waits for.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    /// For the one that is running.
    waiting: Freed,
    /// For the next one.
    fresh: Freed,
}

impl Quarantine {
    pub(super) fn add(&mut self, freed: Freed) {
        self.fresh.merge(freed);
    }

    /// Whether the hash table has elements that were freed: any key put now could be given one of them.
    pub(super) fn has_frontends(&self) -> bool {
        !self.waiting.frontends.is_empty() || !self.fresh.frontends.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.fresh.is_empty()
    }
}

impl Planner {
    /// Whether a grace period is to begin now: false where the plans so far have freed nothing, and where one is running. It holds for
    /// the plans that are applied already; [`Planner::end_grace`] is due when it is over.
    pub fn begin_grace(&mut self) -> bool {
        if !self.quarantine.waiting.is_empty() || self.quarantine.fresh.is_empty() {
            return false;
        }
        self.quarantine.waiting = std::mem::take(&mut self.quarantine.fresh);
        true
    }

    /// The grace period that was begun has passed: what it was for can be given out again.
    pub fn end_grace(&mut self) {
        let freed = std::mem::take(&mut self.quarantine.waiting);
        self.release(freed);
    }

    /// Has the plan itself wait, if there is something to wait for; whether there was.
    pub(super) fn settle(&mut self, ops: &mut Vec<Op>) -> bool {
        if self.quarantine.is_empty() {
            return false;
        }
        ops.push(Op::Grace);
        let Quarantine { waiting, fresh } = std::mem::take(&mut self.quarantine);
        self.release(waiting);
        self.release(fresh);
        true
    }

    fn release(&mut self, freed: Freed) {
        freed.services.into_iter().for_each(|id| self.service_ids.free(id, 1));
        freed.backends.into_iter().for_each(|id| self.backend_ids.free(id, 1));
        freed
            .ranges
            .into_iter()
            .for_each(|range| self.slots.free(range.base, range.len()));
    }
}

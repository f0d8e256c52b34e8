//! ACTIVE: how many connections each backend has, put right by what the flow tables hold.

use super::error::{During as _, Result};
use super::tables::{Tables, reading};
use ferrogate_common::{Direction, Flow, Protocol, TICK_SHIFT, Tuple, flow_flags, maps};
use std::collections::BTreeMap;

/// A flow of UDP has no end that anybody sees: it counts while a packet came in this many seconds, as conntrack has it for
/// streams (nf_conntrack_udp_timeout_stream).
const UDP_SECONDS: u64 = 120;

impl Tables {
    /// Counts the flows of these backends anew. The programs count new ones and those that end; what they cannot see is a flow
    /// that was evicted, or that nobody closes.
    pub fn recount_active(&self, backends: impl Iterator<Item = u32>) -> Result<()> {
        let mut counts: BTreeMap<u32, u64> = backends.map(|id| (id, 0)).collect();
        let now = u64::from(super::boot_seconds());
        for (map, spec) in [(&self.flows, maps::FLOWS), (&self.half_open, maps::HALF_OPEN)] {
            map.for_each(|tuple, values| {
                let flow = &values[0];
                if let Some(count) = counts.get_mut(&flow.backend)
                    && self.is_active(tuple, flow, now)
                {
                    *count += 1;
                }
                true
            })
            .during(|| reading(spec))?;
        }
        for (id, count) in counts {
            self.active.publish_wide(id, 0, count);
        }
        Ok(())
    }

    fn is_active(&self, tuple: &Tuple, flow: &Flow, now: u64) -> bool {
        let current = self.backends.read(flow.backend).map(|backend| backend.generation) == Some(flow.generation);
        let seen = (u64::from(flow.seen) << TICK_SHIFT) / 1_000_000_000;
        let silent = tuple.protocol != Protocol::Tcp as u8 && now.saturating_sub(seen) > UDP_SECONDS;
        tuple.direction == Direction::Forward as u8 && current && !silent && flow.flags & flow_flags::CLOSING == 0
    }
}

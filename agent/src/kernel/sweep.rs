//! What the programs cannot see: flows that nobody uses any more, which are removed, and from the others how many connections each
//! backend has (`ACTIVE`).

use super::error::{During as _, Result};
use super::sys::Map;
use super::tables::{Tables, reading, writing};
use bytemuck::{Pod, Zeroable as _};
use ferrogate_common::maps::{self, MapSpec};
use ferrogate_common::{Address, Direction, Flow, Port, Protocol, SnatFlow, TICK_SHIFT, Tuple, flow_flags};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// After how long without a packet a flow is over. Conntrack's timeouts, as kube-proxy sets them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// A connection of TCP or SCTP.
    pub established: Duration,
    /// One that one side has ended: the other may still send.
    pub closing: Duration,
    /// A UDP flow without a reply so far.
    pub udp: Duration,
    /// A UDP flow with replies.
    pub udp_stream: Duration,
}

/// A connection whose first packet nobody answered (nf_conntrack_tcp_timeout_syn_sent).
const KNOCKING: Duration = Duration::from_secs(120);

/// A connection that both sides have ended: nothing is to come but what was lost and is sent again (nf_conntrack_tcp_timeout_time_wait).
const ENDED: Duration = Duration::from_secs(120);

/// A connection that one side has ended, in a table that has little room left.
const PRESSED_CLOSING: Duration = Duration::from_secs(120);
/// One that both have, there.
const PRESSED_ENDED: Duration = Duration::from_secs(3);
/// A table that is more than one part in this many full has little room left: LRU pushes out what it saw least recently, be it over or
/// not, so what is over has to go before.
const PRESSED: u32 = 4;
/// New flows that make a walk due, as one part in this many of a table: each has two entries.
const DUE: u32 = 2 * PRESSED;

/// What a walk through the flow tables found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Entries that are in use, and those that were removed.
    pub live: u64,
    pub removed: u64,
}

/// Whole ticks of a time, rounded up.
pub fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_nanos().div_ceil(1 << TICK_SHIFT)).unwrap_or(u32::MAX)
}

/// The clock that flows are stamped by, in ticks: CLOCK_MONOTONIC, to which the programs' jiffies are set (`clock`).
fn now() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let nanos = (now.tv_sec as u128) * 1_000_000_000 + now.tv_nsec as u128;
    (nanos >> TICK_SHIFT) as u32
}

impl Timeouts {
    /// The time of a flow; `pressed`: in a table that has little room left.
    fn of_flow(&self, tuple: &Tuple, flags: u16, half_open: bool, pressed: bool) -> u32 {
        ticks(if tuple.protocol == Protocol::Udp as u8 {
            if flags & flow_flags::REPLIED != 0 {
                self.udp_stream
            } else {
                self.udp
            }
        } else if flags & flow_flags::ENDED == flow_flags::ENDED {
            if pressed { PRESSED_ENDED } else { ENDED }.min(self.closing)
        } else if flags & flow_flags::CLOSING != 0 {
            if pressed {
                self.closing.min(PRESSED_CLOSING)
            } else {
                self.closing
            }
        } else if half_open {
            KNOCKING
        } else {
            self.established
        })
    }

    /// The shortest of a flow with a changed source: only its forward entry tells the rest.
    fn of_snat(&self, tuple: &Tuple, flags: u16, pressed: bool) -> u32 {
        ticks(if tuple.protocol == Protocol::Udp as u8 {
            self.udp_stream
        } else if pressed && flags & flow_flags::ENDED == flow_flags::ENDED {
            PRESSED_ENDED
        } else {
            KNOCKING
        })
    }
}

/// Ticks since a flow's last packet. One that came after the clock was read has none.
fn idle(now: u32, seen: u32) -> u32 {
    now.saturating_sub(seen)
}

impl Tables {
    /// Has new flows pass over the ports that another translator of this node has given to its connections: `replies` are from where
    /// to where these have theirs. What is put there translates nothing, and goes if it is not asked for again for two minutes.
    pub fn pass_over(&self, replies: impl Iterator<Item = (u8, SocketAddr, SocketAddr)>) -> Result<()> {
        for (protocol, from, to) in replies {
            let end = |at: SocketAddr| (Address::from(at.ip()), Port::new(at.port()));
            let key = Tuple::new(end(from), end(to), protocol, Direction::Reply);
            let entry = SnatFlow {
                // Nothing that enters is restored by such a flow.
                flags: flow_flags::PORT_ONLY | flow_flags::CONFIRMED,
                seen: now(),
                ..SnatFlow::zeroed()
            };
            let write = || {
                let is_new = self.snat_flows.put_new(&key, &entry)?;
                let held = if is_new { None } else { self.snat_flows.get(&key)? };
                // One of ours has the port already.
                if held.is_some_and(|values| values[0].client == Address::UNSPECIFIED) {
                    self.snat_flows.put(&key, &entry)?;
                }
                Ok::<_, std::io::Error>(())
            };
            write().during(|| writing(maps::SNAT_FLOWS))?;
        }
        Ok(())
    }

    /// Whether so many new flows can have filled a table to where what is over has to make room.
    pub fn is_sweep_due(&self, made: u64) -> bool {
        let least = self.flows.entries().min(self.snat_flows.entries());
        made >= u64::from(least / DUE)
    }

    /// Removes the flows that are over, and counts those of some backends anew: the programs count new ones and those that end; what
    /// they cannot see is a flow that was evicted, or that nobody closes.
    pub fn sweep(&self, timeouts: &Timeouts, counted: impl Iterator<Item = u32>) -> Result<Swept> {
        let mut counts: BTreeMap<u32, u64> = counted.map(|id| (id, 0)).collect();
        let mut swept = Swept::default();
        for (map, spec, half_open) in [
            (&self.flows, maps::FLOWS, false),
            (&self.half_open, maps::HALF_OPEN, true),
        ] {
            let begun = now();
            let over = |tuple: &Tuple, flow: &Flow, pressed: bool| {
                idle(begun, flow.seen) > timeouts.of_flow(tuple, flow.flags, half_open, pressed)
            };
            sweep_table(map, spec, &mut swept, over, |tuple, flow| {
                if let Some(count) = counts.get_mut(&flow.backend)
                    && self.is_active(tuple, flow)
                {
                    *count += 1;
                }
            })?;
        }
        let begun = now();
        let over = |tuple: &Tuple, flow: &SnatFlow, pressed: bool| {
            // What its forward entry says goes, while there is one.
            idle(begun, flow.seen) > timeouts.of_snat(tuple, flow.flags, pressed)
                && (tuple.protocol == Protocol::Udp as u8 || !self.has_forward(tuple, flow))
        };
        sweep_table(&self.snat_flows, maps::SNAT_FLOWS, &mut swept, over, |_, _| {})?;
        for (id, count) in counts {
            self.active.publish_wide(id, 0, count);
        }
        Ok(swept)
    }

    fn is_active(&self, tuple: &Tuple, flow: &Flow) -> bool {
        let current = self.backends.read(flow.backend).map(|backend| backend.generation) == Some(flow.generation);
        tuple.direction == Direction::Forward as u8 && current && flow.flags & flow_flags::CLOSING == 0
    }

    /// Whether the requests of a flow with a changed source are known. A table that cannot be read has them all.
    fn has_forward(&self, reply: &Tuple, flow: &SnatFlow) -> bool {
        let forward = Tuple::new(
            (flow.client, flow.client_port),
            (flow.frontend, flow.frontend_port),
            reply.protocol,
            Direction::Forward,
        );
        [&self.flows, &self.half_open]
            .iter()
            .any(|map| !matches!(map.get(&forward), Ok(None)))
    }
}

/// Removes what is `over`, of a table that has little room left (its last argument) more than of others; all else is live, and shown to
/// `visit`.
fn sweep_table<V: Pod>(
    map: &Map<Tuple, V>,
    spec: MapSpec,
    swept: &mut Swept,
    over: impl Fn(&Tuple, &V, bool) -> bool,
    mut visit: impl FnMut(&Tuple, &V),
) -> Result<()> {
    let (before, mut early) = (swept.live, Vec::new());
    let gone = remains(
        map,
        spec,
        swept,
        |tuple, value| over(tuple, value, false),
        |tuple, value| {
            if over(tuple, value, true) {
                early.push(*tuple);
            }
            visit(tuple, value);
        },
    )?;
    let used = swept.live - before + gone.len() as u64;
    remove(map, spec, swept, &gone, |tuple, value| over(tuple, value, false))?;
    if used > u64::from(map.entries() / PRESSED) {
        let removed = swept.removed;
        remove(map, spec, swept, &early, |tuple, value| over(tuple, value, true))?;
        swept.live -= swept.removed - removed;
    }
    Ok(())
}

/// The keys of what is over; all else is live, and shown to `visit`.
fn remains<V: Pod>(
    map: &Map<Tuple, V>,
    spec: MapSpec,
    swept: &mut Swept,
    is_over: impl Fn(&Tuple, &V) -> bool,
    mut visit: impl FnMut(&Tuple, &V),
) -> Result<Vec<Tuple>> {
    let mut over = Vec::new();
    map.for_each(|tuple, values| {
        if is_over(tuple, &values[0]) {
            over.push(*tuple);
        } else {
            swept.live += 1;
            visit(tuple, &values[0]);
        }
        true
    })
    .during(|| reading(spec))?;
    Ok(over)
}

/// Removes what still is over: a packet may have come since.
fn remove<V: Pod>(
    map: &Map<Tuple, V>,
    spec: MapSpec,
    swept: &mut Swept,
    over: &[Tuple],
    is_over: impl Fn(&Tuple, &V) -> bool,
) -> Result<()> {
    for tuple in over {
        let value = map.get(tuple).during(|| reading(spec))?;
        if value.is_some_and(|values| is_over(tuple, &values[0])) && map.delete(tuple).during(|| writing(spec))? {
            swept.removed += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        established: Duration::from_secs(86_400),
        closing: Duration::from_secs(3_600),
        udp: Duration::from_secs(30),
        udp_stream: Duration::from_secs(120),
    };

    fn of(protocol: Protocol, flags: u16, half_open: bool, pressed: bool) -> u32 {
        let tuple = Tuple {
            protocol: protocol as u8,
            ..bytemuck::Zeroable::zeroed()
        };
        TIMEOUTS.of_flow(&tuple, flags, half_open, pressed)
    }

    const HALF: u16 = flow_flags::CLOSING | flow_flags::CLIENT_ENDED;
    const WHOLE: u16 = flow_flags::CLOSING | flow_flags::ENDED;

    #[test]
    fn each_state_of_a_flow_has_its_timeout() {
        for protocol in [Protocol::Tcp, Protocol::Sctp] {
            let of = |flags, half_open| of(protocol, flags, half_open, false);
            assert_eq!(of(flow_flags::REPLIED, false), ticks(TIMEOUTS.established));
            assert_eq!(of(HALF, false), ticks(TIMEOUTS.closing));
            assert_eq!(of(WHOLE, false), ticks(ENDED));
            assert_eq!(of(flow_flags::REPLIED, true), ticks(KNOCKING));
        }
        for half_open in [true, false] {
            let of = |flags| of(Protocol::Udp, flags, half_open, false);
            assert_eq!(of(flow_flags::REPLIED), ticks(TIMEOUTS.udp_stream));
            assert_eq!(of(0), ticks(TIMEOUTS.udp));
        }
    }

    #[test]
    fn what_has_ended_goes_early_where_room_is_short_and_what_is_open_does_not() {
        let of = |flags| of(Protocol::Tcp, flags, false, true);
        assert_eq!(of(WHOLE), ticks(PRESSED_ENDED));
        assert_eq!(of(HALF), ticks(PRESSED_CLOSING));
        assert_eq!(of(flow_flags::REPLIED), ticks(TIMEOUTS.established));
        let tuple = Tuple {
            protocol: Protocol::Tcp as u8,
            ..bytemuck::Zeroable::zeroed()
        };
        assert_eq!(TIMEOUTS.of_snat(&tuple, WHOLE, true), ticks(PRESSED_ENDED));
        assert_eq!(TIMEOUTS.of_snat(&tuple, HALF, true), ticks(KNOCKING));
        let brief = Timeouts {
            closing: Duration::from_secs(1),
            ..TIMEOUTS
        };
        assert_eq!(brief.of_flow(&tuple, HALF, false, true), ticks(brief.closing));
        assert_eq!(brief.of_flow(&tuple, WHOLE, false, true), ticks(brief.closing));
    }

    #[test]
    fn ticks_are_never_shorter_than_the_time() {
        assert_eq!(ticks(Duration::from_nanos(1 << TICK_SHIFT)), 1);
        assert_eq!(ticks(Duration::from_nanos((1 << TICK_SHIFT) + 1)), 2);
        assert_eq!(ticks(Duration::from_secs(30)), 28);
        assert_eq!(idle(5, 7), 0, "a packet that came after the clock was read");
    }
}

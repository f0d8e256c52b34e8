//! What the programs tell of single connections, while somebody asks.

use super::error::{During as _, Result};
use super::read::boot_nanos;
use super::state::StateDir;
use super::sys::Map;
use super::tables::{checked, reading, writing};
use aya::maps::{MapData, RingBuf};
use bytemuck::Zeroable as _;
use ferrogate_common::{TraceEvent, TraceSettings, maps};
use std::io;
use std::time::Duration;

/// How long the programs tell on after they were last asked to: longer than a busy machine leaves anybody waiting, and short
/// enough for a tracer that was killed.
const TERM: Duration = Duration::from_secs(5);

/// The programs tell while this lives. One a node: events go to whoever reads first.
pub struct Tracer {
    settings: Map<u32, TraceSettings>,
    lost: Map<u32, u64>,
    ring: RingBuf<MapData>,
    /// Bits of the reasons that are told.
    reasons: u64,
    /// What had been lost before.
    lost_before: u64,
}

impl Tracer {
    /// Starts tracing these reasons (bit n: the reason with that number).
    ///
    /// # Errors
    /// Where the maps below `state` are missing or of another version.
    pub fn start(state: &StateDir, reasons: u64) -> Result<Self> {
        let cpus = aya::util::nr_cpus()
            .map_err(|(path, error)| io::Error::new(error.kind(), format!("{path}: {error}")))
            .during(|| "cannot count the CPUs".to_owned())?;
        let (settings, _) = checked::<u32, TraceSettings>(state, maps::TRACE)?;
        let (lost, _) = checked::<u32, u64>(state, maps::TRACE_LOST)?;
        let events = || reading(maps::TRACE_EVENTS);
        let ring = MapData::from_pin(state.map(maps::TRACE_EVENTS.name))
            .and_then(|data| RingBuf::try_from(aya::maps::Map::RingBuf(data)))
            .map_err(io::Error::other)
            .during(events)?;
        let mut tracer = Self {
            settings: Map::new(settings, 1).during(|| reading(maps::TRACE))?,
            lost: Map::new(lost, cpus).during(|| reading(maps::TRACE_LOST))?,
            ring,
            reasons,
            lost_before: 0,
        };
        // What an earlier one has left.
        while tracer.ring.next().is_some() {}
        tracer.lost_before = tracer.lost_ever()?;
        tracer.go_on()?;
        Ok(tracer)
    }

    /// Asks for more; to be called once a second.
    pub fn go_on(&self) -> Result<()> {
        let term = u64::try_from(TERM.as_nanos()).unwrap_or(u64::MAX);
        self.set(&TraceSettings {
            until: boot_nanos().saturating_add(term),
            reasons: self.reasons,
        })
    }

    fn set(&self, settings: &TraceSettings) -> Result<()> {
        self.settings.put(&0, settings).during(|| writing(maps::TRACE))
    }

    /// The next event, if there is one.
    pub fn take(&mut self) -> Option<TraceEvent> {
        loop {
            let item = self.ring.next()?;
            // Another size would be another version's.
            let event: Option<TraceEvent> = bytemuck::try_pod_read_unaligned(&item).ok();
            if let Some(event) = event {
                return Some(event);
            }
        }
    }

    /// Events that had no room since the beginning.
    pub fn lost(&self) -> Result<u64> {
        Ok(self.lost_ever()?.wrapping_sub(self.lost_before))
    }

    fn lost_ever(&self) -> Result<u64> {
        let copies = self.lost.get(&0).during(|| reading(maps::TRACE_LOST))?;
        let copies = copies.unwrap_or_default();
        Ok(copies.iter().fold(0, |sum, one| sum.wrapping_add(*one)))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // What fails here ends by itself, within the term.
        let _ = self.set(&TraceSettings::zeroed());
    }
}

//! Row 14: what an agent costs that has nothing to do but to look for flows that are over.
use std::thread;
use std::time::Duration;

use anyhow::Result;
use ferrogate_common::maps;

use super::command::Settings;
use super::processor::of_process;
use super::result::{Goal, Measured, Samples};
use super::stage::idle_flows;
use crate::kernel::enter_flows;
use crate::rig::{FerrogateOptions, Options, Proxy, Rig};

const ROW_14: (u8, &str) = (14, "collector");

/// What this file measures.
pub(super) const ROWS: &[(u8, &str)] = &[ROW_14];

/// Flows, of two entries each, in a table that has room for twice as many.
const FLOWS: u32 = 500_000;

/// Of two walks through the tables.
const TIME: Duration = Duration::from_secs(140);

/// Row 14: seconds of processor time a second, of an agent without flows and with a million entries.
pub(super) fn measure(settings: &Settings) -> Result<Vec<Measured>> {
    if !settings.wants(ROW_14.0, ROW_14.1) || settings.is_hasty() {
        return Ok(Vec::new());
    }
    let mut agent = FerrogateOptions::default();
    agent
        .more
        .push(format!("--map-entries={}={}", maps::FLOWS.name, 4 * FLOWS));
    let mut rig = Rig::boot(Options {
        nodes: 1,
        proxy: Proxy::Ferrogate(agent),
        ..Options::default()
    })?;
    let process = rig.take_proxy(1)?;
    let used = |time: Duration| -> Result<f64> {
        let before = of_process(process.id())?;
        thread::sleep(time);
        Ok((of_process(process.id())? - before) / time.as_secs_f64())
    };
    // Past the work of its start.
    thread::sleep(Duration::from_secs(5));
    let idle = used(TIME / 4)?;
    enter_flows(
        &rig.nodes[0].pin(&format!("maps/{}", maps::FLOWS.name)),
        idle_flows(FLOWS, 1, 10),
    )?;
    let mut samples = Samples::default();
    for _ in 0..settings.choose(1, 3) {
        samples.push("without flows", idle);
        samples.push("1M entries", used(TIME)?);
        samples.push("one core", 1.0);
    }
    let arms = ("1M entries", "one core");
    Ok(vec![samples.measured(
        ROW_14,
        "an agent with 1M entries",
        arms,
        Goal::AtMost(0.01),
        "s/s",
    )?])
}

//! Floods from outside: first packets of connections and datagrams, each from another client, that nothing comes of.
use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{Aftermath, Fault, Ground, Harm};
use crate::binaries;
use crate::rig::{Family, addresses};
use crate::walks::cell::Target;
use crate::walks::fixture;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "a flood of SYNs from random clients",
        rival: true,
        harm: Harm::Delay,
        inflict: |ground| flood(ground, "tcp"),
    },
    Fault {
        name: "a flood of datagrams from random clients",
        rival: true,
        harm: Harm::Delay,
        inflict: |ground| flood(ground, "udp"),
    },
];

/// Packets a second, which leave two processors that also run everybody else enough to do the rest: the load's own packets, untranslated,
/// come through beside as many that are no Service's.
const RATE: u64 = 30_000;

/// Seconds for each target.
const SHORT: u64 = 2;
const LONG: u64 = 10;

/// What the packet generator reports.
#[derive(Deserialize)]
struct Report {
    accepted: u64,
    replies: u64,
}

/// To NodePorts with an endpoint on the node that is asked, and with one elsewhere.
fn flood(ground: &mut Ground, protocol: &str) -> Result<Aftermath> {
    let program = binaries::workspace("pktgen")?;
    let seconds = if ground.long { LONG } else { SHORT };
    // A veth takes frames that no stack has made only with this.
    ground
        .rig
        .lan()
        .ethtool(&format!("v{}", addresses::OUTSIDE), "gro", "on")?;
    let (mut accepted, mut replies) = (0, 0);
    for family in Family::BOTH {
        for service in ["local", "remote"] {
            let to = fixture::address(&ground.rig, service, Target::NodePort(1), family);
            let said = ground.rig.outside.run(
                &program.to_string_lossy(),
                [
                    "--device=eth0",
                    "--random",
                    "--json",
                    "--flags=syn",
                    &format!("--to={to}"),
                    &format!("--protocol={protocol}"),
                    &format!("--rate={RATE}"),
                    &format!("--seconds={seconds}"),
                ],
            )?;
            let report: Report = serde_json::from_str(&said).with_context(|| format!("pktgen: {said}"))?;
            ensure!(report.accepted > RATE * seconds / 4, "no flood: {said}");
            accepted += report.accepted;
            replies += report.replies;
        }
    }
    let marker = ground.marker()?;
    Ok(Aftermath {
        converged: Some(ground.await_marker(&marker)?),
        note: format!("{accepted} packets, {RATE}/s; {replies} answered"),
    })
}

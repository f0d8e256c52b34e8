//! Floods from outside: first packets of connections and datagrams, each from another client, that nothing comes of.
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{Aftermath, Fault, Ground, Harm};
use crate::binaries;
use crate::rig::{Family, addresses};
use crate::walks::cell::Target;
use crate::walks::fixture;

pub(super) const FAULTS: &[Fault] = &[
    flooding("a flood of SYNs from random clients", |ground| {
        flood(ground, "tcp", Aim::Services)
    }),
    flooding("a flood of datagrams from random clients", |ground| {
        flood(ground, "udp", Aim::Services)
    }),
    flooding("a flood of SYNs to what is no Service", |ground| {
        flood(ground, "tcp", Aim::Past)
    }),
    flooding("a flood of datagrams to what is no Service", |ground| {
        flood(ground, "udp", Aim::Past)
    }),
];

const fn flooding(name: &'static str, inflict: fn(&mut Ground) -> Result<Aftermath>) -> Fault {
    Fault {
        name,
        rival: true,
        harm: Harm::Delay,
        inflict,
    }
}

/// Where a flood goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Aim {
    /// To NodePorts with an endpoint on the node that is asked, and with one elsewhere.
    Services,
    /// To the same addresses, and a port of nobody: what the load suffers here, it suffers without any translation.
    Past,
}

/// A port below all NodePorts at which nobody listens.
const NOBODY: u16 = 29_999;

/// Packets a second, which leave two processors that also run everybody else enough to do the rest.
pub(super) const RATE: u64 = 30_000;

/// For two ticks no port that a datagram of the flood has taken is given to another client's: what is lost by that is the flood's too.
const AFTERMATH: Duration = Duration::from_secs(4);

/// Seconds for each target.
const SHORT: u64 = 2;
const LONG: u64 = 10;

/// What the packet generator reports.
#[derive(Deserialize)]
struct Report {
    accepted: u64,
    replies: u64,
}

fn flood(ground: &mut Ground, protocol: &str, aim: Aim) -> Result<Aftermath> {
    let rate = ground.flood_rate;
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
            let mut to = fixture::address(&ground.rig, service, Target::NodePort(1), family);
            if aim == Aim::Past {
                to.set_port(NOBODY);
            }
            let said = ground.rig.outside.run(
                &program.to_string_lossy(),
                [
                    "--device=eth0",
                    "--random",
                    "--json",
                    "--flags=syn",
                    &format!("--to={to}"),
                    &format!("--protocol={protocol}"),
                    &format!("--rate={rate}"),
                    &format!("--seconds={seconds}"),
                ],
            )?;
            let report: Report = serde_json::from_str(&said).with_context(|| format!("pktgen: {said}"))?;
            ensure!(report.accepted > rate * seconds / 4, "no flood: {said}");
            accepted += report.accepted;
            replies += report.replies;
        }
    }
    thread::sleep(AFTERMATH);
    let marker = ground.marker()?;
    Ok(Aftermath {
        converged: Some(ground.await_marker(&marker)?),
        note: format!("{accepted} packets, {rate}/s; {replies} answered"),
    })
}

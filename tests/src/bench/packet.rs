//! Rows 1 to 3: what a packet costs in the programs, by `BPF_PROG_TEST_RUN`.
//!
//! A small program writes each packet anew, one of 4,096 flows in turn, and hands it on by a tail call: so every run sees a
//! packet as it comes from the wire, whatever the run before did to its own. What the writing and the call cost is measured
//! with a program behind them that does nothing, and taken off:
//!
//! `value = (written + program) - (written + nothing) + nothing`
use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use ferrogate_common::Protocol;
use ferrogate_common::{Direction, Reason, maps};
use ferrogate_datapath::host::{Program, tcp};

use super::command::Settings;
use super::result::{Goal, Measured, Samples};
use super::rounds::{Arm, interleave};
use super::stage::{Behind, Load, Stage};
use crate::kernel::{Driver, Floor, Frames, Kind, Network, Place, RawProgram, Then, pass_frames};
use crate::pktgen::{Flows, Traffic};

/// Runs in one measurement: shorter than a time slice, so that some measurements are of nothing else.
const RUNS: u32 = 10_000;

/// Measurements of which the shortest counts: what the machine did beside it is left out.
const TRIES: usize = 5;

const ROW_1: (u8, &str) = (1, "ns per packet");
const ROW_2: (u8, &str) = (2, "ns per new connection");
const ROW_3: (u8, &str) = (3, "ns per packet by size");

/// What this file measures.
pub(super) const ROWS: &[(u8, &str)] = &[ROW_1, ROW_2, ROW_3];

/// A program, fed by a driver.
struct Fed {
    driver: Driver,
    packet: Vec<u8>,
    context: Vec<u8>,
}

impl Fed {
    fn run(&self) -> Result<f64> {
        shortest(&self.driver.program, &self.packet, &self.context)
    }
}

/// Nanoseconds a run.
fn shortest(program: &RawProgram, packet: &[u8], context: &[u8]) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        best = best.min(program.time(packet, context, RUNS)?);
    }
    Ok(best)
}

/// What is measured of one kind of packet at one hook.
struct Path<'a> {
    stage: &'a Stage,
    program: Program,
    frames: &'a Frames,
    /// Any of the packets.
    packet: &'a [u8],
    /// What all of them must come to.
    reason: Reason,
}

impl Path<'_> {
    fn kind(&self) -> Kind {
        kind(self.program)
    }

    fn fed(&self, then: &Then<'_>) -> Result<Fed> {
        Ok(Fed {
            driver: Driver::new(self.kind(), self.frames, then)?,
            packet: self.packet.to_vec(),
            context: self.stage.context(self.program, self.packet),
        })
    }

    fn ours(&self) -> Result<Fed> {
        let fed = self.fed(&Then::Run(self.stage.object.descriptor(self.program)?))?;
        let before = self.stage.counted(self.reason)?;
        fed.run()?;
        let (counted, runs) = (
            self.stage.counted(self.reason)? - before,
            u64::from(RUNS) * TRIES as u64,
        );
        ensure!(
            counted >= runs * 99 / 100,
            "{}: {counted} of {runs} packets came to {}",
            self.program.name(),
            self.reason
        );
        Ok(fed)
    }
}

fn kind(program: Program) -> Kind {
    if program == Program::UplinkXdp {
        Kind::Xdp
    } else {
        Kind::Tc
    }
}

/// Measures arms of one kind, each fed by its own driver; the cost of that is taken off.
fn compare(rounds: usize, path: &Path<'_>, arms: &[(&str, &Fed)]) -> Result<Samples> {
    let nothing = Floor::nothing(path.kind())?;
    let written = path.fed(&Then::Run(nothing.program().as_fd()))?;
    let mut all: Vec<Arm<'_>> = arms.iter().map(|(name, fed)| Arm::new(*name, || fed.run())).collect();
    all.push(Arm::new("written", || written.run()));
    all.push(Arm::new("nothing", || {
        shortest(nothing.program(), &written.packet, &written.context)
    }));
    let [raw] = interleave(rounds, &mut all)?;
    let mut net = Samples::default();
    for (name, _) in arms {
        let (values, base) = (raw.of(name), raw.of("written").iter().zip(raw.of("nothing")));
        for (value, (written, nothing)) in values.iter().zip(base) {
            net.push(name, value - written + nothing);
        }
    }
    Ok(net)
}

/// Rows 1 to 3, those that are wanted.
pub(super) fn measure(settings: &Settings) -> Result<Vec<Measured>> {
    let network = Network::enter()?;
    let _passing = pass_frames(&[Place::Uplink.device().to_owned()])?;
    let mut measured = Vec::new();
    if settings.wants(ROW_1.0, ROW_1.1) {
        measured.extend(known(settings, &network)?);
    }
    if settings.wants(ROW_2.0, ROW_2.1) {
        measured.extend(new(settings, &network)?);
    }
    if settings.wants(ROW_3.0, ROW_3.1) {
        measured.extend(sizes(settings, &network)?);
    }
    Ok(measured)
}

/// All that have an Ethernet header.
const ALL: &[Program] = &[
    Program::UplinkXdp,
    Program::UplinkIngress,
    Program::PodIngress,
    Program::UplinkEgress,
    Program::PodEgress,
];
const INGRESS: &[Program] = &[Program::UplinkXdp, Program::UplinkIngress, Program::PodIngress];
const EGRESS: &[Program] = &[Program::UplinkEgress, Program::PodEgress];
const UPLINK: &[Program] = &[Program::UplinkXdp, Program::UplinkIngress];

/// Packets of one sort, and the programs that meet them.
struct Sort<'a> {
    name: &'static str,
    packets: &'a [Vec<u8>],
    reason: Reason,
    bound: f64,
    programs: &'static [Program],
}

/// Row 1: packets of known flows, and of none.
fn known(settings: &Settings, network: &Network) -> Result<Vec<Measured>> {
    use Program::{UplinkEgress, UplinkIngress};
    let load = |behind| Load {
        services: 1000,
        backends: 10,
        behind,
        flows: 0,
    };
    let (here, elsewhere) = (
        Stage::new(network, load(Behind::Pod))?,
        Stage::new(network, load(Behind::Node))?,
    );
    let strangers = Stage::strangers();
    let near = here.converse(UplinkIngress, UplinkEgress)?;
    let far = elsewhere.converse(UplinkIngress, UplinkIngress)?;
    let sort = |name, packets, reason, bound, programs| Sort {
        name,
        packets,
        reason,
        bound,
        programs,
    };
    let mut measured = Vec::new();
    for (stage, sort) in [
        (&here, sort("not a service", &strangers, Reason::NotService, 1.4, ALL)),
        (
            &here,
            sort("established", &near.requests, Reason::Translated, 1.8, INGRESS),
        ),
        (&here, sort("reply", &near.replies, Reason::Reply, 1.8, EGRESS)),
        (
            &elsewhere,
            sort("transit", &far.requests, Reason::Translated, 3.0, UPLINK),
        ),
        (
            &elsewhere,
            sort("transit reply", &far.replies, Reason::Reply, 3.0, UPLINK),
        ),
    ] {
        measured.extend(over_one_look_up(settings, stage, &sort)?);
    }
    let counting = Stage::counting(network, load(Behind::Pod))?;
    measured.push(counted(settings, (&here, &near.requests), &counting)?);
    Ok(measured)
}

/// What `--service-traffic` adds to a packet of a known flow: an option, which must not double it.
fn counted(settings: &Settings, (plain, packets): (&Stage, &[Vec<u8>]), counting: &Stage) -> Result<Measured> {
    let program = Program::UplinkIngress;
    let others = counting.converse(program, Program::UplinkEgress)?.requests;
    let (frames, other_frames) = (Frames::new(packets, None)?, Frames::new(&others, None)?);
    let path = |stage, frames, packet| Path {
        stage,
        program,
        frames,
        packet,
        reason: Reason::Translated,
    };
    let without = path(plain, &frames, &packets[0]);
    let with = path(counting, &other_frames, &others[0]).ours()?;
    let arms = [("with", &with), ("without", &without.ours()?)];
    let samples = compare(settings.rounds(), &without, &arms)?;
    let case = format!("established, {}, --service-traffic over without", program.name());
    samples.measured(ROW_1, &case, ("with", "without"), Goal::AtMost(2.0), "ns")
}

fn over_one_look_up(settings: &Settings, stage: &Stage, sort: &Sort<'_>) -> Result<Vec<Measured>> {
    let frames = Frames::new(sort.packets, None)?;
    let mut measured = Vec::new();
    for program in sort.programs {
        let path = Path {
            stage,
            program: *program,
            frames: &frames,
            packet: &sort.packets[0],
            reason: sort.reason,
        };
        let direction = if sort.name == "reply" {
            Direction::Reply
        } else {
            Direction::Forward
        };
        let floor = Floor::one_look_up(path.kind(), stage.flows.as_fd(), direction)?;
        let (ours, floor) = (path.ours()?, path.fed(&Then::Run(floor.program().as_fd()))?);
        let samples = compare(settings.rounds(), &path, &[("ours", &ours), ("one look-up", &floor)])?;
        let case = format!("{}, {}", sort.name, program.name());
        let goal = Goal::AtMost(sort.bound);
        measured.push(samples.measured(ROW_1, &case, ("ours", "one look-up"), goal, "ns")?);
    }
    Ok(measured)
}

/// SYNs of clients that were never seen before.
fn newcomers() -> Result<(Frames, Vec<u8>)> {
    let traffic = Traffic {
        protocol: Protocol::Tcp,
        flags: tcp::SYN,
        source: "198.18.0.0/15".parse()?,
        destination: Stage::frontend(),
        flows: Flows::Random,
        length: 0,
        source_mac: [2, 0, 0, 0, 0, 2],
        destination_mac: [2, 0, 0, 0, 0, 1],
    };
    let packet = traffic.packet("198.18.0.1:1024".parse()?);
    Ok((traffic.frames()?, packet))
}

const TWO_INSERTIONS: &str = "two insertions";
const ONE_INSERTION: &str = "one insertion";
/// [`Floor::new_connection`].
const NEEDED: &str = "what no balancer with two entries can leave out";

/// Row 2: connections that are new.
fn new(settings: &Settings, network: &Network) -> Result<Vec<Measured>> {
    let (frames, packet) = newcomers()?;
    let mut measured = Vec::new();
    for (behind, programs) in [
        (
            Behind::Pod,
            &[Program::UplinkXdp, Program::UplinkIngress, Program::PodIngress][..],
        ),
        (Behind::Node, &[Program::UplinkXdp, Program::UplinkIngress][..]),
    ] {
        let stage = Stage::new(
            network,
            Load {
                services: 1,
                // So many that transit does not run out of ports before its map is full.
                backends: 1000,
                behind,
                flows: 0,
            },
        )?;
        for program in programs {
            let path = Path {
                stage: &stage,
                program: *program,
                frames: &frames,
                packet: &packet,
                reason: Reason::NewFlow,
            };
            measured.extend(insertions(settings, &path, behind)?);
        }
    }
    Ok(measured)
}

fn insertions(settings: &Settings, path: &Path<'_>, behind: Behind) -> Result<Vec<Measured>> {
    let entries = maps::HALF_OPEN.entries;
    let floors = [
        (TWO_INSERTIONS, Floor::insertions(path.kind(), 2, entries)?),
        (ONE_INSERTION, Floor::insertions(path.kind(), 1, entries)?),
        (
            NEEDED,
            Floor::new_connection(path.kind(), path.stage.flows.as_fd(), path.stage.choice(), entries)?,
        ),
    ];
    let mut fed = vec![("ours", path.ours()?)];
    for (name, floor) in &floors {
        fed.push((*name, path.fed(&Then::Run(floor.program().as_fd()))?));
    }
    // Until the maps are full, an insertion throws nobody out.
    for (_, fed) in &fed {
        for _ in 0..2 + 2 * entries / RUNS {
            fed.run()?;
        }
    }
    let arms: Vec<_> = fed.iter().map(|(name, fed)| (*name, fed)).collect();
    let samples = compare(settings.rounds(), path, &arms)?;
    let to = match behind {
        Behind::Pod => "to a pod here",
        Behind::Node => "transit",
    };
    let place = format!("{to}, {}", path.program.name());
    [
        (format!("{place}, over {TWO_INSERTIONS}"), ("ours", TWO_INSERTIONS), 1.2),
        (format!("{place}, over {ONE_INSERTION}"), ("ours", ONE_INSERTION), 1.3),
        (
            format!("{place}, and what there is to gain: {NEEDED}, over {TWO_INSERTIONS}"),
            (NEEDED, TWO_INSERTIONS),
            1.2,
        ),
    ]
    .into_iter()
    .map(|(case, arms, bound)| samples.measured(ROW_2, &case, arms, Goal::AtMost(bound), "ns"))
    .collect()
}

/// Row 3: the same with more Services, and with more flows.
fn sizes(settings: &Settings, network: &Network) -> Result<Vec<Measured>> {
    let load = |services, flows| Load {
        services,
        backends: 10,
        behind: Behind::Pod,
        flows,
    };
    let loads = [
        ("1 service", load(1, 0)),
        ("1,000 services", load(1000, 0)),
        ("10,000 services", load(10_000, 0)),
        ("30,000 services", load(30_000, 0)),
        ("1 service, 1M flows", load(1, 1_000_000)),
    ];
    let stages = loads
        .iter()
        .map(|(name, load)| Ok((*name, Stage::new(network, *load).context(*name)?)))
        .collect::<Result<Vec<_>>>()?;
    let program = Program::UplinkXdp;
    let stranger = Stage::strangers();
    let (newcomers, syn) = newcomers()?;
    let conversations = stages
        .iter()
        .map(|(_, stage)| stage.converse(Program::UplinkIngress, Program::UplinkEgress))
        .collect::<Result<Vec<_>>>()?;
    let mut measured = Vec::new();
    for what in ["not a service", "established", "new connection"] {
        let mut paths = Vec::new();
        for ((name, stage), conversation) in stages.iter().zip(&conversations) {
            let (packets, reason) = match what {
                "established" => (&conversation.requests, Reason::Translated),
                _ => (&stranger, Reason::NotService),
            };
            paths.push((*name, stage, packets, Frames::new(packets, None)?, reason));
        }
        let mut fed = Vec::new();
        for (name, stage, packets, frames, reason) in &paths {
            let new = what == "new connection";
            let path = Path {
                stage,
                program,
                frames: if new { &newcomers } else { frames },
                packet: if new { &syn } else { &packets[0] },
                reason: if new { Reason::NewFlow } else { *reason },
            };
            let ours = path.ours()?;
            for _ in 0..if new { 8 } else { 0 } {
                ours.run()?;
            }
            fed.push((*name, ours, path));
        }
        let arms: Vec<_> = fed.iter().map(|(name, fed, _)| (*name, fed)).collect();
        let samples = compare(settings.rounds(), &fed[0].2, &arms)?;
        for ((name, _), bound) in loads[1..].iter().zip([1.1, 1.1, 1.1, 1.5]) {
            let case = format!("{what}, {name}");
            measured.push(samples.measured(ROW_3, &case, (name, loads[0].0), Goal::AtMost(bound), "ns")?);
        }
    }
    Ok(measured)
}

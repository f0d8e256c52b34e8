//! Sequences side by side: each in a lane of its own, all of them in step, so that the proxies settle once for all.
use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use anyhow::{Context, Result};
use fastrand::Rng;
use serde_json::Value;

use super::change;
use super::expect::{Expectation, Outcome, Profile, Scene, Walk};
use super::generate::{self, chance, one_of};
use super::ground::Ground;
use super::judge::{Taken, Turns};
use super::pool::{Client, NODES, ZONES};
use super::report::{Failure, Totals};
use super::select::Party;
use super::spec::Lane;
use super::walks;
use crate::batch::{BatchRequest, Question, Seen, SocketKind};
use crate::rig::{Layout, SocketEdge};

/// Sequences that run side by side. Seeds that are the same but for the remainder of this are of one batch.
pub(super) const LANES: u64 = 8;
/// Sockets for each endpoint set, at most, through Ferrogate; kube-proxy chooses at random, so that more say no more.
const TRIES: usize = 4;
/// An answer that took longer than this came by a retransmission, or from a machine that is too busy. In microseconds.
const LATE: u64 = 900_000;

/// One sequence.
struct Sequence {
    seed: u64,
    rng: Rng,
    lane: Lane,
    /// What was done to it, a line a step.
    log: Vec<String>,
    failed: bool,
}

/// What one step asks in one lane.
struct Round {
    walks: Vec<Walk>,
    /// By party, in the order of the walks.
    expectations: [Vec<Expectation>; 2],
    seen: [Vec<Vec<Seen>>; 2],
}

/// The number of a seed's batch.
pub(super) fn batch_of(seed: u64) -> u64 {
    seed / LANES
}

/// How Ferrogate runs in a batch.
pub(super) fn profile(batch: u64) -> Profile {
    Profile {
        socket_edge: if batch & 1 == 0 {
            SocketEdge::All
        } else {
            SocketEdge::Off
        },
        snat_always: batch & 2 != 0,
        external_cluster_ip: batch & 2 != 0,
        cluster_cidr: (batch & 1 != 0) != (batch & 2 != 0),
    }
}

/// Runs the sequences of these seeds, all of one batch, over this many steps and a last one that takes everything away.
pub(super) fn run(ground: &mut Ground, seeds: &[u64], steps: u32, totals: &mut Totals) -> Result<()> {
    let batch = batch_of(seeds[0]);
    let mut rng = Rng::with_seed(batch);
    let mut zones = [(); 2].map(|()| one_of(&mut rng, &ZONES));
    ground.set_zones(zones)?;
    let mut sequences: Vec<_> = seeds.iter().map(|seed| Sequence::new(*seed)).collect();
    let mut fallen = Vec::new();
    for step in 1..=steps + 1 {
        let last = step > steps;
        if chance(&mut rng, 12) {
            zones[rng.usize(0..NODES.len())] = one_of(&mut rng, &ZONES);
            ground.set_zones(zones)?;
        }
        let changed = advance(ground, &mut sequences, last)?;
        ground.settle()?;
        let mut rounds = Vec::new();
        for (sequence, changed) in sequences.iter_mut().zip(&changed) {
            let scene = Scene {
                lane: &sequence.lane,
                profile: profile(batch),
                zones,
            };
            let taken = if sequence.failed {
                Vec::new()
            } else {
                walks::choose(&mut sequence.rng, &scene, changed)
            };
            rounds.push(Round::plan(&scene, taken));
        }
        let lanes: Vec<_> = sequences.iter().map(|sequence| &sequence.lane).collect();
        ask(ground, &lanes, &mut rounds)?;
        for (sequence, round) in sequences.iter_mut().zip(&rounds) {
            if sequence.failed {
                continue;
            }
            totals.steps += 1;
            let faults = round.judge(ground.layout(), &sequence.lane, totals);
            if !faults.is_empty() {
                sequence.failed = true;
                let log = sequence.log.clone();
                fallen.push((sequence.lane.clone(), round.walks.clone(), zones));
                totals.failures.push(Failure {
                    seed: sequence.seed,
                    step,
                    profile: profile(batch),
                    zones,
                    log,
                    faults,
                    objects: sequence.lane.objects().into_values().collect(),
                    alone: false,
                });
            }
        }
    }
    totals.sequences += sequences.len();
    let first = totals.failures.len() - fallen.len();
    for (failure, (lane, walks, zones)) in totals.failures[first..].iter_mut().zip(fallen) {
        failure.alone = fails_alone(ground, &lane, walks, profile(batch), zones)?;
    }
    Ok(())
}

/// Whether the objects of a failed step fail without what came before them: written at once, onto nothing.
fn fails_alone(ground: &mut Ground, lane: &Lane, walks: Vec<Walk>, profile: Profile, zones: [u8; 2]) -> Result<bool> {
    let (nothing, objects) = (BTreeMap::new(), lane.objects());
    ground.set_zones(zones)?;
    write(ground, &nothing, &objects, true)?;
    ground.settle()?;
    let mut rounds = [Round::plan(&Scene { lane, profile, zones }, walks)];
    ask(ground, &[lane], &mut rounds)?;
    let faults = rounds[0].judge(ground.layout(), lane, &mut Totals::default());
    write(ground, &objects, &nothing, true)?;
    ground.settle()?;
    Ok(!faults.is_empty())
}

impl Sequence {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let lane = generate::lane(&mut rng, (seed % LANES) as u8);
        Self {
            seed,
            rng,
            lane,
            log: Vec::new(),
            failed: false,
        }
    }
}

/// Changes every lane; says which Services of each changed.
fn advance(ground: &Ground, sequences: &mut [Sequence], last: bool) -> Result<Vec<BTreeSet<usize>>> {
    let ground = &ground;
    thread::scope(|scope| {
        let threads: Vec<_> = sequences
            .iter_mut()
            .map(|sequence| scope.spawn(move || sequence.advance(ground, last)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a lane panicked"))?)
            .collect()
    })
}

impl Sequence {
    fn advance(&mut self, ground: &Ground, last: bool) -> Result<BTreeSet<usize>> {
        let (before, first) = (self.lane.clone(), self.log.is_empty());
        if last || self.failed {
            change::clear(&mut self.lane);
            self.log.push("everything goes".to_owned());
        } else {
            if first {
                let absent = self.rng.usize(0..self.lane.services.len());
                let services = self.lane.services.iter_mut().enumerate();
                services.for_each(|(index, service)| service.present = index != absent);
            }
            let count = if first { 0 } else { self.rng.usize(1..4) };
            let changes: Vec<_> = (0..count)
                .map(|_| change::change(&mut self.rng, &mut self.lane))
                .collect();
            self.log.push(if first {
                "first objects".to_owned()
            } else {
                changes.join("; ")
            });
        }
        self.lane.note_relabelled(&before);
        let old = if first { BTreeMap::new() } else { before.objects() };
        let services_first = self.rng.bool();
        write(ground, &old, &self.lane.objects(), services_first)
            .with_context(|| format!("seed {}: {}", self.seed, self.log.join("\n")))?;
        if last || self.failed {
            for object in self.lane.forgetting() {
                ground.apply(&object)?;
                ground.delete(&object)?;
            }
            self.lane.relabelled.clear();
        }
        let services = self.lane.services.iter().zip(&before.services).enumerate();
        let changed = services
            .filter(|(_, (now, then))| first || now != then)
            .map(|(index, _)| index);
        Ok(changed.collect())
    }
}

/// Writes what differs, Services first or slices first.
fn write(
    ground: &Ground,
    old: &BTreeMap<String, Value>,
    new: &BTreeMap<String, Value>,
    services_first: bool,
) -> Result<()> {
    for services in [services_first, !services_first] {
        let of_kind = |key: &&String| key.starts_with("Service ") == services;
        for key in old.keys().filter(of_kind).filter(|key| !new.contains_key(*key)) {
            ground.delete(&old[key])?;
        }
        for key in new.keys().filter(of_kind).filter(|key| old.get(*key) != new.get(*key)) {
            if let Err(error) = ground.apply(&new[key]) {
                // Some changes are not allowed in place: a ClusterIP, for one.
                if old.contains_key(key) {
                    ground.delete(&new[key])?;
                }
                ground
                    .apply(&new[key])
                    .with_context(|| format!("{error:#}\n{}", new[key]))?;
            }
        }
    }
    Ok(())
}

impl Round {
    fn plan(scene: &Scene<'_>, mut walks: Vec<Walk>) -> Self {
        for walk in &mut walks {
            let sure = Party::BOTH
                .iter()
                .all(|party| scene.expect(walk, *party).outcome.is_sure());
            if walk.socket == SocketKind::Unconnected && !sure {
                // Nobody tells an unconnected socket that it is refused.
                walk.socket = SocketKind::Connected;
            }
        }
        let expectations = Party::BOTH.map(|party| walks.iter().map(|walk| scene.expect(walk, party)).collect());
        let seen = [(); 2].map(|()| vec![Vec::new(); walks.len()]);
        Self {
            walks,
            expectations,
            seen,
        }
    }

    fn question(&self, lane: &Lane, party: Party, index: usize) -> Question {
        let (walk, expectation) = (&self.walks[index], &self.expectations[party as usize][index]);
        let sticky = lane.services[walk.service].affinity.is_some();
        let set = expectation.set.len();
        let tries = match (party, &expectation.outcome) {
            (_, Outcome::Reach { .. }) if sticky => 3,
            (Party::KubeProxy, Outcome::Reach { .. }) => set.min(2),
            (Party::Ferrogate, Outcome::Reach { .. }) => set.min(TRIES),
            _ => 1,
        };
        Question {
            to: walk.to(lane),
            protocol: walk.protocol(lane),
            tries: tries.max(1) as u32,
            patience_ms: expectation.outcome.patience_ms(),
            socket: walk.socket,
        }
    }

    /// Walks of one client to a Service port with session affinity go one after the other: each is to find what the one
    /// before it chose.
    fn chains(&self, lane: &Lane, client: Client) -> Vec<Vec<usize>> {
        let mut sticky: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        let mut chains = Vec::new();
        for (index, walk) in self.walks.iter().enumerate().filter(|(_, walk)| walk.client == client) {
            if lane.services[walk.service].affinity.is_some() {
                sticky
                    .entry((walk.service, walk.port, walk.family))
                    .or_default()
                    .push(index);
            } else {
                chains.push(vec![index]);
            }
        }
        chains.extend(sticky.into_values());
        chains
    }

    fn judge(&self, layout: Layout, lane: &Lane, totals: &mut Totals) -> Vec<String> {
        let mut faults = Vec::new();
        let mut turns = Turns::default();
        for (index, walk) in self.walks.iter().enumerate() {
            totals.walks += 1;
            let sticky = lane.services[walk.service].affinity.is_some();
            let takens = Party::BOTH.map(|party| Taken {
                walk,
                expectation: &self.expectations[party as usize][index],
                seen: &self.seen[party as usize][index],
            });
            let wrong: Vec<_> = Party::BOTH
                .into_iter()
                .zip(&takens)
                .filter_map(|(party, taken)| Some(format!("{party:?} {}", taken.fault(layout, sticky)?)))
                .collect();
            totals.count(&takens);
            let unexplained = totals.explain(&takens);
            if !wrong.is_empty() || unexplained {
                let mut text = format!(
                    "{} {} {}",
                    walk.describe(lane),
                    if unexplained { "unexplained" } else { "" },
                    wrong.join("; ")
                );
                for (party, taken) in Party::BOTH.into_iter().zip(&takens) {
                    text += &format!(
                        "\n    {party:?} is to {:?}\n      and saw {:?}",
                        taken.expectation.outcome, taken.seen
                    );
                }
                faults.push(text);
            }
            if !sticky {
                turns.add(&takens[Party::Ferrogate as usize]);
            }
        }
        faults.extend(turns.faults());
        faults
    }
}

impl Walk {
    fn describe(&self, lane: &Lane) -> String {
        let protocol = self.protocol(lane).kubernetes();
        let service = &lane.services[self.service];
        format!(
            "{} -> {} {:?} {protocol} {} ({:?}):",
            self.client,
            service.name,
            self.door,
            self.to(lane),
            self.socket
        )
    }
}

/// Takes all walks of all lanes at once, through both proxies.
fn ask(ground: &mut Ground, lanes: &[&Lane], rounds: &mut [Round]) -> Result<()> {
    let (mut requests, mut owners) = (Vec::new(), Vec::new());
    for party in Party::BOTH {
        for client in Client::ALL {
            let (mut chains, mut places) = (Vec::new(), Vec::new());
            for (number, (lane, round)) in lanes.iter().zip(rounds.iter()).enumerate() {
                for chain in round.chains(lane, client) {
                    let questions = chain.iter().map(|index| round.question(lane, party, *index));
                    chains.push(questions.collect());
                    places.push((number, chain));
                }
            }
            requests.push((party, client, BatchRequest { chains }));
            owners.push((party, places));
        }
    }
    let reports = ground.ask(requests)?;
    for ((party, places), report) in owners.into_iter().zip(reports) {
        for ((number, chain), seen) in places.into_iter().zip(report.chains) {
            for (index, seen) in chain.into_iter().zip(seen) {
                rounds[number].seen[party as usize][index] = seen;
            }
        }
    }
    Ok(())
}

/// Whether an answer came late.
pub(super) fn is_late(seen: &Seen) -> bool {
    matches!(seen, Seen::Answer(answer) if answer.micros > LATE)
}

//! Endpoints that change a thousand times a second, and who is still sent to those that went.
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::ops::Range;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Aftermath, Fault, Ground, Harm};
use crate::rig::addresses::cluster_ip;
use crate::rig::{NAMESPACE, Process};
use crate::walks::fixture::{CLIENT_PODS, PORT, TARGET_PORT};
use crate::wire::churn::{Asked, PREFIX, Passed, now};

/// The number of the first ClusterIP.
const BASE: u16 = 20_000;
/// The endpoints that each Service has in turn, one at a time: one on each node.
const PODS: [&str; 2] = ["a", "b"];
/// Writers to the API server.
const WRITERS: u32 = 8;
/// The kinds of clients: at the socket edge, and at the pod edge.
const CLIENTS: usize = 2;

pub(super) const FAULTS: &[Fault] = &[Fault {
    name: "endpoints of many Services change all the time",
    rival: false,
    harm: Harm::None,
    inflict: churn,
}];

/// How much of it.
struct Size {
    services: u32,
    changes_per_second: u32,
    length: Duration,
    questions_per_second: u32,
}

fn service(number: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": format!("{PREFIX}{number}")},
        "spec": {
            "clusterIP": cluster_ip(BASE + number as u16).v4,
            "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"],
            "ports": [
                {"name": "tcp", "protocol": "TCP", "port": PORT, "targetPort": TARGET_PORT},
                {"name": "udp", "protocol": "UDP", "port": PORT, "targetPort": TARGET_PORT},
            ],
        },
    })
}

fn slice(number: u32, address: IpAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": NAMESPACE, "name": format!("{PREFIX}{number}"),
            "labels": {"kubernetes.io/service-name": format!("{PREFIX}{number}")},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [
            {"name": "tcp", "protocol": "TCP", "port": TARGET_PORT},
            {"name": "udp", "protocol": "UDP", "port": TARGET_PORT},
        ],
    })
}

/// A slice as the API server has it in etcd, and its key there.
fn stored(number: u32, mut slice: Value) -> (String, Value) {
    let metadata = &mut slice["metadata"];
    metadata["uid"] = format!("{number:08x}-0000-4000-8000-000000000000").into();
    metadata["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    (format!("/registry/endpointslices/{NAMESPACE}/{PREFIX}{number}"), slice)
}

fn churn(ground: &mut Ground) -> Result<Aftermath> {
    let size = if ground.long {
        Size {
            services: 1000,
            changes_per_second: 1000,
            length: Duration::from_secs(60),
            questions_per_second: 200,
        }
    } else {
        Size {
            services: 100,
            changes_per_second: 100,
            length: Duration::from_secs(3),
            questions_per_second: 100,
        }
    };
    let addresses = PODS.map(|pod| IpAddr::from(ground.rig.pod(pod).addresses.v4));
    let api = ground.rig.control_plane().context("no control plane")?.api().clone();
    each(size.services, |number| {
        api.apply(&service(number))?;
        api.apply(&slice(number, addresses[0]))
    })?;
    let ready = ground.marker()?;
    ground.await_marker(&ready)?;
    let clients = chase(ground, &size)?;
    let control_plane = ground.rig.control_plane().context("no control plane")?;
    let changes = change(&size, |turns| {
        let stored = turns.map(|turn| {
            let (number, round) = (turn % size.services, turn / size.services + 1);
            stored(number, slice(number, addresses[round as usize % 2]))
        });
        control_plane.seed(&stored.collect::<Vec<_>>())
    })?;
    let last = ground.marker()?;
    let converged = ground.await_marker(&last)?;
    // The marker's slice came after all others, so they are programmed too: nobody may be sent to what was before.
    let programmed = now();
    thread::sleep(Duration::from_secs(1));
    let mut asked = Vec::new();
    for mut process in clients {
        drop(process.stdin());
        let (_, output, errors) = process.output()?;
        for line in output.lines() {
            asked.push(serde_json::from_str::<Asked>(line).with_context(|| errors.clone())?);
        }
    }
    let late = lateness(ground, &asked, addresses)?;
    each(size.services, |number| api.delete(&service(number)))?;
    let failed: Vec<_> = asked.iter().filter(|one| one.failure.is_some()).collect();
    ensure!(
        failed.is_empty(),
        "{} questions failed: {:?}",
        failed.len(),
        failed.first()
    );
    let after = late.iter().find(|(one, _)| one.begun > programmed);
    ensure!(
        after.is_none(),
        "an endpoint that went is used after all was programmed: {after:?}"
    );
    let late = late.into_iter().map(|(_, late)| late).collect();
    Ok(Aftermath {
        converged: Some(converged),
        note: note(&size, changes, asked.len(), late),
    })
}

/// What is said of questions that were `late` by so many microseconds.
fn note(size: &Size, changes: u32, asked: usize, mut late: Vec<u64>) -> String {
    late.sort_unstable();
    let at = |share: usize| {
        late.get(late.len().saturating_sub(1) * share / 100)
            .map_or(0, |late| late / 1000)
    };
    format!(
        "{changes} changes over {} Services in {} s; {} of {asked} questions went to an endpoint that had gone: half of these within {} ms, \
         99 % within {} ms, all within {} ms of the event",
        size.services,
        size.length.as_secs(),
        late.len(),
        at(50),
        at(99),
        at(100)
    )
}

/// Does something for each Service, by several writers.
fn each(services: u32, work: impl Fn(u32) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let work = &work;
                scope.spawn(move || (writer..services).step_by(WRITERS as usize).try_for_each(work))
            })
            .collect();
        writers.into_iter().try_for_each(|writer| {
            let outcome = writer.join();
            outcome.map_err(|_| anyhow::anyhow!("a writer panicked"))?
        })
    })
}

/// Clients that ask all the time.
fn chase(ground: &Ground, size: &Size) -> Result<Vec<Process>> {
    let pod = &ground.rig.pod(CLIENT_PODS[0]).place;
    let apart = ground.rig.pod("t1").place.sibling(ground.rig.lease.cgroup("apart")?);
    let mut clients = Vec::with_capacity(CLIENTS);
    for (seed, place) in [pod, &apart].into_iter().enumerate() {
        let mut command = place.testpod_command()?;
        command.args([
            "chase".to_owned(),
            format!("--base={}", cluster_ip(BASE).v4),
            format!("--count={}", size.services),
            format!("--port={PORT}"),
            format!("--rate={}", size.questions_per_second / CLIENTS as u32),
            format!("--seed={seed}"),
        ]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        clients.push(Process::start("chase", command)?);
    }
    Ok(clients)
}

/// Changes the Services in turn, each from one endpoint to the other; how many changes there were.
///
/// They go to etcd ten times a second: an API server that is asked for each of them takes half as many on two processors, besides telling them.
fn change(size: &Size, write: impl Fn(Range<u32>) -> Result<()>) -> Result<u32> {
    let at_once = size.changes_per_second / 10;
    let begin = Instant::now();
    let gap = Duration::from_secs(1) / size.changes_per_second;
    let mut turn = 0;
    while begin.elapsed() < size.length {
        thread::sleep((gap * turn).saturating_sub(begin.elapsed()));
        write(turn..turn + at_once)?;
        turn += at_once;
    }
    Ok(turn)
}

/// The questions that an endpoint answered that had gone before, with the microseconds since its removal was told.
fn lateness<'a>(ground: &Ground, asked: &'a [Asked], addresses: [IpAddr; 2]) -> Result<Vec<(&'a Asked, u64)>> {
    let log = ground.rig.node(1).directory.join("api-proxy.log");
    let mut told: BTreeMap<String, Vec<Passed>> = BTreeMap::new();
    for line in fs::read_to_string(&log)?.lines() {
        if let Ok(passed) = serde_json::from_str::<Passed>(line) {
            told.entry(passed.name.clone()).or_default().push(passed);
        }
    }
    ensure!(!told.is_empty(), "the way to the API server has seen no change");
    let names: BTreeMap<String, &str> = addresses.iter().map(ToString::to_string).zip(PODS).collect();
    let mut late = Vec::new();
    for one in asked {
        let Some(pod) = &one.pod else { continue };
        let history = told
            .get(&format!("{PREFIX}{}", one.service))
            .map_or(&[][..], Vec::as_slice);
        let before = history.partition_point(|passed| passed.at <= one.begun);
        let Some(current) = before.checked_sub(1).and_then(|index| history.get(index)) else {
            continue;
        };
        let is = |passed: &Passed| names.get(&passed.address).is_some_and(|name| name == pod);
        // What comes next may have come before the answer.
        let next = history
            .get(before)
            .is_some_and(|passed| is(passed) && passed.at < one.begun + 3_000_000);
        if !is(current) && !next {
            late.push((one, one.begun - current.at));
        }
    }
    Ok(late)
}

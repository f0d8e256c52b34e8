//! Rows 9 to 11: the agent at 10,000 Services with 10 endpoints each, beside kube-proxy: how soon a change can be used, how long
//! a start takes, how much memory and processor time it all costs.
//!
//! Each proxy has the machine for itself while it is measured, and all of them follow one API server with the same objects.
//! What is asked for is asked by a thread in a pod's namespace, so through the pod edge: how soon a table is written does not
//! depend on the edge that reads it.
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::cluster::options;
use super::command::Settings;
use super::processor::{of_process, resident};
use super::result::{Goal, Measured, Samples, quantile};
use crate::rig::{FerrogateOptions, KubeProxyOptions, NAMESPACE, PodSpec, Proxy, Rig};

const ROW_9: (u8, &str) = (9, "endpoint change to first connection");
const ROW_10: (u8, &str) = (10, "start");
const ROW_11: (u8, &str) = (11, "agent's memory and processor time");

/// What this file measures.
pub(super) const ROWS: &[(u8, &str)] = &[ROW_9, ROW_10, ROW_11];

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;
const FILLING: u32 = 8;
const PORT: u16 = 8080;
const SERVER: &str = "server";
const CLIENT: &str = "client";
const PROBE: &str = "probe";
const PROBE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 255, 1);
const PATIENCE: Duration = Duration::from_secs(240);

/// How long a connection may take, and the wait between two.
const ATTEMPT: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_micros(300);

/// What a proxy has to do after a change is done in this time.
const SETTLING: Duration = Duration::from_secs(3);

const MEGABYTE: f64 = 1e6;

/// Changes a second, and for how long, of row 11.
const RATE: u32 = 100;

const OURS: &str = "ours";
const DEFAULTS: &str = "kube-proxy";
const EAGER: &str = "kube-proxy, minSyncPeriod 1ms";

/// What one proxy came to.
#[derive(Default)]
struct Outcome {
    cold: f64,
    restart: f64,
    /// Of each change, in milliseconds.
    changes: Vec<f64>,
    memory: f64,
    /// Processor seconds of a second with [`RATE`] changes.
    used: f64,
}

/// Rows 9 to 11.
pub(super) fn measure(settings: &Settings) -> Result<Vec<Measured>> {
    let leader = Rig::boot(options(Proxy::None))?;
    let begun = Instant::now();
    fill(&leader)?;
    eprintln!(
        "          {SERVICES} Services entered in {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    let proxies = [
        (OURS, Proxy::Ferrogate(FerrogateOptions::default())),
        (DEFAULTS, kube_proxy("1s")),
        (EAGER, kube_proxy("1ms")),
    ];
    let mut outcomes = Vec::new();
    for (name, proxy) in proxies {
        for _ in 0..settings.choose(1, 3) {
            outcomes.push((
                name,
                one(settings, &leader, &proxy).with_context(|| format!("arm {name}"))?,
            ));
        }
    }
    Ok(results(&outcomes)?
        .into_iter()
        .filter(|row| settings.wants(row.row, row.name))
        .collect())
}

fn kube_proxy(min_sync_period: &'static str) -> Proxy {
    Proxy::KubeProxyWith(KubeProxyOptions {
        mode: "nftables",
        min_sync_period,
    })
}

fn service(name: &str, address: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {
            "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": PORT}],
        },
    })
}

fn slice(name: &str, endpoints: &[Ipv4Addr]) -> Value {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": "n1"}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": NAMESPACE, "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "tcp", "protocol": "TCP", "port": PORT}],
    })
}

/// The endpoints of a Service; `turn` moves them on.
fn endpoints(service: u32, turn: u32) -> Vec<Ipv4Addr> {
    (0..ENDPOINTS)
        .map(|number| Ipv4Addr::from(0x0af5_0000 + (service * 7 + number + turn) % 60_000))
        .collect()
}

/// Does something for each number below `count`, on several threads that take turns.
fn by_many(count: u32, each: impl Fn(u32) -> Result<()> + Sync) -> Result<()> {
    let each = &each;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..FILLING)
            .map(|first| scope.spawn(move || (first..count).step_by(FILLING as usize).try_for_each(each)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow!("panicked"))?)
    })
}

/// Enters all objects.
fn fill(rig: &Rig) -> Result<()> {
    by_many(SERVICES, |number| {
        let name = format!("s{number}");
        rig.apply(&service(&name, Ipv4Addr::from(0x0a60_1000 + number)))?;
        rig.apply(&slice(&name, &endpoints(number, 0)))
    })?;
    rig.apply(&service(PROBE, PROBE_ADDRESS))?;
    rig.apply(&slice(PROBE, &[]))
}

/// Starts a proxy in a rig of its own and measures it.
fn one(settings: &Settings, leader: &Rig, proxy: &Proxy) -> Result<Outcome> {
    let mut rig = Rig::boot_beside(options(Proxy::None), leader)?;
    rig.add_pod(PodSpec::new(SERVER, 1).ports(&[]))?;
    rig.add_pod(PodSpec::new(CLIENT, 1).ports(&[]))?;
    let pod = rig.pod(SERVER);
    let backend = pod.addresses.v4;
    let listener = pod.place.netns.enter(|| Ok(TcpListener::bind((backend, PORT))?))?;
    // Ends with the program: a listener has no other end.
    thread::spawn(move || listener.incoming().flatten().for_each(drop));
    let mut outcome = Outcome::default();

    leader.apply(&slice(PROBE, &[backend]))?;
    rig.set_proxy(proxy.clone());
    outcome.cold = start(&mut rig)?;
    // Past the work of its start.
    thread::sleep(SETTLING);
    let process = rig.take_proxy(1)?;
    outcome.memory = resident(process.id())?;
    // kube-proxy takes seconds for each.
    let quick = if matches!(proxy, Proxy::Ferrogate(_)) { 20 } else { 5 };
    for _ in 0..settings.choose(quick, 100) {
        leader.apply(&slice(PROBE, &[]))?;
        wait(&rig, false)?;
        leader.apply(&slice(PROBE, &[backend]))?;
        outcome.changes.push(wait(&rig, true)? * 1e3);
    }
    outcome.used = strained(settings, leader, process.id())?;

    // What changes while there is no proxy is seen by the next one.
    leader.apply(&slice(PROBE, &[]))?;
    wait(&rig, false)?;
    drop(process);
    leader.apply(&slice(PROBE, &[backend]))?;
    outcome.restart = start(&mut rig)?;
    Ok(outcome)
}

/// Seconds from a proxy's start until it has programmed everything: it does that in one piece.
fn start(rig: &mut Rig) -> Result<f64> {
    let begun = Instant::now();
    rig.start_proxy(1)?;
    wait(rig, true)?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Seconds until connections to the probed Service are answered, or are not any more.
fn wait(rig: &Rig, answered: bool) -> Result<f64> {
    let begun = Instant::now();
    rig.pod(CLIENT).place.netns.enter(|| {
        loop {
            let at = SocketAddr::from((PROBE_ADDRESS, 80));
            if TcpStream::connect_timeout(&at, ATTEMPT).is_ok() == answered {
                return Ok(begun.elapsed().as_secs_f64());
            }
            if begun.elapsed() > PATIENCE {
                bail!("the Service does not change within {PATIENCE:?}");
            }
            thread::sleep(PAUSE);
        }
    })
}

/// Processor seconds a second of a process, with changes of endpoints at a steady rate.
fn strained(settings: &Settings, leader: &Rig, process: u32) -> Result<f64> {
    let seconds = settings.choose(5, 20);
    let before = of_process(process)?;
    let begun = Instant::now();
    by_many(RATE * seconds, |number| {
        let due = begun + Duration::from_secs(1) * number / RATE;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let service = number * 37 % SERVICES;
        leader.apply(&slice(&format!("s{service}"), &endpoints(service, 1 + number)))
    })?;
    // What is still to be done for them.
    thread::sleep(SETTLING);
    Ok((of_process(process)? - before) / f64::from(seconds))
}

/// Samples of one figure of all outcomes.
fn samples(outcomes: &[(&str, Outcome)], figures: impl Fn(&Outcome) -> Vec<f64>) -> Samples {
    let mut samples = Samples::default();
    for (name, outcome) in outcomes {
        for figure in figures(outcome) {
            samples.push(name, figure);
        }
    }
    samples
}

fn results(outcomes: &[(&str, Outcome)]) -> Result<Vec<Measured>> {
    let (at_least, at_most) = (Goal::AtLeast, Goal::AtMost);
    let changes = samples(outcomes, |outcome| outcome.changes.clone());
    let cold = samples(outcomes, |outcome| vec![outcome.cold]);
    let restart = samples(outcomes, |outcome| vec![outcome.restart]);
    let memory = samples(outcomes, |outcome| vec![outcome.memory / MEGABYTE]);
    let used = samples(outcomes, |outcome| vec![outcome.used]);
    let mut late = Samples::default();
    late.push(OURS, quantile(changes.of(OURS), 0.99));
    late.push("1 ms", 1.0);
    let mut eager = Vec::new();
    for (over, least) in [(DEFAULTS, 50.0), (EAGER, 5.0)] {
        eager.push(changes.measured(ROW_9, &format!("{over} over ours"), (over, OURS), at_least(least), "ms")?);
    }
    let more = [
        late.measured(ROW_9, "p99, in ms", (OURS, "1 ms"), at_most(20.0), "ms")?,
        cold.measured(
            ROW_10,
            "cold, kube-proxy over ours",
            (DEFAULTS, OURS),
            at_least(5.0),
            "s",
        )?,
        restart.measured(
            ROW_10,
            "again, kube-proxy over ours",
            (DEFAULTS, OURS),
            at_least(5.0),
            "s",
        )?,
        memory.measured(ROW_11, "resident memory", (OURS, DEFAULTS), at_most(0.2), "MB")?,
        used.measured(
            ROW_11,
            "processor time, 100 changes/s",
            (OURS, DEFAULTS),
            at_most(0.2),
            "s/s",
        )?,
        used.measured(
            ROW_11,
            "processor time, 100 changes/s, 1 ms",
            (OURS, EAGER),
            at_most(0.2),
            "s/s",
        )?,
    ];
    eager.extend(more);
    Ok(eager)
}

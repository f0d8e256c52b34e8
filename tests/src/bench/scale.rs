//! Rows 9 to 11: the agent at 10,000 Services with 10 endpoints each, beside kube-proxy: how soon a change can be used, how long
//! a start takes, how much memory and processor time it all costs. And row 5 with as many Services. Row 15: the agent alone, at
//! 50,000 Services with 20.
//!
//! Each proxy has the machine for itself while it is measured, and all of them follow one API server with the same objects.
//! What is asked for is asked by a thread in a pod's namespace, so through the pod edge: how soon a table is written does not
//! depend on the edge that reads it.
use std::fmt;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::cluster::{Arena, NFTABLES, SOCKET, follow, lead, options};
use super::command::Settings;
use super::crowd::{Crowd, PORT, PROBE_ADDRESS, by_many, set_probed};
use super::processor::{mapped_tables, of_process, resident};
use super::result::{Goal, Measured, Samples, quantile};
use super::traffic::{ROW_5, ROW_13, outside};
use crate::rig::{FerrogateOptions, KubeProxyOptions, PodSpec, Process, Proxy, Rig};

const ROW_9: (u8, &str) = (9, "endpoint change to first connection");
const ROW_10: (u8, &str) = (10, "start");
const ROW_11: (u8, &str) = (11, "agent's memory and processor time");
const ROW_15: (u8, &str) = (15, "a million endpoints");

/// What this file measures.
pub(super) const ROWS: &[(u8, &str)] = &[ROW_5, ROW_9, ROW_10, ROW_11, ROW_13, ROW_15];

const LARGE: Crowd = Crowd {
    services: 10_000,
    endpoints: 10,
};

/// A million endpoints.
const HUGE: Crowd = Crowd {
    services: 50_000,
    endpoints: 20,
};
/// What has less room by default on a node of 24 GiB.
const ROOM: [&str; 4] = [
    "FRONTENDS=200000",
    "SERVICES=100000",
    "SLOTS=2500000",
    "BACKENDS=1500000",
];

const SERVER: &str = "server";
const CLIENT: &str = "client";
const PATIENCE: Duration = Duration::from_secs(240);

/// How long a connection may take, and the wait between two.
const ATTEMPT: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_micros(300);
const HOLDING: Duration = Duration::from_millis(400);

/// What a proxy has to do after a change is done in this time.
const SETTLING: Duration = Duration::from_secs(3);

const MEGABYTE: f64 = 1e6;

/// Changes a second, and for how long, of row 11.
const RATE: u32 = 100;

/// Of both proxies, where they answer with their metrics.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);

const OURS: &str = "ours";
const DEFAULTS: &str = "kube-proxy";
const EAGER: &str = "kube-proxy, minSyncPeriod 1ms";

/// What one proxy came to.
#[derive(Default)]
struct Outcome {
    cold: f64,
    restart: Option<f64>,
    /// Of each change, in milliseconds.
    changes: Vec<f64>,
    memory: f64,
    /// Without the kernel's tables, which our agent maps.
    own_memory: f64,
    /// Processor seconds of a second with [`RATE`] changes.
    used: f64,
    /// Of ours: writes of a cold start, and of one that finds everything right.
    writes: Option<(f64, f64)>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changes = [0.5, 0.99].map(|part| quantile(&self.changes, part));
        write!(
            f,
            "start {:.2} s, again {}, a change {:.1} ms (p99 {:.1}), {:.1} MB ({:.1} without tables), {:.3} s/s",
            self.cold,
            self.restart
                .map_or_else(|| "not measured".to_owned(), |seconds| format!("{seconds:.2} s")),
            changes[0],
            changes[1],
            self.memory / MEGABYTE,
            self.own_memory / MEGABYTE,
            self.used
        )
    }
}

/// Rows 9 to 11 and 15, and 5 with as many Services.
pub(super) fn measure(settings: &Settings) -> Result<Vec<Measured>> {
    let wants = |(row, name): (u8, &str)| settings.wants(row, name);
    let mut measured = Vec::new();
    if [ROW_5, ROW_9, ROW_10, ROW_11, ROW_13].into_iter().any(wants) {
        let leader = populated(LARGE)?;
        if [ROW_5, ROW_13].into_iter().any(wants) {
            let arenas: Vec<Arena> = follow(&leader, &[SOCKET, NFTABLES])?;
            measured.extend(outside(settings, &arenas, "10,000 services", 1.25)?);
        }
        if [ROW_9, ROW_10, ROW_11].into_iter().any(wants) {
            measured.extend(agents(settings, &leader.rig)?);
        }
    }
    if wants(ROW_15) && !settings.is_hasty() {
        measured.extend(alone(settings, &populated(HUGE)?.rig)?);
    }
    measured.retain(|row| settings.wants(row.row, &row.name));
    Ok(measured)
}

/// An API server with so many Services.
fn populated(crowd: Crowd) -> Result<Arena> {
    let leader = lead()?;
    let begun = Instant::now();
    crowd.fill(&leader.rig)?;
    eprintln!(
        "          {} Services with {} endpoints entered in {:.0} s",
        crowd.services,
        crowd.endpoints,
        begun.elapsed().as_secs_f64()
    );
    Ok(leader)
}

/// Row 15: nobody beside it, for nobody else can be waited for.
fn alone(settings: &Settings, leader: &Rig) -> Result<Vec<Measured>> {
    let mut agent = FerrogateOptions::default();
    agent.more.extend(ROOM.map(|size| format!("--map-entries={size}")));
    let outcome = one(settings, leader, HUGE, &Proxy::Ferrogate(agent))?;
    eprintln!("          {OURS}: {outcome}");
    [
        ("cold start", outcome.cold, 60.0, "s"),
        ("resident memory", outcome.own_memory / MEGABYTE, 700.0, "MB"),
        (
            "resident memory, mapped tables included",
            outcome.memory / MEGABYTE,
            900.0,
            "MB",
        ),
        ("a change, p99", quantile(&outcome.changes, 0.99), 20.0, "ms"),
        ("processor time, 100 changes/s", outcome.used, 0.2, "s/s"),
    ]
    .into_iter()
    .map(|(case, value, most, unit)| {
        let mut samples = Samples::default();
        samples.push(OURS, value);
        samples.push("one", 1.0);
        samples.measured(
            ROW_15,
            &format!("{case}, in {unit}"),
            (OURS, "one"),
            Goal::AtMost(most),
            unit,
        )
    })
    .collect()
}

fn agents(settings: &Settings, leader: &Rig) -> Result<Vec<Measured>> {
    let proxies = [
        (OURS, Proxy::Ferrogate(FerrogateOptions::default())),
        (DEFAULTS, kube_proxy("1s")),
        (EAGER, kube_proxy("1ms")),
    ];
    let mut outcomes = Vec::new();
    for round in 0..settings.choose(1, 2) {
        for turn in 0..proxies.len() {
            let (name, proxy) = &proxies[(turn + round) % proxies.len()];
            match one(settings, leader, LARGE, proxy) {
                Ok(outcome) => {
                    eprintln!("          {name}: {outcome}");
                    outcomes.push((*name, outcome));
                }
                // What the others came to is worth keeping.
                Err(error) => eprintln!("          {name}, round {round}: NOT MEASURED: {error:#}"),
            }
        }
    }
    let told = |error: &_| eprintln!("          NOT MEASURED: {error:#}");
    let results = results(&outcomes).into_iter();
    let measured: Vec<_> = results.filter_map(|result| result.inspect_err(told).ok()).collect();
    ensure!(!measured.is_empty(), "no proxy could be measured");
    Ok(measured)
}

fn kube_proxy(min_sync_period: &'static str) -> Proxy {
    Proxy::KubeProxyWith(KubeProxyOptions {
        mode: "nftables",
        min_sync_period,
    })
}

/// Starts a proxy in a rig of its own and measures it.
fn one(settings: &Settings, leader: &Rig, crowd: Crowd, proxy: &Proxy) -> Result<Outcome> {
    let mut rig = Rig::boot_beside(options(Proxy::None), leader)?;
    rig.add_pod(PodSpec::new(SERVER, 1).ports(&[]))?;
    rig.add_pod(PodSpec::new(CLIENT, 1).ports(&[]))?;
    let pod = rig.pod(SERVER);
    let backend = pod.addresses.v4;
    let listener = pod.place.netns.enter(|| Ok(TcpListener::bind((backend, PORT))?))?;
    // Ends with the program: a listener has no other end.
    thread::spawn(move || listener.incoming().flatten().for_each(drop));
    let ours = matches!(proxy, Proxy::Ferrogate(_));
    let mut outcome = Outcome::default();

    set_probed(leader, &[backend])?;
    rig.set_proxy(proxy.clone());
    outcome.cold = start(&mut rig)?;
    // Past the work of its start.
    thread::sleep(SETTLING);
    let mut process = rig.take_proxy(1)?;
    outcome.memory = resident(process.id())?;
    outcome.own_memory = outcome.memory - mapped_tables(process.id())?;
    if ours {
        let cold = full_sync(&rig)?;
        process = again(&mut rig, process)?;
        outcome.writes = Some((cold, full_sync(&rig)?));
    }
    // kube-proxy takes seconds for each.
    let changes = if ours {
        settings.choose(30, 100)
    } else {
        settings.choose(3, 8)
    };
    for _ in 0..changes {
        set_probed(leader, &[])?;
        wait(&rig, false)?;
        set_probed(leader, &[backend])?;
        outcome.changes.push(wait(&rig, true)? * 1e3);
    }
    outcome.used = strained(settings, leader, crowd, process.id())?;

    if !ours && (settings.is_hasty() || *proxy == kube_proxy("1ms")) {
        return Ok(outcome);
    }
    // What changes while there is no proxy is seen by the next one.
    set_probed(leader, &[])?;
    wait(&rig, false)?;
    drop(process);
    set_probed(leader, &[backend])?;
    outcome.restart = Some(start(&mut rig)?);
    Ok(outcome)
}

/// Seconds from a proxy's start until it has programmed everything.
fn start(rig: &mut Rig) -> Result<f64> {
    let begun = Instant::now();
    rig.start_proxy(1)?;
    wait(rig, true)?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Another process of the proxy in place of this one, nothing else changed.
fn again(rig: &mut Rig, process: Process) -> Result<Process> {
    drop(process);
    rig.start_proxy(1)?;
    rig.take_proxy(1)
}

/// Map writes of our agent since its start, once it has compared everything.
fn full_sync(rig: &Rig) -> Result<f64> {
    let begun = Instant::now();
    loop {
        let answer = rig.node(1).place.get(METRICS, "/metrics")?;
        let text = answer.map(|answer| answer.body).unwrap_or_default();
        let value = |name: &str| -> Option<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().last()?.parse().ok())
        };
        if value("kubeproxy_sync_full_proxy_rules_duration_seconds_count").is_some_and(|count| count > 0.0) {
            return value("ferrogate_map_writes_total").context("no count of map writes among the metrics");
        }
        if begun.elapsed() > PATIENCE {
            bail!("the agent has compared nothing within {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Seconds until connections to the probed Service are answered, or have been refused for [`HOLDING`] without exception: while
/// kube-proxy writes, it refuses some that it should not.
fn wait(rig: &Rig, answered: bool) -> Result<f64> {
    let begun = Instant::now();
    rig.pod(CLIENT).place.netns.enter(|| {
        let mut refused_since = None;
        loop {
            match TcpStream::connect_timeout(&SocketAddr::from((PROBE_ADDRESS, 80)), ATTEMPT) {
                Ok(_) if answered => return Ok(begun.elapsed().as_secs_f64()),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    let since = *refused_since.get_or_insert_with(Instant::now);
                    if !answered && since.elapsed() > HOLDING {
                        return Ok(begun.elapsed().as_secs_f64());
                    }
                }
                Ok(_) => refused_since = None,
                // Nothing is known: a machine says so many refusals a second at most (icmp_msgs_per_sec).
                Err(_) => {}
            }
            if begun.elapsed() > PATIENCE {
                bail!("the Service does not change within {PATIENCE:?}");
            }
            thread::sleep(PAUSE);
        }
    })
}

/// Processor seconds a second of a process, with changes of endpoints at a steady rate.
fn strained(settings: &Settings, leader: &Rig, crowd: Crowd, process: u32) -> Result<f64> {
    let seconds = settings.choose(5, 15);
    let before = of_process(process)?;
    let begun = Instant::now();
    by_many(RATE * seconds, |number| {
        let due = begun + Duration::from_secs(1) * number / RATE;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        crowd.change(leader)
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

fn results(outcomes: &[(&str, Outcome)]) -> Vec<Result<Measured>> {
    let changes = samples(outcomes, |outcome| outcome.changes.clone());
    let cold = samples(outcomes, |outcome| vec![outcome.cold]);
    let restart = samples(outcomes, |outcome| outcome.restart.into_iter().collect());
    let memory = samples(outcomes, |outcome| vec![outcome.memory / MEGABYTE]);
    let own_memory = samples(outcomes, |outcome| vec![outcome.own_memory / MEGABYTE]);
    let used = samples(outcomes, |outcome| vec![outcome.used]);
    let mut late = Samples::default();
    late.push(OURS, quantile(changes.of(OURS), 0.99));
    late.push("1 ms", 1.0);
    let mut writes = Samples::default();
    for (cold, again) in outcomes.iter().filter_map(|(_, outcome)| outcome.writes) {
        writes.push("cold", cold);
        writes.push("again", again);
    }
    let over = |least| Goal::AtLeast(least);
    let fifth = Goal::AtMost(0.2);
    let mut measured = vec![
        late.measured(ROW_9, "p99, in ms", (OURS, "1 ms"), Goal::AtMost(20.0), "ms"),
        changes.measured(ROW_9, "kube-proxy over ours", (DEFAULTS, OURS), over(50.0), "ms"),
        changes.measured(ROW_9, &format!("{EAGER} over ours"), (EAGER, OURS), over(5.0), "ms"),
        cold.measured(ROW_10, "cold, kube-proxy over ours", (DEFAULTS, OURS), over(5.0), "s"),
        writes.measured(
            ROW_10,
            "writes with pins and nothing new, over cold",
            ("again", "cold"),
            Goal::AtMost(0.0),
            "writes",
        ),
        memory.measured(
            ROW_11,
            "resident memory, mapped tables included",
            (OURS, DEFAULTS),
            fifth,
            "MB",
        ),
        own_memory.measured(ROW_11, "resident memory", (OURS, DEFAULTS), fifth, "MB"),
        used.measured(ROW_11, "processor time, 100 changes/s", (OURS, DEFAULTS), fifth, "s/s"),
        used.measured(
            ROW_11,
            &format!("processor time, 100 changes/s, {EAGER}"),
            (OURS, EAGER),
            fifth,
            "s/s",
        ),
    ];
    if !restart.of(DEFAULTS).is_empty() {
        let case = "with pins, kube-proxy over ours";
        measured.push(restart.measured(ROW_10, case, (DEFAULTS, OURS), over(5.0), "s"));
    }
    measured
}

//! The order pods are scaled while clients keep asking, and an agent is killed.
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ferrogate_tests::rig::Process;
use ferrogate_tests::wire::{ProbeRequest, TickReport};

use super::{Scenario, median_ms, shares};
use crate::agent;
use crate::path::{Edge, Path};
use crate::stats::Tally;
use crate::traffic::{self, Event, Traffic};
use crate::{cluster::Cluster, stop};

/// Connections a second along each path while pods are scaled.
const RATE: u32 = 100;
/// How long clients are watched after each change.
const WATCH: Duration = Duration::from_millis(1200);
/// "At once": sooner than TCP sends its first packet again. A busy machine needs its time.
const AT_ONCE: Duration = Duration::from_millis(500);

pub(super) fn run(scenario: &mut Scenario) -> Result<()> {
    scale(scenario)?;
    kill_agent(scenario)
}

/// What every client met in one stretch of time.
fn collect(scenario: &Scenario, events: &Receiver<Event>, time: Duration) -> Result<Vec<Tally>> {
    let mut tallies = vec![Tally::default(); scenario.paths.len()];
    stop::sleep(time)?;
    for event in events.try_iter() {
        tallies[event.path].add(&event.attempt, None, Instant::now());
    }
    Ok(tallies)
}

fn scale(scenario: &mut Scenario) -> Result<()> {
    scenario.report.section(&format!(
        "The order pods are scaled while every path carries {RATE} connections a second"
    ))?;
    let (sender, events) = mpsc::channel();
    let mut clients = traffic::start_all(&scenario.cluster, &scenario.paths, RATE, &sender)?;
    let before = collect(scenario, &events, WATCH)?;
    show(scenario, "3 pods", &before)?;
    for scale in [1, 0, 3] {
        scenario.cluster.scale_to(scale)?;
        let took = scenario.cluster.wait_until_served()?;
        // Attempts that began before the change, and some that met it.
        let change = collect(scenario, &events, Duration::from_millis(100))?;
        let steady = collect(scenario, &events, WATCH)?;
        show(
            scenario,
            &format!("{scale} pod{}", if scale == 1 { "" } else { "s" }),
            &steady,
        )?;
        let lost: u64 = change
            .iter()
            .chain(&steady)
            .map(|tally| tally.silent + tally.failed)
            .sum();
        scenario.report.check(
            lost == 0,
            &format!(
                "scaled to {scale}: both nodes in {} ms, no connection hung or broke ({lost})",
                took.as_millis()
            ),
        )?;
        expect(scenario, scale, &steady)?;
        if scale == 1 {
            node_without_pod(scenario)?;
        }
    }
    let alive = clients.iter_mut().map(Traffic::runs).collect::<Result<Vec<_>>>()?;
    scenario
        .report
        .check(alive.iter().all(|alive| *alive), "every client ran all the time")?;
    Ok(())
}

/// A line a path.
fn show(scenario: &Scenario, title: &str, tallies: &[Tally]) -> Result<()> {
    scenario.report.text(&format!("with {title}"))?;
    for (path, tally) in scenario.paths.iter().zip(tallies) {
        let pods = tally
            .by_pod
            .iter()
            .map(|(pod, count)| (pod.as_str(), *count as usize))
            .collect();
        let refused = match tally.refused {
            0 => String::new(),
            refused => format!(
                "   {refused} refused in {:.2} ms (mean), the slowest in {:.2} ms",
                tally.refusal_ms(),
                tally.slowest_refusal as f64 / 1000.0
            ),
        };
        scenario
            .report
            .text(&format!("  {:<15} {}{refused}", path.name, shares(&pods)))?;
    }
    Ok(())
}

/// What clients must have met once both nodes had the change.
fn expect(scenario: &mut Scenario, scale: u8, tallies: &[Tally]) -> Result<()> {
    let all = |right: &dyn Fn(&Tally) -> bool| tallies.iter().all(|tally| tally.attempts() > 0 && right(tally));
    match scale {
        0 => scenario.report.check(
            all(&|tally| tally.answered == 0 && u128::from(tally.slowest_refusal) < AT_ONCE.as_micros()),
            "every client on every path was refused, at once",
        ),
        1 => scenario.report.check(
            all(&|tally| tally.refused == 0 && tally.answered == tally.pod("order-1")),
            "only order-1 answered, on every path, and nobody was refused",
        ),
        _ => scenario.report.check(
            all(&|tally| tally.refused == 0 && tally.by_pod.len() == usize::from(scale) && fair(tally)),
            "all pods answered again, evenly, on every path",
        ),
    }
}

/// No pod got more than its share but for the ends of the stretch: a connection for each of two nodes, before and after.
fn fair(tally: &Tally) -> bool {
    let (least, most) = (tally.by_pod.values().min(), tally.by_pod.values().max());
    least.zip(most).is_some_and(|(least, most)| most - least <= 4)
}

/// "NodePort is opened on ALL nodes, even nodes without Pods."
fn node_without_pod(scenario: &mut Scenario) -> Result<()> {
    let path = door(scenario)?.clone();
    let (node, address) = path.node_ports.last().context("no node port")?.clone();
    let report = scenario
        .cluster
        .rig
        .outside
        .probe(&ProbeRequest::new(path.protocol, address).count(30))?;
    let as_node = report
        .answers()
        .all(|answer| answer.pod == "order-1" && answer.peer.ip() == address.ip());
    scenario.report.check(
        report.complete() && as_node,
        &format!("{node} runs no order pod: 30 connections to {address} reached order-1 on n1, in {node}'s name"),
    )
}

fn door(scenario: &Scenario) -> Result<&Path> {
    let mut doors = scenario
        .paths
        .iter()
        .filter(|path| path.edge == Edge::Uplink && path.balancer.is_none());
    doors.next().context("no path by node ports")
}

/// The programs stay in the kernel when the agent dies: it only follows changes.
fn kill_agent(scenario: &mut Scenario) -> Result<()> {
    scenario
        .report
        .section("The agent of n1 is killed, and started again")?;
    let path = door(scenario)?.clone();
    let (_, address) = path.node_ports.first().context("no node port")?.clone();
    let mut lasting = long_connection(&scenario.cluster, address)?;
    drop(scenario.cluster.rig.take_proxy(1)?);
    let without = scenario
        .cluster
        .rig
        .outside
        .probe(&ProbeRequest::new(path.protocol, address).count(30))?;
    scenario.report.text(&format!(
        "30 connections to {address} without an agent: {}   ({:.2} ms each)",
        shares(&without.tally()),
        median_ms(&without)
    ))?;
    let even = without.tally().values().all(|count| *count == 10);
    scenario.report.check(
        without.complete() && even,
        "SIGKILL: new connections are still balanced, 10 each",
    )?;
    scenario.cluster.scale_to(2)?;
    let begin = Instant::now();
    scenario.cluster.rig.start_proxy(1)?;
    scenario.cluster.wait_until_served()?;
    scenario.report.check(
        agent::status(&scenario.cluster.rig, 1)?.last_apply.is_some(),
        &format!(
            "started again, it took over the maps and caught up with what it had missed in {} ms",
            begin.elapsed().as_millis()
        ),
    )?;
    drop(lasting.stdin());
    let (_, output, _) = lasting.output()?;
    let ticks: TickReport = serde_json::from_str(&output).context("report of the long connection")?;
    scenario.report.check(
        ticks.failure.is_none() && ticks.ticks > 1,
        &format!(
            "a connection opened before lived through all of it: {} answers of {}, none later than {} ms",
            ticks.ticks,
            ticks.pod.as_deref().unwrap_or("nobody"),
            ticks.longest_ms
        ),
    )?;
    scenario.cluster.scale_to(super::SCALE)?;
    scenario.cluster.wait_until_served()?;
    Ok(())
}

/// A connection that asks all the time, until its standard input ends.
fn long_connection(cluster: &Cluster, to: SocketAddr) -> Result<Process> {
    let mut command = cluster.rig.outside.testpod_command()?;
    command.args(["tick", &format!("--to={to}")]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = Process::start("long connection", command)?;
    process.wait_for_error_line("connected")?;
    Ok(process)
}

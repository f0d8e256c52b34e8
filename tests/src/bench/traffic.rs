//! Rows 4, 5, 8 and 13: real sockets of pods and outside clients, beside kube-proxy.
use anyhow::{Context, Result};

use super::cluster::{
    Arena, HOOKED, IPTABLES, NEEDED_POD, NEEDED_SOCKET, NFTABLES, POD, SOCKET, STRAIGHT, boot, strain,
};
use super::command::Settings;
use super::processor::busy;
use super::result::{Goal, Measured, Samples};
use super::rounds::{Arm, interleave};

const ROW_4: (u8, &str) = (4, "connections/s, pod to ClusterIP");
pub(super) const ROW_5: (u8, &str) = (5, "connections/s, outside to NodePort");
const ROW_8: (u8, &str) = (8, "bulk and latency through ClusterIP");
pub(super) const ROW_13: (u8, &str) = (13, "processor time");

/// What this file measures.
pub(super) const ROWS: &[(u8, &str)] = &[ROW_4, ROW_5, ROW_8, ROW_13];

/// Clients at once: enough that both processors are busy all the time.
const CLIENTS: usize = 4;

/// Bits of a byte, in Gbit.
const BITS: f64 = 8.0 / 1e9;

/// Where the straining is done from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Pod,
    Outside,
}

/// Rows 4, 5, 8 and 13.
pub(super) fn measure(settings: &Settings) -> Result<Vec<Measured>> {
    let arenas = boot(&[HOOKED, NEEDED_SOCKET, NEEDED_POD, SOCKET, POD, NFTABLES, IPTABLES])?;
    let cpu = settings.wants(ROW_13.0, ROW_13.1);
    let mut measured = Vec::new();
    if cpu || settings.wants(ROW_4.0, ROW_4.1) {
        measured.extend(inside(settings, &arenas)?);
    }
    if cpu || settings.wants(ROW_5.0, ROW_5.1) {
        measured.extend(outside(settings, &arenas, "one service", 1.15)?);
    }
    if cpu || settings.wants(ROW_8.0, ROW_8.1) {
        measured.extend(bulk(settings, &arenas)?);
    }
    if cpu {
        measured.extend(bulk_outside(settings, &arenas)?);
    }
    if settings.wants(ROW_8.0, ROW_8.1) {
        measured.extend(latency(settings, &arenas)?);
    }
    measured.retain(|row| settings.wants(row.row, &row.name));
    Ok(measured)
}

/// How often arms take turns, and for how long each time.
fn pace(settings: &Settings) -> (usize, u64) {
    settings.choose((5, 700), (11, 2000))
}

/// What an arm does in a round: how much a second, and processor seconds for each of that.
fn once(arena: &Arena, from: From, kind: &str, clients: usize, milliseconds: u64) -> Result<Vec<f64>> {
    let (place, to) = match from {
        From::Pod => (arena.pod(), arena.pod_target()),
        From::Outside => (&arena.rig.outside, arena.outside_target()),
    };
    let before = busy()?;
    let report = strain(place, kind, to, clients, milliseconds)?;
    let used = busy()? - before;
    Ok(vec![report.rate(), used / report.count as f64])
}

/// Whether an arm takes part: from outside nothing goes by sockets, so both of ours are the same; and the arms of what can't be left
/// out are about a connection's beginning.
fn takes_part(arm: &str, from: From, kind: &str) -> bool {
    match arm {
        POD | HOOKED => from == From::Pod,
        NEEDED_SOCKET | NEEDED_POD => from == From::Pod && kind == "connections",
        _ => true,
    }
}

/// How much a second the arms do, and processor seconds for each of that.
fn strained(settings: &Settings, arenas: &[Arena], from: From, kind: &str, clients: usize) -> Result<[Samples; 2]> {
    let (rounds, milliseconds) = pace(settings);
    let arms = arenas
        .iter()
        .filter(|arena| takes_part(arena.name, from, kind))
        .map(|arena| Arm::of_many(arena.name, move || once(arena, from, kind, clients, milliseconds)));
    interleave(rounds, &mut arms.collect::<Vec<_>>())
}

fn inside(settings: &Settings, arenas: &[Arena]) -> Result<Vec<Measured>> {
    let [rates, used] = strained(settings, arenas, From::Pod, "connections", CLIENTS)?;
    let used = used.scaled(1000.0);
    let mut measured = Vec::new();
    for arm in [SOCKET, POD] {
        measured.push(rates.measured(ROW_4, arm, (arm, STRAIGHT), Goal::AtLeast(0.98), "connections/s")?);
        let case = format!("1,000 connections, pod to ClusterIP, {arm}");
        measured.push(used.measured(ROW_13, &case, (arm, NFTABLES), Goal::AtMost(1.0), "s")?);
    }
    for arm in [HOOKED, NEEDED_SOCKET, NEEDED_POD] {
        let case = what_there_is("connections", arm);
        measured.push(rates.measured(ROW_4, &case, (arm, STRAIGHT), Goal::AtLeast(0.98), "connections/s")?);
    }
    Ok(measured)
}

/// The case of an arm that shows how much of a goal is within reach.
fn what_there_is(of: &str, arm: &str) -> String {
    format!("{of}, and what there is to gain: {arm}")
}

/// Row 5 and its part of row 13: new connections from outside to the node's own port.
pub(super) fn outside(settings: &Settings, arenas: &[Arena], case: &str, least: f64) -> Result<Vec<Measured>> {
    let [rates, used] = strained(settings, arenas, From::Outside, "connections", CLIENTS)?;
    let used = used.scaled(1000.0);
    let of_row_13 = format!("1,000 connections, outside to NodePort, {case}");
    let mut measured = vec![
        rates.measured(ROW_5, case, (SOCKET, NFTABLES), Goal::AtLeast(least), "connections/s")?,
        used.measured(ROW_13, &of_row_13, (SOCKET, NFTABLES), Goal::AtMost(1.0), "s")?,
    ];
    if !rates.of(STRAIGHT).is_empty() {
        let case = format!("{case}, and what there is to gain: {STRAIGHT}, with no proxy");
        measured.push(rates.measured(
            ROW_5,
            &case,
            (STRAIGHT, NFTABLES),
            Goal::AtLeast(least),
            "connections/s",
        )?);
    }
    Ok(measured)
}

fn bulk(settings: &Settings, arenas: &[Arena]) -> Result<Vec<Measured>> {
    let [rates, used] = strained(settings, arenas, From::Pod, "stream", 1)?;
    let (rates, used) = (rates.scaled(BITS), used.scaled(1.0 / BITS));
    let mut measured = Vec::new();
    for arm in [SOCKET, POD] {
        let case = format!("bulk, {arm}");
        measured.push(rates.measured(ROW_8, &case, (arm, STRAIGHT), Goal::AtLeast(0.99), "Gbit/s")?);
        let case = format!("a Gbit, pod to ClusterIP, {arm}");
        measured.push(used.measured(ROW_13, &case, (arm, NFTABLES), Goal::AtMost(1.0), "s")?);
    }
    let case = what_there_is("bulk", HOOKED);
    measured.push(rates.measured(ROW_8, &case, (HOOKED, STRAIGHT), Goal::AtLeast(0.99), "Gbit/s")?);
    Ok(measured)
}

fn bulk_outside(settings: &Settings, arenas: &[Arena]) -> Result<Vec<Measured>> {
    let [_, used] = strained(settings, arenas, From::Outside, "stream", 1)?;
    let used = used.scaled(1.0 / BITS);
    let case = "a Gbit, outside to NodePort";
    Ok(vec![used.measured(
        ROW_13,
        case,
        (SOCKET, NFTABLES),
        Goal::AtMost(1.0),
        "s",
    )?])
}

fn latency(settings: &Settings, arenas: &[Arena]) -> Result<Vec<Measured>> {
    const MICROSECOND: f64 = 1e-3;
    let (rounds, milliseconds) = pace(settings);
    let some = arenas
        .iter()
        .filter(|arena| takes_part(arena.name, From::Pod, "requests"));
    let arms = some.map(|arena| {
        Arm::of_many(arena.name, move || {
            let report =
                strain(arena.pod(), "requests", arena.pod_target(), 1, milliseconds).context("request and response")?;
            Ok(vec![report.p50_nanos as f64, report.p99_nanos as f64])
        })
    });
    let all: [Samples; 2] = interleave(rounds, &mut arms.collect::<Vec<_>>())?;
    let mut measured = Vec::new();
    for (what, samples) in ["p50", "p99"].into_iter().zip(all) {
        let samples = samples.scaled(MICROSECOND);
        for arm in [SOCKET, POD] {
            let case = format!("request and response {what}, {arm}");
            measured.push(samples.measured(ROW_8, &case, (arm, STRAIGHT), Goal::AtMost(1.02), "us")?);
        }
        let case = what_there_is(&format!("request and response {what}"), HOOKED);
        measured.push(samples.measured(ROW_8, &case, (HOOKED, STRAIGHT), Goal::AtMost(1.02), "us")?);
    }
    Ok(measured)
}

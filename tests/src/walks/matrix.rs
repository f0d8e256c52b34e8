//! Runs the cells of the matrix in one rig.
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use super::cell::{Cell, Expectation, Source, expectation};
use super::fixture;
use super::report::Mark;
use crate::rig::Rig;
use crate::wire::{Attempt, FailureKind, ProbeReport, ProbeRequest, Protocol};

/// Questions a cell asks: each on a socket of its own.
const ROUNDS: u32 = 3;
/// How long a walk that must be answered may take; how long one that must not is waited for.
const PATIENCE_MS: u64 = 1500;
const SILENCE_MS: u64 = 250;
/// Walks at a time.
const WORKERS: usize = 8;

/// Walks every cell, several at a time: each has a Service of its own kind, and none counts connections.
pub fn run(rig: &Rig, cells: &[Cell]) -> Vec<(Cell, Mark)> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mark = walk(rig, cell);
                    results
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .push((*cell, mark));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(cell, _)| *cell);
    results
}

fn walk(rig: &Rig, cell: &Cell) -> Mark {
    let expected = expectation(cell, &rig.options);
    let report = ask(rig, cell, expected);
    let judged = report.and_then(|report| judge(rig, cell, expected, &report));
    match (judged, expected) {
        (Ok(()), Expectation::Limit(reason)) => Mark::Skip(reason.to_owned()),
        (Ok(()), _) => Mark::Pass,
        (Err(error), _) => Mark::Fail(format!("{error:#}")),
    }
}

fn ask(rig: &Rig, cell: &Cell, expected: Expectation) -> Result<ProbeReport> {
    let to = fixture::address(rig, cell.backend.service(), cell.target, cell.family);
    let request = match expected {
        Expectation::Answer(_) => ProbeRequest::new(cell.protocol, to)
            .timeout_ms(PATIENCE_MS)
            .count(ROUNDS),
        Expectation::Nothing | Expectation::Limit(_) => ProbeRequest::new(cell.protocol, to).timeout_ms(SILENCE_MS),
    };
    fixture::place(rig, cell.client).probe(&request)
}

fn judge(rig: &Rig, cell: &Cell, expected: Expectation, report: &ProbeReport) -> Result<()> {
    for attempt in &report.attempts {
        match (expected, &attempt.failure) {
            (Expectation::Answer(source), None) => {
                answered(cell, attempt)?;
                seen_source(rig, cell, source, attempt)?;
            }
            (Expectation::Answer(_), Some(failure)) => bail!("no answer: {}: {}", failure.stage, failure.text),
            (Expectation::Nothing, None) => bail!("answered, though nothing should"),
            (Expectation::Nothing, Some(failure)) => {
                ensure!(
                    failure.kind != FailureKind::Other,
                    "{}: {}",
                    failure.stage,
                    failure.text
                );
            }
            (Expectation::Limit(_), None) => answered(cell, attempt)?,
            (Expectation::Limit(_), Some(_)) => {}
        }
    }
    Ok(())
}

/// The right pod, at the right port, and every address the client sees is the one that it asked.
fn answered(cell: &Cell, attempt: &Attempt) -> Result<()> {
    for answer in &attempt.answers {
        let wanted = fixture::pod(cell.backend);
        ensure!(answer.pod == wanted, "answered by {} instead of {wanted}", answer.pod);
        ensure!(
            answer.local.port() == fixture::TARGET_PORT,
            "reached port {}",
            answer.local.port()
        );
    }
    let peer = attempt.peer.context("no peer address")?;
    ensure!(peer == attempt.to, "getpeername says {peer} instead of {}", attempt.to);
    if cell.protocol == Protocol::Udp {
        let from = attempt.from.context("no sender's address")?;
        ensure!(from == attempt.to, "recvfrom says {from} instead of {}", attempt.to);
    }
    Ok(())
}

fn seen_source(rig: &Rig, cell: &Cell, expected: Source, attempt: &Attempt) -> Result<()> {
    let client = || fixture::client_addresses(rig, cell.client);
    let allowed: Vec<IpAddr> = match expected {
        Source::Client => client(),
        Source::Node(node) => fixture::node_addresses(rig, node),
        Source::Asked => vec![attempt.to.ip()],
        Source::Either(node) => client().into_iter().chain(fixture::node_addresses(rig, node)).collect(),
    };
    for answer in &attempt.answers {
        ensure!(
            allowed.contains(&answer.peer.ip()),
            "the backend saw {}, not {expected:?}",
            answer.peer
        );
    }
    Ok(())
}

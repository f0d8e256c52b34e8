//! `playground --once`: a fixed scenario with its report. Every number is counted, by the clients or by the datapath.
mod changes;
mod end;
mod paths;

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::time::Instant;

use anyhow::Result;
use ferrogate_tests::wire::{Attempt, ProbeReport};

use crate::cluster::{Cluster, TARGET_PORT};
use crate::examples::DIRECTORIES;
use crate::path::{self, Path};
use crate::report::Report;

/// Order pods at the start, as in the examples.
const SCALE: u8 = 3;

/// What every part of the scenario works with.
struct Scenario {
    cluster: Cluster,
    paths: Vec<Path>,
    report: Report,
}

/// Runs it; whether every check passed.
pub(crate) fn run(folder: &FilePath) -> Result<bool> {
    let begin = Instant::now();
    let report = Report::new();
    report.line("Ferrogate playground: every path to a Service, once")?;
    let cluster = Cluster::boot(folder, SCALE)?;
    let paths = path::all(&cluster)?;
    let mut scenario = Scenario { cluster, paths, report };
    introduce(&scenario, begin)?;
    paths::run(&mut scenario)?;
    changes::run(&mut scenario)?;
    end::tables(&mut scenario)?;
    let Scenario {
        cluster, mut report, ..
    } = scenario;
    end::nothing_left(cluster, &mut report)?;
    report.line(&format!("\ntook {:.1} s", begin.elapsed().as_secs_f64()))?;
    report.end()
}

fn introduce(scenario: &Scenario, begin: Instant) -> Result<()> {
    let (cluster, report) = (&scenario.cluster, &scenario.report);
    let nodes: Vec<_> = cluster
        .rig
        .nodes
        .iter()
        .map(|node| format!("{} {}", node.name, node.address.v4))
        .collect();
    report.text(&format!(
        "nodes     {}: one agent each, its eBPF programs attached",
        nodes.join(", ")
    ))?;
    let orders: Vec<_> = cluster
        .orders()
        .map(|pod| {
            format!(
                "{} {}:{TARGET_PORT} on n{}",
                pod.spec.name, pod.addresses.v4, pod.spec.node
            )
        })
        .collect();
    report.text(&format!("pods      {}", orders.join("\n          ")))?;
    let directories = DIRECTORIES.map(|directory| format!("examples/{directory}"));
    report.text(&format!(
        "Services  the manifests of {}, as they are:\n          \
         clusterIP, nodePort and the load balancer's address stand in them",
        directories.join(" and ")
    ))?;
    report.text(&format!("booted in {:.1} s", begin.elapsed().as_secs_f64()))
}

/// `order-1 100  order-2 100  order-3 100`.
fn shares(tally: &BTreeMap<&str, usize>) -> String {
    let shares: Vec<_> = tally.iter().map(|(pod, count)| format!("{pod} {count}")).collect();
    if shares.is_empty() {
        "nobody".to_owned()
    } else {
        shares.join("  ")
    }
}

/// The median time of an attempt, in milliseconds.
fn median_ms(report: &ProbeReport) -> f64 {
    let mut times: Vec<_> = report.attempts.iter().map(|attempt| attempt.micros).collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or(0) as f64 / 1000.0
}

/// The first failure, for people.
fn first_failure(report: &ProbeReport) -> Option<String> {
    let describe = |attempt: &Attempt| {
        let failure = attempt.failure.as_ref()?;
        Some(format!("{}: {} ({})", attempt.to, failure.text, failure.stage))
    };
    report.attempts.iter().find_map(describe)
}

//! The command line: which cases, beside whom, and where the results go.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use std::{fs, thread};

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Parser, ValueEnum};

use super::case::{self, Case, Side};
use super::cluster::Cluster;
use super::report::{self, Row};
use super::run::{self, Found};
use crate::rig::{Layout, SocketEdge};

/// Files whose cases are the quick ones.
const QUICK: [&str; 4] = ["internal-policy-", "endpoint-slices-", "refusals-", "terminating-"];

/// Takes every case through a cluster with Ferrogate and one with kube-proxy, and prints what both showed.
#[derive(Clone, Debug, Parser)]
#[command(name = "conformance")]
struct Arguments {
    /// Only cases whose name or title contains one of these
    #[arg(long, value_delimiter = ',', value_name = "TEXT")]
    filter: Vec<String>,
    /// How pods are wired: routed, bridge, bridge-nonf, vxlan
    #[arg(long, default_value = "routed", value_parser = Layout::parse)]
    layout: Layout,
    /// Whether Ferrogate translates at sockets
    #[arg(long, value_enum, default_value = "all")]
    socket_edge: Edge,
    /// Only one of the proxies
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// Write every question and answer to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A selection that takes less than a minute
    #[arg(long)]
    quick: bool,
    /// Print the names of the cases, and run none
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Edge {
    All,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Only {
    Ours,
    KubeProxy,
}

/// Runs the command line; fails when a case failed.
pub fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let mut cases = case::all()?;
    let chosen = |case: &Case| {
        let mut filters = arguments.filter.iter();
        let named = filters.any(|part| case.name.contains(part) || case.title.contains(part));
        let quick = QUICK.iter().any(|file| case.name.starts_with(file));
        (arguments.filter.is_empty() || named) && (!arguments.quick || quick)
    };
    cases.retain(chosen);
    if arguments.list {
        for case in &cases {
            println!("{:<44} {} [{}]", case.name, case.title, case.upstream);
        }
        println!("{} cases", cases.len());
        return Ok(true);
    }
    if cases.is_empty() && arguments.quick {
        print!("{}", report::text(&[]));
        return Ok(true);
    }
    ensure!(
        !cases.is_empty(),
        "no case's name or title contains {:?}",
        arguments.filter
    );
    let begun = Instant::now();
    let sides: &[Side] = match arguments.only {
        None => &[Side::KubeProxy, Side::Ours],
        Some(Only::Ours) => &[Side::Ours],
        Some(Only::KubeProxy) => &[Side::KubeProxy],
    };
    let found = thread::scope(|scope| {
        let runs: Vec<_> = sides
            .iter()
            .map(|side| (*side, scope.spawn(|| one_side(arguments, *side, &cases))))
            .collect();
        let join = |(side, run): (Side, thread::ScopedJoinHandle<'_, Result<Vec<Found>>>)| {
            let found = run
                .join()
                .map_err(|_| anyhow!("the run with {} panicked", side.name()))?;
            Ok((
                side,
                found.with_context(|| format!("the cluster with {}", side.name()))?,
            ))
        };
        runs.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let mut rows: Vec<Row> = cases
        .iter()
        .map(|case| Row {
            case,
            sides: BTreeMap::new(),
        })
        .collect();
    for (side, found) in found {
        for (row, found) in rows.iter_mut().zip(found) {
            row.sides.insert(side, found);
        }
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report::json(&rows))?;
        fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    eprintln!("{} cases in {:.0} s", rows.len(), begun.elapsed().as_secs_f64());
    print!("{}", report::text(&rows));
    Ok(report::totals(&rows).1 == 0)
}

fn one_side(arguments: &Arguments, side: Side, cases: &[Case]) -> Result<Vec<Found>> {
    let begun = Instant::now();
    let edge = match arguments.socket_edge {
        Edge::All => SocketEdge::All,
        Edge::Off => SocketEdge::Off,
    };
    let mut cluster = Cluster::boot(side, arguments.layout, edge)?;
    let say = |what: &str| eprintln!("{:<10} {:>6.1} s  {what}", side.name(), begun.elapsed().as_secs_f64());
    say("the cluster stands");
    let found = run::run(&mut cluster, cases, |done| {
        say(&format!("{done} of {} cases", cases.len()));
    })?;
    cluster.rig.check_proxies()?;
    Ok(found)
}

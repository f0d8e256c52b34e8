//! The command line of the faults.
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use super::ground::Ground;
use super::report::{self, Row};
use super::siege::Load;
use super::{Fault, all, life, migration};
use crate::rig::{FerrogateOptions, Layout, Options, Proxy, Source};

/// Does things to the proxies of a small cluster under load, and counts what is lost.
#[derive(Clone, Debug, Parser)]
#[command(name = "faults")]
pub struct Arguments {
    /// Go on for this many minutes, and until each fault happened once, with much load, in an order that the seed decides; else each
    /// happens once.
    #[arg(long)]
    pub minutes: Option<u64>,
    /// What decides order and moments [default: from the clock].
    #[arg(long)]
    pub seed: Option<u64>,
    /// Only faults whose name contains this.
    #[arg(long, default_value = "")]
    pub filter: String,
    /// Proxies, each in a rig of its own.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ferrogate")]
    pub proxy: Vec<ProxyName>,
    /// How pods are wired: routed, bridge, bridge-nonf, vxlan.
    #[arg(long, default_value = "routed", value_parser = Layout::parse)]
    pub layout: Layout,
    /// Load: connections held, UDP flows, new connections a second.
    #[arg(long, value_names = ["CONNECTIONS", "FLOWS", "RATE"], num_args = 3)]
    pub load: Option<Vec<u32>>,
    /// Packets a second of the floods.
    #[arg(long, default_value_t = super::flood::RATE)]
    pub flood_rate: u64,
    /// An agent of another build, an earlier release above all: it takes over, and this one again.
    #[arg(long, value_name = "FILE")]
    pub other_agent: Option<PathBuf>,
    /// Write the table of all that happened into this file, between its two marks.
    #[arg(long)]
    pub document: Option<PathBuf>,
    /// Print the names of the faults, and do nothing.
    #[arg(long)]
    pub list: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProxyName {
    Ferrogate,
    KubeProxy,
}

/// Runs the faults of the command line; fails when something was lost that may not be.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        let migrations = migration::ALL.iter().map(|migration| migration.fault.name);
        all()
            .iter()
            .map(|fault| fault.name)
            .chain(migrations)
            .for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for proxy in &arguments.proxy {
        if let Err(error) = run(&arguments, *proxy, &mut rows, &mut failures) {
            failures.push(format!("{proxy:?}: {error:#}"));
        }
    }
    migrate(&arguments, &mut rows, &mut failures);
    println!("\n{}", report::markdown(&rows));
    if let Some(path) = &arguments.document
        && let Err(error) = write_document(path, &report::markdown(&rows))
    {
        failures.push(format!("{error:#}"));
    }
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    let passed = rows
        .len()
        .saturating_sub(rows.iter().filter(|row| is_failure(row)).count());
    println!("{passed} passed, {} failed, 0 skipped", failures.len());
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What kube-proxy loses is shown, and is no failure of ours.
fn is_failure(row: &Row) -> bool {
    row.proxy != "kube-proxy" && !row.harmless
}

/// Every migration, once, in a rig of its own.
fn migrate(arguments: &Arguments, rows: &mut Vec<Row>, failures: &mut Vec<String>) {
    for migration in migration::ALL {
        let name = migration.fault.name;
        if !name.contains(&arguments.filter) || !arguments.proxy.contains(&ProxyName::Ferrogate) {
            continue;
        }
        let outcome = migration.run(arguments.layout, arguments.seed.unwrap_or_default(), load(arguments));
        match outcome {
            Ok(row) => {
                println!("{}", row.line());
                if is_failure(&row) {
                    failures.push(format!("{name}: {}", row.wrong.join("; ")));
                }
                rows.push(row);
            }
            Err(error) => failures.push(format!("{name}: {error:#}")),
        }
    }
}

fn run(arguments: &Arguments, proxy: ProxyName, rows: &mut Vec<Row>, failures: &mut Vec<String>) -> Result<()> {
    let rival = proxy == ProxyName::KubeProxy;
    let faults: Vec<Fault> = all()
        .into_iter()
        .filter(|fault| fault.name.contains(&arguments.filter) && (!rival || fault.rival))
        .filter(|fault| fault.name != life::OTHER_BUILD || arguments.other_agent.is_some())
        .collect();
    if faults.is_empty() {
        return Ok(());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = arguments.seed.unwrap_or(now.as_secs());
    println!("seed {seed}, {proxy:?}");
    let options = Options {
        layout: arguments.layout,
        source: Source::ControlPlane,
        proxy: match proxy {
            ProxyName::Ferrogate => Proxy::Ferrogate(FerrogateOptions::default()),
            ProxyName::KubeProxy => Proxy::KubeProxy,
        },
        ..Options::default()
    };
    let load = load(arguments);
    let mut ground = Ground::boot(options, seed)?;
    ground.long = arguments.minutes.is_some();
    ground.flood_rate = arguments.flood_rate;
    ground.other_agent.clone_from(&arguments.other_agent);
    let end = Instant::now() + Duration::from_secs(arguments.minutes.unwrap_or_default() * 60);
    // Each fault happens once, whatever time it takes.
    let mut again = false;
    loop {
        let mut order = faults.clone();
        if arguments.minutes.is_some() {
            ground.random.shuffle(&mut order);
        }
        for fault in &order {
            match ground.suffer(fault, load) {
                Ok(row) => {
                    println!("{}", row.line());
                    if is_failure(&row) {
                        failures.push(format!("{} (seed {seed}): {}", row.fault, row.wrong.join("; ")));
                    }
                    rows.push(row);
                }
                Err(error) => {
                    failures.push(format!("{} (seed {seed}): {error:#}", fault.name));
                    // What state the proxies are in is not known any more.
                    return Ok(());
                }
            }
            if again && Instant::now() > end {
                return Ok(());
            }
        }
        if Instant::now() > end {
            return Ok(());
        }
        again = true;
    }
}

fn load(arguments: &Arguments) -> Load {
    let usual = if arguments.minutes.is_some() {
        Load::LONG
    } else {
        Load::SHORT
    };
    match arguments.load.as_deref() {
        Some(&[connections, flows, rate]) => Load {
            connections,
            flows,
            rate,
            ..usual
        },
        _ => usual,
    }
}

/// Replaces what is between the marks of the document by the table.
fn write_document(path: &PathBuf, table: &str) -> Result<()> {
    const MARKS: (&str, &str) = ("<!-- faults: begin -->\n", "<!-- faults: end -->");
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let missing = || format!("{} lacks the marks of the table", path.display());
    let (head, rest) = text.split_once(MARKS.0).with_context(missing)?;
    let (_, tail) = rest.split_once(MARKS.1).with_context(missing)?;
    fs::write(path, format!("{head}{}{table}{}{tail}", MARKS.0, MARKS.1))?;
    Ok(())
}

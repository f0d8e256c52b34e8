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
    /// An agent of another build, an earlier release above all: it is upgraded to this one, and takes over from it in between.
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
        all()
            .iter()
            .chain([&life::OTHER_BUILD, &life::FROM_OTHER_BUILD])
            .chain(migration::ALL.iter().map(|migration| &migration.fault))
            .for_each(|fault| println!("{}", fault.name));
        return ExitCode::SUCCESS;
    }
    let mut outcome = Outcome::default();
    for proxy in &arguments.proxy {
        if let Err(error) = run(&arguments, *proxy, &mut outcome) {
            outcome.failures.push(format!("{proxy:?}: {error:#}"));
        }
    }
    if arguments.proxy.contains(&ProxyName::Ferrogate) {
        in_rigs_of_their_own(&arguments, &mut outcome);
    }
    if outcome.rows.is_empty() && outcome.failures.is_empty() {
        let filter = &arguments.filter;
        outcome.failures.push(format!(
            "no fault of {:?} is called {filter:?}: see --list, and --other-agent for those of another build",
            arguments.proxy
        ));
    }
    outcome.end(arguments.document.as_ref())
}

/// What has come of the faults so far.
#[derive(Default)]
struct Outcome {
    rows: Vec<Row>,
    failures: Vec<String>,
}

impl Outcome {
    /// Tells of a fault. Returns whether it came to its end.
    fn take(&mut self, fault: &Fault, seed: u64, outcome: Result<Row>) -> bool {
        let name = fault.name;
        match outcome {
            Ok(row) => {
                println!("{}", row.line());
                if is_failure(&row) {
                    self.failures
                        .push(format!("{name} (seed {seed}): {}", row.wrong.join("; ")));
                }
                self.rows.push(row);
                true
            }
            Err(error) => {
                self.failures.push(format!("{name} (seed {seed}): {error:#}"));
                false
            }
        }
    }

    fn end(mut self, document: Option<&PathBuf>) -> ExitCode {
        let table = report::markdown(&self.rows);
        println!("\n{table}");
        if let Some(path) = document
            && let Err(error) = write_document(path, &table)
        {
            self.failures.push(format!("{error:#}"));
        }
        for failure in &self.failures {
            println!("FAILED: {failure}");
        }
        let passed = self.rows.iter().filter(|row| !is_failure(row)).count();
        println!("{passed} passed, {} failed, 0 skipped", self.failures.len());
        if self.failures.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// What kube-proxy loses is shown, and is no failure of ours.
fn is_failure(row: &Row) -> bool {
    row.proxy != "kube-proxy" && !row.harmless
}

/// The upgrade from another build, if there is one, and every migration, each once.
fn in_rigs_of_their_own(arguments: &Arguments, outcome: &mut Outcome) {
    let (seed, load) = (seed(arguments), load(arguments));
    let wanted = |fault: &Fault| fault.name.contains(&arguments.filter);
    if let Some(other) = &arguments.other_agent
        && wanted(&life::FROM_OTHER_BUILD)
    {
        let agent = FerrogateOptions {
            launcher: life::instead(other),
            ..FerrogateOptions::default()
        };
        let row = Ground::boot(options(arguments, Proxy::Ferrogate(agent)), seed)
            .and_then(|mut ground| ground.suffer(&life::FROM_OTHER_BUILD, load));
        outcome.take(&life::FROM_OTHER_BUILD, seed, row);
    }
    for migration in migration::ALL.iter().filter(|migration| wanted(&migration.fault)) {
        let row = migration.run(arguments.layout, seed, load);
        outcome.take(&migration.fault, seed, row);
    }
}

fn seed(arguments: &Arguments) -> u64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    arguments.seed.unwrap_or_else(|| now().as_secs())
}

fn options(arguments: &Arguments, proxy: Proxy) -> Options {
    Options {
        layout: arguments.layout,
        source: Source::ControlPlane,
        proxy,
        ..Options::default()
    }
}

fn run(arguments: &Arguments, proxy: ProxyName, outcome: &mut Outcome) -> Result<()> {
    let rival = proxy == ProxyName::KubeProxy;
    let mut faults = all();
    if arguments.other_agent.is_some() {
        faults.push(life::OTHER_BUILD);
    }
    faults.retain(|fault| fault.name.contains(&arguments.filter) && (!rival || fault.rival));
    if faults.is_empty() {
        return Ok(());
    }
    let seed = seed(arguments);
    println!("seed {seed}, {proxy:?}");
    let proxy = match proxy {
        ProxyName::Ferrogate => Proxy::Ferrogate(FerrogateOptions::default()),
        ProxyName::KubeProxy => Proxy::KubeProxy,
    };
    let load = load(arguments);
    let mut ground = Ground::boot(options(arguments, proxy), seed)?;
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
            let row = ground.suffer(fault, load);
            // After one that came to no end, what state the proxies are in is not known any more.
            if !outcome.take(fault, seed, row) || (again && Instant::now() > end) {
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

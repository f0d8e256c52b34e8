//! The command line of the random sequences.
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Parser;

use super::batch_run::{self, LANES, batch_of, profile};
use super::ground::Ground;
use super::report::Totals;
use crate::rig::Layout;

/// Its name, for `--filter`.
const NAME: &str = "random sequences of changes reach the same as through kube-proxy";
/// Profiles of Ferrogate: they go by the batch's number.
const PROFILES: u64 = 4;

/// Makes Services at random, changes them at random, and compares what every client reaches through Ferrogate with what it
/// reaches through kube-proxy.
#[derive(Clone, Debug, Parser)]
#[command(name = "random")]
pub struct Arguments {
    /// How many sequences; sequence N has the seed SEED + N.
    #[arg(long, default_value_t = 32)]
    pub sequences: u64,
    /// The first seed [default: from the clock].
    #[arg(long)]
    pub seed: Option<u64>,
    /// Changes of each sequence.
    #[arg(long, default_value_t = 12)]
    pub steps: u32,
    /// How pods are wired: routed, bridge, bridge-nonf, vxlan.
    #[arg(long, default_value = "routed", value_parser = Layout::parse)]
    pub layout: Layout,
    /// Begin no further batch after this many seconds.
    #[arg(long)]
    pub seconds: Option<u64>,
    /// End after this many failed sequences.
    #[arg(long, default_value_t = 10)]
    pub failures: usize,
    /// Run only if the name of the run contains this.
    #[arg(long, default_value = "")]
    pub filter: String,
    /// Afterwards, keep both rigs until Enter is pressed.
    #[arg(long)]
    pub hold: bool,
}

/// Runs the sequences of the command line; fails when two proxies differ without a reason.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !NAME.contains(&arguments.filter) {
        println!("0 passed, 0 failed, 0 skipped");
        return ExitCode::SUCCESS;
    }
    let mut totals = Totals::default();
    let outcome = run(&arguments, &mut totals);
    print!("{totals}");
    if let Err(error) = &outcome {
        println!("FAILED: {error:#}");
    }
    let failed = totals.failures.len() + usize::from(outcome.is_err());
    println!(
        "{} passed, {failed} failed, 0 skipped",
        totals.sequences - totals.failures.len().min(totals.sequences)
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run(arguments: &Arguments, totals: &mut Totals) -> Result<()> {
    let clock = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()
    };
    let first = arguments.seed.unwrap_or_else(|| clock() / LANES * LANES);
    let begin = Instant::now();
    let mut ground = Ground::boot(arguments.layout)?;
    println!(
        "seeds {first} to {}, {} steps each; two rigs up after {:.1} s",
        first + arguments.sequences - 1,
        arguments.steps,
        begin.elapsed().as_secs_f32()
    );
    let mut batches: Vec<Vec<u64>> = Vec::new();
    for seed in first..first + arguments.sequences {
        match batches.last_mut() {
            Some(batch) if batch_of(batch[0]) == batch_of(seed) => batch.push(seed),
            _ => batches.push(vec![seed]),
        }
    }
    // A profile takes new agents: all batches of one together.
    batches.sort_by_key(|batch| batch_of(batch[0]) % PROFILES);
    let mut running = None;
    for batch in &batches {
        let wanted = profile(batch_of(batch[0]));
        if running != Some(wanted) {
            ground.start(wanted)?;
            ground.settle()?;
            running = Some(wanted);
        }
        batch_run::run(&mut ground, batch, arguments.steps, totals)?;
        ground.check()?;
        let late = arguments
            .seconds
            .is_some_and(|seconds| begin.elapsed() > Duration::from_secs(seconds));
        if late || totals.failures.len() >= arguments.failures {
            break;
        }
    }
    if arguments.hold {
        eprintln!("held: {}; Enter removes it", ground.names().join(" and "));
        std::io::stdin().read_line(&mut String::new())?;
    }
    println!("{:.0} s", begin.elapsed().as_secs_f32());
    Ok(())
}

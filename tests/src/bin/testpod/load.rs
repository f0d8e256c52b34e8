//! `testpod load`: asks again and again at a steady rate, and prints each attempt as a line of JSON.
use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use ferrogate_tests::wire::ProbeRequest;

use crate::probe;

/// How often a load of rate 0 looks for a new rate.
const IDLE: Duration = Duration::from_millis(20);

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    request: ProbeRequest,
    /// Attempts a second over all addresses, which are asked in turn. Each line of standard input is a new rate; its end is
    /// the end of the load.
    #[arg(long, default_value_t = 10)]
    rate: u32,
}

pub(crate) fn run(options: Options) -> Result<()> {
    let rate = Arc::new(AtomicU32::new(options.rate));
    follow_input(rate.clone());
    let mut output = io::stdout().lock();
    let mut next = Instant::now();
    for to in options.request.to.iter().cycle() {
        let per_second = wait_for_turn(&rate, next);
        let report = probe::run(&ProbeRequest {
            to: vec![*to],
            ..options.request.clone()
        });
        for attempt in report.attempts {
            writeln!(output, "{}", serde_json::to_string(&attempt)?)?;
        }
        // An attempt that took long is not made up for by a burst.
        next = (next + Duration::from_secs(1) / per_second).max(Instant::now() - Duration::from_millis(50));
    }
    Ok(())
}

/// Sleeps until `next`, and while the rate is 0. Returns the rate.
fn wait_for_turn(rate: &AtomicU32, next: Instant) -> u32 {
    loop {
        let wait = next.saturating_duration_since(Instant::now());
        match rate.load(Ordering::Relaxed) {
            0 => thread::sleep(IDLE),
            _ if !wait.is_zero() => thread::sleep(wait),
            per_second => return per_second,
        }
    }
}

/// Takes new rates from standard input on a thread of its own, and ends the program with the input.
fn follow_input(rate: Arc<AtomicU32>) {
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if let Ok(new) = line.trim().parse() {
                rate.store(new, Ordering::Relaxed);
            }
        }
        std::process::exit(0);
    });
}

//! The live view as lines, for logs and pipes.
use std::io::{self, Write};
use std::time::Instant;

use anyhow::Result;

use crate::live::View;

/// A line for each path.
pub(crate) fn print(view: &mut View) -> Result<()> {
    let (elapsed, now) = (view.elapsed(), Instant::now());
    let mut output = io::stdout().lock();
    for (path, tally) in view.paths.iter().zip(&mut view.tallies) {
        let rate = tally.rate(now);
        let shares: Vec<_> = tally
            .by_pod
            .iter()
            .map(|(pod, count)| format!("{pod} {count}"))
            .collect();
        writeln!(
            output,
            "{elapsed}  {:<15} {rate:>5.1}/s  answered {}  refused {}  lost {}  {}",
            path.name,
            tally.answered,
            tally.refused,
            tally.silent + tally.failed,
            shares.join("  ")
        )?;
    }
    output.flush()?;
    Ok(())
}

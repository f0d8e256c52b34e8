//! `bench`, the program.
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;

use super::facts::Facts;
use super::result::Measured;
use super::{GROUPS, report};

#[derive(Parser, Clone, Debug)]
#[command(
    name = "bench",
    about = "Everything that is measured, side by side in one run, as ratios"
)]
pub(super) struct Settings {
    /// Fewer and shorter rounds: below ten minutes in all
    #[arg(long)]
    quick: bool,
    /// Only rows with these numbers, or whose name contains such a text; a comma between two
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Write the results to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write benchmarks.md, its plots and results to this directory; with --only, beside what earlier runs left there
    #[arg(long, value_name = "DIR")]
    docs: Option<PathBuf>,
    /// Print what there is to measure, and measure nothing
    #[arg(long)]
    list: bool,
}

impl Settings {
    /// Whether a row is to be measured.
    pub(super) fn wants(&self, row: u8, name: &str) -> bool {
        let one = |only: &str| match only.parse::<u8>() {
            Ok(number) => number == row,
            Err(_) => name.contains(only),
        };
        self.only.as_ref().is_none_or(|only| only.split(',').any(one))
    }

    /// Whether this is the quick run of everything, which leaves out what takes minutes.
    pub(super) fn is_hasty(&self) -> bool {
        self.quick && self.only.is_none()
    }

    /// One of two settings.
    pub(super) fn choose<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// How often arms take turns where a measurement takes milliseconds.
    pub(super) fn rounds(&self) -> usize {
        self.choose(9, 61)
    }
}

/// Runs the program. An error: something could not be measured. Goals that are not met are results.
pub fn run() -> Result<()> {
    let settings = Settings::parse();
    let groups: Vec<_> = GROUPS
        .iter()
        .filter(|group| group.rows.iter().any(|(row, name)| settings.wants(*row, name)))
        .collect();
    if settings.list {
        for (row, name) in report::all_rows() {
            println!("{row:>2}  {name}");
        }
        return Ok(());
    }
    ensure!(
        !groups.is_empty(),
        "--only: nothing of that name or number; --list shows all"
    );
    let begun = Instant::now();
    let mut measured = Vec::new();
    let mut failed = Vec::new();
    for group in groups {
        eprintln!("{:>6.1} s  {}", begun.elapsed().as_secs_f64(), group.about);
        let (work, own) = (group.measure, settings.clone());
        // A thread of its own: it may move to another network namespace.
        let outcome = thread::spawn(move || work(&own))
            .join()
            .unwrap_or_else(|_| Err(anyhow!("panicked")));
        match outcome {
            Ok(rows) => {
                report::print(&rows);
                measured.extend(rows);
            }
            Err(error) => failed.push(format!("{}: {error:#}", group.about)),
        }
        // Each time: a run that is stopped leaves what it has.
        write(&settings, &measured, &failed, begun)?;
    }
    let met = measured.iter().filter(|row| row.met).count();
    println!(
        "{} measurements in {:.0} s, {met} goals met, {} not",
        measured.len(),
        begun.elapsed().as_secs_f64(),
        measured.len() - met
    );
    if !failed.is_empty() {
        bail!("not everything could be measured:\n{}", failed.join("\n"));
    }
    Ok(())
}

fn write(settings: &Settings, measured: &[Measured], failed: &[String], begun: Instant) -> Result<()> {
    if let Some(file) = &settings.json {
        let json = serde_json::to_string_pretty(measured)? + "\n";
        fs::write(file, json).with_context(|| format!("--json {}", file.display()))?;
    }
    if let Some(directory) = &settings.docs {
        let facts = Facts::collect(settings.quick, settings.only.as_deref(), begun.elapsed())?;
        report::write(directory, &facts, measured, failed, settings.only.is_some())
            .with_context(|| format!("--docs {}", directory.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(only: &str) -> Settings {
        Settings::parse_from(["bench", "--only", only])
    }

    #[test]
    fn rows_are_chosen_by_number_or_by_a_part_of_their_name() {
        assert!(settings("1").wants(1, "ns per packet"));
        assert!(!settings("1").wants(12, "kernel memory a flow"));
        assert!(settings("memory").wants(12, "kernel memory a flow"));
        assert!(!settings("memory").wants(1, "ns per packet"));
        assert!(settings("4,8").wants(8, "bulk") && !settings("4,8").wants(5, "bulk"));
    }
}

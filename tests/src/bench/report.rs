//! Results for people: lines on the terminal, and docs/benchmarks.md with its plots.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::GROUPS;
use super::facts::Facts;
use super::plot;
use super::result::Measured;

/// Numbers and names of all rows, by number; two groups can measure parts of one.
pub(super) fn all_rows() -> BTreeMap<u8, &'static str> {
    GROUPS.iter().flat_map(|group| group.rows).copied().collect()
}

/// Lines for the terminal.
pub(super) fn print(measured: &[Measured]) {
    for row in measured {
        println!(
            "{:>2}  {:<28} {:<46} {:>8} [{} .. {}]  goal {:<8} {}  {}",
            row.row,
            row.name,
            row.case,
            row.ratio,
            row.spread[0],
            row.spread[1],
            row.goal.to_string(),
            if row.met { "met    " } else { "NOT MET" },
            values(row)
        );
    }
}

fn values(row: &Measured) -> String {
    let values: Vec<_> = row.values.iter().map(|(arm, value)| format!("{arm} {value}")).collect();
    format!("{} {}", values.join(", "), row.unit)
}

/// Writes benchmarks.md, a plot for each row, and all results as JSON. With `beside`, those of earlier runs stay that are not
/// measured anew.
pub(super) fn write(
    directory: &Path,
    facts: &Facts,
    measured: &[Measured],
    failed: &[String],
    beside: bool,
) -> Result<()> {
    let plots = directory.join("benchmarks");
    fs::create_dir_all(&plots)?;
    let results = plots.join("results.json");
    let mut earlier: Vec<Measured> = if beside && results.exists() {
        serde_json::from_str(&fs::read_to_string(&results)?).with_context(|| results.display().to_string())?
    } else {
        Vec::new()
    };
    earlier.retain(|old| measured.iter().all(|new| (new.row, &new.case) != (old.row, &old.case)));
    let mut measured: Vec<&Measured> = earlier.iter().chain(measured).collect();
    measured.sort_by_key(|row| row.row);
    fs::write(&results, serde_json::to_string_pretty(&measured)? + "\n")?;
    let mut rows: BTreeMap<u8, Vec<&Measured>> = BTreeMap::new();
    for row in measured {
        rows.entry(row.row).or_default().push(row);
    }
    for (number, rows) in &rows {
        fs::write(plots.join(format!("row-{number}.svg")), plot::bars(rows))?;
    }
    fs::write(directory.join("benchmarks.md"), page(facts, &rows, failed)?)?;
    Ok(())
}

fn page(facts: &Facts, rows: &BTreeMap<u8, Vec<&Measured>>, failed: &[String]) -> Result<String> {
    let mut text = String::from(
        "# Benchmarks\n\nWritten by `cargo xtask bench`. Every number is a ratio of two arms of one run: arms take turns, round by round; \
         a ratio is the median of the rounds', its spread the lowest and the highest of them. The programs and the agent are the \
         release build with default options, unless a case says otherwise. What each row does exactly is described in \
         `tests/src/bench`.\n\n",
    );
    for (what, value) in &facts.lines {
        writeln!(text, "- {what}: {value}")?;
    }
    for (number, name) in all_rows() {
        writeln!(text, "\n## {number}. {name}\n")?;
        let Some(rows) = rows.get(&number) else {
            writeln!(text, "Not measured in this run.")?;
            continue;
        };
        writeln!(text, "![{name}](benchmarks/row-{number}.svg)\n")?;
        writeln!(
            text,
            "| case | ratio | spread | goal | | arms |\n|---|---|---|---|---|---|"
        )?;
        for row in rows {
            writeln!(
                text,
                "| {} | {} | {} - {} | {} | {} | {} |",
                row.case,
                row.ratio,
                row.spread[0],
                row.spread[1],
                row.goal,
                if row.met { "met" } else { "**not met**" },
                values(row)
            )?;
        }
    }
    if !failed.is_empty() {
        writeln!(text, "\n## What could not be measured\n")?;
        for line in failed {
            writeln!(text, "- {line}")?;
        }
    }
    Ok(text)
}

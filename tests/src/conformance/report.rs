//! What both proxies showed, side by side.
use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::case::{Case, Probe, Side};
use super::judge::Outcome;
use super::run::Found;

/// A cell of the table is cut to this many characters; `--json` has everything.
const CELL_LENGTH: usize = 34;
/// Questions of a failed case that are shown.
const SHOWN: usize = 6;

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed(Vec<String>),
    Skipped(&'static str),
}

/// A case with what was found on each side that ran.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    pub case: &'a Case,
    pub sides: BTreeMap<Side, Found>,
}

impl Row<'_> {
    /// Ours must be as the case says; kube-proxy too, as far as it ran: else the case misunderstands it, or a difference is
    /// without an explanation.
    pub fn verdict(&self) -> Verdict {
        let mut reasons = Vec::new();
        for (side, found) in self.sides.iter().rev() {
            let name = side.name();
            reasons.extend(found.error.iter().map(|error| format!("{name}: {error}")));
            let wrong = found.outcomes().filter(|(_, outcome)| !outcome.expected);
            let wrong: Vec<_> = wrong
                .map(|(question, outcome)| format!("{name}: {question}: {}", outcome.seen))
                .collect();
            let more = wrong.len().saturating_sub(SHOWN);
            reasons.extend(wrong.into_iter().take(SHOWN));
            reasons.extend((more > 0).then(|| format!("{name}: and {more} more")));
        }
        if !reasons.is_empty() {
            return Verdict::Failed(reasons);
        }
        let ours = self.sides.get(&Side::Ours);
        match ours
            .filter(|ours| ours.outcomes().next().is_none())
            .and_then(|ours| ours.limits.first())
        {
            Some((_, limit)) => Verdict::Skipped(limit),
            None => Verdict::Passed,
        }
    }

    /// Probes in which kube-proxy is known to be different, with what either side saw.
    fn differences(&self) -> Vec<Difference<'_>> {
        let mut differences = Vec::new();
        for (step, written) in self.case.steps.iter().enumerate() {
            for (number, probe) in written.probes.iter().enumerate() {
                let (Some(_), Some(why)) = (&probe.kube_proxy, &probe.why) else {
                    continue;
                };
                let seen = |side| {
                    let found = self.sides.get(&side)?;
                    found.probes.get(step)?.get(number).map(|outcomes| summary(outcomes))
                };
                differences.push(Difference {
                    probe,
                    kube_proxy: seen(Side::KubeProxy),
                    ours: seen(Side::Ours),
                    why,
                });
            }
        }
        differences
    }
}

struct Difference<'a> {
    probe: &'a Probe,
    kube_proxy: Option<String>,
    ours: Option<String>,
    why: &'a str,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Side::KubeProxy => "kube-proxy",
            Side::Ours => "ours",
        }
    }
}

/// Each distinct sight once.
fn summary(outcomes: &[(String, Outcome)]) -> String {
    let mut seen: Vec<&str> = outcomes.iter().map(|(_, outcome)| outcome.seen.as_str()).collect();
    seen.sort_unstable();
    seen.dedup();
    seen.join(" | ")
}

/// The table, why cases failed or were skipped, and the closing line.
pub fn text(rows: &[Row<'_>]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut text, rows);
    text
}

/// Passed, failed, skipped.
pub fn totals(rows: &[Row<'_>]) -> (usize, usize, usize) {
    let mut totals = (0, 0, 0);
    for row in rows {
        match row.verdict() {
            Verdict::Passed => totals.0 += 1,
            Verdict::Failed(_) => totals.1 += 1,
            Verdict::Skipped(_) => totals.2 += 1,
        }
    }
    totals
}

fn write(text: &mut String, rows: &[Row<'_>]) -> std::fmt::Result {
    writeln!(text, "{:<44} {:<34} {:<34}", "case", "kube-proxy", "ours")?;
    let mut explained = 0;
    for row in rows {
        let cell = |side| row.sides.get(&side).map_or(String::new(), cell);
        writeln!(
            text,
            "{:<44} {:<34} {:<34} {}",
            row.case.name,
            cell(Side::KubeProxy),
            cell(Side::Ours),
            row.case.title
        )?;
        for difference in row.differences() {
            explained += 1;
            let side = |seen: &Option<String>| shortened(seen.as_deref().unwrap_or(""));
            writeln!(
                text,
                "{:<44} {:<34} {:<34} {}",
                format!("  {}", shortened(&asked(difference.probe))),
                side(&difference.kube_proxy),
                side(&difference.ours),
                difference.why
            )?;
        }
    }
    writeln!(text, "\n{explained} differences from kube-proxy, each explained")?;
    let mut limits: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        match row.verdict() {
            Verdict::Failed(reasons) => {
                writeln!(text, "FAILED  {}: {}", row.case.name, row.case.title)?;
                for reason in reasons {
                    writeln!(text, "        {reason}")?;
                }
            }
            Verdict::Skipped(limit) => *limits.entry(limit).or_default() += 1,
            Verdict::Passed => {}
        }
    }
    for (limit, count) in limits {
        // As the walks say it: `cargo xtask test` counts these.
        writeln!(text, "skipped conformance | {count} walks: {limit}")?;
    }
    let (passed, failed, skipped) = totals(rows);
    writeln!(text, "{passed} passed, {failed} failed, {skipped} skipped")
}

/// `40 as expected`, or how many were not.
fn cell(found: &Found) -> String {
    let all = found.outcomes().count();
    let wrong = found.outcomes().filter(|(_, outcome)| !outcome.expected).count();
    match (&found.error, wrong) {
        (Some(_), _) => "not taken to its end".to_owned(),
        (None, 0) => format!("{all} as expected"),
        (None, wrong) => format!("{wrong} of {all} NOT as expected"),
    }
}

fn asked(probe: &Probe) -> String {
    let targets: Vec<_> = probe.to.iter().map(|target| target.text.as_str()).collect();
    format!("{} -> {}", probe.from().join(","), targets.join(","))
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= CELL_LENGTH {
        return text.to_owned();
    }
    let cut: String = text.chars().take(CELL_LENGTH - 2).collect();
    format!("{cut}..")
}

/// Everything, for other programs.
pub fn json(rows: &[Row<'_>]) -> Value {
    let cases: Vec<_> = rows.iter().map(row_json).collect();
    let (passed, failed, skipped) = totals(rows);
    json!({"passed": passed, "failed": failed, "skipped": skipped, "cases": cases})
}

fn row_json(row: &Row<'_>) -> Value {
    let verdict = match row.verdict() {
        Verdict::Passed => json!("passed"),
        Verdict::Failed(reasons) => json!({"failed": reasons}),
        Verdict::Skipped(limit) => json!({"skipped": limit}),
    };
    let side = |(side, found): (&Side, &Found)| {
        let outcomes: Vec<_> = found
            .outcomes()
            .map(
                |(question, outcome)| json!({"question": question, "seen": outcome.seen, "expected": outcome.expected}),
            )
            .collect();
        let value = json!({"outcomes": outcomes, "error": found.error, "limits": found.limits});
        (side.name().to_owned(), value)
    };
    let sides: serde_json::Map<String, Value> = row.sides.iter().map(side).collect();
    let differences: Vec<_> = row
        .differences()
        .iter()
        .map(|d| json!({"probe": asked(d.probe), "kube-proxy": d.kube_proxy, "ours": d.ours, "why": d.why}))
        .collect();
    json!({
        "case": row.case.name, "title": row.case.title, "upstream": row.case.upstream,
        "verdict": verdict, "sides": sides, "differences": differences,
    })
}

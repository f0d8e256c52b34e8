//! The pages of `ferrogate doctor` and `ferrogate diff`, 80 columns wide.

use super::explain::item;
use crate::admin::{Checkup, Diff, Finding, Severity};
use std::fmt::Write as _;

/// The findings, the worst first, each with its remedy; then what was looked at.
pub fn doctor(checkup: &Checkup) -> String {
    let mut text = String::new();
    for finding in &checkup.findings {
        one(&mut text, finding);
    }
    let _ = writeln!(text, "Looked at:");
    for what in &checkup.looked_at {
        item(&mut text, "  ", what);
    }
    let count = |severity: Severity| checkup.findings.iter().filter(|one| one.severity == severity).count();
    let node = if checkup.node.is_empty() {
        "This node"
    } else {
        &checkup.node
    };
    let verdict = if checkup.findings.is_empty() {
        format!("{node} is well.")
    } else {
        format!(
            "{node}: {} error{}, {} warning{}, {} note{}.",
            count(Severity::Error),
            plural(count(Severity::Error)),
            count(Severity::Warning),
            plural(count(Severity::Warning)),
            count(Severity::Note),
            plural(count(Severity::Note)),
        )
    };
    let _ = writeln!(text, "\n{verdict}");
    text
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn one(text: &mut String, finding: &Finding) {
    let mark = match finding.severity {
        Severity::Error => "ERROR    ",
        Severity::Warning => "WARNING  ",
        Severity::Note => "NOTE     ",
    };
    item(text, mark, &format!("{}: {}", finding.check, finding.what));
    item(text, "         ", &format!("-> {}", finding.remedy));
    text.push('\n');
}

/// One paragraph a difference: what the API asks for, and what the kernel has.
pub fn diff(diff: &Diff) -> String {
    let mut text = String::new();
    for one in &diff.differences {
        let of = one
            .service
            .as_ref()
            .map(|service| format!(", {service}"))
            .unwrap_or_default();
        item(&mut text, "", &format!("{} {}{of}", one.map, one.entry));
        let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        item(&mut text, "  desired  ", &or_none(&one.desired));
        item(&mut text, "  kernel   ", &or_none(&one.kernel));
        text.push('\n');
    }
    for refused in &diff.refused {
        item(&mut text, "not programmed: ", refused);
    }
    if let Some(source) = &diff.source {
        item(&mut text, "", &format!("Beside what is known so far: {source}."));
    }
    let differ = diff.differences.len() + diff.refused.len();
    let _ = match differ {
        0 => writeln!(text, "{} entries of the kernel's tables are as desired.", diff.entries),
        _ => writeln!(text, "{differ} of {} entries differ.", diff.entries),
    };
    text
}

//! What the documents tell their readers to ask an agent, asked of one.
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use ferrogate_documents::commands::{self, Command};
use ferrogate_documents::pages;
use ferrogate_tests::kernel::takes_tracing;
use serde_json::json;

use crate::common::{Is, apply, boot, ferrogate, serves};

/// Commands that ask and change nothing; what starts, ends or removes an agent is tried by tests of its own.
const QUESTIONS: &[&str] = &[
    "status",
    "services",
    "explain",
    "diff",
    "doctor",
    "flows",
    "top",
    "trace",
    "metrics",
    "completions",
];

/// Each question that stands in a document, as it is written, and where it stands first.
fn questions() -> Result<BTreeMap<Vec<String>, String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a workspace")?;
    let mut found = BTreeMap::new();
    for page in pages(root)? {
        for block in commands::blocks(&page) {
            for command in block.commands {
                if let Command::Ferrogate(words) = command
                    && words.first().is_some_and(|word| QUESTIONS.contains(&word.as_str()))
                {
                    found
                        .entry(words)
                        .or_insert_with(|| format!("{}:{}", page.path, block.line));
                }
            }
        }
    }
    Ok(found)
}

/// The question with the rig's names in it, and with an end.
fn adapted(words: &[String]) -> Vec<String> {
    let mut adapted: Vec<String> = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| words[before].as_str());
        let names_service = matches!(before, Some("explain" | "trace" | "services")) && !word.starts_with('-');
        adapted.push(match before {
            _ if names_service => "default/shop".to_owned(),
            Some("--service") => "default/shop".to_owned(),
            Some("--from" | "--pod") if word == "POD" => "a1".to_owned(),
            Some("--for") => "1s".to_owned(),
            Some("--pcap") => "/dev/null".to_owned(),
            // The rig's own are in the environment.
            Some("--run-dir" | "--state-dir") => {
                adapted.pop();
                continue;
            }
            _ => word.clone(),
        });
    }
    let has = |adapted: &[String], option: &str| adapted.iter().any(|word| word == option);
    match words.first().map(String::as_str) {
        Some("trace") if !has(&adapted, "--for") => adapted.extend(["--for", "1s"].map(str::to_owned)),
        Some("top") if !has(&adapted, "--once") => adapted.extend(["--once", "--interval", "1s"].map(str::to_owned)),
        _ => {}
    }
    adapted
}

#[test]
fn every_question_in_the_documents_is_answered_as_it_is_written() -> Result<()> {
    let questions = questions()?;
    ensure!(questions.len() > 20, "only {} questions were found", questions.len());
    let mut rig = boot(&[])?;
    apply(&rig, &json!({}), &[("a1", Is::Ready), ("b1", Is::Ready)])?;
    serves(&rig, 1)?;
    let captures = takes_tracing()?;
    for (words, place) in questions {
        let asked = adapted(&words);
        let arguments: Vec<&str> = asked.iter().map(String::as_str).collect();
        let output = ferrogate(&rig, 1, &arguments)?;
        let said = String::from_utf8_lossy(&output.stdout);
        // A finding is an answer.
        let judged = matches!(arguments[0], "doctor" | "diff") && output.status.code() == Some(1);
        // So is that this kernel has no such thing; whether it captures, `capture.rs` says.
        let judged = judged || (!captures && asked.iter().any(|word| word == "--pcap"));
        if !(output.status.success() || judged) || (said.is_empty() && !matches!(arguments[0], "flows" | "trace")) {
            bail!(
                "{place}: ferrogate {}: {}\n{said}{}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    rig.check_proxies()
}

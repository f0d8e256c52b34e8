//! Runs one test program, showing and counting what it prints.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use super::levels::{Level, Run};
use super::plan::Program;
use super::tally::Tally;
use crate::{bpf, cmd, paths};

/// Runs a test program as its level wants: as root or not, with a limit of time.
pub(crate) fn run(
    program: &Program,
    level: &Level,
    run: Option<&Run>,
    filter: Option<&str>,
    verbose: bool,
) -> Result<Tally> {
    let env = environment(program);
    let mut cmd = if level.root {
        cmd::as_root("env")?
    } else {
        Command::new("env")
    };
    cmd.args(env.iter().map(|(name, value)| format!("{name}={value}")));
    // --foreground: Ctrl-C reaches the program.
    let limit = format!("{}m", level.minutes);
    cmd.args(["timeout", "--foreground", "--kill-after=20s", &limit])
        .arg(&program.executable)
        .current_dir(&program.dir);
    let mut name = program.name.clone();
    if let Some(run) = run {
        cmd.args(run.arguments);
        name = [&[name.as_str()], run.arguments].concat().join(" ");
    }
    if let Some(filter) = filter {
        cmd.args(run.and_then(|run| run.filter)).arg(filter);
    }
    watch(&name, cmd, verbose || level.root)
}

/// The documentation's tests, which only cargo can run.
pub(crate) fn doc_tests(filter: Option<&str>, verbose: bool) -> Result<Tally> {
    let mut cargo = cmd::cargo();
    cargo.args([
        "test",
        "--doc",
        "--workspace",
        "--exclude",
        bpf::PACKAGE,
        "--all-features",
        "--quiet",
        "--no-fail-fast",
    ]);
    cargo.arg("--").args(filter);
    watch("documentation", cargo, verbose)
}

/// What cargo would set, and where the tests find our tools.
fn environment(program: &Program) -> Vec<(&'static str, String)> {
    let shown = |path: &std::path::Path| path.display().to_string();
    vec![
        ("CARGO_MANIFEST_DIR", shown(&program.dir)),
        ("INSTA_WORKSPACE_ROOT", shown(paths::root())),
        // A golden that differs is a failed test, never a file written by root.
        ("INSTA_UPDATE", "no".to_owned()),
        ("FERROGATE_CACHE", shown(paths::cache())),
    ]
}

/// Runs to the end. Lines of passed tests are hidden unless `all`; one line says what the program came to.
fn watch(name: &str, mut cmd: Command, all: bool) -> Result<Tally> {
    let begun = Instant::now();
    let mut child = cmd
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let stdout = child.stdout.take().context("standard output is a pipe")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.with_context(|| format!("cannot read what {name} prints"))?;
        let line = String::from_utf8_lossy(&line);
        if !tally.read(&line) && (all || !is_noise(&line)) {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    let how = match status.code() {
        // As timeout(1) says it.
        Some(124) => "the end of its time".to_owned(),
        _ => status.to_string(),
    };
    tally.settle(name, status.success(), &how);
    println!("{name:<40} {:>7.1} s  {}", begun.elapsed().as_secs_f64(), tally.line());
    Ok(tally)
}

/// Lines of libtest that say nothing is wrong.
fn is_noise(line: &str) -> bool {
    let trimmed = line.trim_end();
    trimmed.is_empty()
        || (trimmed.starts_with("running ") && (trimmed.ends_with(" tests") || trimmed.ends_with(" test")))
        || (trimmed.starts_with("test ") && trimmed.ends_with("... ok"))
        || trimmed.starts_with("all doctests ran in")
        || trimmed.chars().all(|c| c == '.')
}

#[cfg(test)]
mod tests {
    use super::is_noise;

    #[test]
    fn only_lines_without_news_are_hidden() {
        for line in ["", "running 3 tests", "running 1 test", "test a::b ... ok"] {
            assert!(is_noise(line), "{line}");
        }
        for line in ["test a::b ... FAILED", "failures:", "thread 'a' panicked"] {
            assert!(!is_noise(line), "{line}");
        }
    }
}

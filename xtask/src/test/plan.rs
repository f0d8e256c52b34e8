//! Which test programs there are, and their build.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::levels::{LEVELS, Level};
use crate::{bpf, cmd};

/// The crate whose integration tests [`LEVELS`] names one by one.
const TESTS_CRATE: &str = "ferrogate-tests";

/// A built test program.
pub(crate) struct Program {
    pub(crate) level: &'static str,
    /// `crate (target)`.
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
    /// The directory of its crate, where cargo would start it.
    pub(crate) dir: PathBuf,
}

/// Builds the test programs of the levels with one cargo command, so that features and builds are shared.
pub(crate) fn plan(levels: &[&Level]) -> Result<Vec<Program>> {
    let metadata = cmd::output(cmd::cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let targets = integration_tests(&metadata);
    check_table(&targets)?;
    build(levels, &targets)
}

/// (package, target) of each integration test in the workspace.
fn integration_tests(metadata: &Value) -> Vec<(String, String)> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages.flat_map(|package| {
        let tests = package["targets"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|target| target["kind"][0] == "test");
        tests.map(|target| (text(&package["name"]), text(&target["name"])))
    });
    targets.collect()
}

/// No test of the tests crate may be left out of the table, and none of the table may be gone.
fn check_table(targets: &[(String, String)]) -> Result<()> {
    let there: BTreeSet<&str> = targets
        .iter()
        .filter(|(package, _)| package == TESTS_CRATE)
        .map(|(_, target)| target.as_str())
        .collect();
    let named: BTreeSet<&str> = LEVELS
        .iter()
        .flat_map(|level| level.integration.iter().copied())
        .collect();
    if let Some(test) = there.difference(&named).next() {
        bail!("tests/tests/{test}.rs belongs to no level: add it to LEVELS in xtask/src/test/levels.rs");
    }
    if let Some(test) = named.difference(&there).next() {
        bail!("LEVELS in xtask/src/test/levels.rs names `{test}`, but there is no tests/tests/{test}.rs");
    }
    Ok(())
}

fn build(levels: &[&Level], targets: &[(String, String)]) -> Result<Vec<Program>> {
    let mut cargo = cmd::cargo();
    cargo.args([
        "test",
        "--no-run",
        "--workspace",
        "--exclude",
        bpf::PACKAGE,
        "--all-features",
    ]);
    cargo.arg("--message-format=json-render-diagnostics");
    if levels.iter().any(|level| level.crate_tests) {
        cargo.args(["--lib", "--bins"]);
    }
    for (package, target) in targets {
        if levels.iter().any(|level| holds(level, package, target)) {
            cargo.args(["--test", target]);
        }
    }
    cargo.stdout(Stdio::piped());
    let child = cargo.spawn().context("cannot start cargo")?;
    let out = child.wait_with_output()?;
    if !out.status.success() {
        bail!("the tests do not build: `{}` failed", cmd::shown(&cargo));
    }
    let messages = String::from_utf8_lossy(&out.stdout);
    let mut programs: Vec<Program> = messages
        .lines()
        .filter_map(|line| program(&serde_json::from_str(line).ok()?))
        .collect();
    programs.retain(|program| levels.iter().any(|level| level.name == program.level));
    programs.sort_by_cached_key(|program| (order(program), program.name.clone()));
    Ok(programs)
}

/// Whether an integration test belongs to a level.
fn holds(level: &Level, package: &str, target: &str) -> bool {
    if package == TESTS_CRATE {
        level.integration.contains(&target)
    } else {
        level.crate_tests
    }
}

/// Integration tests of a level run in the order of the table.
fn order(program: &Program) -> usize {
    let mut names = LEVELS.iter().flat_map(|level| level.integration.iter());
    names
        .position(|name| program.name.ends_with(&format!("({name})")))
        .map_or(0, |place| place + 1)
}

/// The test program that a message of cargo announces, if it does.
fn program(message: &Value) -> Option<Program> {
    let executable = message["executable"]
        .as_str()
        .filter(|_| message["profile"]["test"] == true)?;
    let dir = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_owned();
    let target = &message["target"];
    let (kind, name) = (text(&target["kind"][0]), text(&target["name"]));
    let package = package_name(message["package_id"].as_str()?);
    let level = LEVELS.iter().find(|level| match kind.as_str() {
        "test" => holds(level, package, &name),
        _ => level.crate_tests,
    })?;
    let what = if kind == "lib" { kind } else { name };
    Some(Program {
        level: level.name,
        name: format!("{package} ({what})"),
        executable: executable.into(),
        dir,
    })
}

/// The name in a package id: `path+file:///dir#name@1.0`, or `path+file:///dir/name#1.0` where both are the same.
fn package_name(id: &str) -> &str {
    let (path, end) = id.rsplit_once('#').unwrap_or(("", id));
    match end.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next().unwrap_or(end),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(tests: &[&str]) -> Vec<(String, String)> {
        tests
            .iter()
            .map(|test| (TESTS_CRATE.to_owned(), (*test).to_owned()))
            .collect()
    }

    #[test]
    fn every_integration_test_must_be_in_the_table() {
        let all: Vec<&str> = LEVELS
            .iter()
            .flat_map(|level| level.integration.iter().copied())
            .collect();
        assert!(check_table(&pairs(&all)).is_ok());
        let more: Vec<&str> = all.iter().copied().chain(["forgotten"]).collect();
        assert!(
            check_table(&pairs(&more))
                .unwrap_err()
                .to_string()
                .contains("forgotten")
        );
        assert!(check_table(&pairs(&all[1..])).unwrap_err().to_string().contains(all[0]));
    }

    #[test]
    fn package_ids_of_both_forms_are_read() {
        assert_eq!(
            package_name("path+file:///src/agent#ferrogate-agent@0.1.0"),
            "ferrogate-agent"
        );
        assert_eq!(package_name("path+file:///src/xtask#0.1.0"), "xtask");
    }

    #[test]
    fn a_test_program_is_known_by_its_message() {
        let message = serde_json::json!({
            "reason": "compiler-artifact", "package_id": "path+file:///src/tests#ferrogate-tests@0.1.0",
            "manifest_path": "/src/tests/Cargo.toml", "profile": {"test": true},
            "target": {"kind": ["test"], "name": "walks"}, "executable": "/src/target/debug/deps/walks-1"
        });
        let program = program(&message).unwrap();
        assert_eq!(
            (program.level, program.name.as_str()),
            ("packets", "ferrogate-tests (walks)")
        );
        assert_eq!(program.dir, PathBuf::from("/src/tests"));
    }
}

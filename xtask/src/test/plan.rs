//! Which test programs there are, and their build.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::levels::{LEVELS, Level, Run};
use crate::{bpf, cmd};

/// The crate whose integration tests [`LEVELS`] names one by one.
const TESTS_CRATE: &str = "ferrogate-tests";

/// A built test program.
pub(crate) struct Program {
    package: String,
    /// The name of an integration test; none for the tests inside a crate.
    target: Option<String>,
    /// `crate (target)`.
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
    /// The directory of its crate, where cargo would start it.
    pub(crate) dir: PathBuf,
}

impl Level {
    /// Whether a target of a package belongs to this level.
    fn holds(&self, package: &str, target: Option<&str>) -> bool {
        match target {
            Some(target) if package == TESTS_CRATE => self.runs.iter().any(|run| run.target == target),
            _ => self.crates,
        }
    }

    /// What to start at this level, in order.
    pub(crate) fn starts<'a>(&self, programs: &'a [Program]) -> Vec<(&'a Program, Option<&'static Run>)> {
        let integration = |program: &Program| program.package == TESTS_CRATE && program.target.is_some();
        let crates = programs
            .iter()
            .filter(|program| self.crates && !integration(program))
            .map(|program| (program, None));
        let named = |run: &'static Run| {
            let mut programs = programs.iter().filter(|program| integration(program));
            let program = programs.find(|program| program.target.as_deref() == Some(run.target))?;
            Some((program, Some(run)))
        };
        crates.chain(self.runs.iter().filter_map(named)).collect()
    }
}

/// Builds the binaries, and the test programs of the levels.
pub(crate) fn build(levels: &[&Level]) -> Result<Vec<Program>> {
    let metadata = cmd::output(cmd::cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let targets = integration_tests(&metadata);
    check_table(levels, &targets)?;
    compile(levels, &targets)
}

/// Builds the binaries and one integration test of the tests crate; returns where that is.
pub(crate) fn build_one(target: &str) -> Result<PathBuf> {
    let levels: Vec<&Level> = LEVELS
        .iter()
        .filter(|level| !level.crates && level.holds(TESTS_CRATE, Some(target)))
        .collect();
    let programs = compile(&levels, &[(TESTS_CRATE.to_owned(), target.to_owned())])?;
    let mut found = programs
        .into_iter()
        .filter(|program| program.target.as_deref() == Some(target));
    found
        .next()
        .map(|program| program.executable)
        .with_context(|| format!("the build left no test program {target}"))
}

/// The program of an integration test of the tests crate.
pub(crate) fn executable<'a>(programs: &'a [Program], target: &str) -> Option<&'a Path> {
    let mut found = programs
        .iter()
        .filter(|program| program.target.as_deref() == Some(target));
    found.next().map(|program| program.executable.as_path())
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

/// No test of the tests crate may be left out of the table, and none of the chosen levels may be gone.
fn check_table(levels: &[&Level], targets: &[(String, String)]) -> Result<()> {
    let there: BTreeSet<&str> = targets
        .iter()
        .filter(|(package, _)| package == TESTS_CRATE)
        .map(|(_, target)| target.as_str())
        .collect();
    if let Some(test) = there
        .iter()
        .find(|test| !LEVELS.iter().any(|level| level.holds(TESTS_CRATE, Some(test))))
    {
        bail!("tests/tests/{test}.rs belongs to no level: add it to LEVELS in xtask/src/test/levels.rs");
    }
    let mut wanted = levels.iter().flat_map(|level| level.runs).map(|run| run.target);
    if let Some(test) = wanted.find(|test| !there.contains(test)) {
        bail!("LEVELS in xtask/src/test/levels.rs names `{test}`, but there is no tests/tests/{test}.rs");
    }
    Ok(())
}

/// Builds the binaries and the test programs by one command: apart, dev-dependencies would give the dependencies other
/// features, and everything would be compiled twice.
fn compile(levels: &[&Level], targets: &[(String, String)]) -> Result<Vec<Program>> {
    let mut cargo = cmd::cargo();
    cargo.args([
        "build",
        "--workspace",
        "--exclude",
        bpf::PACKAGE,
        "--all-features",
        "--bins",
    ]);
    cargo.arg("--message-format=json-render-diagnostics");
    if levels.iter().any(|level| level.crates) {
        cargo.arg("--tests");
    } else {
        let chosen =
            |(package, target): &&(String, String)| levels.iter().any(|level| level.holds(package, Some(target)));
        cargo.args(targets.iter().filter(chosen).flat_map(|(_, target)| ["--test", target]));
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
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(programs)
}

/// The test program that a message of cargo announces, if it does.
fn program(message: &Value) -> Option<Program> {
    let executable = message["executable"]
        .as_str()
        .filter(|_| message["profile"]["test"] == true)?;
    let dir = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_owned();
    let target = &message["target"];
    let (kind, name) = (text(&target["kind"][0]), text(&target["name"]));
    let package = package_name(message["package_id"].as_str()?).to_owned();
    let what = if kind == "lib" { &kind } else { &name };
    let shown = format!("{package} ({what})");
    Some(Program {
        package,
        name: shown,
        target: (kind == "test").then_some(name),
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
    fn every_integration_test_must_be_in_the_table_and_there() {
        let levels: Vec<&Level> = LEVELS.iter().collect();
        let all: Vec<&str> = LEVELS
            .iter()
            .flat_map(|level| level.runs)
            .map(|run| run.target)
            .collect();
        assert!(check_table(&levels, &pairs(&all)).is_ok());
        let more: Vec<&str> = all.iter().copied().chain(["forgotten"]).collect();
        assert!(
            check_table(&levels, &pairs(&more))
                .unwrap_err()
                .to_string()
                .contains("forgotten")
        );
        assert!(
            check_table(&levels, &pairs(&all[1..]))
                .unwrap_err()
                .to_string()
                .contains(all[0])
        );
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
        let programs = [program(&message).unwrap()];
        assert_eq!(programs[0].name, "ferrogate-tests (walks)");
        assert_eq!(programs[0].dir, PathBuf::from("/src/tests"));
        for level in LEVELS {
            let runs = level.runs.iter().filter(|run| run.target == "walks").count();
            assert_eq!(level.starts(&programs).len(), runs, "{}", level.name);
        }
    }
}

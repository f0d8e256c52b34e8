//! What the dependencies may be: `deny.toml`, judged by cargo-deny.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cmd, paths};

const VERSION: &str = "0.20.2";

/// Licences, sources and versions always; known vulnerabilities where their data base is at hand.
pub(super) fn check() -> Result<()> {
    if !works() {
        install()?;
    }
    // What is built here is not all that the lock file names, and cargo-deny reads every crate.
    cmd::run(cmd::cargo().args(["fetch", "--locked", "--quiet"])).context("cannot download the dependencies")?;
    let fetched = cmd::output(deny().args(["fetch", "db"]));
    let mut check = deny();
    // Nothing but the data base of vulnerabilities would come from elsewhere.
    check.args(["--offline", "--log-level", "error", "check", "--hide-inclusion-graph"]);
    if let Err(error) = fetched {
        let last = format!("{error:#}").lines().last().unwrap_or_default().to_owned();
        if advisories_are_here() {
            println!("[lint]   known vulnerabilities: as of the last download ({last})");
        } else {
            println!("[lint]   known vulnerabilities: NOT checked, their data base cannot be downloaded ({last})");
            check.args(["bans", "licenses", "sources"]);
        }
    }
    cmd::run(&mut check).context("a dependency is against deny.toml, which says what may be")
}

/// Whether an earlier run has brought the data base, which is named after its address.
fn advisories_are_here() -> bool {
    let entries = std::fs::read_dir(advisories());
    entries.is_ok_and(|entries| entries.flatten().any(|entry| entry.path().join("crates").is_dir()))
}

/// Where `deny.toml` leaves it: below cargo's own directory.
fn advisories() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    home.unwrap_or_default().join("advisory-dbs")
}

fn tool() -> PathBuf {
    paths::cache().join("tools/bin/cargo-deny")
}

fn deny() -> Command {
    cmd::cargo_named(tool())
}

fn works() -> bool {
    cmd::is_executable(&tool()) && cmd::output(deny().arg("--version")).is_ok_and(|text| text.ends_with(VERSION))
}

/// Without optimisation: what it does takes a second.
fn install() -> Result<()> {
    println!("[lint]   building cargo-deny {VERSION}: a minute");
    let root = paths::cache().join("tools");
    let mut cargo = cmd::cargo();
    cargo.args(["install", "--locked", "--debug", "--quiet", "--version", VERSION]);
    cmd::run(cargo.arg("--root").arg(root).arg("cargo-deny"))
}

//! Debian and Ubuntu packages.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Once;

use anyhow::{Context, Result, bail};

use super::say;
use crate::cmd;

/// A package to install, and what it is for.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) why: &'static str,
}

impl Package {
    pub(crate) fn new(name: &str, why: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            why,
        }
    }
}

/// Daemons of the packages are not started: policy-rc.d says no while they are installed, and is removed afterwards if
/// it was not there before. Nothing that is installed already is removed.
const INSTALL: &str = r#"
set -e
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get install -q -y --no-install-recommends --no-remove -o Dpkg::Use-Pty=0 "$@"
"#;

pub(super) fn available() -> bool {
    cmd::which("apt-get").is_some()
}

/// Refreshes the package lists, once a run. Old lists are good enough when that fails.
pub(super) fn update() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut done = Ok(());
    ONCE.call_once(|| {
        say("apt-get update");
        done = cmd::as_root("apt-get").map(|mut apt| {
            if cmd::run(apt.args(["update", "-qq"])).is_err() {
                say("apt-get update failed; going on with the package lists that are here");
            }
        });
    });
    done
}

/// Whether the package lists offer a package.
pub(super) fn offers(package: &str) -> bool {
    let mut cache = Command::new("apt-cache");
    cmd::output(cache.args(["policy", package])).is_ok_and(|text| {
        text.lines()
            .any(|line| line.contains("Candidate:") && !line.contains("(none)"))
    })
}

/// Whether dpkg has a package installed.
pub(super) fn installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    cmd::output(query.args(["-W", "-f=${db:Status-Status}", package])).is_ok_and(|status| status == "installed")
}

/// Installs packages, saying which and why; elsewhere than on Debian and Ubuntu it says what to install.
pub(super) fn install(packages: &[Package]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let names: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    if !available() {
        bail!(
            "missing programs, and this is neither Debian nor Ubuntu; install what these packages hold, \
             then run this again:\n{}",
            list(packages)
        );
    }
    update()?;
    say(format_args!(
        "installing {} Debian packages:\n{}",
        names.len(),
        list(packages)
    ));
    let mut shell = cmd::as_root("sh")?;
    cmd::run(shell.args(["-c", INSTALL, "sh"]).args(&names))
        .with_context(|| format!("cannot install; try `apt-get install {}` by hand", names.join(" ")))
}

fn list(packages: &[Package]) -> String {
    let lines: Vec<String> = packages
        .iter()
        .map(|package| format!("    {:<24} {}", package.name, package.why))
        .collect();
    lines.join("\n")
}

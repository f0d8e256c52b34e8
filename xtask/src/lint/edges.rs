//! Which crate may know which: common <- datapath <- datapath-ebpf; common <- control <- agent.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cmd;

/// A crate of the workspace and the others it may depend on. The tests may use all; xtask lists what the ABI has.
const MAY_USE: &[(&str, &[&str])] = &[
    ("ferrogate-common", &[]),
    ("ferrogate-datapath", &["ferrogate-common"]),
    ("ferrogate-datapath-ebpf", &["ferrogate-common", "ferrogate-datapath"]),
    ("ferrogate-control", &["ferrogate-common"]),
    ("ferrogate-agent", &["ferrogate-common", "ferrogate-control"]),
    (
        "ferrogate-tests",
        &[
            "ferrogate-common",
            "ferrogate-datapath",
            "ferrogate-control",
            "ferrogate-agent",
            "xtask",
        ],
    ),
    (
        "ferrogate-fuzz",
        &[
            "ferrogate-common",
            "ferrogate-datapath",
            "ferrogate-control",
            "ferrogate-agent",
        ],
    ),
    ("xtask", &["ferrogate-common"]),
];

pub(super) fn check() -> Result<()> {
    let metadata = cmd::output(cmd::cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let wrong = violations(&metadata);
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

/// Every dependency between crates of the workspace that the table does not have, of whatever kind (normal, dev, build).
fn violations(metadata: &Value) -> Vec<String> {
    let packages: Vec<&Value> = metadata["packages"].as_array().into_iter().flatten().collect();
    let names: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut wrong = Vec::new();
    for package in &packages {
        let Some(user) = package["name"].as_str() else { continue };
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == user) else {
            wrong.push(format!(
                "{user}: not in MAY_USE (xtask/src/lint/edges.rs): say what it may depend on"
            ));
            continue;
        };
        let used = package["dependencies"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|used| used["name"].as_str());
        // A crate's tests may ask for features of the crate itself.
        let outside = used.filter(|used| *used != user && names.contains(used) && !allowed.contains(used));
        wrong.extend(outside.map(|used| format!("{user} must not depend on {used} (xtask/src/lint/edges.rs)")));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(user: &str, used: &str) -> Value {
        serde_json::json!({"packages": [
            {"name": user, "dependencies": [{"name": used}, {"name": "anyhow"}]},
            {"name": used, "dependencies": []},
        ]})
    }

    #[test]
    fn the_allowed_directions_pass() {
        assert_eq!(
            violations(&metadata("ferrogate-agent", "ferrogate-control")),
            Vec::<String>::new()
        );
        assert_eq!(
            violations(&metadata("ferrogate-datapath-ebpf", "ferrogate-datapath")),
            Vec::<String>::new()
        );
    }

    #[test]
    fn the_other_directions_and_unknown_crates_do_not() {
        assert_eq!(violations(&metadata("ferrogate-control", "ferrogate-agent")).len(), 1);
        assert_eq!(violations(&metadata("ferrogate-agent", "ferrogate-datapath")).len(), 1);
        assert_eq!(violations(&metadata("newcomer", "ferrogate-common")).len(), 1);
    }
}

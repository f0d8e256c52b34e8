//! Who may do what at a rig's API server: an administrator everything, Ferrogate's agents what their deployed account may.
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::addresses::{CONTROL_PLANE, lan};
use super::api::Api;

/// The administrator's user and token.
pub(crate) const ADMIN: &str = "admin";
/// The agents' token, and whose it is: the ServiceAccount of `deploy/rbac.yaml`.
const AGENT: &str = "ferrogate";
const ACCOUNT: &str = "system:serviceaccount:kube-system:ferrogate";
/// The groups that the API server puts such an account in.
const GROUPS: &str = "system:serviceaccounts,system:serviceaccounts:kube-system,system:authenticated";

/// Writes the file of `--token-auth-file`.
pub(crate) fn write_tokens(directory: &Path) -> Result<PathBuf> {
    let file = directory.join("tokens.csv");
    fs::write(
        &file,
        format!("{ADMIN},{ADMIN},{ADMIN},system:masters\n{AGENT},{ACCOUNT},{AGENT},\"{GROUPS}\"\n"),
    )?;
    Ok(file)
}

/// Writes a user's kubeconfig, with the server's address on the LAN.
pub(crate) fn write_kubeconfig(directory: &Path, user: &str, authority: &Path) -> Result<PathBuf> {
    write_kubeconfig_of(&directory.join(format!("kubeconfig-{user}")), user, user, authority)
}

/// The same, with a token that is not the user's name.
pub fn write_kubeconfig_of(file: &Path, user: &str, token: &str, authority: &Path) -> Result<PathBuf> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "rig", "cluster": {
            "server": format!("https://{}:6443", lan(CONTROL_PLANE).v4),
            "certificate-authority": authority,
        }}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": user}}],
        "current-context": "rig",
    });
    fs::write(file, serde_yaml_ng::to_string(&config)?)?;
    Ok(file.to_owned())
}

/// The agents' kubeconfig.
pub(crate) fn write_agents_kubeconfig(directory: &Path, authority: &Path) -> Result<PathBuf> {
    write_kubeconfig(directory, AGENT, authority)
}

/// Lets the agents do what they need, and no more. Returns when the server knows.
pub(crate) fn grant(admin: &Api, agent: &Api) -> Result<()> {
    roles()?.iter().try_for_each(|object| admin.apply(object))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = agent.get("/api/v1/services?limit=1") {
        if Instant::now() > deadline {
            return Err(error).context("the agents' role is not in force");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The agents' account, its ClusterRole, and its binding, as they are deployed.
fn roles() -> Result<Vec<Value>> {
    objects(include_str!("../../../deploy/rbac.yaml"))
}

/// The objects of a file of manifests.
pub fn objects(text: &str) -> Result<Vec<Value>> {
    let documents = serde_yaml_ng::Deserializer::from_str(text);
    documents
        .map(|document| Value::deserialize(document).context("a manifest is no YAML"))
        .collect()
}

//! Who may do what at a rig's API server: an administrator everything, the user of Ferrogate's agents what they need.
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::addresses::{CONTROL_PLANE, lan};
use super::api::Api;

/// The administrator's user and token.
pub(crate) const ADMIN: &str = "admin";
/// The agents' user and token.
const AGENT: &str = "ferrogate";

/// Writes the file of `--token-auth-file`.
pub(crate) fn write_tokens(directory: &Path) -> Result<PathBuf> {
    let file = directory.join("tokens.csv");
    fs::write(
        &file,
        format!("{ADMIN},{ADMIN},{ADMIN},system:masters\n{AGENT},{AGENT},{AGENT}\n"),
    )?;
    Ok(file)
}

/// Writes a user's kubeconfig, with the server's address on the LAN.
pub(crate) fn write_kubeconfig(directory: &Path, user: &str, authority: &Path) -> Result<PathBuf> {
    let file = directory.join(format!("kubeconfig-{user}"));
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "rig", "cluster": {
            "server": format!("https://{}:6443", lan(CONTROL_PLANE).v4),
            "certificate-authority": authority,
        }}],
        "users": [{"name": user, "user": {"token": user}}],
        "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": user}}],
        "current-context": "rig",
    });
    fs::write(&file, serde_yaml_ng::to_string(&config)?)?;
    Ok(file)
}

/// The agents' kubeconfig.
pub(crate) fn write_agents_kubeconfig(directory: &Path, authority: &Path) -> Result<PathBuf> {
    write_kubeconfig(directory, AGENT, authority)
}

/// Lets the agents do what they need, and no more. Returns when the server knows.
pub(crate) fn grant(admin: &Api, agent: &Api) -> Result<()> {
    roles().iter().try_for_each(|object| admin.apply(object))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = agent.get("/api/v1/services?limit=1") {
        if Instant::now() > deadline {
            return Err(error).context("the agents' role is not in force");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A ClusterRole with every right that the agent makes use of, and its binding.
fn roles() -> [Value; 2] {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    let follow = ["list", "watch"];
    [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": AGENT},
            "rules": [
                rule("", &["services"], &["get", "list", "watch"]),
                rule("", &["nodes", "pods"], &follow),
                rule("discovery.k8s.io", &["endpointslices"], &follow),
                rule("networking.k8s.io", &["servicecidrs"], &follow),
                rule("events.k8s.io", &["events"], &["create", "patch"]),
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": AGENT},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": AGENT},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": AGENT}],
        }),
    ]
}

//! The manifests of `deploy/`, in a real API server; and the agent, started as they say, with the rights they give.
use std::fs;

use anyhow::{Context, Result, ensure};
use ferrogate_tests::binaries;
use ferrogate_tests::rig::{
    FerrogateOptions, Options, PodSpec, Proxy, Rig, ServiceSpec, Source, objects, write_kubeconfig_of,
};
use ferrogate_tests::wire::{ProbeRequest, Protocol};
use serde_json::{Value, json};
use std::net::SocketAddr;

use crate::common::eventually;

const RBAC: &str = include_str!("../../../deploy/rbac.yaml");
const CONFIG: &str = include_str!("../../../deploy/configmap.yaml");
const AGENT: &str = include_str!("../../../deploy/daemonset.yaml");

pub(crate) fn manifests() -> Result<Vec<Value>> {
    let all = [RBAC, CONFIG, AGENT].map(objects);
    Ok(all.into_iter().collect::<Result<Vec<_>>>()?.concat())
}

fn boot(proxy: Proxy) -> Result<Rig> {
    Rig::boot(Options {
        source: Source::ControlPlane,
        proxy,
        ..Options::default()
    })
}

/// What the API server has of an object.
fn stored(rig: &Rig, object: &Value) -> Result<Value> {
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase() + "s";
    let (version, name) = (
        object["apiVersion"].as_str().unwrap_or_default(),
        object["metadata"]["name"].as_str(),
    );
    let root = if version.contains('/') { "apis" } else { "api" };
    let namespace = object["metadata"]["namespace"].as_str();
    let namespace = namespace.map(|name| format!("namespaces/{name}/")).unwrap_or_default();
    let path = format!("/{root}/{version}/{namespace}{kind}/{}", name.unwrap_or_default());
    let api = rig.control_plane().context("a control plane")?.api();
    serde_json::from_str(&api.get(&path)?).with_context(|| path)
}

/// Whether everything in `wanted` is in `found`: the server adds its defaults.
fn is_in(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted
            .iter()
            .all(|(key, value)| found.get(key).is_some_and(|found| is_in(value, found))),
        (Value::Array(wanted), Value::Array(found)) => {
            wanted.len() == found.len() && wanted.iter().zip(found).all(|(wanted, found)| is_in(wanted, found))
        }
        _ => wanted == found,
    }
}

#[test]
fn the_api_server_takes_the_manifests_as_they_are() -> Result<()> {
    let rig = boot(Proxy::None)?;
    for object in manifests()? {
        rig.apply(&object)?;
        let found = stored(&rig, &object)?;
        // Nothing was dropped as unknown.
        assert!(is_in(&object, &found), "{object:#}\n{found:#}");
    }
    // Twice: an update is no conflict.
    manifests()?.iter().try_for_each(|object| rig.apply(object))
}

/// A token of the agent's account, as its pod would have it.
fn token(rig: &Rig) -> Result<String> {
    let api = rig.control_plane().context("a control plane")?.api();
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let answer = api.post(
        "/api/v1/namespaces/kube-system/serviceaccounts/ferrogate/token",
        &request,
    )?;
    let token = answer["status"]["token"].as_str().context("a token")?;
    Ok(token.to_owned())
}

/// May this kubeconfig's user do this? As the API server itself sees it.
fn may(rig: &Rig, verb: &str, group: &str, resource: &str) -> Result<bool> {
    let api = rig.control_plane().context("a control plane")?.agents_api();
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": verb, "group": group, "resource": resource}},
    });
    let answer = api.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review)?;
    Ok(answer["status"]["allowed"] == true)
}

#[test]
fn the_account_may_do_what_the_agent_does_and_no_more() -> Result<()> {
    let rig = boot(Proxy::None)?;
    for (verb, group, resource) in [
        ("watch", "", "services"),
        ("list", "discovery.k8s.io", "endpointslices"),
        ("watch", "", "nodes"),
        ("create", "events.k8s.io", "events"),
    ] {
        assert!(may(&rig, verb, group, resource)?, "{verb} {resource}");
    }
    for (verb, group, resource) in [
        ("update", "", "services"),
        ("patch", "", "nodes"),
        ("delete", "", "pods"),
        ("get", "", "secrets"),
        ("list", "", "configmaps"),
        ("create", "", "pods"),
        ("delete", "events.k8s.io", "events"),
    ] {
        assert!(!may(&rig, verb, group, resource)?, "{verb} {resource}");
    }
    Ok(())
}

#[test]
fn an_agent_that_is_started_as_the_manifests_say_serves() -> Result<()> {
    let mut rig = boot(Proxy::Ferrogate(FerrogateOptions::default()))?;
    manifests()?.iter().try_for_each(|object| rig.apply(object))?;
    rig.add_pod(PodSpec::new("web", 2))?;
    rig.add_pod(PodSpec::new("client", 1))?;
    rig.add_service(ServiceSpec::new("web", "web", 910).port(Protocol::Tcp, 80, 8080, None))?;
    drop(rig.take_proxy(1)?);

    let daemon_set = objects(AGENT)?.remove(0);
    let container = &daemon_set["spec"]["template"]["spec"]["containers"][0];
    let config_map = objects(CONFIG)?.remove(0);
    let node = rig.node(1);
    let config = node.directory.join("config.yaml");
    fs::write(
        &config,
        config_map["data"]["config.yaml"].as_str().context("config.yaml")?,
    )?;
    let control_plane = rig.control_plane().context("a control plane")?;
    let kubeconfig = node.directory.join("kubeconfig-account");
    write_kubeconfig_of(&kubeconfig, "ferrogate", &token(&rig)?, control_plane.authority())?;
    let mut command = node.place.command(binaries::workspace("ferrogate")?)?;
    for argument in container["args"].as_array().context("args")? {
        let argument = argument.as_str().context("an argument")?;
        command.arg(argument.replace("/etc/ferrogate/config.yaml", &config.display().to_string()));
    }
    for variable in container["env"].as_array().context("env")? {
        let name = variable["name"].as_str().context("a name")?;
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("spec.nodeName") => node.name.clone(),
            _ => continue,
        };
        command.env(name, value);
    }
    // The manifest's places are those of a whole machine; the rig's node is a part of this one.
    command.env("FERROGATE_CGROUP", &node.place.cgroup);
    command.env("FERROGATE_KUBECONFIG", &kubeconfig);
    command.env("FERROGATE_STATE_DIR", &node.bpffs);
    command.env("FERROGATE_RUN_DIR", &node.directory);
    let log = node.directory.join("deployed.log");
    let mut agent = node.place.spawn("ferrogate", command, &log)?;

    let to = SocketAddr::new(ferrogate_tests::rig::addresses::cluster_ip(910).v4.into(), 80);
    eventually("the Service is served", || {
        ensure!(agent.ended()?.is_none(), "{}", fs::read_to_string(&log)?);
        let report = rig
            .pod("client")
            .place
            .probe(&ProbeRequest::new(Protocol::Tcp, to).count(3))?;
        Ok(report.complete())
    })?;
    let probe = &container["livenessProbe"]["httpGet"];
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"].map(|name| &container[name]["httpGet"]) {
        let url = format!(
            "http://127.0.0.1:{}{}",
            probe["port"],
            probe["path"].as_str().context("a path")?
        );
        eventually("the probe is answered", || {
            Ok(node.place.run("curl", ["-sSf", "-m", "2", &url]).is_ok())
        })?;
    }
    ensure!(probe["port"] == 10256, "{probe}");
    let text = fs::read_to_string(&log)?;
    ensure!(!text.contains("orbidden"), "a right is missing: {text}");
    Ok(())
}

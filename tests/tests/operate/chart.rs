//! The Helm chart, by a real helm: it renders the manifests of `deploy/`, takes its values, and refuses what is none.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use ferrogate_tests::binaries;
use ferrogate_tests::rig::objects;
use serde_json::{Value, json};

use crate::deploy;

/// What helm is told that the cluster is.
const KUBERNETES: &str = "1.36.3";

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/ferrogate")
}

fn helm(arguments: &[&str]) -> Result<Output> {
    let mut helm = Command::new(binaries::peer("helm")?);
    helm.args(arguments).args(["--kube-version", KUBERNETES]);
    helm.output().context("helm")
}

/// `helm template` with these values, each `key=value`.
fn template(values: &[&str]) -> Result<Output> {
    let chart = chart().display().to_string();
    let set = values.iter().flat_map(|value| ["--set", value]);
    let arguments = ["template", "ferrogate", &chart, "--namespace", "kube-system"].into_iter();
    helm(&arguments.chain(set).collect::<Vec<_>>())
}

/// By kind and name. The configuration is a file in an object: it is compared as what it says.
fn by_name(objects: Vec<Value>) -> Result<BTreeMap<String, Value>> {
    let mut named = BTreeMap::new();
    for mut object in objects {
        if let Some(text) = object["data"]["config.yaml"].as_str() {
            let config: Value = serde_yaml_ng::from_str(text)?;
            object["data"]["config.yaml"] = config;
        }
        let name = format!("{}/{}", object["kind"], object["metadata"]["name"]);
        let before = named.insert(name, object);
        ensure!(before.is_none(), "twice: {before:?}");
    }
    Ok(named)
}

fn rendered(values: &[&str]) -> Result<BTreeMap<String, Value>> {
    let output = template(values)?;
    ensure!(
        output.status.success(),
        "{values:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    by_name(objects(&String::from_utf8(output.stdout)?)?)
}

#[test]
fn the_chart_renders_the_manifests_object_by_object() -> Result<()> {
    let (chart, plain) = (rendered(&[])?, by_name(deploy::manifests()?)?);
    assert_eq!(chart.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>());
    for (name, object) in &plain {
        assert_eq!(
            &chart[name], object,
            "{name}\nchart: {:#}\nmanifest: {object:#}",
            chart[name]
        );
    }
    Ok(())
}

#[test]
fn helm_has_nothing_against_the_chart() -> Result<()> {
    let chart = chart().display().to_string();
    let output = helm(&["lint", "--strict", &chart])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && said.contains("1 chart(s) linted"), "{said}");
    Ok(())
}

#[test]
fn the_chart_has_the_version_of_the_agent() -> Result<()> {
    let text = std::fs::read_to_string(chart().join("Chart.yaml"))?;
    let about: Value = serde_yaml_ng::from_str(&text)?;
    for key in ["version", "appVersion"] {
        assert_eq!(about[key], env!("CARGO_PKG_VERSION"), "{key}");
    }
    Ok(())
}

#[test]
fn values_of_the_chart_reach_what_is_rendered() -> Result<()> {
    let objects = rendered(&[
        "apiServer=https://192.0.2.10:6443\\,https://192.0.2.11:6443",
        "image.repository=registry.example/ferrogate",
        "image.tag=1.2.3",
        "imagePullSecrets[0].name=key",
        "config.healthzBindAddress=[::]:11256",
        "config.nodePortAddresses={10.0.0.0/8}",
        "extraArgs={--xdp=auto}",
        "extraEnv[0].name=FERROGATE_LOG,extraEnv[0].value=debug",
        "updateStrategy.rollingUpdate.maxUnavailable=1",
        "podAnnotations.team=net",
        "podLabels.team=net",
        "tolerations=null",
    ])?;
    let config = &objects["\"ConfigMap\"/\"ferrogate\""]["data"];
    assert_eq!(config["api-server"], "https://192.0.2.10:6443,https://192.0.2.11:6443");
    assert_eq!(config["config.yaml"]["nodePortAddresses"], json!(["10.0.0.0/8"]));
    assert_eq!(config["config.yaml"]["metricsBindAddress"], "127.0.0.1:10249");
    let account = &objects["\"ServiceAccount\"/\"ferrogate\""];
    assert_eq!(account["imagePullSecrets"], json!([{"name": "key"}]));
    let spec = &objects["\"DaemonSet\"/\"ferrogate\""]["spec"];
    assert_eq!(spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 1);
    let pod = &spec["template"];
    assert_eq!(pod["metadata"]["annotations"], json!({"team": "net"}));
    assert_eq!(pod["metadata"]["labels"]["team"], "net");
    assert_eq!(pod["metadata"]["labels"]["app.kubernetes.io/name"], "ferrogate");
    assert_eq!(pod["spec"]["tolerations"], Value::Null);
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["image"], "registry.example/ferrogate:1.2.3");
    assert_eq!(
        container["args"],
        json!(["agent", "--config=/etc/ferrogate/config.yaml", "--xdp=auto"])
    );
    assert_eq!(container["env"][2], json!({"name": "FERROGATE_LOG", "value": "debug"}));
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(container[probe]["httpGet"], json!({"path": "/livez", "port": 11256}));
    }
    Ok(())
}

#[test]
fn values_that_the_chart_does_not_know_are_refused_by_name() -> Result<()> {
    for (value, named) in [
        ("imagee.tag=1", "imagee"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("apiServer=10.0.0.1", "apiServer"),
        ("config.kind=Other", "kind"),
        ("config.healthzBindAddress=0.0.0.0", "healthzBindAddress"),
        ("extraArgs={xdp}", "extraArgs"),
        ("updateStrategy.rollingUpdate.maxSurge=1", "maxSurge"),
        ("updateStrategy.rollingUpdate.maxUnavailable=0", "maxUnavailable"),
        ("resources.request.cpu=1", "request"),
    ] {
        let output = template(&[value])?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{value} is taken");
        assert!(said.contains(named), "{value}: {said}");
    }
    Ok(())
}

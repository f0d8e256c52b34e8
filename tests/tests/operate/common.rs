//! A rig with a Service that tests can turn about, and the `ferrogate` command on a node.
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrogate_tests::binaries;
use ferrogate_tests::rig::addresses::{self, NODE_BASE, lan};
use ferrogate_tests::rig::{Family, FerrogateOptions, NAMESPACE, Options, PodSpec, Proxy, Rig, Source};
use ferrogate_tests::wait;
use serde_json::{Value, json};

/// A machine with much else to do is slow, not wrong: six agents that start at once load their programs for half a minute there.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const NODE_PORT: u16 = 31_700;
/// The load balancer's address, which the outside client's routes lead to node 1.
pub(crate) const VIP: &str = "203.0.113.80";

/// Asks until the answer is yes.
pub(crate) fn eventually(what: &str, question: impl FnMut() -> Result<bool>) -> Result<()> {
    wait::eventually(PATIENCE, what, question)
}

/// Two nodes; pods `a1` and `a2` on the first, `b1` on the second, and a client pod `client` on the first.
pub(crate) fn boot(more: &[&str]) -> Result<Rig> {
    boot_with(FerrogateOptions {
        more: more.iter().map(ToString::to_string).collect(),
        ..FerrogateOptions::default()
    })
}

/// The same with agents of other options.
pub(crate) fn boot_with(options: FerrogateOptions) -> Result<Rig> {
    let mut rig = Rig::boot(Options {
        source: Source::Manifests,
        proxy: Proxy::Ferrogate(options),
        ..Options::default()
    })?;
    for (name, node) in [("a1", 1), ("a2", 1), ("b1", 2), ("client", 1)] {
        rig.add_pod(PodSpec::new(name, node))?;
    }
    let via = lan(NODE_BASE + 1).get(Family::V4);
    rig.outside.netns.ip_batch(&format!("route add {VIP}/32 via {via}\n"))?;
    Ok(rig)
}

/// How a pod is as an endpoint.
#[derive(Clone, Copy)]
pub(crate) enum Is {
    Ready,
    NotReady,
    Terminating,
}

/// The ClusterIP of [`apply`]'s Service.
pub(crate) fn cluster_ip() -> IpAddr {
    addresses::cluster_ip(900).get(Family::V4)
}

/// The Service `shop`, TCP port 80, with these fields in its spec, and these pods behind it.
pub(crate) fn apply(rig: &Rig, spec: &Value, pods: &[(&str, Is)]) -> Result<()> {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": "shop"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": cluster_ip(), "clusterIPs": [cluster_ip()],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": VIP}]}},
    });
    if let (Some(fields), Some(more)) = (object["spec"].as_object_mut(), spec.as_object()) {
        fields.extend(more.clone());
    }
    let endpoints = pods.iter().map(|(name, is)| {
        let pod = rig.pod(name);
        let (ready, terminating) = match is {
            Is::Ready => (true, false),
            Is::NotReady => (false, false),
            Is::Terminating => (false, true),
        };
        json!({"addresses": [pod.addresses.get(Family::V4)], "nodeName": format!("n{}", pod.spec.node),
            "conditions": {"ready": ready, "serving": !matches!(is, Is::NotReady), "terminating": terminating},
            "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": name}})
    });
    rig.apply(&json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": NAMESPACE, "name": "shop-1", "labels": {"kubernetes.io/service-name": "shop"}},
        "addressType": "IPv4", "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    }))?;
    rig.apply(&object)
}

/// A Service without endpoints `void`, TCP port 81, beside [`apply`]'s.
pub(crate) fn apply_void(rig: &Rig) -> Result<SocketAddr> {
    let address = addresses::cluster_ip(901).get(Family::V4);
    rig.apply(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": "void"},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"protocol": "TCP", "port": 81}]},
    }))?;
    Ok(SocketAddr::new(address, 81))
}

/// Waits until the agent has so many Service ports. One that is still loading its programs does not answer.
pub(crate) fn serves(rig: &Rig, ports: usize) -> Result<()> {
    eventually("the agent knows the Services", || {
        let output = ferrogate(rig, 1, &["services", "--output", "json"])?;
        let rows = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        Ok(rows.as_array().is_some_and(|rows| rows.len() == ports))
    })
}

/// Runs `ferrogate` in a node's namespace, for its agent.
pub(crate) fn ferrogate(rig: &Rig, node: u8, arguments: &[&str]) -> Result<Output> {
    ferrogate_command(rig, node, arguments)?.output().context("ferrogate")
}

/// The command line of that.
pub(crate) fn ferrogate_command(rig: &Rig, node: u8, arguments: &[&str]) -> Result<Command> {
    let node = rig.node(node);
    let mut command = node.place.command(binaries::workspace("ferrogate")?)?;
    command.args(arguments).env("FERROGATE_RUN_DIR", &node.directory);
    command.env("FERROGATE_STATE_DIR", &node.bpffs);
    Ok(command)
}

/// The same, whose standard output is JSON.
pub(crate) fn ferrogate_json(rig: &Rig, node: u8, arguments: &[&str]) -> Result<Value> {
    let output = ferrogate(rig, node, &[arguments, &["--output", "json"]].concat())?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.stdout.is_empty(),
        "ferrogate {arguments:?}: {}: {errors}",
        output.status
    );
    serde_json::from_slice(&output.stdout).with_context(|| format!("ferrogate {arguments:?}: {errors}"))
}

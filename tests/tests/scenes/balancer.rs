//! Clients, a cloud's load balancer, NodePorts, pods; and behind it the pods are replaced one by one.
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrogate_tests::rig::{
    Balanced, Family, FerrogateOptions, Layout, LoadBalancer, NAMESPACE, Options, PodSpec, Process, Proxy, Rig, Source,
    addresses,
};
use ferrogate_tests::wire::BrowseReport;
use serde_json::json;

use crate::common::eventually;

/// How long a pod serves on once its deletion has begun: what `lifecycle.preStop.sleep` is for. The load balancer takes a node
/// out of use after two failed checks, 200 ms apart.
const PRE_STOP: Duration = Duration::from_millis(1500);

const CLUSTER: Balanced = Balanced {
    port: 80,
    node_port: 31_080,
    check_port: 10_256,
    check_path: "/healthz",
};
const LOCAL: Balanced = Balanced {
    port: 81,
    node_port: 31_081,
    check_port: 32_081,
    check_path: "/",
};

/// Each replaced pod, its node, and the node of the pod that comes in its place. Node 3 gets its first pod on the way, and node 1
/// loses all that it has before it gets another.
const REPLACED: [(&str, u8, u8); 3] = [("old-1", 1, 2), ("old-2", 1, 3), ("old-3", 2, 1)];

fn service(name: &str, number: u16, balanced: Balanced, policy: &str) -> serde_json::Value {
    let address = addresses::cluster_ip(number);
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {
            "type": "LoadBalancer", "clusterIP": address.v4, "clusterIPs": address.both(),
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            "selector": {"app": "web"}, "externalTrafficPolicy": policy,
            "ports": [{"name": "http", "port": balanced.port, "targetPort": 8080, "nodePort": balanced.node_port}],
        },
        "status": {"loadBalancer": {"ingress":
            LoadBalancer::address().both().map(|ip| json!({"ip": ip, "ipMode": "VIP"}))}},
    });
    if policy == "Local" {
        object["spec"]["healthCheckNodePort"] = balanced.check_port.into();
    }
    object
}

/// Somebody who asks the load balancer all the time.
struct Browsing {
    name: String,
    process: Process,
}

impl Browsing {
    fn start(rig: &Rig, name: &str, port: u16, family: Family) -> Result<Self> {
        let to = SocketAddr::new(LoadBalancer::address().get(family), port);
        let mut command = rig.outside.testpod_command()?;
        command.arg("browse").arg(format!("--to={to}"));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Process::start("browse", command)?;
        process.wait_for_error_line("browsing")?;
        Ok(Self {
            name: format!("{name} {family:?}"),
            process,
        })
    }

    fn end(mut self) -> Result<(String, BrowseReport)> {
        drop(self.process.stdin());
        let (_, output, _) = self.process.output()?;
        let report = serde_json::from_str(&output).with_context(|| format!("{}: {output}", self.name))?;
        Ok((self.name, report))
    }
}

/// What one proxy came to.
struct Outcome {
    proxy: String,
    reports: BTreeMap<String, BrowseReport>,
    /// Connections that nodes did not take from the load balancer.
    refused: u64,
}

/// Which nodes the load balancer uses for a port, the same in both families.
fn used(balancer: &LoadBalancer, port: u16) -> Result<Vec<String>> {
    let mut used = Vec::new();
    for family in Family::BOTH {
        let servers = balancer.servers(port, family)?.into_iter();
        let up: Vec<_> = servers.filter(|(_, server)| server.up).map(|(name, _)| name).collect();
        if family == Family::V6 && up != used {
            return Ok(vec!["another set in each family".to_owned()]);
        }
        used = up;
    }
    Ok(used)
}

fn boot(proxy: Proxy) -> Result<(Rig, LoadBalancer)> {
    let mut rig = Rig::boot(Options {
        nodes: 3,
        layout: Layout::Routed,
        source: Source::ControlPlane,
        proxy,
        ..Options::default()
    })?;
    for (pod, node, _) in REPLACED {
        rig.add_pod(PodSpec::new(pod, node).app("web").web())?;
    }
    rig.apply(&service("cluster", 61, CLUSTER, "Cluster"))?;
    rig.apply(&service("local", 62, LOCAL, "Local"))?;
    let healthz = SocketAddr::from((Ipv4Addr::LOCALHOST, CLUSTER.check_port));
    eventually("every node is healthy", || {
        rig.check_proxies()?;
        let mut answers = rig.nodes.iter().map(|node| node.place.get(healthz, "/healthz"));
        answers.try_fold(true, |all, answer| {
            Ok(all && answer?.is_some_and(|answer| answer.status == 200))
        })
    })?;
    let balancer = LoadBalancer::start(&rig, &[CLUSTER, LOCAL])?;
    eventually("all nodes are used, and those with a pod for policy Local", || {
        rig.check_proxies()?;
        Ok(used(&balancer, CLUSTER.port)? == ["n1", "n2", "n3"] && used(&balancer, LOCAL.port)? == ["n1", "n2"])
    })?;
    Ok((rig, balancer))
}

/// What a Deployment does: a pod comes, and when it is ready one goes.
fn update(rig: &mut Rig) -> Result<()> {
    for (old, _, node) in REPLACED {
        rig.add_pod(PodSpec::new(&old.replace("old", "new"), node).app("web").web())?;
        rig.begin_deletion(old)?;
        thread::sleep(PRE_STOP);
        let status = rig.end_server(old, Duration::from_secs(10))?;
        ensure!(status.success(), "{old} ended with requests open: {status}");
        rig.remove_pod(old)?;
    }
    Ok(())
}

fn rolling_update(proxy: Proxy) -> Result<Outcome> {
    let name = proxy.name();
    let (mut rig, balancer) = boot(proxy)?;
    let mut browsing = Vec::new();
    for (policy, balanced) in [("Cluster", CLUSTER), ("Local", LOCAL)] {
        for family in Family::BOTH {
            browsing.push(Browsing::start(&rig, policy, balanced.port, family)?);
        }
    }
    thread::sleep(Duration::from_millis(500));
    update(&mut rig)?;
    eventually("for policy Local, node 2 has a pod, and node 3", || {
        Ok(used(&balancer, LOCAL.port)? == ["n1", "n2", "n3"])
    })?;
    thread::sleep(Duration::from_millis(500));
    let reports = browsing.into_iter().map(Browsing::end).collect::<Result<_>>()?;
    rig.check_proxies()?;
    let mut refused = 0;
    for port in [CLUSTER.port, LOCAL.port] {
        for family in Family::BOTH {
            refused += balancer
                .servers(port, family)?
                .values()
                .map(|server| server.refused)
                .sum::<u64>();
        }
    }
    Ok(Outcome {
        proxy: name,
        reports,
        refused,
    })
}

#[test]
fn a_rolling_update_behind_a_cloud_s_load_balancer_loses_no_request() -> Result<()> {
    let ours = rolling_update(Proxy::Ferrogate(FerrogateOptions::default()))?;
    let theirs = rolling_update(Proxy::KubeProxy)?;
    println!(
        "{:<28} {:<12} {:>8} {:>12} {:>6} {:>11}",
        "proxy", "policy", "answered", "connections", "lost", "longest, ms"
    );
    for outcome in [&ours, &theirs] {
        for (name, report) in &outcome.reports {
            println!(
                "{:<28} {name:<12} {:>8} {:>12} {:>6} {:>11}  {:?}",
                outcome.proxy, report.answered, report.connections, report.lost, report.longest_ms, report.failures
            );
            let seen = report.pods.len();
            ensure!(
                report.answered > 300 && seen == 2 * REPLACED.len(),
                "{} {name}: old and new pods answer: {report:?}",
                outcome.proxy
            );
        }
    }
    for (name, report) in &ours.reports {
        ensure!(report.lost == 0, "{name}: {report:?}");
    }
    ensure!(ours.refused == 0, "nodes did not take {} connections", ours.refused);
    Ok(())
}

//! Services that are names and nothing else, through a real CoreDNS behind our own ClusterIP; addresses of a range that the
//! cluster gets later; a ClusterIP that a node keeps for itself; and the rights that all this needs.
use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use ferrogate_tests::conformance::case::Side;
use ferrogate_tests::conformance::cluster::Cluster;
use ferrogate_tests::conformance::prober::ask_all;
use ferrogate_tests::rig::{Family, Layout, NAMESPACE, Place, Process, SocketEdge, addresses};
use ferrogate_tests::wire::ask::{Ask, Reach, Told};
use ferrogate_tests::wire::{FailureKind, Protocol, ResolveReport};
use serde_json::{Value, json};

use crate::common::{eventually, kernel_tables};

fn boot() -> Result<Cluster> {
    Cluster::boot(Side::Ours, Layout::Routed, SocketEdge::All)
}

fn service(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE, "name": name}, "spec": spec})
}

fn slice(cluster: &Cluster, service: &str, family: Family, pods: &[&str]) -> Value {
    let endpoints = pods.iter().map(|name| {
        let pod = &cluster.pods[*name];
        json!({"addresses": [pod.addresses.get(family)], "nodeName": format!("n{}", pod.node)})
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": NAMESPACE, "name": format!("{service}-{family:?}").to_lowercase(),
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": if family == Family::V4 { "IPv4" } else { "IPv6" },
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": "tcp", "protocol": "TCP", "port": 8080}, {"name": "udp", "protocol": "UDP", "port": 8080}],
    })
}

/// Both families, and port 80 of TCP and UDP, at these addresses.
fn at(addresses: [IpAddr; 2]) -> Value {
    json!({"clusterIP": addresses[0], "clusterIPs": addresses, "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "RequireDualStack", "ports": ports()})
}

fn ports() -> Value {
    json!([{"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 8080},
        {"name": "udp", "protocol": "UDP", "port": 80, "targetPort": 8080}])
}

fn resolve(cluster: &mut Cluster, from: &str, name: &str, family: Family) -> Result<Vec<ResolveReport>> {
    let mut questions = Vec::new();
    for server in addresses::cluster_ip(addresses::DNS).both() {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let ask = Ask::Resolve {
                server: (server, 53).into(),
                name: format!("{name}.{NAMESPACE}.svc.cluster.local"),
                protocol,
                ipv6: family == Family::V6,
                timeout_ms: 2000,
            };
            questions.push((from.to_owned(), ask));
        }
    }
    let told = ask_all(&mut cluster.probers, questions)?;
    let reports = told.into_iter().map(|told| match told {
        Told::Resolved(report) => Ok(report),
        told => bail!("{name} from {from}: {told:?}"),
    });
    reports.collect()
}

/// Through every way to the DNS server, with both protocols, for both types of record.
fn expect_name(cluster: &mut Cluster, name: &str, aliases: &[&str], addresses: [Vec<IpAddr>; 2]) -> Result<()> {
    for (family, addresses) in Family::BOTH.into_iter().zip(addresses) {
        let wanted: BTreeSet<_> = addresses.into_iter().collect();
        for from in ["c1", "c2", "n1"] {
            let mut reports = Vec::new();
            eventually(name, || {
                reports = resolve(cluster, from, name, family)?;
                Ok(reports.iter().all(|report| {
                    report.aliases == aliases && report.addresses.iter().copied().collect::<BTreeSet<_>>() == wanted
                }))
            })
            .with_context(|| format!("{from}, {family:?}: not {aliases:?} {wanted:?} but {reports:?}"))?;
        }
    }
    Ok(())
}

/// Addresses that node 1 has frontends for, without those of the Services by which it is seen that all is programmed.
fn programmed(cluster: &Cluster) -> Result<BTreeSet<IpAddr>> {
    let services = cluster.get(&format!("/api/v1/namespaces/{NAMESPACE}/services"))?;
    let services = services["items"].as_array().context("a list")?.clone();
    let markers = services.iter().filter(|service| {
        let name = service["metadata"]["name"].as_str().unwrap_or_default();
        name.starts_with("marker-")
    });
    let markers: BTreeSet<IpAddr> = markers
        .flat_map(|service| service["spec"]["clusterIPs"].as_array().cloned().unwrap_or_default())
        .filter_map(|address| address.as_str()?.parse().ok())
        .collect();
    let frontends = kernel_tables(&cluster.rig, 1)?.into_keys();
    let addresses = frontends.filter_map(|(_, address, _, _)| address);
    Ok(addresses.filter(|address| !markers.contains(address)).collect())
}

#[test]
fn headless_services_and_external_names_are_names_alone() -> Result<()> {
    let mut cluster = boot()?;
    let own = addresses::cluster_ip(801);
    cluster.rig.apply(&service("web", &at(own.both())))?;
    cluster.settle()?;
    let before = programmed(&cluster)?;
    ensure!(own.both().iter().all(|address| before.contains(address)), "{before:?}");

    let mut headless = json!({"clusterIP": "None", "ports": ports()});
    headless["ipFamilyPolicy"] = "RequireDualStack".into();
    cluster.rig.apply(&service("headless", &headless))?;
    for family in Family::BOTH {
        cluster.rig.apply(&slice(&cluster, "headless", family, &["a1", "b1"]))?;
    }
    let inside = format!("web.{NAMESPACE}.svc.cluster.local");
    for (name, target) in [("inside", inside.as_str()), ("outside", "db.example.com")] {
        let spec = json!({"type": "ExternalName", "externalName": target, "ports": ports()});
        cluster.rig.apply(&service(name, &spec))?;
    }
    cluster.settle()?;
    ensure!(
        programmed(&cluster)? == before,
        "{before:?}, then {:?}",
        programmed(&cluster)?
    );

    let pods = |family| ["a1", "b1"].map(|pod| cluster.pods[pod].addresses.get(family)).to_vec();
    let pods = Family::BOTH.map(pods);
    expect_name(&mut cluster, "headless", &[], pods)?;
    expect_name(&mut cluster, "web", &[], own.both().map(|address| vec![address]))?;
    expect_name(
        &mut cluster,
        "inside",
        &[&inside],
        own.both().map(|address| vec![address]),
    )?;
    expect_name(&mut cluster, "outside", &["db.example.com"], [vec![], vec![]])?;
    cluster.rig.check_proxies()
}

/// What becomes of a question.
#[derive(PartialEq, Debug)]
enum Answer {
    By(String),
    Refusal,
    Silence,
}

fn by(name: &str) -> Answer {
    Answer::By(name.to_owned())
}

fn answer(cluster: &mut Cluster, from: &str, to: IpAddr, protocol: Protocol) -> Result<Answer> {
    let ask = Ask::Reach(Reach::times(1, SocketAddr::new(to, 80), protocol, 300));
    match ask_all(&mut cluster.probers, vec![(from.to_owned(), ask)])?.pop() {
        Some(Told::Reached { seen, failure: None }) => match seen.into_iter().next() {
            Some(seen) => Ok(Answer::By(seen.pod)),
            None => bail!("{from} to {to}: neither an answer nor a failure"),
        },
        Some(Told::Reached {
            failure: Some(failure), ..
        }) if failure.kind == FailureKind::Silence => Ok(Answer::Silence),
        Some(Told::Reached {
            failure: Some(failure), ..
        }) if failure.kind == FailureKind::Refused => Ok(Answer::Refusal),
        told => bail!("{from} to {to}: {told:?}"),
    }
}

/// Waits until it is so from everywhere, over both protocols and in both families. Until then it may be otherwise: a Service
/// whose endpoints the agent has not heard of yet refuses.
fn expect(cluster: &mut Cluster, what: &str, from: &[&str], to: [IpAddr; 2], wanted: &Answer) -> Result<()> {
    for from in from {
        for address in to {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let mut last = None;
                eventually(what, || {
                    let answer = answer(cluster, from, address, protocol)?;
                    Ok(last.insert(answer) == wanted)
                })
                .with_context(|| format!("{from} to {address} over {protocol:?}: {last:?}, not {wanted:?}"))?;
            }
        }
    }
    Ok(())
}

/// Somebody who answers at addresses that no Service has.
fn serve(cluster: &Cluster, place: &Place, name: &str, addresses: [IpAddr; 2]) -> Result<Process> {
    let log = cluster.rig.lease.directory().join(format!("{name}.log"));
    let mut command = place.testpod_command()?;
    command.args(["serve", "--name", name, "--port=80"]);
    command.args(addresses.map(|address| format!("--listen={address}")));
    let process = place.spawn(name, command, &log)?;
    eventually("it listens", || Ok(fs::read_to_string(&log)?.trim() == "ready"))?;
    Ok(process)
}

fn pair(host: u8) -> [IpAddr; 2] {
    [
        Ipv4Addr::new(10, 97, 0, host).into(),
        Ipv6Addr::new(0xfd00, 0x97, 0, 0, 0, 0, 0, host.into()).into(),
    ]
}

/// A machine of the LAN has the addresses, until the cluster takes their networks for itself.
fn service_cidrs(cluster: &mut Cluster) -> Result<()> {
    let inside = ["c1", "c2", "n1", "n2"];
    let (own, taken) = (pair(7), pair(9));
    let machine = cluster.rig.add_machine("witness", 70)?;
    machine.netns.ip_batch(&format!(
        "addr add {}/32 dev lo\naddr add {}/128 dev lo nodad\n",
        own[0], own[1]
    ))?;
    let via = addresses::lan(70);
    let mut lines = format!(
        "route add 10.97.0.0/24 via {}\nroute add fd00:97::/112 via {}\n",
        via.v4, via.v6
    );
    for node in 1..=2 {
        cluster.rig.node(node).place.netns.ip_batch(&lines)?;
    }
    lines.clear();
    for node in 1..=2 {
        let (v4, v6) = addresses::pod_ranges(node);
        let via = addresses::lan(addresses::NODE_BASE + node);
        lines += &format!("route add {v4} via {}\nroute add {v6} via {}\n", via.v4, via.v6);
    }
    machine.netns.ip_batch(&lines)?;
    let _witness = serve(cluster, &machine, "witness", own)?;
    expect(cluster, "no business of ours", &inside, own, &by("witness"))?;
    let more = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"},
        "spec": {"cidrs": ["10.97.0.0/24", "fd00:97::/112"]},
    });
    cluster.rig.apply(&more)?;
    expect(
        cluster,
        "an address of the cluster that no Service has",
        &inside,
        own,
        &Answer::Silence,
    )?;
    cluster.rig.apply(&service("later", &at(taken)))?;
    for family in Family::BOTH {
        cluster.rig.apply(&slice(cluster, "later", family, &["b1"]))?;
    }
    expect(
        cluster,
        "a Service with an address of the new network",
        &inside,
        taken,
        &by("b1"),
    )?;
    cluster.rig.delete(&service("later", &json!({})))?;
    cluster.rig.delete(&more)?;
    expect(cluster, "nobody's address again", &inside, own, &by("witness"))
}

/// A node has the ClusterIP on a device of its own, as node-local DNS does, and answers there itself.
fn node_local(cluster: &mut Cluster) -> Result<()> {
    let addresses = addresses::cluster_ip(802).both();
    cluster.rig.apply(&service("cached", &at(addresses)))?;
    for family in Family::BOTH {
        cluster.rig.apply(&slice(cluster, "cached", family, &["b1"]))?;
    }
    expect(cluster, "the Service", &["c1", "n1", "c2", "n2"], addresses, &by("b1"))?;
    let node = cluster.rig.node(1).place.netns.clone();
    // As good as a dummy device, which not every kernel has: an ifb sends nothing on either.
    node.ip_batch(&format!(
        "link add nodelocaldns type ifb\nlink set nodelocaldns up\naddr add {}/32 dev nodelocaldns\n\
         addr add {}/128 dev nodelocaldns nodad\n",
        addresses[0], addresses[1]
    ))?;
    let cache = serve(cluster, &cluster.rig.node(1).place, "cache", addresses)?;
    expect(
        cluster,
        "left alone on node 1",
        &["c1", "n1", "a1"],
        addresses,
        &by("cache"),
    )?;
    expect(cluster, "served on node 2", &["c2", "n2"], addresses, &by("b1"))?;
    drop(cache);
    node.ip_batch("link del nodelocaldns\n")?;
    expect(
        cluster,
        "the Service again",
        &["c1", "n1", "a1", "c2", "n2"],
        addresses,
        &by("b1"),
    )
}

/// The agents of this cluster may do what they need, and they do it; nothing else.
fn rights(cluster: &mut Cluster) -> Result<()> {
    let agents = cluster.rig.control_plane().context("a control plane")?.agents_api();
    for path in [
        "/api/v1/secrets",
        "/api/v1/configmaps",
        "/api/v1/namespaces",
        "/apis/events.k8s.io/v1/events",
        "/apis/apps/v1/deployments",
    ] {
        let refused = agents
            .get(path)
            .err()
            .with_context(|| format!("{path} is open to agents"))?;
        ensure!(format!("{refused:#}").contains("forbidden"), "{path}: {refused:#}");
    }
    let kubernetes = service("kubernetes", &json!({}));
    ensure!(agents.delete(&kubernetes).is_err(), "agents may delete Services");
    for node in &cluster.rig.nodes {
        let log = fs::read_to_string(node.directory.join("proxy.log"))?;
        let refused: Vec<_> = log.lines().filter(|line| line.contains("forbidden")).collect();
        ensure!(refused.is_empty(), "{}: {refused:?}", node.name);
    }
    Ok(())
}

#[test]
fn service_cidrs_and_node_local_addresses_are_followed_with_the_least_rights() -> Result<()> {
    let mut cluster = boot()?;
    service_cidrs(&mut cluster).context("ServiceCIDRs")?;
    node_local(&mut cluster).context("a node-local ClusterIP")?;
    rights(&mut cluster).context("rights")?;
    cluster.rig.check_proxies()
}

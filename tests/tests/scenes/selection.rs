//! Who is chosen, seen by real connections: algorithms, weights, affinity; and what the Service's owner is told.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use ferrogate_tests::conformance::addresses::Public;
use ferrogate_tests::conformance::case::Side;
use ferrogate_tests::conformance::cluster::Cluster;
use ferrogate_tests::conformance::prober::ask_all;
use ferrogate_tests::rig::addresses::{NODE_BASE, lan};
use ferrogate_tests::rig::{Family, Layout, NAMESPACE, SocketEdge, addresses};
use ferrogate_tests::wire::Protocol;
use ferrogate_tests::wire::ask::{Ask, Reach, Seen, Told};
use serde_json::{Value, json};

use crate::common::eventually;

const NODE_PORT: u16 = 31_600;

/// A Service with annotations and fields of its own, whose endpoints are these pods: at a ClusterIP, a NodePort, and the public
/// address with the same number.
fn apply(cluster: &mut Cluster, number: u16, annotations: &Value, spec: &Value, pods: &[&str]) -> Result<String> {
    let name = format!("chosen-{number}");
    let own = addresses::cluster_ip(number);
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": name, "annotations": annotations},
        "spec": {
            "type": "LoadBalancer", "clusterIP": own.v4, "clusterIPs": own.both(), "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack", "ports": Protocol::ALL[..2].iter().map(|protocol| json!({
                "name": protocol.kubernetes().to_lowercase(), "protocol": protocol.kubernetes(), "port": 80,
                "targetPort": 8080, "nodePort": node_port(number),
            })).collect::<Vec<_>>(),
        },
        "status": {"loadBalancer": {"ingress":
            Family::BOTH.map(|family| json!({"ip": Public::LoadBalancer.address(number, 1, family)}))}},
    });
    if let (Some(fields), Some(more)) = (object["spec"].as_object_mut(), spec.as_object()) {
        fields.extend(more.clone());
    }
    cluster.rig.apply(&object)?;
    for family in Family::BOTH {
        let endpoints = pods.iter().map(|name| {
            let pod = &cluster.pods[*name];
            json!({"addresses": [pod.addresses.get(family)], "nodeName": format!("n{}", pod.node),
                "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": name}})
        });
        let ports = Protocol::ALL[..2].iter().map(|protocol| {
            json!({"name": protocol.kubernetes().to_lowercase(), "protocol": protocol.kubernetes(), "port": 8080})
        });
        cluster.rig.apply(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": NAMESPACE, "name": format!("{name}-{family:?}").to_lowercase(),
                "labels": {"kubernetes.io/service-name": name}},
            "addressType": if family == Family::V4 { "IPv4" } else { "IPv6" },
            "endpoints": endpoints.collect::<Vec<_>>(), "ports": ports.collect::<Vec<_>>(),
        }))?;
    }
    cluster.settle()?;
    Ok(name)
}

fn node_port(number: u16) -> u16 {
    NODE_PORT + number % 100
}

fn cluster_ip(number: u16, family: Family) -> SocketAddr {
    SocketAddr::new(addresses::cluster_ip(number).get(family), 80)
}

fn at_node(number: u16, node: u8, family: Family) -> SocketAddr {
    SocketAddr::new(lan(NODE_BASE + node).get(family), node_port(number))
}

fn at_public(number: u16, family: Family) -> SocketAddr {
    SocketAddr::new(Public::LoadBalancer.address(number, 1, family), 80)
}

fn reach(to: SocketAddr, protocol: Protocol, connections: u32, source_port: u16) -> Reach {
    Reach {
        source_port,
        ..Reach::times(connections, to, protocol, 2000)
    }
}

/// Who answered each of the questions; that all of them were answered.
fn seen(cluster: &mut Cluster, questions: Vec<(String, Ask)>) -> Result<Vec<Vec<Seen>>> {
    let told = ask_all(&mut cluster.probers, questions.clone())?;
    let seen = questions.iter().zip(told).map(|(question, told)| match told {
        Told::Reached { seen, failure: None } => Ok(seen),
        told => bail!("{question:?}: {told:?}"),
    });
    seen.collect()
}

fn ask(cluster: &mut Cluster, from: &str, reach: Reach) -> Result<Vec<String>> {
    let seen = seen(cluster, vec![(from.to_owned(), Ask::Reach(reach))])?;
    Ok(seen.into_iter().flatten().map(|seen| seen.pod).collect())
}

fn tally(pods: &[String]) -> BTreeMap<&str, usize> {
    let mut tally = BTreeMap::new();
    pods.iter().for_each(|pod| *tally.entry(pod.as_str()).or_default() += 1);
    tally
}

/// Of each local port of the outside client, who answers.
fn by_port(cluster: &mut Cluster, to: SocketAddr, ports: std::ops::Range<u16>) -> Result<Vec<String>> {
    let question = |port| ("out".to_owned(), Ask::Reach(reach(to, Protocol::Tcp, 1, port)));
    let answers = seen(cluster, ports.map(question).collect())?;
    Ok(answers.into_iter().flatten().map(|seen| seen.pod).collect())
}

/// Weights are kept to the connection, over every edge.
fn weights(cluster: &mut Cluster) -> Result<()> {
    let rules = json!({"ferrogate.dev/weights": "pod:a1=3, node:n2=1, *=0"});
    apply(cluster, 701, &rules, &json!({}), &["a1", "a2", "b1"])?;
    let wanted = BTreeMap::from([("a1", 30), ("b1", 10)]);
    for family in Family::BOTH {
        for (client, to) in [
            ("c1", cluster_ip(701, family)),
            ("n1", cluster_ip(701, family)),
            ("out", at_node(701, 1, family)),
            ("out", at_public(701, family)),
        ] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let pods = ask(cluster, client, reach(to, protocol, 40, 0))?;
                ensure!(
                    tally(&pods) == wanted,
                    "{client} to {to} over {protocol:?}: {:?}",
                    tally(&pods)
                );
            }
        }
    }
    // A weight that nobody has any more: all have 0, and each gets as much as any other.
    let rules = json!({"ferrogate.dev/weights": "*=0"});
    apply(cluster, 701, &rules, &json!({}), &["a1", "b1"])?;
    let pods = ask(cluster, "c1", reach(cluster_ip(701, Family::V4), Protocol::Tcp, 20, 0))?;
    ensure!(tally(&pods) == BTreeMap::from([("a1", 10), ("b1", 10)]), "{pods:?}");
    Ok(())
}

/// Leads the outside client's packets to public addresses by way of this node.
fn route_by(cluster: &Cluster, node: u8) -> Result<()> {
    let via = lan(NODE_BASE + node);
    let [v4, v6] = Public::LoadBalancer.routed(1);
    cluster.rig.outside.netns.ip_batch(&format!(
        "route replace {v4} via {}\nroute replace {v6} via {}\n",
        via.v4, via.v6
    ))
}

/// A connection's addresses and ports name its endpoint, on whichever node it arrives; when an endpoint goes, hardly any other
/// connection is led elsewhere.
fn maglev(cluster: &mut Cluster) -> Result<()> {
    let rules = json!({"ferrogate.dev/algorithm": "maglev"});
    let all = ["a1", "a2", "b1", "b2"];
    apply(cluster, 702, &rules, &json!({}), &all)?;
    for family in Family::BOTH {
        let to = at_public(702, family);
        let ports = 20_000..20_060;
        let first = by_port(cluster, to, ports.clone())?;
        ensure!(tally(&first).len() == all.len(), "60 ports: {:?}", tally(&first));
        ensure!(
            by_port(cluster, to, ports.clone())? == first,
            "the same ports once more"
        );
        route_by(cluster, 2)?;
        let other = by_port(cluster, to, ports.clone())?;
        route_by(cluster, 1)?;
        ensure!(other == first, "by way of the other node: {first:?} {other:?}");
        apply(cluster, 702, &rules, &json!({}), &all[..3])?;
        let fewer = by_port(cluster, to, ports)?;
        apply(cluster, 702, &rules, &json!({}), &all)?;
        let moved = first
            .iter()
            .zip(&fewer)
            .filter(|(before, after)| *before != "b2" && before != after)
            .count();
        ensure!(
            moved <= 3 && !fewer.contains(&"b2".to_owned()),
            "{moved} moved: {first:?} {fewer:?}"
        );
    }
    Ok(())
}

/// A client's address names its endpoint, for every port, edge and node.
fn source_hash(cluster: &mut Cluster) -> Result<()> {
    let rules = json!({"ferrogate.dev/algorithm": "source-hash"});
    apply(cluster, 703, &rules, &json!({}), &["a1", "a2", "b1", "b2"])?;
    let mut chosen = BTreeSet::new();
    for family in Family::BOTH {
        for (client, targets) in [
            (
                "c1",
                vec![cluster_ip(703, family), at_node(703, 1, family), at_public(703, family)],
            ),
            (
                "c2",
                vec![cluster_ip(703, family), at_node(703, 2, family), at_public(703, family)],
            ),
            ("a1", vec![cluster_ip(703, family)]),
            (
                "out",
                vec![at_node(703, 1, family), at_node(703, 2, family), at_public(703, family)],
            ),
        ] {
            let mut pods = Vec::new();
            for to in targets {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    pods.extend(ask(cluster, client, reach(to, protocol, 12, 0))?);
                }
            }
            ensure!(tally(&pods).len() == 1, "{client} {family:?}: {:?}", tally(&pods));
            chosen.insert(pods.swap_remove(0));
        }
    }
    ensure!(chosen.len() > 1, "eight clients, all to {chosen:?}");
    Ok(())
}

/// New endpoints take the new connections until they have as many as the old one.
fn least_connections(cluster: &mut Cluster) -> Result<()> {
    let rules = json!({"ferrogate.dev/algorithm": "least-connections"});
    apply(cluster, 704, &rules, &json!({}), &["a1"])?;
    let to = at_node(704, 1, Family::V4);
    let hold = |number: u16| Ask::Hold {
        name: format!("held-{number}"),
        reach: reach(to, Protocol::Tcp, 1, 0),
    };
    let before = (0..12).map(|number| ("out".to_owned(), hold(number)));
    seen(cluster, before.collect())?;
    apply(cluster, 704, &rules, &json!({}), &["a1", "a2", "b1"])?;
    let mut pods = Vec::new();
    for number in 12..30 {
        let answer = seen(cluster, vec![("out".to_owned(), hold(number))])?;
        pods.extend(answer.into_iter().flatten().map(|seen| seen.pod));
    }
    ensure!(
        tally(&pods) == BTreeMap::from([("a2", 9), ("b1", 9)]),
        "{:?}",
        tally(&pods)
    );
    Ok(())
}

/// One endpoint for a client, whichever of the Service's addresses it uses.
fn affinity(cluster: &mut Cluster) -> Result<()> {
    let external = Family::BOTH.map(|family| Public::External.address(705, 1, family));
    let spec = json!({"sessionAffinity": "ClientIP", "externalIPs": external});
    apply(cluster, 705, &json!({}), &spec, &["a1", "a2", "b1", "b2"])?;
    for family in Family::BOTH {
        let external = SocketAddr::new(Public::External.address(705, 1, family), 80);
        let outside = vec![at_node(705, 1, family), at_public(705, family), external];
        let inside: Vec<_> = [cluster_ip(705, family)].into_iter().chain(outside.clone()).collect();
        for (client, targets) in [("c1", inside.clone()), ("n1", inside), ("out", outside)] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let mut pods = Vec::new();
                for to in &targets {
                    pods.extend(ask(cluster, client, reach(*to, protocol, 6, 0))?);
                }
                ensure!(
                    tally(&pods).len() == 1,
                    "{client} {family:?} {protocol:?}: {:?}",
                    tally(&pods)
                );
            }
        }
    }
    Ok(())
}

/// What the API server has of Events about a Service: reason, and which node says so.
fn events(cluster: &Cluster, service: &str, uid: &str) -> Result<BTreeSet<(String, String)>> {
    let list = cluster.get(&format!("/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().context("a list of Events")?.iter();
    let ours = items.filter(|event| {
        event["regarding"]["name"] == service
            && event["regarding"]["uid"] == uid
            && event["regarding"]["kind"] == "Service"
            && event["reportingController"] == "ferrogate"
            && event["type"] == "Warning"
    });
    Ok(ours
        .map(|event| (text(&event["reason"]), text(&event["reportingInstance"])))
        .collect())
}

/// What cannot be read is an Event of each node, and the rest works as if it were not there.
fn bad_values(cluster: &mut Cluster) -> Result<()> {
    let rules = json!({"ferrogate.dev/algorithm": "roundest-robin", "ferrogate.dev/weights": "pod:a1=3, pod:b1=heavy"});
    let forbidden: IpAddr = Public::Forbidden.address(706, 1, Family::V4);
    let name = apply(
        cluster,
        706,
        &rules,
        &json!({"externalIPs": [forbidden]}),
        &["a1", "b1"],
    )?;
    let pods = ask(cluster, "c1", reach(cluster_ip(706, Family::V6), Protocol::Tcp, 40, 0))?;
    ensure!(
        tally(&pods) == BTreeMap::from([("a1", 30), ("b1", 10)]),
        "{:?}",
        tally(&pods)
    );
    let object = cluster.get(&format!("/api/v1/namespaces/{NAMESPACE}/services/{name}"))?;
    let uid = object["metadata"]["uid"].as_str().context("a uid")?;
    let wanted: BTreeSet<_> = ["UnknownAlgorithm", "InvalidWeight", "ExternalIpRefused"]
        .iter()
        .flat_map(|reason| ["n1", "n2"].map(|node| ((*reason).to_owned(), node.to_owned())))
        .collect();
    eventually("both nodes' Events are in the API server", || {
        Ok(events(cluster, &name, uid)? == wanted)
    })
    .with_context(|| format!("{:?}", events(cluster, &name, uid)))
}

#[test]
fn algorithms_weights_and_affinity_choose_as_they_say_and_bad_values_are_events() -> Result<()> {
    let mut cluster = Cluster::boot(Side::Ours, Layout::Routed, SocketEdge::All)?;
    weights(&mut cluster).context("weights")?;
    maglev(&mut cluster).context("maglev")?;
    source_hash(&mut cluster).context("source-hash")?;
    least_connections(&mut cluster).context("least-connections")?;
    affinity(&mut cluster).context("affinity")?;
    bad_values(&mut cluster).context("bad values")?;
    cluster.rig.check_proxies()
}

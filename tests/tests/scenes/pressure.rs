//! Tables that are full. What has no room is refused, and said so where people look: an Event on the Service, `status`, `doctor`, a
//! metric. What was programmed goes on working; once there is room the rest is programmed.
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use ferrogate_tests::binaries;
use ferrogate_tests::conformance::addresses::Public;
use ferrogate_tests::conformance::case::Side;
use ferrogate_tests::conformance::cluster::Cluster;
use ferrogate_tests::conformance::prober::ask_all;
use ferrogate_tests::rig::{Family, Layout, NAMESPACE, SocketEdge, addresses};
use ferrogate_tests::wire::Protocol;
use ferrogate_tests::wire::ask::{Ask, Reach, Told};
use serde_json::{Value, json};

use crate::common::eventually;

/// So few that a handful of Services fills them, and so many that what the cluster itself has finds its place.
const SERVICES: [(&str, u32); 5] = [
    ("FRONTENDS", 128),
    ("SERVICES", 40),
    ("SLOTS", 256),
    ("BACKENDS", 64),
    // 64 of them are the cluster's own networks.
    ("NETWORKS", 64 + 8),
];

pub(crate) fn options(sizes: &[(&str, u32)]) -> Vec<String> {
    sizes
        .iter()
        .map(|(map, entries)| format!("--map-entries={map}={entries}"))
        .collect()
}

fn name(number: u16) -> String {
    format!("pressed-{number}")
}

/// A Service of both families at its own ClusterIPs, with further fields.
pub(crate) fn service(number: u16, annotations: &Value, more: &Value) -> Value {
    let own = addresses::cluster_ip(number);
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": name(number), "annotations": annotations},
        "spec": {
            "clusterIP": own.v4, "clusterIPs": own.both(), "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack", "ports": [{"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 8080}],
        },
    });
    if let (Some(fields), Some(more)) = (object["spec"].as_object_mut(), more.as_object()) {
        fields.extend(more.clone());
    }
    object
}

/// Its endpoints: pods, and this many addresses that nobody has.
pub(crate) fn slices(cluster: &Cluster, number: u16, pods: &[&str], others: u16) -> [Value; 2] {
    Family::BOTH.map(|family| {
        let standing = pods.iter().map(|pod| {
            let pod = &cluster.pods[*pod];
            json!({"addresses": [pod.addresses.get(family)], "nodeName": format!("n{}", pod.node)})
        });
        let others = (1..=others).map(|other| {
            let address: IpAddr = match family {
                Family::V4 => std::net::Ipv4Addr::new(198, 18, number as u8, other as u8).into(),
                Family::V6 => std::net::Ipv6Addr::new(0x2001, 0x2, 0, number, 0, 0, 0, other).into(),
            };
            json!({"addresses": [address]})
        });
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": NAMESPACE, "name": format!("{}-{family:?}", name(number)).to_lowercase(),
                "labels": {"kubernetes.io/service-name": name(number)}},
            "addressType": if family == Family::V4 { "IPv4" } else { "IPv6" },
            "endpoints": standing.chain(others).collect::<Vec<_>>(),
            "ports": [{"name": "tcp", "protocol": "TCP", "port": 8080}],
        })
    })
}

pub(crate) fn apply(cluster: &Cluster, objects: impl IntoIterator<Item = Value>) -> Result<()> {
    objects.into_iter().try_for_each(|object| cluster.rig.apply(&object))
}

pub(crate) fn reach(to: SocketAddr, connections: u32) -> Reach {
    Reach::times(connections, to, Protocol::Tcp, 2000)
}

/// Whether a Service answers in both families.
pub(crate) fn answers(cluster: &mut Cluster, number: u16) -> Result<bool> {
    let own = addresses::cluster_ip(number).both();
    let questions = own.map(|address| ("c1".to_owned(), Ask::Reach(reach((address, 80).into(), 4))));
    let told = ask_all(&mut cluster.probers, questions.to_vec())?;
    Ok(told.iter().all(Told::is_reached))
}

/// What `ferrogate` says on node 1.
pub(crate) fn says(cluster: &Cluster, command: &str) -> Result<String> {
    let node = cluster.rig.node(1);
    let program = binaries::workspace("ferrogate")?;
    let mut run = node.place.command(&program)?;
    run.arg(command)
        .arg("--admin-socket")
        .arg(node.directory.join("admin.sock"));
    let output = run.output().context("ferrogate")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn metric(cluster: &Cluster, metric: &str, map: &str) -> Result<f64> {
    let text = says(cluster, "metrics")?;
    let line = format!("{metric}{{map=\"{map}\"}} ");
    let value = text.lines().find_map(|found| found.strip_prefix(&line));
    let value = value.with_context(|| format!("no {line}in {text}"))?;
    Ok(value.trim().parse()?)
}

/// Reasons of Events about a Service, from both nodes.
fn events(cluster: &Cluster, number: u16) -> Result<Vec<(String, String)>> {
    let list = cluster.get(&format!("/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().context("a list of Events")?.iter();
    let ours = items.filter(|event| {
        event["regarding"]["name"] == name(number)
            && event["reason"].as_str().is_some_and(|reason| reason.ends_with("Full"))
    });
    Ok(ours
        .map(|event| (text(&event["reportingInstance"]), text(&event["note"])))
        .collect())
}

/// That a Service was refused for want of room in a map, and that everybody can see it.
fn expect_refused(cluster: &mut Cluster, number: u16, map: &str, old: &[u16]) -> Result<()> {
    let mut last = String::new();
    eventually(
        "the refusal is an Event of both nodes, and everything else that tells",
        || {
            let events = events(cluster, number)?;
            let told = ["n1", "n2"]
                .iter()
                .all(|node| events.iter().any(|(from, note)| from == node && note.contains(map)));
            let (status, doctor) = (says(cluster, "status")?, says(cluster, "doctor")?);
            // A long line is wrapped.
            let joined = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            let wanted = format!("service {NAMESPACE}/{}:80/TCP IPv4: {map} ", name(number));
            let problem = |text: &str| joined(text).contains(&wanted);
            let counted = metric(cluster, "ferrogate_refused", map)?;
            last = format!("{events:?}, {counted} counted, {status}\n{doctor}");
            Ok(told && problem(&status) && problem(&doctor) && counted > 0.0)
        },
    )
    .with_context(|| last.clone())?;
    for service in old {
        ensure!(
            answers(cluster, *service)?,
            "{} is not served any more: {last}",
            name(*service)
        );
    }
    Ok(())
}

/// That nothing is refused any more, and that this Service is served.
fn expect_served(cluster: &mut Cluster, number: u16, map: &str) -> Result<()> {
    eventually("what was refused is programmed", || {
        Ok(metric(cluster, "ferrogate_refused", map)? == 0.0 && answers(cluster, number)?)
    })
    .with_context(|| says(cluster, "status").unwrap_or_default())
}

fn backends(cluster: &mut Cluster) -> Result<()> {
    apply(cluster, slices(cluster, 901, &["a1", "b1"], 100))?;
    expect_refused(cluster, 901, "BACKENDS", &[901, 902])?;
    apply(cluster, slices(cluster, 901, &["b1"], 10))?;
    apply(cluster, slices(cluster, 901, &["b1"], 0))?;
    expect_served(cluster, 901, "BACKENDS")
}

/// A Maglev table has thousands of slots.
fn slots(cluster: &mut Cluster) -> Result<()> {
    let maglev = json!({"ferrogate.dev/algorithm": "maglev"});
    apply(cluster, [service(901, &maglev, &Value::Null)])?;
    apply(cluster, slices(cluster, 901, &["a1", "b1"], 0))?;
    expect_refused(cluster, 901, "SLOTS", &[901, 902])?;
    apply(cluster, [service(901, &json!({}), &Value::Null)])?;
    expect_served(cluster, 901, "SLOTS")
}

/// External addresses are frontends.
fn frontends(cluster: &mut Cluster) -> Result<()> {
    let external: Vec<IpAddr> = (100..200)
        .map(|case| Public::External.address(case, 1, Family::V4))
        .collect();
    let more = json!({"externalIPs": external});
    apply(cluster, [service(901, &json!({}), &more)])?;
    expect_refused(cluster, 901, "FRONTENDS", &[901, 902])?;
    apply(cluster, [service(901, &json!({}), &json!({"externalIPs": []}))])?;
    expect_served(cluster, 901, "FRONTENDS")
}

fn networks(cluster: &mut Cluster) -> Result<()> {
    let balanced = |ranges: &[String]| {
        let more = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges});
        let mut object = service(901, &json!({}), &more);
        let ingress = Public::LoadBalancer.address(150, 1, Family::V4);
        object["status"] = json!({"loadBalancer": {"ingress": [{"ip": ingress}]}});
        object
    };
    let many: Vec<String> = (0..20).map(|net| format!("203.0.{net}.0/24")).collect();
    apply(cluster, [balanced(&many)])?;
    expect_refused(cluster, 901, "NETWORKS", &[901, 902])?;
    apply(cluster, [balanced(&["203.0.113.0/24".to_owned()])])?;
    expect_served(cluster, 901, "NETWORKS")
}

/// More Services than there is room for; the last ones wait for those before them to go.
fn services(cluster: &mut Cluster) -> Result<()> {
    const NUMBERS: std::ops::Range<u16> = 910..934;
    for number in NUMBERS {
        apply(cluster, [service(number, &json!({}), &Value::Null)])?;
        apply(cluster, slices(cluster, number, &["a1"], 0))?;
    }
    let last = NUMBERS.end - 1;
    expect_refused(cluster, last, "SERVICES", &[901, 902, NUMBERS.start])?;
    ensure!(!answers(cluster, last)?, "a Service without room answers");
    let full = metric(cluster, "ferrogate_map_max_entries", "SERVICES")?;
    eventually("the pressure is exported", || {
        Ok(metric(cluster, "ferrogate_map_entries", "SERVICES")? == full
            && metric(cluster, "ferrogate_map_pressure", "SERVICES")? == 1.0)
    })?;
    for number in NUMBERS.start..last {
        cluster.rig.delete(&service(number, &json!({}), &Value::Null))?;
    }
    expect_served(cluster, last, "SERVICES")
}

#[test]
fn a_full_table_of_services_refuses_loudly_and_takes_in_what_waits_once_there_is_room() -> Result<()> {
    let mut cluster = Cluster::boot_with(Side::Ours, Layout::Routed, SocketEdge::All, &options(&SERVICES))?;
    for number in [901, 902] {
        apply(&cluster, [service(number, &json!({}), &Value::Null)])?;
        apply(&cluster, slices(&cluster, number, &["a1", "b1"], 0))?;
        expect_served(&mut cluster, number, "SERVICES")?;
    }
    backends(&mut cluster).context("BACKENDS")?;
    slots(&mut cluster).context("SLOTS")?;
    frontends(&mut cluster).context("FRONTENDS")?;
    networks(&mut cluster).context("NETWORKS")?;
    services(&mut cluster).context("SERVICES")?;
    cluster.rig.check_proxies()
}

//! `ferrogate explain`, beside what a client sees.
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use ferrogate_tests::rig::{NAMESPACE, Place, Rig};
use ferrogate_tests::wire::{ProbeRequest, Protocol};
use serde_json::{Value, json};

use crate::common::{Is, apply, apply_void, boot, eventually, ferrogate, ferrogate_json, serves};

/// More than any set of endpoints here: round robin reaches each.
const CONNECTIONS: u32 = 12;

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Waits until node 1's agent knows the endpoints in these states, and has written them.
fn settled(rig: &Rig, policy: &str, pods: &[(&str, Is)]) -> Result<()> {
    let wanted: BTreeSet<(String, &str)> = pods
        .iter()
        .map(|(name, is)| {
            let state = match is {
                Is::Ready => "ready",
                Is::NotReady => "not ready",
                Is::Terminating => "terminating",
            };
            ((*name).to_owned(), state)
        })
        .collect();
    eventually("the agent knows the Service", || {
        let output = ferrogate(rig, 1, &["explain", "shop", "--output", "json"])?;
        let Ok(page) = serde_json::from_slice::<Value>(&output.stdout) else {
            return Ok(false);
        };
        let port = &page["ports"][0];
        let rows = port["endpoints"].as_array().map_or(&[][..], Vec::as_slice);
        let rows = rows.iter().filter(|row| row["gone"] == false);
        let found = rows.map(|row| (text(row, "pod").to_owned(), text(row, "state")));
        let unwritten = page.to_string().contains("(yet)");
        Ok(text(port, "external_policy") == policy && !unwritten && found.collect::<BTreeSet<_>>() == wanted)
    })
}

/// Asks each way that node 1's agent tells of for this client, from where the client is: a way that works is answered by just
/// the endpoints that are said to be used, one that does not by nobody. Returns the ways.
fn agrees(rig: &Rig, from: &str, place: &Place) -> Result<Vec<Value>> {
    let page = ferrogate_json(rig, 1, &["explain", "default/shop:http", "--from", from])?;
    let port = &page["ports"][0];
    let ways = port["ways"].as_array().context("ways")?;
    for way in ways {
        let addresses: Vec<IpAddr> = serde_json::from_value(way["addresses"].clone())?;
        let number = u16::try_from(way["port"].as_u64().context("a port")?)?;
        // Of a node's addresses, the first one that this client has a route to is the LAN's.
        let to = addresses
            .iter()
            .find(|ip| ip.to_string().starts_with("172.31.") || way["kind"] != "NodePort");
        let to = SocketAddr::new(*to.context("an address")?, number);
        let report = place.probe(&ProbeRequest {
            timeout_ms: 400,
            ..ProbeRequest::new(Protocol::Tcp, to).count(CONNECTIONS)
        })?;
        let seen: BTreeSet<&str> = report.tally().into_keys().collect();
        let set = if way["set"] == "Local" { "local_set" } else { "cluster" };
        let endpoints = port["endpoints"].as_array().context("endpoints")?;
        let used = endpoints
            .iter()
            .filter(|one| one[set] == true)
            .map(|one| text(one, "pod"));
        let said: BTreeSet<&str> = if way["works"] == true {
            used.collect()
        } else {
            BTreeSet::new()
        };
        ensure!(
            seen == said && report.complete() == (way["works"] == true),
            "from {from} to {to}: explain says {said:?}, the client saw {seen:?}\n{way:#}\n{report:?}"
        );
    }
    Ok(ways.clone())
}

fn all_agree(rig: &Rig) -> Result<Vec<Value>> {
    let mut ways = agrees(rig, "client", &rig.pod("client").place)?;
    ways.extend(agrees(rig, "node", &rig.node(1).place)?);
    ways.extend(agrees(rig, "outside", &rig.outside)?);
    Ok(ways)
}

/// The outcome of the way of this client to this kind of address.
fn outcome<'a>(ways: &'a [Value], client: &str, kind: &str) -> &'a str {
    let way = ways.iter().find(|way| way["client"] == client && way["kind"] == kind);
    way.map_or("no such way", |way| text(way, "outcome"))
}

#[test]
fn explain_says_what_a_client_then_sees() -> Result<()> {
    let mut rig = boot(&[])?;
    let pods = [("a1", Is::Ready), ("a2", Is::NotReady), ("b1", Is::Ready)];
    // Pods are known by their slices here: a manifest directory has no Pods.
    let with_client = |pods: &[(&'static str, Is)]| [pods, &[("client", Is::NotReady)]].concat();
    apply(&rig, &json!({}), &with_client(&pods))?;
    settled(&rig, "Cluster", &with_client(&pods))?;
    let ways = all_agree(&rig)?;
    assert_eq!(ways.len(), 9, "three clients, three addresses: {ways:#?}");
    assert_eq!(outcome(&ways, "this pod", "ClusterIP"), "2 endpoints");
    assert!(outcome(&ways, "outside", "ClusterIP").starts_with("dropped"));

    // Policy Local with no ready endpoint here, but a terminating one that serves.
    let pods = [("a1", Is::Terminating), ("b1", Is::Ready)];
    let local = json!({"externalTrafficPolicy": "Local"});
    apply(&rig, &local, &with_client(&pods))?;
    settled(&rig, "Local", &with_client(&pods))?;
    let ways = all_agree(&rig)?;
    assert_eq!(outcome(&ways, "outside", "NodePort"), "1 endpoint", "the last resort");
    let pods = [("b1", Is::Ready)];
    apply(&rig, &local, &with_client(&pods))?;
    settled(&rig, "Local", &with_client(&pods))?;
    let ways = all_agree(&rig)?;
    let dropped = outcome(&ways, "outside", "LoadBalancer");
    assert!(
        dropped.starts_with("dropped") && dropped.contains("n1 has no ready endpoint"),
        "{dropped}"
    );
    assert_eq!(
        outcome(&ways, "this pod", "NodePort"),
        "1 endpoint",
        "inside, policy Local holds nobody back"
    );

    // Source ranges: the outside client is 172.31.0.100.
    for (ranges, works) in [("172.31.0.0/16", true), ("192.0.2.0/24", false)] {
        apply(
            &rig,
            &json!({"loadBalancerSourceRanges": [ranges]}),
            &with_client(&pods),
        )?;
        settled(&rig, "Cluster", &with_client(&pods))?;
        eventually("the ranges are known", || {
            let page = ferrogate_json(&rig, 1, &["explain", "shop"])?;
            Ok(page["ports"][0]["source_ranges"].to_string().contains(ranges))
        })?;
        let ways = agrees(&rig, "172.31.0.100", &rig.outside)?;
        let found = outcome(&ways, "outside", "LoadBalancer");
        assert!(
            found.starts_with("dropped: loadBalancerSourceRanges") != works,
            "{found}"
        );
    }

    let pods = [("a1", Is::NotReady), ("a2", Is::NotReady)];
    apply(&rig, &json!({}), &with_client(&pods))?;
    settled(&rig, "Cluster", &with_client(&pods))?;
    let ways = all_agree(&rig)?;
    let refused = "refused: no ready endpoint: 3 not ready";
    assert_eq!(outcome(&ways, "this node", "ClusterIP"), refused);
    assert_eq!(outcome(&ways, "outside", "NodePort"), refused);
    rig.check_proxies()
}

#[test]
fn live_counters_and_flows_are_those_of_the_service() -> Result<()> {
    let rig = boot(&[])?;
    let pods = [("a1", Is::Ready)];
    apply(&rig, &json!({}), &pods)?;
    settled(&rig, "Cluster", &pods)?;
    agrees(&rig, "outside", &rig.outside)?;
    let page = ferrogate_json(&rig, 1, &["explain", "shop"])?;
    let port = &page["ports"][0];
    assert_eq!(
        port["connections"],
        2 * CONNECTIONS,
        "by the load balancer's address and by the node's"
    );
    assert_eq!(port["flows"], port["endpoints"][0]["flows"]);
    assert!(port["flows"].as_u64() > Some(0), "{port:#}");
    let dropped = agrees(&rig, "outside", &rig.outside)?;
    let dropped = dropped.iter().find(|way| way["reason"] == "external_cluster_ip");
    let counted = dropped.and_then(|way| way["counted"].as_u64());
    assert!(counted >= Some(u64::from(CONNECTIONS)), "{dropped:?}");
    let page = ferrogate_json(&rig, 1, &["explain", "shop"])?;
    let refusals = page["ports"][0]["refusals"].as_array().context("refusals")?;
    let of_way = refusals.iter().find(|one| one["reason"] == "external_cluster_ip");
    let of_way = of_way.context("the refusal")?;
    assert_eq!(of_way["edge"], "uplink");
    assert!(of_way["count"].as_u64() >= counted, "{refusals:?}");

    // Another Service gets its place in the tables, and nothing of what was counted there.
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE, "name": "shop"}});
    rig.delete(&service)?;
    serves(&rig, 0)?;
    apply_void(&rig)?;
    serves(&rig, 1)?;
    let rows = ferrogate_json(&rig, 1, &["services"])?;
    assert_eq!(rows[0]["id"], page["ports"][0]["id"], "{rows}");
    assert_eq!(
        (&rows[0]["connections"], &rows[0]["refused"]),
        (&json!(0), &json!(0)),
        "{rows}"
    );
    Ok(())
}

#[test]
fn what_cannot_be_explained_is_said_with_what_there_is() -> Result<()> {
    let rig = boot(&[])?;
    let pods = [("a1", Is::Ready)];
    apply(&rig, &json!({}), &pods)?;
    settled(&rig, "Cluster", &pods)?;
    for (arguments, wanted) in [
        (&["explain", "default/shopp"][..], "There is:\n  default/shop"),
        (&["explain", "shop:81"], "default/shop:80 (http)"),
        (
            &["explain", "shop", "--from", "nobody"],
            "node n1 has no pod default/nobody",
        ),
        (&["explain", "a/b/c"], "NAMESPACE/NAME:PORT"),
    ] {
        let output = ferrogate(&rig, 1, arguments)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && errors.contains(wanted),
            "{arguments:?}: {errors}"
        );
        assert!(output.stdout.is_empty());
    }
    let graph = ferrogate(&rig, 1, &["explain", "shop", "--output", "dot"])?;
    assert!(graph.stdout.starts_with(b"digraph"), "{graph:?}");
    Ok(())
}

/// As many packets as TCP needs at least, and as many bytes as were asked for and answered.
#[test]
fn packets_and_bytes_are_counted_by_service_where_that_is_asked_for() -> Result<()> {
    let rig = boot(&["--service-traffic"])?;
    let pods = [("a1", Is::Ready), ("b1", Is::Ready)];
    apply(&rig, &json!({}), &pods)?;
    settled(&rig, "Cluster", &pods)?;
    agrees(&rig, "outside", &rig.outside)?;
    let page = ferrogate_json(&rig, 1, &["explain", "shop"])?;
    let (port, carried) = (&page["ports"][0], &page["ports"][0]["traffic"]);
    let count = |field: &str| carried[field].as_u64().unwrap_or_default();
    let connections = port["connections"].as_u64().context("connections")?;
    for direction in ["request", "reply"] {
        let (packets, bytes) = (
            count(&format!("{direction}_packets")),
            count(&format!("{direction}_bytes")),
        );
        // SYN or its answer, data, FIN; with 20 bytes each of IP and TCP. None is counted at two edges.
        assert!((3 * connections..=8 * connections).contains(&packets), "{page:#}");
        assert!(bytes >= 40 * packets, "{page:#}");
    }
    let metrics = String::from_utf8(ferrogate(&rig, 1, &["metrics"])?.stdout)?;
    let reply = metrics.lines().find(|line| {
        line.starts_with("ferrogate_service_bytes_total{")
            && line.contains("service=\"shop\"")
            && line.contains("\"reply\"")
    });
    let reply = reply.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    assert!(reply >= Some(count("reply_bytes")), "{metrics}");
    Ok(())
}

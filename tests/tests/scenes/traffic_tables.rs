//! Tables of traffic that are full make room themselves: for what is new, and not at the price of what is open.
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ferrogate_tests::conformance::case::Side;
use ferrogate_tests::conformance::cluster::Cluster;
use ferrogate_tests::conformance::prober::ask_all;
use ferrogate_tests::rig::addresses::{NODE_BASE, lan};
use ferrogate_tests::rig::{Family, Layout, SocketEdge, addresses};
use ferrogate_tests::wire::ask::{Ask, Told};
use serde_json::json;

use crate::common::eventually;
use crate::pressure::{answers, apply, options, reach, says, service, slices};

const NODE_PORT: u16 = 31_777;
/// Ports that SNAT may use.
const PORTS: u32 = 256;

/// A cluster without the socket edge, whose agents have these options, with a Service that has one endpoint, on node 2.
fn offering(options: &[String]) -> Result<Cluster> {
    let mut cluster = Cluster::boot_with(Side::Ours, Layout::Routed, SocketEdge::Off, options)?;
    let node_port = json!({"type": "NodePort", "ports": [
        {"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT}]});
    apply(&cluster, [service(901, &json!({}), &node_port)])?;
    apply(&cluster, slices(&cluster, 901, &["b1"], 0))?;
    eventually("the Service is served", || answers(&mut cluster, 901))?;
    Ok(cluster)
}

/// A connection that is kept under a name.
fn hold(name: &str, to: SocketAddr) -> Ask {
    Ask::Hold {
        name: name.to_owned(),
        reach: reach(to, 1),
    }
}

/// A question in it.
fn resume(name: &str) -> Ask {
    Ask::Resume {
        name: name.to_owned(),
        timeout_ms: 2000,
    }
}

/// Flows of every kind, many times more than there is room for.
fn rounds(cluster: &mut Cluster, times: u32) -> Result<()> {
    let node = lan(NODE_BASE + 1);
    for family in Family::BOTH {
        let own = SocketAddr::new(addresses::cluster_ip(901).get(family), 80);
        let questions = vec![
            ("c1".to_owned(), Ask::Reach(reach(own, times))),
            // To a pod on the other node, from this node and from outside: with a port of the SNAT range, of which only a few are
            // to be in use.
            ("n1".to_owned(), Ask::Reach(reach(own, 2))),
            (
                "out".to_owned(),
                Ask::Reach(reach(SocketAddr::new(node.get(family), NODE_PORT), 2)),
            ),
        ];
        let told = ask_all(&mut cluster.probers, questions.clone())?;
        for (question, told) in questions.iter().zip(told) {
            ensure!(
                told.is_reached(),
                "{question:?}: {told:?}, {}",
                says(cluster, "status")?
            );
        }
    }
    Ok(())
}

/// How long a round of connections may not be shorter than: with more a second what has just ended would be more than there is room for.
const ROUND: Duration = Duration::from_secs(1);

#[test]
fn connections_that_are_silent_outlive_many_more_that_end_than_there_is_room_for() -> Result<()> {
    const ENTRIES: u32 = 16_384;
    /// Of each family in a round; each has two entries.
    const TIMES: u32 = 400;
    let mut cluster = offering(&options(&[("FLOWS", ENTRIES)]))?;
    let mut held = Vec::new();
    for family in Family::BOTH {
        let own = SocketAddr::new(addresses::cluster_ip(901).get(family), 80);
        let at_node = SocketAddr::new(lan(NODE_BASE + 1).get(family), NODE_PORT);
        for (who, to) in [("c1", own), ("n1", own), ("out", at_node)] {
            held.push((who.to_owned(), format!("{who}-{family:?}"), to));
        }
    }
    let holds = held.iter().map(|(who, name, to)| (who.clone(), hold(name, *to)));
    let told = ask_all(&mut cluster.probers, holds.collect())?;
    ensure!(told.iter().all(Told::is_reached), "{told:?}");
    for _ in 0..ENTRIES / TIMES / 2 {
        let begun = Instant::now();
        rounds(&mut cluster, TIMES)?;
        sleep(ROUND.saturating_sub(begun.elapsed()));
    }
    for (who, name, _) in held {
        let resume = Ask::Resume {
            name: name.clone(),
            timeout_ms: 2000,
        };
        let told = ask_all(&mut cluster.probers, vec![(who, resume)])?;
        ensure!(told[0].is_reached(), "{name}: {told:?}");
    }
    cluster.rig.check_proxies()
}

#[test]
fn full_tables_of_traffic_make_room_and_ports_that_are_all_taken_are_said_to_be() -> Result<()> {
    let small = [
        ("FLOWS", 4096),
        ("HALF_OPEN", 1024),
        ("SNAT_FLOWS", 1024),
        ("AFFINITY", 128),
        ("SOCKET_PAIRS", 128),
        ("UDP_SOCKETS", 128),
        ("FRAGMENTS", 128),
    ];
    let mut more = options(&small);
    more.push(format!("--snat-ports=24000-{}", 24_000 + PORTS - 1));
    let mut cluster = offering(&more)?;
    let own = SocketAddr::new(addresses::cluster_ip(901).v4.into(), 80);
    let told = ask_all(&mut cluster.probers, vec![("c1".to_owned(), hold("kept", own))])?;
    ensure!(told[0].is_reached(), "{told:?}");
    // A connection that is used lives through more others than there is room for. The kernel keeps some hundred free entries for
    // each CPU: in a smaller table hardly any flow would live.
    for _ in 0..4 {
        rounds(&mut cluster, 600)?;
        let told = ask_all(&mut cluster.probers, vec![("c1".to_owned(), resume("kept"))])?;
        ensure!(told[0].is_reached(), "{told:?}");
    }
    let at_node = SocketAddr::new(lan(NODE_BASE + 1).v4.into(), NODE_PORT);
    let holds = (0..PORTS + 16).map(|number| ("out".to_owned(), hold(&format!("out-{number}"), at_node)));
    let told = ask_all(&mut cluster.probers, holds.collect())?;
    let held = told.iter().filter(|told| Told::is_reached(told)).count();
    ensure!(
        held > PORTS as usize / 2 && held <= PORTS as usize,
        "{held} connections through {PORTS} ports: {told:?}"
    );
    // Who came too late may have taken the port of one that was not confirmed yet. Now all are, and one by one nobody takes another's.
    let mut late = 0;
    loop {
        let question = ("out".to_owned(), hold(&format!("late-{late}"), at_node));
        if !ask_all(&mut cluster.probers, vec![question])?[0].is_reached() {
            break;
        }
        late += 1;
        ensure!(held + late <= PORTS as usize, "{late} more than the {held} connections");
    }
    eventually("that ports are missing is said", || {
        Ok(says(&cluster, "status")?.contains("(no_snat_port)") && says(&cluster, "doctor")?.contains("--snat-ports"))
    })?;
    eventually("it is an Event of the node", || {
        let list = cluster.get("/apis/events.k8s.io/v1/namespaces/default/events")?;
        let events = list["items"].as_array().context("a list of Events")?;
        Ok(events.iter().any(|event| {
            let about = &event["regarding"];
            event["reason"] == "PacketsDropped" && about["kind"] == "Node" && about["name"] == "n1"
        }))
    })?;
    for (question, told) in (0..PORTS + 16).zip(told) {
        if !told.is_reached() {
            continue;
        }
        let resume = resume(&format!("out-{question}"));
        let again = ask_all(&mut cluster.probers, vec![("out".to_owned(), resume)])?;
        if !again[0].is_reached() {
            bail!("a connection that had its port lost it: {again:?}");
        }
    }
    cluster.rig.check_proxies()
}

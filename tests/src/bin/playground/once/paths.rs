//! Each path on its own: who answers, in turn, in whose name, and where it is translated.
use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use ferrogate_tests::rig::{Family, addresses};
use ferrogate_tests::wire::{Attempt, FailureKind, ProbeReport, ProbeRequest, Protocol};

use super::{Scenario, first_failure, median_ms, shares};
use crate::agent::Counters;
use crate::path::{self, Client, Edge, Path};
use crate::stop;

/// Connections along each path: a multiple of pods and nodes.
const ROUND: u32 = 300;

pub(super) fn run(scenario: &mut Scenario) -> Result<()> {
    let [cluster_ip, node_port, load_balancer, unhooked, udp] = &*scenario.paths.clone() else {
        anyhow::bail!("the scenario knows five paths");
    };
    scenario.report.section("ClusterIP: a pod asks inside the cluster")?;
    even(scenario, cluster_ip, ROUND)?;
    mapped(scenario, cluster_ip)?;
    from_outside(scenario, cluster_ip)?;
    scenario
        .report
        .section("ClusterIP over IPv6, from a pod whose sockets are not hooked")?;
    even(scenario, unhooked, ROUND)?;
    scenario
        .report
        .section("NodePort: a client outside asks the nodes in turn")?;
    let report = even(scenario, node_port, ROUND)?;
    names_seen(scenario, node_port, &report)?;
    no_listener(scenario, node_port)?;
    let v6 = path::path(
        &scenario.cluster,
        "NodePort IPv6",
        &node_port.service,
        Family::V6,
        (Client::Outside, Edge::Uplink),
    )?;
    even(scenario, &v6, ROUND)?;
    scenario
        .report
        .section("LoadBalancer: the cloud balances over nodes, Ferrogate over pods")?;
    let report = even(scenario, load_balancer, ROUND)?;
    by_node(scenario, load_balancer, &report)?;
    names_seen(scenario, load_balancer, &report)?;
    short_cut(scenario, load_balancer)?;
    scenario.report.section("UDP: datagrams to the same pods")?;
    even(scenario, udp, ROUND)?;
    keeps_its_pod(scenario, udp)?;
    let door = path::path(
        &scenario.cluster,
        "NodePort UDP",
        &udp.service,
        Family::V4,
        (Client::Outside, Edge::Uplink),
    )?;
    even(scenario, &door, ROUND)?;
    Ok(())
}

/// `count` connections, as many for each pod, translated at the path's own edge and at no other.
fn even(scenario: &mut Scenario, path: &Path, count: u32) -> Result<ProbeReport> {
    stop::check()?;
    scenario.report.text(&drawing(path))?;
    let before = Counters::read(&scenario.cluster.rig)?;
    // A round asks every address of the path once.
    let report = path
        .place(&scenario.cluster)
        .probe(&path.request(count / path.to.len() as u32))?;
    let after = Counters::read(&scenario.cluster.rig)?;
    let tally = report.tally();
    scenario.report.text(&format!(
        "{count} {}: {}   ({:.2} ms each)",
        what(path.protocol),
        shares(&tally),
        median_ms(&report)
    ))?;
    let failure = first_failure(&report)
        .map(|text| format!(": {text}"))
        .unwrap_or_default();
    scenario
        .report
        .check(report.complete(), &format!("all answered{failure}"))?;
    let pods = usize::from(scenario.cluster.scale());
    let share = count as usize / pods;
    let even = tally.len() == pods && tally.values().all(|answers| *answers == share);
    scenario
        .report
        .check(even, &format!("exact round robin: {share} each"))?;
    let sockets = after.grown_anywhere(&before, "socket_translated");
    let flows = after.grown_anywhere(&before, "new_flow");
    let (wanted, unwanted) = match path.edge {
        Edge::Socket => (sockets, flows),
        Edge::Pod | Edge::Uplink => (flows, sockets),
    };
    scenario.report.check(
        wanted == u64::from(count) && unwanted == 0,
        &format!(
            "translated by the {} alone: {sockets} socket calls, {flows} flows of packets",
            path.edge.name()
        ),
    )?;
    Ok(report)
}

fn what(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "connections",
        Protocol::Udp => "UDP sockets",
        Protocol::Sctp => "associations",
    }
}

/// The path in one line, as the user's documents write it: `Client -> NodePort -> ClusterIP -> Pod`.
fn drawing(path: &Path) -> String {
    let mut hops = vec![path.client_text.clone()];
    hops.extend(path.balancer.map(|public| format!("load balancer {public}")));
    if let Some((_, door)) = path.node_ports.first() {
        let nodes: Vec<_> = path.node_ports.iter().map(|(node, _)| node.as_str()).collect();
        hops.push(format!("{}:{}", nodes.join("|"), door.port()));
    }
    hops.push(format!("ClusterIP {}", path.cluster_ip));
    hops.push("pods".to_owned());
    hops.join(" -> ")
}

/// The same ClusterIP through a socket of the other family (`::ffff:a.b.c.d`).
fn mapped(scenario: &mut Scenario, path: &Path) -> Result<()> {
    let request = path.request(30).mapped();
    let report = path.place(&scenario.cluster).probe(&request)?;
    let named = report.attempts.iter().all(|attempt| {
        let peer = attempt.peer.map(|peer| peer.ip().to_canonical());
        peer == Some(path.cluster_ip.ip())
    });
    scenario.report.check(
        report.complete() && named,
        &format!(
            "30 more through IPv6 sockets: getpeername() still says {}",
            path.cluster_ip.ip()
        ),
    )
}

/// "Not accessible from your laptop": dropped, even with a route to a node.
fn from_outside(scenario: &mut Scenario, path: &Path) -> Result<()> {
    let before = Counters::read(&scenario.cluster.rig)?;
    let request = ProbeRequest::new(path.protocol, path.cluster_ip).timeout_ms(250);
    let report = scenario.cluster.rig.outside.probe(&request)?;
    let after = Counters::read(&scenario.cluster.rig)?;
    let silent = |attempt: &Attempt| {
        attempt
            .failure
            .as_ref()
            .is_some_and(|failure| failure.kind == FailureKind::Silence)
    };
    let dropped = after.grown(&before, 1, "external_cluster_ip");
    scenario.report.check(
        report.attempts.iter().all(silent) && dropped > 0,
        "from outside the cluster a ClusterIP answers nothing (counted: external_cluster_ip)",
    )
}

/// A pod on the node that was asked sees the client itself; a pod on another node sees the node, so that answers come back
/// the way they went.
fn names_seen(scenario: &mut Scenario, path: &Path, report: &ProbeReport) -> Result<()> {
    let client = match path.balancer {
        Some(_) => scenario.cluster.balancer_address(),
        None => addresses::lan(addresses::OUTSIDE),
    };
    let node_address = |name: &str| -> Option<IpAddr> {
        let mut doors = path.node_ports.iter().filter(|(node, _)| node == name);
        doors.next().map(|(_, door)| door.ip())
    };
    let (mut kept, mut replaced, mut wrong) = (0, 0, 0);
    for attempt in &report.attempts {
        let Some(answer) = attempt.answers.first() else {
            continue;
        };
        let runs_on = scenario.cluster.node_of(&answer.pod);
        let entered = path.entered_by(attempt, runs_on);
        let (seen, local) = (answer.peer.ip(), entered.as_deref() == runs_on);
        match (local, client.contains(seen)) {
            (true, true) => kept += 1,
            (false, false) if entered.as_deref().and_then(node_address) == Some(seen) => replaced += 1,
            _ => wrong += 1,
        }
    }
    scenario.report.check(
        wrong == 0 && kept > 0 && replaced > 0,
        &format!(
            "pods on the node asked saw {} ({kept}), pods on the other node saw the node asked ({replaced})",
            client.v4
        ),
    )
}

/// "The Linux kernel listens": no process does.
fn no_listener(scenario: &mut Scenario, path: &Path) -> Result<()> {
    let mut listening = Vec::new();
    for node in &scenario.cluster.rig.nodes {
        let port = path.node_ports.first().context("no node port")?.1.port();
        let tables = node.place.netns.enter(|| {
            let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
            Ok([read("tcp")?, read("tcp6")?].concat())
        })?;
        let local = format!(":{port:04X}");
        let listens = |line: &str| {
            line.split_whitespace()
                .nth(1)
                .is_some_and(|address| address.ends_with(&local))
        };
        listening.extend(tables.lines().any(listens).then(|| node.name.clone()));
    }
    scenario.report.check(
        listening.is_empty(),
        &format!(
            "no process listens on the node port{}",
            listening
                .iter()
                .map(|node| format!(" (but on {node})"))
                .collect::<String>()
        ),
    )
}

/// The load balancer's own share-out, seen from inside.
fn by_node(scenario: &mut Scenario, path: &Path, report: &ProbeReport) -> Result<()> {
    let mut entered = std::collections::BTreeMap::new();
    for attempt in &report.attempts {
        let runs_on = attempt
            .answers
            .first()
            .and_then(|answer| scenario.cluster.node_of(&answer.pod));
        if let Some(node) = path.entered_by(attempt, runs_on) {
            *entered.entry(node).or_insert(0_u32) += 1;
        }
    }
    let shares: Vec<_> = entered.iter().map(|(node, count)| format!("{node} {count}")).collect();
    let half = ROUND / path.node_ports.len() as u32;
    scenario.report.check(
        entered.len() == path.node_ports.len() && entered.values().all(|count| *count == half),
        &format!("the load balancer used both node ports: {}", shares.join(", ")),
    )
}

/// A pod that asks the public address does not leave the node: the agent knows the address from `status`.
fn short_cut(scenario: &mut Scenario, path: &Path) -> Result<()> {
    let public: SocketAddr = path.balancer.context("no load balancer")?;
    let payment = scenario.cluster.rig.pod("payment");
    let report = payment
        .place
        .probe(&ProbeRequest::new(path.protocol, public).count(30))?;
    let direct = report
        .answers()
        .all(|answer| payment.addresses.contains(answer.peer.ip()));
    scenario.report.check(
        report.complete() && direct,
        &format!("a pod that asks {public} reaches the pods directly, not by way of the load balancer"),
    )
}

/// A UDP socket is one flow, connected or not.
fn keeps_its_pod(scenario: &mut Scenario, path: &Path) -> Result<()> {
    for (kind, request) in [
        ("a connected socket", path.request(1).questions(50)),
        ("an unconnected socket", path.request(1).questions(50).unconnected()),
    ] {
        let report = path.place(&scenario.cluster).probe(&request)?;
        let pods: BTreeSet<_> = report.answers().map(|answer| answer.pod.as_str()).collect();
        let from: BTreeSet<_> = report.attempts.iter().filter_map(|attempt| attempt.from).collect();
        scenario.report.check(
            report.complete() && pods.len() == 1 && from.iter().all(|from| *from == path.cluster_ip),
            &format!(
                "{kind} keeps its pod for 50 datagrams ({}), answered by {}",
                pods.into_iter().collect::<Vec<_>>().join(", "),
                path.cluster_ip
            ),
        )?;
    }
    Ok(())
}

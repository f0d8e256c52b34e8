//! Walks that are no cell of the matrix: counting, refusing, keeping, moving much.
use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};

use super::cell::{Client, Target, same_bridge_limit};
use super::fixture::{self, EMPTY, PORT, STICKY, TARGET_PORT, THREE, TWINS};
use super::report::Mark;
use super::{errors, lives};
use crate::rig::{Family, Proxy, Rig, addresses};
use crate::wire::{FailureKind, ProbeRequest, Protocol, ResolveReport};

/// How much a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    Quick,
    Full,
}

impl Level {
    /// Bytes of one bulk transfer.
    pub fn bulk_bytes(self) -> u64 {
        match self {
            Level::Quick => 128 << 20,
            Level::Full => 1 << 30,
        }
    }
}

type Walk = fn(&mut Rig, Level) -> Result<Outcome>;

/// How a walk that found nothing wrong ended.
pub(crate) enum Outcome {
    Passed,
    Skipped(&'static str),
}

/// Each by its name, in the order in which they run: those that change the rig come last.
const WALKS: [(&str, Walk); 19] = [
    ("what is not a Service keeps its addresses", not_a_service),
    ("300 new connections to 3 endpoints give 100 each", round_robin),
    ("a client of a Service with affinity keeps its endpoint", affinity),
    ("a Service without endpoints refuses at once", refuses),
    ("one client port towards two Services of one endpoint", port_collision),
    ("an unconnected UDP socket keeps its backend", unconnected_keeps),
    ("an unconnected UDP socket tells two Services apart", unconnected_two),
    ("an IPv6 socket reaches the IPv4 address of a Service", mapped),
    ("a port that the Service does not have refuses", unknown_port),
    ("a first packet waits for its neighbour", cold_neighbours),
    ("a datagram in fragments arrives, and its answer", errors::fragments),
    ("a closed UDP port tells its client", errors::closed_port),
    ("a ClusterIP answers ping", errors::ping),
    ("CoreDNS resolves a Service through a ClusterIP", lives::dns),
    ("bulk TCP arrives intact on every path", lives::bulk),
    ("a connection outlives a killed proxy", lives::restart),
    (
        "an endpoint that leaves gets no new connections",
        lives::endpoint_leaves,
    ),
    (
        "UDP finds its endpoint again after it went and came",
        lives::none_and_back,
    ),
    ("the path MTU is found behind a Service", errors::narrow_hop),
];

/// Runs every walk whose name contains `filter`; without a proxy only the first means anything.
pub fn run(rig: &mut Rig, level: Level, filter: &str) -> Vec<(String, Mark)> {
    let meaningful = if rig.options.proxy == Proxy::None {
        1
    } else {
        WALKS.len()
    };
    let chosen = WALKS[..meaningful].iter().filter(|(name, _)| name.contains(filter));
    // Nearly all of them have a backend beside the client pod.
    let limit = same_bridge_limit(rig.options.layout, &rig.options.proxy);
    let result = |(name, walk): &(&str, Walk)| {
        let outcome = limit.map_or_else(|| walk(rig, level), |reason| Ok(Outcome::Skipped(reason)));
        let mark = match outcome {
            Ok(Outcome::Passed) => Mark::Pass,
            Ok(Outcome::Skipped(reason)) => Mark::Skip(reason.to_owned()),
            Err(error) => Mark::Fail(format!("{error:#}")),
        };
        ((*name).to_owned(), mark)
    };
    chosen.map(result).collect()
}

/// The ways to a Service that every proxy has.
fn ways() -> [(Client, Target); 4] {
    [
        (Client::Pod, Target::ClusterIp),
        (Client::Node, Target::ClusterIp),
        (Client::Outside, Target::NodePort(1)),
        (Client::Outside, Target::NodePort(2)),
    ]
}

fn transports() -> impl Iterator<Item = (Protocol, Family)> {
    Protocol::ALL
        .into_iter()
        .flat_map(|protocol| Family::BOTH.map(|family| (protocol, family)))
}

fn not_a_service(rig: &mut Rig, _: Level) -> Result<Outcome> {
    let targets = ["a", "b", "h1", "h2"].map(|pod| (pod, rig.pod(pod).addresses));
    // A port that the kernel chooses may be that of an earlier client of a Service with this endpoint, and would then be changed. What
    // kube-proxy masquerades has any port, and conntrack remembers it for a while.
    let exact = !matches!(rig.options.proxy, Proxy::KubeProxy | Proxy::KubeProxyWith(_));
    let mut port = 12_400;
    for (protocol, family) in transports() {
        for client in [Client::Pod, Client::Node, Client::Outside] {
            // The outside has no route to pods.
            for (pod, address) in targets
                .iter()
                .filter(|(pod, _)| client != Client::Outside || pod.starts_with('h'))
            {
                let to = SocketAddr::new(address.get(family), TARGET_PORT);
                port += 1;
                let request = ProbeRequest::new(protocol, to).source_port(port);
                let report = fixture::place(rig, client).probe(&request)?;
                let attempt = &report.attempts[0];
                let answer = attempt
                    .answers
                    .first()
                    .with_context(|| format!("{client:?} to {to}: {attempt:?}"))?;
                ensure!(answer.pod == *pod, "{client:?} to {to}: answered by {}", answer.pod);
                ensure!(
                    answer.local == to && attempt.peer == Some(to),
                    "{client:?} to {to}: {attempt:?}"
                );
                let same = if exact {
                    Some(answer.peer) == attempt.local
                } else {
                    Some(answer.peer.ip()) == attempt.local.map(|local| local.ip())
                };
                ensure!(same, "{client:?} to {to}: source changed: {attempt:?}");
            }
        }
    }
    Ok(Outcome::Passed)
}

fn round_robin(rig: &mut Rig, _: Level) -> Result<Outcome> {
    let exact = matches!(rig.options.proxy, Proxy::Ferrogate(_));
    for (protocol, family) in transports() {
        for (client, target) in ways() {
            let to = fixture::address(rig, THREE, target, family);
            let report = fixture::place(rig, client).probe(&ProbeRequest::new(protocol, to).count(300))?;
            let tally = report.tally();
            let even = BTreeMap::from([("t1", 100), ("t2", 100), ("t3", 100)]);
            let failures: Vec<_> = report
                .attempts
                .iter()
                .filter_map(|attempt| attempt.failure.as_ref())
                .collect();
            ensure!(
                failures.is_empty(),
                "{client:?} to {to} {protocol:?}: {} of 300: {:?}",
                failures.len(),
                failures[0]
            );
            // kube-proxy chooses at random: each endpoint has its turn, no more is promised.
            ensure!(
                tally == even || (!exact && tally.len() == 3),
                "{client:?} to {to} {protocol:?}: {tally:?}"
            );
        }
    }
    Ok(Outcome::Passed)
}

/// sessionAffinity ClientIP: all connections of one client by one way in end at one pod.
fn affinity(rig: &mut Rig, _: Level) -> Result<Outcome> {
    for (protocol, family) in transports() {
        for (client, target) in ways() {
            let to = fixture::address(rig, STICKY, target, family);
            let report = fixture::place(rig, client).probe(&ProbeRequest::new(protocol, to).count(20))?;
            let tally = report.tally();
            ensure!(
                report.complete() && tally.len() == 1,
                "{client:?} to {to} {protocol:?}: {tally:?}"
            );
        }
    }
    Ok(Outcome::Passed)
}

fn refuses(rig: &mut Rig, _: Level) -> Result<Outcome> {
    let at = |rig: &Rig, target, family| fixture::address(rig, EMPTY, target, family);
    refused_on_every_way(rig, at)
}

fn unknown_port(rig: &mut Rig, _: Level) -> Result<Outcome> {
    for (protocol, family) in transports() {
        for client in [Client::Pod, Client::Node] {
            let mut to = fixture::address(rig, THREE, Target::ClusterIp, family);
            to.set_port(PORT + 1);
            refused(rig, client, protocol, to)?;
        }
    }
    Ok(Outcome::Passed)
}

fn refused_on_every_way(rig: &Rig, at: impl Fn(&Rig, Target, Family) -> SocketAddr) -> Result<Outcome> {
    for (protocol, family) in transports() {
        for (client, target) in ways() {
            refused(rig, client, protocol, at(rig, target, family))?;
        }
    }
    Ok(Outcome::Passed)
}

/// ECONNREFUSED, and at once. kube-proxy refuses TCP with an ICMP error, which the kernel ignores while connect(2) still
/// holds the socket: there it may take one more SYN, a second later. It refuses a node's own datagrams with EPERM.
fn refused(rig: &Rig, client: Client, protocol: Protocol, to: SocketAddr) -> Result<()> {
    let rival = rig.options.proxy == Proxy::KubeProxy;
    let limit_ms = if rival { 1500 } else { 300 };
    let report = fixture::place(rig, client).probe(&ProbeRequest::new(protocol, to).timeout_ms(limit_ms))?;
    let failure = report.attempts[0].failure.as_ref();
    let failure = failure.with_context(|| format!("{client:?} to {to} was answered"))?;
    let refused = failure.kind == FailureKind::Refused || (rival && failure.kind == FailureKind::Unreachable);
    let (stage, text) = (&failure.stage, &failure.text);
    ensure!(refused, "{client:?} to {to} {protocol:?}: {stage}: {text}");
    Ok(())
}

fn port_collision(rig: &mut Rig, _: Level) -> Result<Outcome> {
    for (number, (protocol, family)) in (0_u16..).zip(transports()) {
        for (client, target) in [(Client::Pod, Target::ClusterIp), (Client::Outside, Target::NodePort(2))] {
            let [one, two] = TWINS.map(|service| fixture::address(rig, service, target, family));
            let request = ProbeRequest::new(protocol, one).and_to(two).source_port(15000 + number);
            let report = fixture::place(rig, client).probe(&request)?;
            ensure!(report.complete(), "{client:?} {protocol:?} {family:?}: {report:?}");
            ensure!(
                report.attempts.iter().all(|a| a.peer == Some(a.to)),
                "{client:?} {protocol:?}: {report:?}"
            );
        }
    }
    Ok(Outcome::Passed)
}

fn unconnected_keeps(rig: &mut Rig, _: Level) -> Result<Outcome> {
    for family in Family::BOTH {
        for (client, target) in ways() {
            let to = fixture::address(rig, THREE, target, family);
            let request = ProbeRequest::new(Protocol::Udp, to).unconnected().questions(20);
            let report = fixture::place(rig, client).probe(&request)?;
            ensure!(report.complete(), "{client:?} to {to}: {report:?}");
            let first = &report.attempts[0].answers[0].pod;
            ensure!(
                report.answers().all(|answer| answer.pod == *first),
                "{client:?} to {to}: scattered: {report:?}"
            );
            ensure!(
                report.attempts[0].from == Some(to),
                "{client:?} to {to}: recvfrom says otherwise: {report:?}"
            );
        }
    }
    Ok(Outcome::Passed)
}

fn unconnected_two(rig: &mut Rig, _: Level) -> Result<Outcome> {
    for family in Family::BOTH {
        let [local, remote] = ["local", "remote"].map(|s| fixture::address(rig, s, Target::ClusterIp, family));
        let request = ProbeRequest::new(Protocol::Udp, local)
            .and_to(remote)
            .unconnected()
            .questions(5);
        for client in [Client::Pod, Client::Node] {
            let report = fixture::place(rig, client).probe(&request)?;
            ensure!(report.complete(), "{client:?}: {report:?}");
            for (attempt, pod) in report.attempts.iter().zip(["a", "b"]) {
                let right = attempt.from == Some(attempt.to) && attempt.answers.iter().all(|a| a.pod == pod);
                ensure!(right, "{client:?} to {}: {attempt:?}", attempt.to);
            }
        }
    }
    Ok(Outcome::Passed)
}

fn mapped(rig: &mut Rig, _: Level) -> Result<Outcome> {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for client in [Client::Pod, Client::Node] {
            for service in ["local", "remote"] {
                let to = fixture::address(rig, service, Target::ClusterIp, Family::V4);
                let requests = [
                    ProbeRequest::new(protocol, to).mapped(),
                    ProbeRequest {
                        unconnected: true,
                        ..ProbeRequest::new(protocol, to).mapped()
                    },
                ];
                for request in requests {
                    let report = fixture::place(rig, client).probe(&request)?;
                    ensure!(report.complete(), "{client:?} to {service}: {report:?}");
                    let seen = report.attempts[0]
                        .peer
                        .or(report.attempts[0].from)
                        .context("no address")?;
                    ensure!(
                        seen.ip().to_canonical() == to.ip(),
                        "{client:?} to {service}: {report:?}"
                    );
                }
            }
        }
    }
    Ok(Outcome::Passed)
}

/// Nobody knows anybody's link-layer address: the first packet is held until its neighbour has answered, not lost.
fn cold_neighbours(rig: &mut Rig, _: Level) -> Result<Outcome> {
    for (protocol, family) in transports() {
        for (client, target) in ways() {
            for service in ["local", "remote"] {
                for index in 1..=rig.options.nodes {
                    rig.node(index).place.netns.ip_batch("neigh flush all\n")?;
                }
                let to = fixture::address(rig, service, target, family);
                let timeout_ms = match protocol {
                    // Sooner than its first packet would be sent again.
                    Protocol::Tcp | Protocol::Sctp => 800,
                    // Nothing is sent again but the question for the neighbour, each second.
                    Protocol::Udp => 3500,
                };
                let request = ProbeRequest::new(protocol, to).timeout_ms(timeout_ms);
                let report = fixture::place(rig, client).probe(&request)?;
                ensure!(
                    report.complete(),
                    "{client:?} to {service} at {to} {protocol:?}: {report:?}"
                );
            }
        }
    }
    Ok(Outcome::Passed)
}

/// Asks the cluster's DNS service from a client.
pub(crate) fn resolve(
    rig: &Rig,
    client: Client,
    protocol: Protocol,
    family: Family,
    name: &str,
) -> Result<ResolveReport> {
    let server = SocketAddr::new(addresses::cluster_ip(addresses::DNS).get(family), 53);
    let mut arguments = vec![
        "resolve".to_owned(),
        format!("--server={server}"),
        format!("--name={name}"),
    ];
    arguments.push(format!("--protocol={}", protocol.kubernetes().to_lowercase()));
    arguments.extend((family == Family::V6).then(|| "--ipv6".to_owned()));
    let report: ResolveReport = fixture::place(rig, client).testpod(arguments)?;
    if let Some(failure) = &report.failure {
        bail!(
            "{client:?} {protocol:?} {family:?}: {}: {}",
            failure.stage,
            failure.text
        );
    }
    Ok(report)
}

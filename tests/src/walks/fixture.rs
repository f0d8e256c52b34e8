//! The pods and Services that the walks meet, the same in every rig.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::cell::{Backend, Client, Target, same_bridge_limit};
use crate::rig::{Family, Options, Place, PodSpec, Rig, ServiceSpec, Source};
use crate::wire::{ProbeRequest, Protocol};

/// Every Service answers at this port: one number for TCP, UDP and SCTP.
pub const PORT: u16 = 80;
/// Every pod serves at this port.
pub const TARGET_PORT: u16 = 8080;
/// NodePort of Service N is this + N.
const NODE_PORT_BASE: u16 = 30000;
/// ClusterIP number of Service N is this + N.
const CLUSTER_IP_BASE: u16 = 100;

/// A Service with three endpoints: one on node 1, two on node 2.
pub const THREE: &str = "three";
/// The same endpoints, with session affinity.
pub const STICKY: &str = "sticky";
/// A Service without endpoints.
pub const EMPTY: &str = "empty";
/// Two Services with the same single endpoint.
pub const TWINS: [&str; 2] = ["twin-one", "twin-two"];
/// Services whose endpoints have nobody at their port, in place of others.
const CLOSED: [(&str, &str); 2] = [("local", "local-closed"), ("remote", "remote-closed")];
/// The port of their endpoints.
const CLOSED_PORT: u16 = 9;
/// The Services, in the order of their numbers, each with the label `app` of its pods.
const SERVICES: [(&str, &str); 12] = [
    ("local", "a"),
    ("remote", "b"),
    ("host-local", "h1"),
    ("host-remote", "h2"),
    ("itself", "c"),
    (THREE, "t"),
    (EMPTY, "nobody"),
    (TWINS[0], "a"),
    (TWINS[1], "a"),
    (STICKY, "t"),
    (CLOSED[0].1, "a"),
    (CLOSED[1].1, "b"),
];
/// The client pods of node 1 and node 2.
pub const CLIENT_PODS: [&str; 2] = ["c", "d"];

/// How long the proxies may take until they serve: the verifier's work, which takes long on an emulated machine.
pub const START: Duration = Duration::from_secs(120);

/// Boots a rig and fills it.
pub fn boot(options: Options) -> Result<Rig> {
    let mut rig = Rig::boot(options)?;
    let pods = [
        PodSpec::new(CLIENT_PODS[0], 1),
        PodSpec::new(CLIENT_PODS[1], 2),
        PodSpec::new("a", 1),
        PodSpec::new("b", 2),
        PodSpec::new("h1", 1).host_network(),
        PodSpec::new("h2", 2).host_network(),
        PodSpec::new("t1", 1).app("t"),
        PodSpec::new("t2", 2).app("t"),
        PodSpec::new("t3", 2).app("t"),
    ];
    for pod in pods {
        rig.add_pod(pod.ports(&[TARGET_PORT]))?;
    }
    for (number, (name, app)) in (0_u16..).zip(SERVICES) {
        let node_port = Some(NODE_PORT_BASE + number);
        let mut service = ServiceSpec::new(name, app, CLUSTER_IP_BASE + number);
        if name == STICKY {
            service.spec["sessionAffinity"] = "ClientIP".into();
        }
        let target = if is_closed(name) { CLOSED_PORT } else { TARGET_PORT };
        for protocol in Protocol::ALL {
            service = service.port(protocol, PORT, target, node_port);
        }
        rig.add_service(service)?;
    }
    if rig.options.source == Source::ControlPlane {
        rig.add_dns(2)?;
    }
    rig.check_proxies()?;
    Ok(rig)
}

/// The Service with the same endpoints and a port where nobody is.
pub fn closed(service: &str) -> &'static str {
    let [(local, of_local), (_, of_remote)] = CLOSED;
    if service == local { of_local } else { of_remote }
}

fn is_closed(service: &str) -> bool {
    CLOSED.iter().any(|(_, closed)| *closed == service)
}

/// The pod that answers for a backend.
pub fn pod(backend: Backend) -> &'static str {
    match backend {
        Backend::Local => "a",
        Backend::Remote => "b",
        Backend::HostLocal => "h1",
        Backend::HostRemote => "h2",
        Backend::Itself => CLIENT_PODS[0],
    }
}

/// Where a client runs.
pub fn place(rig: &Rig, client: Client) -> &Place {
    match client {
        Client::Pod => &rig.pod(CLIENT_PODS[0]).place,
        Client::Node => &rig.node(1).place,
        Client::Outside => &rig.outside,
    }
}

/// The address of a Service.
pub fn address(rig: &Rig, service: &str, target: Target, family: Family) -> SocketAddr {
    let service = rig.service(service);
    match target {
        Target::ClusterIp => SocketAddr::new(service.cluster_ip.get(family), PORT),
        Target::NodePort(node) => {
            // Every Service of the fixture has node ports; 0 would fail the walk.
            let port = service.ports.iter().find_map(|port| port.node_port).unwrap_or_default();
            SocketAddr::new(rig.node(node).address.get(family), port)
        }
    }
}

/// An address of the client's namespace, as others see it.
pub fn client_addresses(rig: &Rig, client: Client) -> Vec<IpAddr> {
    match client {
        Client::Pod => rig.pod(CLIENT_PODS[0]).addresses.both().to_vec(),
        Client::Node => node_addresses(rig, 1),
        Client::Outside => crate::rig::addresses::lan(crate::rig::addresses::OUTSIDE)
            .both()
            .to_vec(),
    }
}

/// Every address of a node.
pub fn node_addresses(rig: &Rig, node: u8) -> Vec<IpAddr> {
    rig.node(node).addresses.iter().flat_map(|pair| pair.both()).collect()
}

/// Waits until every Service with endpoints answers pods of both nodes, and returns how long that took. The others are
/// asked after TCP only: a flow towards an address that nobody translates yet would outlive the wait.
pub fn wait_ready(rig: &mut Rig, patience: Duration) -> Result<Duration> {
    let begin = Instant::now();
    for protocol in Protocol::ALL {
        for (node, pod) in (1..).zip(CLIENT_PODS) {
            for (service, _) in SERVICES {
                if !answers(rig, node, service) {
                    continue;
                }
                for family in Family::BOTH {
                    let to = address(rig, service, Target::ClusterIp, family);
                    let request = ProbeRequest::new(protocol, to).timeout_ms(200);
                    while !rig.pod(pod).place.probe(&request)?.complete() {
                        rig.check_proxies()?;
                        if begin.elapsed() > patience {
                            bail!("{service} at {to} does not answer pod {pod} over {protocol:?}");
                        }
                        thread::sleep(Duration::from_millis(20));
                    }
                }
            }
        }
    }
    Ok(begin.elapsed())
}

/// Waits until every proxy has brought its tables up to date since it was started: that Services answer may be what an earlier one has
/// left in place.
pub fn wait_followed(rig: &Rig, patience: Duration) -> Result<()> {
    const METRIC: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
    let begin = Instant::now();
    for number in 1..=rig.options.nodes {
        let followed = || -> Result<bool> {
            let metrics = rig
                .node(number)
                .place
                .get((Ipv4Addr::LOCALHOST, 10249).into(), "/metrics")?;
            let text = metrics.map(|answer| answer.body).unwrap_or_default();
            let times = text.lines().filter_map(|line| line.strip_prefix(METRIC));
            Ok(times.filter(|time| !time.trim().ends_with(" 0")).count() >= Family::BOTH.len())
        };
        while !followed().unwrap_or(false) {
            ensure!(
                begin.elapsed() < patience,
                "the proxy of node {number} has written nothing"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Whether a pod of `node` is answered by the Service once the proxies are ready: what has no endpoint is not, nor what the
/// proxy cannot do; hairpins are for the walks to show.
fn answers(rig: &Rig, node: u8, service: &str) -> bool {
    let limited = same_bridge_limit(rig.options.layout, &rig.options.proxy).is_some();
    match service {
        EMPTY | "itself" => false,
        closed if is_closed(closed) => false,
        "local" => !limited || node != 1,
        "remote" => !limited || node != 2,
        "host-local" | "host-remote" => true,
        _ => !limited,
    }
}

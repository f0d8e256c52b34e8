//! One Service that becomes everything that a Service can be, one change after the other, while connections through it live on.
//! After each change the kernel's tables are waited for, and then nothing: what they say must be true at once.
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrogate_tests::conformance::addresses::Public;
use ferrogate_tests::conformance::case::Side;
use ferrogate_tests::conformance::cluster::Cluster;
use ferrogate_tests::conformance::prober::ask_all;
use ferrogate_tests::rig::{Family, Layout, NAMESPACE, SocketEdge, addresses};
use ferrogate_tests::traffic::Ticking;
use ferrogate_tests::wire::ask::{Ask, Reach, Told};
use ferrogate_tests::wire::{FailureKind, Protocol};
use serde_json::{Value, json};

use crate::common::{Frontend, Tables, eventually, kernel_tables};

const NAME: &str = "changing";
/// Stands for the number of a conformance case, which public addresses are made of.
const NUMBER: u16 = 900;
const ENDPOINTS: [&str; 2] = ["a1", "b1"];
const CLIENTS: [&str; 3] = ["c1", "n1", "out"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Port {
    name: &'static str,
    protocol: Protocol,
    port: u16,
    target: u16,
    /// Where the type has node ports.
    node_port: u16,
}

const MAIN: Port = port("main", Protocol::Tcp, 80, 8080, 31_500);

const fn port(name: &'static str, protocol: Protocol, port: u16, target: u16, node_port: u16) -> Port {
    Port {
        name,
        protocol,
        port,
        target,
        node_port,
    }
}

/// All that the Service says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    kind: &'static str,
    ports: Vec<Port>,
    families: Vec<Family>,
    /// Number of the ClusterIP.
    cluster_ip: u16,
}

impl State {
    fn has_node_ports(&self) -> bool {
        matches!(self.kind, "NodePort" | "LoadBalancer")
    }

    fn object(&self) -> Value {
        let metadata = json!({"namespace": NAMESPACE, "name": NAME});
        let head = |spec: Value, status: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec, "status": status});
        let ports: Vec<_> = self.ports.iter().map(|port| self.port(port)).collect();
        if self.kind == "ExternalName" {
            let spec = json!({"type": self.kind, "externalName": "elsewhere.example", "ports": ports});
            return head(spec, json!({"loadBalancer": null}));
        }
        let own = addresses::cluster_ip(self.cluster_ip);
        let own: Vec<_> = self.families.iter().map(|family| own.get(*family)).collect();
        let families: Vec<_> = self.families.iter().map(|family| ip_family(*family)).collect();
        let policy = if own.len() == 2 {
            "RequireDualStack"
        } else {
            "SingleStack"
        };
        let ingress: Vec<_> = self.public().map(|ip| json!({"ip": ip})).collect();
        let ingress = (!ingress.is_empty())
            .then_some(ingress)
            .map(|list| json!({"ingress": list}));
        head(
            json!({
                "type": self.kind, "clusterIP": own[0], "clusterIPs": own, "ipFamilies": families,
                "ipFamilyPolicy": policy, "ports": ports,
            }),
            json!({"loadBalancer": ingress}),
        )
    }

    fn port(&self, port: &Port) -> Value {
        let mut object = json!({
            "name": port.name, "protocol": port.protocol.kubernetes(), "port": port.port, "targetPort": port.target,
        });
        if self.has_node_ports() {
            object["nodePort"] = port.node_port.into();
        }
        object
    }

    /// The load balancer's addresses: the first of each family leads to node 1.
    fn public(&self) -> impl Iterator<Item = IpAddr> {
        let families = if self.kind == "LoadBalancer" {
            self.families.clone()
        } else {
            Vec::new()
        };
        families
            .into_iter()
            .map(|family| Public::LoadBalancer.address(NUMBER, 1, family))
    }

    fn slices(&self, cluster: &Cluster) -> Vec<Value> {
        let ports: Vec<_> = self
            .ports
            .iter()
            .map(|port| json!({"name": port.name, "protocol": port.protocol.kubernetes(), "port": port.target}))
            .collect();
        let slice = |family: Family| {
            let endpoints = ENDPOINTS.map(|pod| {
                let pod = &cluster.pods[pod];
                json!({"addresses": [pod.addresses.get(family)], "nodeName": format!("n{}", pod.node)})
            });
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"namespace": NAMESPACE, "name": format!("{NAME}-{family:?}").to_lowercase(),
                    "labels": {"kubernetes.io/service-name": NAME}},
                "addressType": ip_family(family), "endpoints": endpoints, "ports": ports,
            })
        };
        Family::BOTH.map(slice).to_vec()
    }

    /// What the kernel's tables must have, on both nodes.
    fn tables(&self, cluster: &Cluster) -> Tables {
        let mut tables = Tables::new();
        if self.kind == "ExternalName" {
            return tables;
        }
        for family in &self.families {
            let own = addresses::cluster_ip(self.cluster_ip).get(*family);
            let public: Vec<_> = self
                .public()
                .filter(|address| Family::of(*address) == *family)
                .collect();
            for port in &self.ports {
                let endpoints = ENDPOINTS
                    .map(|pod| SocketAddr::new(cluster.pods[pod].addresses.get(*family), port.target))
                    .into();
                let mut insert = |address: Option<IpAddr>, number: u16| {
                    let key: Frontend = (
                        port.protocol.kubernetes().to_owned(),
                        address,
                        ip_family(*family).to_owned(),
                        number,
                    );
                    tables.insert(key, std::collections::BTreeSet::clone(&endpoints));
                };
                insert(Some(own), port.port);
                public.iter().for_each(|address| insert(Some(*address), port.port));
                if self.has_node_ports() {
                    insert(None, port.node_port);
                }
            }
        }
        tables
    }
}

fn ip_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// The changes, each by what it does to the state before it.
type Change = (&'static str, fn(&mut State));

const CHANGES: [Change; 16] = [
    ("a port is added", |state| {
        state.ports.push(port("more", Protocol::Tcp, 90, 8081, 31_501));
    }),
    ("it gets another number", |state| {
        state.ports[1].port = 91;
    }),
    ("it gets another target", |state| {
        state.ports[1].target = 8082;
    }),
    ("its protocol becomes UDP", |state| {
        state.ports[1].protocol = Protocol::Udp;
    }),
    ("ClusterIP becomes NodePort", |state| {
        state.kind = "NodePort";
    }),
    ("a node port gets another number", |state| {
        state.ports[1].node_port = 31_511;
    }),
    ("UDP becomes TCP, at a node port", |state| {
        state.ports[1].protocol = Protocol::Tcp;
    }),
    ("NodePort becomes LoadBalancer", |state| {
        state.kind = "LoadBalancer";
    }),
    ("one number for both protocols", |state| {
        let first = state.ports[1];
        state
            .ports
            .push(port("udp", Protocol::Udp, first.port, first.target, first.node_port));
    }),
    ("dual-stack becomes single-stack", |state| {
        state.families = vec![Family::V4];
    }),
    ("single-stack becomes dual-stack", |state| {
        state.families = Family::BOTH.to_vec();
    }),
    ("two ports are removed", |state| {
        state.ports.truncate(1);
    }),
    ("LoadBalancer becomes ClusterIP", |state| {
        state.kind = "ClusterIP";
    }),
    ("ClusterIP becomes ExternalName", |state| {
        state.kind = "ExternalName";
    }),
    ("ExternalName becomes NodePort, at another address", |state| {
        state.kind = "NodePort";
        state.cluster_ip = 902;
    }),
    ("deleted, and made again as LoadBalancer at a third address", |state| {
        state.kind = "LoadBalancer";
        state.cluster_ip = 903;
    }),
];

/// Where a client reaches a frontend; nowhere from outside for what is for the inside alone.
fn reach(cluster: &Cluster, frontend: &Frontend, client: &str) -> Option<SocketAddr> {
    let (_, address, family, port) = frontend;
    let family = if family == "IPv4" { Family::V4 } else { Family::V6 };
    match address {
        Some(address) if client == "out" && addresses::service_ranges().iter().any(|net| net.contains(address)) => None,
        Some(address) => Some(SocketAddr::new(*address, *port)),
        None => Some(SocketAddr::new(cluster.rig.node(1).address.get(family), *port)),
    }
}

/// Everything that is there is right, and everything that was there before is refused, both at once.
fn check(cluster: &mut Cluster, before: &Tables, now: &Tables) -> Result<usize> {
    let mut asked = Vec::new();
    for frontend in before
        .keys()
        .chain(now.keys().filter(|frontend| !before.contains_key(*frontend)))
    {
        for client in CLIENTS {
            if let Some(to) = reach(cluster, frontend, client) {
                asked.push((frontend.clone(), client, to));
            }
        }
    }
    let protocol = |frontend: &Frontend| {
        if frontend.0 == "TCP" {
            Protocol::Tcp
        } else {
            Protocol::Udp
        }
    };
    let questions = asked.iter().map(|(frontend, client, to)| {
        let connections = if now.contains_key(frontend) { 4 } else { 1 };
        (
            (*client).to_owned(),
            Ask::Reach(Reach::times(connections, *to, protocol(frontend), 500)),
        )
    });
    let told = ask_all(&mut cluster.probers, questions.collect())?;
    for ((frontend, client, to), told) in asked.iter().zip(told) {
        let Told::Reached { seen, failure } = &told else {
            anyhow::bail!("{client} to {frontend:?}: {told:?}");
        };
        let right = match now.get(frontend) {
            Some(endpoints) => {
                let port = endpoints.first().map(SocketAddr::port);
                failure.is_none()
                    && seen
                        .iter()
                        .all(|seen| ENDPOINTS.contains(&&*seen.pod) && Some(seen.port) == port)
            }
            None => seen.is_empty() && failure.as_ref().is_some_and(|failure| gone(failure.kind, now, to)),
        };
        ensure!(
            right,
            "{client} to {frontend:?}, there: {}: {told:?}",
            now.contains_key(frontend)
        );
    }
    Ok(asked.len())
}

/// How what is gone must fail: a ClusterIP's other ports and the node's own refuse; nobody answers for an address that no
/// Service has.
fn gone(kind: FailureKind, now: &Tables, to: &SocketAddr) -> bool {
    let has_other_ports = now.keys().any(|frontend| frontend.1 == Some(to.ip()));
    let own = addresses::service_ranges().iter().any(|net| net.contains(&to.ip()));
    let public = !own && Public::ALL.iter().any(|public| is_public(*public, to.ip()));
    let nobodys = public || (own && !has_other_ports);
    kind == FailureKind::Refused || (nobodys && kind != FailureKind::Other)
}

fn is_public(public: Public, address: IpAddr) -> bool {
    public.address(NUMBER, 1, Family::of(address)) == address
}

/// Connections through every frontend of the port that stays.
fn connect(cluster: &Cluster, tables: &Tables, ticking: &mut Vec<Ticking>) -> Result<()> {
    for frontend in tables
        .keys()
        .filter(|frontend| frontend.0 == "TCP" && [80, 31_500].contains(&frontend.3))
    {
        for client in CLIENTS {
            let place = match client {
                "out" => &cluster.rig.outside,
                "n1" => &cluster.rig.node(1).place,
                pod => &cluster.rig.pod(pod).place,
            };
            if let Some(to) = reach(cluster, frontend, client) {
                ticking.push(Ticking::start(place, client, to)?);
            }
        }
    }
    Ok(())
}

fn through_all_changes(socket_edge: SocketEdge) -> Result<()> {
    let mut cluster = Cluster::boot(Side::Ours, Layout::Routed, socket_edge)?;
    let others = kernel_tables(&cluster.rig, 1)?;
    let mut state = State {
        kind: "ClusterIP",
        ports: vec![MAIN],
        families: Family::BOTH.to_vec(),
        cluster_ip: 901,
    };
    let mut before = BTreeMap::new();
    let mut ticking = Vec::new();
    let first: Change = ("the Service is new", |_| ());
    for (what, change) in [first].into_iter().chain(CHANGES) {
        change(&mut state);
        if what.starts_with("deleted") {
            cluster.rig.delete(&state.object())?;
        }
        cluster.rig.apply(&state.object()).context(what)?;
        for slice in state.slices(&cluster) {
            cluster.rig.apply(&slice)?;
        }
        let now = state.tables(&cluster);
        let whole: Tables = others.clone().into_iter().chain(now.clone()).collect();
        eventually(what, || {
            cluster.rig.check_proxies()?;
            Ok(kernel_tables(&cluster.rig, 1)? == whole && kernel_tables(&cluster.rig, 2)? == whole)
        })
        .with_context(|| format!("{whole:#?}, but {:#?}", kernel_tables(&cluster.rig, 1)))?;
        let asked =
            check(&mut cluster, &before, &now).with_context(|| format!("socket edge {socket_edge:?}: {what}"))?;
        println!("{what}: {asked} questions, {} frontends", now.len());
        if ["the Service is new", "NodePort becomes LoadBalancer"].contains(&what) {
            connect(&cluster, &now, &mut ticking)?;
        }
        before = now;
    }
    ensure!(ticking.len() > 12, "{} connections", ticking.len());
    for connection in ticking {
        connection.end(Duration::from_secs(1))?;
    }
    Ok(())
}

#[test]
fn a_service_becomes_everything_and_its_connections_live_on() -> Result<()> {
    through_all_changes(SocketEdge::All)
}

#[test]
fn the_same_without_the_socket_edge() -> Result<()> {
    through_all_changes(SocketEdge::Off)
}

//! The cluster that one proxy serves: a rig with the pods that every case shares, and somebody who asks at every place.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::addresses::Public;
use super::case::Side;
use super::objects::{Pods, Standing};
use super::prober::{Prober, ask_all};
use crate::rig::addresses::{NODE_BASE, OUTSIDE, lan};
use crate::rig::{Family, FerrogateOptions, Layout, NAMESPACE, Options, PodSpec, Proxy, Rig, SocketEdge, Source};
use crate::wire::Protocol;
use crate::wire::ask::{Ask, Reach, Told};

/// The ports at which every pod serves.
pub const TARGET_PORTS: [u16; 3] = [8080, 8081, 8082];
/// name, node, on the node's network.
const PODS: [(&str, u8, bool); 8] = [
    ("c1", 1, false),
    ("c2", 2, false),
    ("a1", 1, false),
    ("a2", 1, false),
    ("b1", 2, false),
    ("b2", 2, false),
    ("h1", 1, true),
    ("h2", 2, true),
];
/// How long programming may take: a machine with much else to do is slow, not wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// A rig, its pods and its askers.
#[derive(Debug)]
pub struct Cluster {
    pub side: Side,
    pub pods: Pods,
    pub probers: BTreeMap<String, Prober>,
    pub rig: Rig,
    /// Whether processes are translated at their sockets.
    pub socket_edge: bool,
    markers: u32,
}

impl Cluster {
    /// Boots everything, and waits until the proxies work.
    pub fn boot(side: Side, layout: Layout, socket_edge: SocketEdge) -> Result<Self> {
        Self::boot_with(side, layout, socket_edge, &[])
    }

    /// The same with more options for our agents.
    pub fn boot_with(side: Side, layout: Layout, socket_edge: SocketEdge, more: &[String]) -> Result<Self> {
        let proxy = match side {
            Side::KubeProxy => Proxy::KubeProxy,
            Side::Ours => Proxy::Ferrogate(FerrogateOptions {
                socket_edge,
                more: [&[format!("--external-ips={}", allowed().join(","))], more].concat(),
                ..FerrogateOptions::default()
            }),
        };
        let mut rig = Rig::boot(Options {
            nodes: 2,
            layout,
            source: Source::ControlPlane,
            proxy,
            ..Options::default()
        })?;
        route_public_addresses(&rig)?;
        for (name, node, host) in PODS {
            let pod = PodSpec::new(name, node).ports(&TARGET_PORTS);
            rig.add_pod(if host { pod.host_network() } else { pod })?;
        }
        rig.add_dns(2)?;
        let pods = PODS
            .map(|(name, node, host)| {
                let addresses = rig.pod(name).addresses;
                (name.to_owned(), Standing { addresses, node, host })
            })
            .into();
        let mut probers = BTreeMap::new();
        for (name, _, host) in PODS {
            if !host {
                probers.insert(name.to_owned(), Prober::start(&rig.pod(name).place, name)?);
            }
        }
        for (name, place) in [
            ("n1", &rig.node(1).place),
            ("n2", &rig.node(2).place),
            ("out", &rig.outside),
        ] {
            probers.insert(name.to_owned(), Prober::start(place, name)?);
        }
        let mut cluster = Self {
            side,
            pods,
            probers,
            rig,
            socket_edge: socket_edge == SocketEdge::All && side == Side::Ours,
            markers: 0,
        };
        cluster.settle()?;
        Ok(cluster)
    }

    /// Waits until both nodes' proxies have programmed, in both families, everything that was applied before: a Service that
    /// is applied now is then reachable. Both of its objects come after all others of their kinds.
    pub fn settle(&mut self) -> Result<()> {
        self.markers += 1;
        let name = format!("marker-{}", self.markers);
        let metadata = json!({"namespace": NAMESPACE, "name": name});
        self.rig.apply(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"ipFamilyPolicy": "RequireDualStack", "ports": [{"name": "tcp", "port": 80}]},
        }))?;
        for (suffix, kind, family) in [("v4", "IPv4", Family::V4), ("v6", "IPv6", Family::V6)] {
            self.rig.apply(&json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "namespace": NAMESPACE, "name": format!("{name}-{suffix}"),
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": kind, "endpoints": [{"addresses": [self.pods["c1"].addresses.get(family)]}],
                "ports": [{"name": "tcp", "protocol": "TCP", "port": TARGET_PORTS[0]}],
            }))?;
        }
        let service = self.get(&format!("/api/v1/namespaces/{NAMESPACE}/services/{name}"))?;
        let addresses: Vec<IpAddr> = serde_json::from_value(service["spec"]["clusterIPs"].clone())?;
        self.wait_reachable(&addresses)
    }

    fn wait_reachable(&mut self, addresses: &[IpAddr]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ask = |address: &IpAddr| Ask::Reach(Reach::times(1, (*address, 80).into(), Protocol::Tcp, 200));
            let questions = ["n1", "n2"]
                .iter()
                .flat_map(|node| addresses.iter().map(|address| ((*node).to_owned(), ask(address))))
                .collect();
            let told = ask_all(&mut self.probers, questions)?;
            if told.iter().all(Told::is_reached) {
                return Ok(());
            }
            self.rig.check_proxies()?;
            if Instant::now() > deadline {
                bail!("what was applied is not programmed after {PATIENCE:?}: {told:?}");
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// An object or a list, from the API server.
    pub fn get(&self, path: &str) -> Result<serde_json::Value> {
        let control_plane = self.rig.control_plane().context("a control plane")?;
        Ok(serde_json::from_str(&control_plane.api().get(path)?)?)
    }

    /// Addresses of a client's own, as others see it.
    pub fn own_addresses(&self, client: &str) -> Vec<IpAddr> {
        match (client, self.pods.get(client)) {
            (_, Some(pod)) => pod.addresses.both().to_vec(),
            ("n1", _) => self.node_addresses(1),
            ("n2", _) => self.node_addresses(2),
            _ => lan(OUTSIDE).both().to_vec(),
        }
    }

    /// Every address of a node.
    pub fn node_addresses(&self, node: u8) -> Vec<IpAddr> {
        self.rig
            .node(node)
            .addresses
            .iter()
            .flat_map(|pair| pair.both())
            .collect()
    }

    /// The node a client is on; none for the outside.
    pub fn node_of(&self, client: &str) -> Option<u8> {
        match (client, self.pods.get(client)) {
            (_, Some(pod)) => Some(pod.node),
            ("n1", _) => Some(1),
            ("n2", _) => Some(2),
            _ => None,
        }
    }
}

/// Networks of `spec.externalIPs` that ours is told to allow.
fn allowed() -> Vec<String> {
    [1, 2].iter().flat_map(|node| Public::External.routed(*node)).collect()
}

/// From outside, public addresses lead to a node each, and ClusterIPs that nobody has to node 1 as all others.
fn route_public_addresses(rig: &Rig) -> Result<()> {
    let mut routes = String::new();
    for node in 1..=2 {
        let via = lan(NODE_BASE + node);
        for public in Public::ALL {
            let [v4, v6] = public.routed(node);
            writeln!(routes, "route add {v4} via {}\nroute add {v6} via {}", via.v4, via.v6)?;
        }
    }
    rig.outside.netns.ip_batch(&routes)
}

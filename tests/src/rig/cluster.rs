//! The [`Rig`]: nodes, pods, Services, and what feeds the proxies.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitStatus;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use serde_json::Value;

use super::addresses::{self, CONTROL_PLANE, Family, NODE_BASE, OUTSIDE, ROUTER, lan};
use super::control_plane::ControlPlane;
use super::far_end;
use super::follower::Follower;
use super::layout::{self, Layout};
use super::lease::Lease;
use super::machine::{Node, Uplink, machine, macvlan_pod, node, tail};
use super::manifests::Manifests;
use super::netns::Netns;
use super::objects::{self, NAMESPACE, ServiceSpec};
use super::pod::{Pod, PodSpec};
use super::process::{Place, Process};
use super::proxy::{self, Feed, Proxy};
use crate::binaries;

/// Where the proxies learn about Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory of YAML files that the rig writes; the rig makes the EndpointSlices.
    Manifests,
    /// A real API server; its own endpointslice controller makes the EndpointSlices from Pods whose status the rig sets.
    ControlPlane,
}

/// What to boot.
#[derive(Clone, Debug)]
pub struct Options {
    pub nodes: u8,
    pub layout: Layout,
    pub source: Source,
    pub proxy: Proxy,
    /// Every node drops what conntrack calls invalid, on its way in, through and out.
    pub firewall: bool,
    /// What a node has as its `eth0`.
    pub uplink: Uplink,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 2,
            layout: Layout::Routed,
            source: Source::Manifests,
            proxy: Proxy::None,
            firewall: false,
            uplink: Uplink::default(),
        }
    }
}

/// A cluster of namespaces. See the [module](super).
#[derive(Debug)]
pub struct Rig {
    // Dropped first: it kills every process and removes what the other fields name.
    pub lease: Lease,
    pub options: Options,
    pub nodes: Vec<Node>,
    pub outside: Place,
    pub pods: BTreeMap<String, Pod>,
    feed: Store,
    services: BTreeMap<String, ServiceSpec>,
    proxies: BTreeMap<u8, Process>,
    next_pod: BTreeMap<u8, u8>,
    /// With XDP on the nodes' uplinks: the programs at their far ends.
    far_ends: Option<Ebpf>,
    lan: Netns,
}

/// What holds the objects.
#[derive(Debug)]
enum Store {
    Manifests(Manifests),
    ControlPlane(Box<ControlPlane>),
    Follower(Box<Follower>),
}

impl Rig {
    /// Boots the network, the control plane where asked for, and the proxies.
    pub fn boot(options: Options) -> Result<Self> {
        Self::boot_with(options, None)
    }

    /// Boots a rig whose proxies follow the control plane of another: what is applied in one, both see. Everything has the
    /// same address in both, so the same objects are true in both. `options.source` is not looked at.
    pub fn boot_beside(options: Options, leader: &Rig) -> Result<Self> {
        let control_plane = leader
            .control_plane()
            .context("the rig to follow has no control plane")?;
        Self::boot_with(options, Some(control_plane))
    }

    fn boot_with(options: Options, leader: Option<&ControlPlane>) -> Result<Self> {
        let lease = Lease::take()?;
        let lan_netns = Netns::create(lease.name("lan"))?;
        // The router says nothing about what it does not forward: a host without IPv6 forwarding would answer "no route".
        lan_netns.ip_batch(&format!(
            "link add lan type bridge mcast_snooping 0\nlink set lan up\naddr add {}/24 dev lan\naddr add {}/64 dev lan nodad\n\
             route add blackhole ::/0\n",
            lan(ROUTER).v4,
            lan(ROUTER).v6
        ))?;
        for family in ["iptables", "ip6tables"] {
            lan_netns.sysctl(&format!("net/bridge/bridge-nf-call-{family}"), "0")?;
        }
        let outside = machine(&lease, &lan_netns, "out", OUTSIDE, options.proxy.uses_xdp())?;
        let mut routes = String::new();
        let entry = lan(NODE_BASE + 1);
        for range in addresses::service_ranges() {
            writeln!(routes, "route add {range} via {}", entry.get(Family::of(range.addr())))?;
        }
        outside.netns.ip_batch(&routes)?;
        let nodes = (1..=options.nodes)
            .map(|index| node(&lease, &lan_netns, &options, index))
            .collect::<Result<_>>()?;
        let feed = match (options.source, leader) {
            (_, Some(leader)) => {
                let place = machine(&lease, &lan_netns, "ctl", CONTROL_PLANE, options.proxy.uses_xdp())?;
                Store::Follower(Box::new(Follower::start(leader, place, lease.directory())?))
            }
            (Source::Manifests, None) => Store::Manifests(Manifests::create(lease.directory().join("manifests"))?),
            (Source::ControlPlane, None) => {
                let place = machine(&lease, &lan_netns, "ctl", CONTROL_PLANE, options.proxy.uses_xdp())?;
                let mut routes = String::new();
                (1..=options.nodes).try_for_each(|node| layout::pod_routes(&mut routes, node))?;
                place.netns.ip_batch(&routes)?;
                Store::ControlPlane(Box::new(ControlPlane::boot(place, lease.directory())?))
            }
        };
        let mut rig = Self {
            lease,
            options,
            nodes,
            outside,
            pods: BTreeMap::new(),
            feed,
            services: BTreeMap::new(),
            proxies: BTreeMap::new(),
            next_pod: BTreeMap::new(),
            far_ends: None,
            lan: lan_netns,
        };
        if rig.options.proxy.uses_xdp() {
            let nodes = (1..=rig.options.nodes).map(|index| format!("v{}", NODE_BASE + index));
            rig.far_ends = Some(far_end::receive_frames(&rig.lan, &nodes.collect::<Vec<_>>())?);
        }
        for index in 1..=rig.options.nodes {
            rig.apply(&objects::node(&rig.node(index).name, index))?;
            rig.start_proxy(index)?;
        }
        Ok(rig)
    }

    /// The node by its number, counted from 1. Panics when there is none: numbers come from the test itself.
    pub fn node(&self, index: u8) -> &Node {
        &self.nodes[usize::from(index) - 1]
    }

    /// The pod by its name. Panics when there is none: names come from the test itself.
    pub fn pod(&self, name: &str) -> &Pod {
        &self.pods[name]
    }

    /// The namespace of the LAN, to cut its links.
    pub fn lan(&self) -> &Netns {
        &self.lan
    }

    /// Another machine on the LAN, outside the cluster: host number `host` (see [`addresses::lan`]).
    pub fn add_machine(&self, name: &str, host: u8) -> Result<Place> {
        machine(&self.lease, &self.lan, name, host, self.options.proxy.uses_xdp())
    }

    /// A pod on macvlan, which its node has no device for: host number `host` of the LAN, its cgroup below that of the node.
    pub fn add_macvlan(&self, name: &str, node: u8, host: u8, cgroup: &str) -> Result<Place> {
        let others: Vec<_> = self.nodes.iter().filter(|other| other.index != node).collect();
        let netns = macvlan_pod(&self.lease, self.node(node), &others, name, host)?;
        let cgroup = self.lease.cgroup(&format!("n{node}/{cgroup}"))?;
        Ok(Place::new(netns, cgroup, binaries::workspace("testpod")?))
    }

    /// The control plane, where there is one.
    pub fn control_plane(&self) -> Option<&ControlPlane> {
        match &self.feed {
            Store::ControlPlane(control_plane) => Some(control_plane),
            Store::Manifests(_) | Store::Follower(_) => None,
        }
    }

    /// The control plane, to stop and start its API server.
    pub fn control_plane_mut(&mut self) -> Option<&mut ControlPlane> {
        match &mut self.feed {
            Store::ControlPlane(control_plane) => Some(control_plane),
            Store::Manifests(_) | Store::Follower(_) => None,
        }
    }

    /// Creates or replaces any object in the source of truth.
    pub fn apply(&self, object: &Value) -> Result<()> {
        match &self.feed {
            Store::Manifests(manifests) => manifests.apply(object),
            Store::ControlPlane(control_plane) => control_plane.api().apply(object),
            Store::Follower(follower) => follower.api().apply(object),
        }
    }

    /// Deletes an object from the source of truth; only its kind and name matter.
    pub fn delete(&self, object: &Value) -> Result<()> {
        match &self.feed {
            Store::Manifests(manifests) => manifests.delete(object),
            Store::ControlPlane(control_plane) => control_plane.api().delete(object),
            Store::Follower(follower) => follower.api().delete(object),
        }
    }

    /// Says which zone a node is in.
    pub fn set_zone(&self, node: u8, zone: &str) -> Result<()> {
        let mut object = objects::node(&self.node(node).name, node);
        object["metadata"]["labels"]["topology.kubernetes.io/zone"] = zone.into();
        self.apply(&object)
    }

    /// Makes the pod, starts its server, and makes it an endpoint of the Services that select it.
    pub fn add_pod(&mut self, spec: PodSpec) -> Result<()> {
        let (place, addresses) = if spec.host_network {
            let node = self.node(spec.node);
            (
                node.place
                    .sibling(self.lease.cgroup(&format!("n{}/{}", spec.node, spec.name))?),
                node.address,
            )
        } else {
            let index = self.next_pod.entry(spec.node).or_insert(10);
            let position = (spec.node, *index);
            *index += 1;
            let netns = Netns::create(self.lease.name(&format!("p-{}", spec.name)))?;
            layout::attach_pod(
                self.options.layout,
                &self.node(spec.node).place.netns,
                &netns,
                position,
                &spec.name,
            )?;
            let cgroup = self.lease.cgroup(&format!("n{}/{}", spec.node, spec.name))?;
            (
                Place::new(netns, cgroup, binaries::workspace("testpod")?),
                addresses::pod(position.0, position.1),
            )
        };
        let mut pod = Pod {
            spec,
            place,
            addresses,
            ready: true,
            terminating: false,
            server: None,
        };
        pod.start_server(&self.lease)?;
        let app = pod.spec.app.clone();
        let name = pod.spec.name.clone();
        self.pods.insert(name.clone(), pod);
        self.publish_pod(&name)?;
        self.publish_slices(&app)
    }

    /// Gives a process to the pod, to end with it.
    pub(crate) fn attach_server(&mut self, name: &str, server: Process) {
        if let Some(pod) = self.pods.get_mut(name) {
            pod.server = Some(server);
        }
    }

    /// Says whether the pod is ready, as its readiness probe would.
    pub fn set_ready(&mut self, name: &str, ready: bool) -> Result<()> {
        let pod = self.pods.get_mut(name).with_context(|| format!("no pod {name}"))?;
        pod.ready = ready;
        let app = pod.spec.app.clone();
        self.publish_pod(name)?;
        self.publish_slices(&app)
    }

    /// Begins the pod's deletion: it serves on, as a terminating endpoint.
    pub fn begin_deletion(&mut self, name: &str) -> Result<()> {
        let pod = self.pods.get_mut(name).with_context(|| format!("no pod {name}"))?;
        pod.terminating = true;
        let app = pod.spec.app.clone();
        if let Store::ControlPlane(control_plane) = &self.feed {
            let pod = self.pod(name);
            let object = pod.object(self.node(pod.spec.node));
            control_plane.api().delete_within(&object, 30)?;
        }
        self.publish_slices(&app)
    }

    /// SIGTERM to the pod's server; how it ended.
    pub fn end_server(&mut self, name: &str, patience: Duration) -> Result<ExitStatus> {
        let pod = self.pods.get_mut(name).with_context(|| format!("no pod {name}"))?;
        let server = pod
            .server
            .as_mut()
            .with_context(|| format!("pod {name} runs nothing"))?;
        server.terminate(patience)
    }

    /// Takes the pod away: from the source of truth, then its processes and its namespace.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        let pod = self.pods.remove(name).with_context(|| format!("no pod {name}"))?;
        if self.control_plane().is_some() {
            self.delete(&pod.object(self.node(pod.spec.node)))?;
        }
        self.publish_slices(&pod.spec.app)?;
        if pod.spec.host_network {
            return Ok(());
        }
        // A namespace takes its link along too late for the next pod of this name.
        self.node(pod.spec.node)
            .place
            .netns
            .ip_batch(&format!("link del {}\n", layout::host_link(name)))
    }

    /// Creates or replaces a Service.
    pub fn add_service(&mut self, service: ServiceSpec) -> Result<()> {
        self.apply(&service.object())?;
        let app = service.app.clone();
        self.services
            .insert(format!("{}/{}", service.namespace, service.name), service);
        self.publish_slices(&app)
    }

    /// The Service by its name, in the default namespace. Panics when there is none: names come from the test itself.
    pub fn service(&self, name: &str) -> &ServiceSpec {
        &self.services[&format!("{NAMESPACE}/{name}")]
    }

    /// Sets what the proxies that start from now on are.
    pub fn set_proxy(&mut self, proxy: Proxy) {
        self.options.proxy = proxy;
    }

    /// Starts the node's proxy.
    pub fn start_proxy(&mut self, node: u8) -> Result<()> {
        // kube-proxy has rights of its own, which the rig does not set up.
        let ours = matches!(self.options.proxy, Proxy::Ferrogate(_));
        let feed = match &self.feed {
            Store::Manifests(manifests) => Feed::Manifests(manifests.directory()),
            Store::ControlPlane(control_plane) if ours => Feed::Kubeconfig(control_plane.agents_kubeconfig()),
            Store::ControlPlane(control_plane) => Feed::Kubeconfig(control_plane.kubeconfig()),
            Store::Follower(follower) if ours => Feed::Kubeconfig(follower.agents_kubeconfig()),
            Store::Follower(follower) => Feed::Kubeconfig(follower.kubeconfig()),
        };
        if let Some(process) = proxy::start(&self.options.proxy, self.node(node), &feed)? {
            self.proxies.insert(node, process);
        }
        Ok(())
    }

    /// The process of the node's proxy, to stop it (dropping it is SIGKILL).
    pub fn take_proxy(&mut self, node: u8) -> Result<Process> {
        self.proxies
            .remove(&node)
            .with_context(|| format!("node {node} runs no proxy"))
    }

    /// Fails when a proxy ended by itself.
    pub fn check_proxies(&mut self) -> Result<()> {
        for (node, process) in &mut self.proxies {
            if let Some(status) = process.ended()? {
                let log = self.nodes[usize::from(*node) - 1].directory.join("proxy.log");
                bail!("the proxy of node {node} ended: {status}\n{}", tail(&log));
            }
        }
        Ok(())
    }

    fn publish_pod(&self, name: &str) -> Result<()> {
        let Store::ControlPlane(control_plane) = &self.feed else {
            return Ok(());
        };
        let pod = self.pod(name);
        control_plane.api().apply(&pod.object(self.node(pod.spec.node)))
    }

    /// Writes the EndpointSlices of the Services that select `app`; a real control plane does that by itself.
    fn publish_slices(&self, app: &str) -> Result<()> {
        if !matches!(self.feed, Store::Manifests(_)) {
            return Ok(());
        }
        let pods = self.pods.values().filter(|pod| pod.spec.app == app);
        let endpoints: Vec<_> = pods.map(|pod| pod.endpoint(self.node(pod.spec.node))).collect();
        for service in self.services.values().filter(|service| service.app == app) {
            for family in Family::BOTH {
                self.apply(&service.slice(family, &endpoints))?;
            }
        }
        Ok(())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if thread::panicking() {
            for node in &self.nodes {
                eprintln!(
                    "--- proxy of {}\n{}",
                    node.name,
                    tail(&node.directory.join("proxy.log"))
                );
            }
        }
    }
}

//! The playground's cluster: a rig with the pods of the story, a cloud load balancer, and the manifests of `examples/`.
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path as FilePath;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ferrogate_tests::rig::{
    Family, FerrogateOptions, Options, Pair, Place, Pod, PodSpec, Process, Proxy, Rig, addresses,
};
use serde_json::{Value, json};

use crate::examples::{self, Examples};
use crate::path::Client;
use crate::{agent, page, stop};

/// As many order pods as there are.
pub(crate) const MOST_ORDERS: u8 = 5;
/// The order pods in the order in which they are scaled up, and the node of each: the first three are those of the examples.
const ORDERS: [(&str, u8); MOST_ORDERS as usize] = [
    ("order-1", 1),
    ("order-2", 1),
    ("order-3", 2),
    ("order-4", 2),
    ("order-5", 1),
];
/// The port that they serve at.
pub(crate) const TARGET_PORT: u16 = 8081;
/// How long a change may take to reach both nodes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Dropping it removes everything.
pub(crate) struct Cluster {
    _balancer: (Process, Place),
    vm: Place,
    pub(crate) rig: Rig,
    pub(crate) examples: Examples,
    scale: u8,
}

impl Cluster {
    /// Boots everything, and returns once both nodes serve `scale` order pods.
    pub(crate) fn boot(folder: &FilePath, scale: u8) -> Result<Self> {
        let examples = Examples::read(folder)?;
        let mut rig = Rig::boot(Options {
            proxy: Proxy::Ferrogate(FerrogateOptions {
                more: vec!["--ui".to_owned(), format!("127.0.0.1:{}", page::PORT)],
                ..FerrogateOptions::default()
            }),
            ..Options::default()
        })?;
        for (name, node) in ORDERS {
            stop::check()?;
            rig.add_pod(PodSpec::new(name, node).app("order").ports(&[TARGET_PORT]))?;
        }
        for name in ["payment", "vm"] {
            stop::check()?;
            rig.add_pod(PodSpec::new(name, 1).ports(&[]))?;
        }
        // Outside of its node's cgroup: that is what the socket edge is attached to.
        let vm = rig.pod("vm").place.sibling(rig.lease.cgroup("unhooked")?);
        let balancer = load_balancer(&rig, &examples)?;
        for service in &examples.services {
            rig.apply(service)?;
        }
        let mut cluster = Self {
            _balancer: balancer,
            vm,
            rig,
            examples,
            scale,
        };
        cluster.check_examples()?;
        cluster.scale_to(scale)?;
        cluster.wait_until_served()?;
        Ok(cluster)
    }

    /// How many order pods the Services have.
    pub(crate) fn scale(&self) -> u8 {
        self.scale
    }

    /// The order pods that the Services have.
    pub(crate) fn orders(&self) -> impl Iterator<Item = &Pod> {
        ORDERS[..usize::from(self.scale)]
            .iter()
            .map(|(name, _)| self.rig.pod(name))
    }

    /// The name of the node that runs an order pod.
    pub(crate) fn node_of(&self, pod: &str) -> Option<&str> {
        let (_, node) = ORDERS.iter().find(|(name, _)| *name == pod)?;
        Some(&self.rig.node(*node).name)
    }

    /// Rewrites the EndpointSlices of every Service: the first `scale` order pods are ready. The agents see the files change.
    pub(crate) fn scale_to(&mut self, scale: u8) -> Result<()> {
        self.scale = scale.min(MOST_ORDERS);
        for slice in &self.examples.slices {
            let family = family_of(slice);
            let endpoints: Vec<_> = self.orders().map(|pod| self.endpoint(pod, family)).collect();
            let mut slice = slice.clone();
            slice["endpoints"] = endpoints.into();
            self.rig.apply(&slice)?;
        }
        Ok(())
    }

    /// Waits until both agents say that every Service has the order pods that it should have.
    pub(crate) fn wait_until_served(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        for node in 1..=self.rig.options.nodes {
            while !self.served_on(node) {
                self.rig.check_proxies()?;
                if begin.elapsed() > PATIENCE {
                    bail!(
                        "n{node} does not serve {} order pods: {}",
                        self.scale,
                        agent::services(&self.rig, node)
                            .map_or_else(|error| format!("{error:#}"), |rows| format!("{rows:?}"))
                    );
                }
                stop::sleep(Duration::from_millis(10))?;
            }
        }
        Ok(begin.elapsed())
    }

    fn served_on(&self, node: u8) -> bool {
        // While it starts the agent does not answer yet.
        let Ok(rows) = agent::services(&self.rig, node) else {
            return false;
        };
        let of_order = rows.iter().filter(|row| self.examples.facts.contains_key(&row.name));
        let right = of_order.filter(|row| row.endpoints.len() == usize::from(self.scale));
        right.count() == Family::BOTH.len() * self.examples.services.len()
    }

    /// The doors of a node port: every node's name and address.
    pub(crate) fn doors(&self, node_port: u16, family: Family) -> Vec<(String, SocketAddr)> {
        let nodes = self.rig.nodes.iter();
        nodes
            .map(|node| (node.name.clone(), SocketAddr::new(node.address.get(family), node_port)))
            .collect()
    }

    /// A client's name and address.
    pub(crate) fn client(&self, client: Client, family: Family) -> (&'static str, IpAddr) {
        match client {
            Client::Payment => ("pod payment", self.rig.pod("payment").addresses.get(family)),
            Client::Vm => ("pod vm", self.rig.pod("vm").addresses.get(family)),
            Client::Outside => ("client", addresses::lan(addresses::OUTSIDE).get(family)),
        }
    }

    /// Where a client runs.
    pub(crate) fn place(&self, client: Client) -> &Place {
        match client {
            Client::Payment => &self.rig.pod("payment").place,
            Client::Vm => &self.vm,
            Client::Outside => &self.rig.outside,
        }
    }

    /// The load balancer's own address, which it reaches the nodes from.
    pub(crate) fn balancer_address(&self) -> Pair {
        addresses::lan(addresses::LOAD_BALANCER)
    }

    fn endpoint(&self, pod: &Pod, family: Family) -> Value {
        json!({
            "addresses": [pod.addresses.get(family)],
            "conditions": {"ready": true},
            "nodeName": self.rig.node(pod.spec.node).name,
            "targetRef": {"kind": "Pod", "namespace": "default", "name": pod.spec.name},
        })
    }

    /// The examples name their pods' addresses, and the rig gives the pods theirs: they must be the same.
    fn check_examples(&self) -> Result<()> {
        for slice in &self.examples.slices {
            let family = family_of(slice);
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                let pod = endpoint["targetRef"]["name"].as_str().unwrap_or_default();
                ensure!(
                    ORDERS.iter().any(|(name, _)| *name == pod),
                    "{} names pod {pod:?}, which the playground does not have",
                    examples::name(slice)?
                );
                let (said, is) = (&endpoint["addresses"][0], self.rig.pod(pod).addresses.get(family));
                ensure!(
                    said.as_str() == Some(&is.to_string()),
                    "{} says that pod {pod} is at {said}; here it is at {is}",
                    examples::name(slice)?
                );
            }
        }
        Ok(())
    }
}

fn family_of(slice: &Value) -> Family {
    match slice["addressType"].as_str() {
        Some("IPv6") => Family::V6,
        _ => Family::V4,
    }
}

/// The cloud load balancer: a machine beside the nodes with the public address of the LoadBalancer Service, to which the
/// outside client has a route.
fn load_balancer(rig: &Rig, examples: &Examples) -> Result<(Process, Place)> {
    let balanced = examples.facts.values().find(|service| service.ingress.is_some());
    let service = balanced.context("no Service of the examples has a load balancer's address")?;
    let public = SocketAddr::new(service.ingress.context("ingress")?, service.port);
    let place = rig.add_machine("lb", addresses::LOAD_BALANCER)?;
    place
        .netns
        .ip_batch(&format!("addr add {}/32 dev eth0\n", public.ip()))?;
    let via = addresses::lan(addresses::LOAD_BALANCER).get(Family::of(public.ip()));
    rig.outside
        .netns
        .ip_batch(&format!("route add {} via {via}\n", public.ip()))?;
    let log = rig.lease.directory().join("lb.log");
    fs::write(&log, "")?;
    let mut command = place.testpod_command()?;
    command.args(["balance", &format!("--listen={public}")]);
    for node in &rig.nodes {
        let door = SocketAddr::new(node.address.get(Family::of(public.ip())), service.node_port()?);
        command.arg(format!("--to={door}"));
    }
    let mut process = place.spawn("load balancer", command, &log)?;
    let deadline = Instant::now() + PATIENCE;
    while fs::read_to_string(&log)?.trim() != "ready" {
        if process.ended()?.is_some() || Instant::now() > deadline {
            bail!("the load balancer does not start: {}", fs::read_to_string(&log)?);
        }
        stop::sleep(Duration::from_millis(5))?;
    }
    Ok((process, place))
}

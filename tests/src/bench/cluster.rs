//! The same small cluster once for each arm: no proxy, ours by each edge, kube-proxy in each mode. All follow one API server.
use std::fs::{self, File};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::kernel::{Balancer, Bystander};
use crate::pktgen::ifindex;

use crate::rig::{
    Family, FerrogateOptions, KubeProxyOptions, Layout, Options, Place, PodSpec, Proxy, Rig, ServiceSpec, SocketEdge,
    Source, host_link,
};
use crate::wire::{Protocol, StrainReport};

pub(super) const STRAIGHT: &str = "straight";
/// The same, with programs that do nothing where ours would be.
pub(super) const HOOKED: &str = "straight, through empty programs";
/// The same, with programs that do what no balancer can leave out, and translate nothing.
pub(super) const NEEDED_SOCKET: &str = "straight, with what no socket edge can leave out";
pub(super) const NEEDED_POD: &str = "straight, with what no pod edge can leave out";
pub(super) const SOCKET: &str = "socket edge";
pub(super) const POD: &str = "pod edge";
pub(super) const NFTABLES: &str = "kube-proxy nftables";
pub(super) const IPTABLES: &str = "kube-proxy iptables";

const SERVER: &str = "server";
const CLIENT: &str = "client";
const PORT: u16 = 8080;
const NODE_PORT: u16 = 30_080;
const CLUSTER_IP: u16 = 1000;

/// How long a new Service may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster of one node, with a client pod, a server pod, and a Service in front of it.
pub(super) struct Arena {
    pub(super) name: &'static str,
    pub(super) rig: Rig,
    hooks: Vec<Bystander>,
}

fn proxy(name: &str) -> Proxy {
    let ferrogate = |socket_edge| {
        Proxy::Ferrogate(FerrogateOptions {
            socket_edge,
            ..FerrogateOptions::default()
        })
    };
    let kube_proxy = |mode| {
        Proxy::KubeProxyWith(KubeProxyOptions {
            mode,
            ..KubeProxyOptions::default()
        })
    };
    match name {
        SOCKET => ferrogate(SocketEdge::All),
        POD => ferrogate(SocketEdge::Off),
        NFTABLES => kube_proxy("nftables"),
        IPTABLES => kube_proxy("iptables"),
        _ => Proxy::None,
    }
}

/// One node, whose Services come from an API server.
pub(super) fn options(proxy: Proxy) -> Options {
    Options {
        nodes: 1,
        layout: Layout::Routed,
        source: Source::ControlPlane,
        proxy,
        ..Options::default()
    }
}

/// Boots [`STRAIGHT`], which has the API server.
pub(super) fn lead() -> Result<Arena> {
    let mut leader = Arena {
        name: STRAIGHT,
        rig: Rig::boot(options(Proxy::None))?,
        hooks: Vec::new(),
    };
    leader.fill()?;
    Ok(leader)
}

/// Boots arms that follow the leader's API server.
pub(super) fn follow(leader: &Arena, names: &[&'static str]) -> Result<Vec<Arena>> {
    let mut arenas = Vec::new();
    for name in names {
        let rig = Rig::boot_beside(options(proxy(name)), &leader.rig).with_context(|| format!("arm {name}"))?;
        let hooks = Vec::new();
        arenas.push(Arena { name, rig, hooks });
    }
    for arena in &mut arenas {
        arena.fill().with_context(|| format!("arm {}", arena.name))?;
    }
    for arena in &arenas {
        arena.wait().with_context(|| format!("arm {}", arena.name))?;
    }
    Ok(arenas)
}

/// Boots all arms; the first is [`STRAIGHT`].
pub(super) fn boot(names: &[&'static str]) -> Result<Vec<Arena>> {
    let mut arenas = vec![lead()?];
    let followers = follow(&arenas[0], names)?;
    arenas[0].wait()?;
    arenas.extend(followers);
    Ok(arenas)
}

impl Arena {
    fn fill(&mut self) -> Result<()> {
        for name in [CLIENT, SERVER] {
            self.rig.add_pod(PodSpec::new(name, 1).ports(&[]))?;
        }
        let pod = self.rig.pod(SERVER);
        let log = self.rig.lease.directory().join("lean.log");
        let mut command = pod.place.testpod_command()?;
        let at = SocketAddr::new(pod.addresses.get(Family::V4), PORT);
        command.args(["lean", "--listen", &at.to_string()]);
        let server = pod.place.spawn("lean", command, &log)?;
        let deadline = Instant::now() + PATIENCE;
        while fs::read_to_string(&log)?.trim() != "ready" {
            if Instant::now() > deadline {
                bail!("the server does not listen: {}", fs::read_to_string(&log)?);
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.rig.attach_server(SERVER, server);
        if self.is_straight() {
            self.hook()?;
            // Without a proxy there is no other way in from outside.
            let node = self.rig.node(1).address.get(Family::V4);
            let route = format!("route add {} via {node}\n", at.ip());
            self.rig.outside.netns.ip_batch(&route)?;
        }
        let service = ServiceSpec::new("bench", SERVER, CLUSTER_IP);
        self.rig
            .add_service(service.port(Protocol::Tcp, 80, PORT, Some(NODE_PORT)))
    }

    fn is_straight(&self) -> bool {
        matches!(self.name, STRAIGHT | HOOKED | NEEDED_SOCKET | NEEDED_POD)
    }

    /// Attaches the programs of this arm where a connection between pods meets ours.
    fn hook(&mut self) -> Result<()> {
        if self.name == STRAIGHT {
            return Ok(());
        }
        let place = &self.rig.node(1).place;
        let cgroup = File::open(&place.cgroup)?;
        let target = self.pod_target();
        self.hooks = place.netns.enter(|| {
            let links = [ifindex(&host_link(CLIENT))?, ifindex(&host_link(SERVER))?];
            let mut hooks = Vec::new();
            if self.name == HOOKED {
                hooks.push(Bystander::at_connect(&cgroup)?);
                for link in links {
                    hooks.push(Bystander::at_ingress(link, false)?);
                    hooks.push(Bystander::at_egress(link)?);
                }
                return Ok(hooks);
            }
            let balancer = Balancer::new(target)?;
            if self.name == NEEDED_SOCKET {
                hooks.push(balancer.at_connect(&cgroup)?);
            }
            for link in links {
                hooks.push(balancer.at_ingress(link, self.name == NEEDED_POD)?);
                hooks.push(balancer.at_egress(link, self.name == NEEDED_POD)?);
            }
            Ok(hooks)
        })?;
        Ok(())
    }

    /// Until the Service answers, from inside and from outside.
    fn wait(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let paths = [
            (self.pod(), self.pod_target()),
            (&self.rig.outside, self.outside_target()),
        ];
        for (client, to) in paths {
            while let Err(error) = strain(client, "connections", to, 1, 10) {
                if Instant::now() > deadline {
                    return Err(error);
                }
                thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }

    /// The client pod.
    pub(super) fn pod(&self) -> &Place {
        &self.rig.pod(CLIENT).place
    }

    /// Where the client pod reaches the server: the Service, or straight.
    pub(super) fn pod_target(&self) -> SocketAddr {
        if self.is_straight() {
            return SocketAddr::new(self.rig.pod(SERVER).addresses.get(Family::V4), PORT);
        }
        SocketAddr::new(self.rig.service("bench").cluster_ip.get(Family::V4), 80)
    }

    /// Where the outside client reaches the server: the node's own address, without a proxy the pod's.
    pub(super) fn outside_target(&self) -> SocketAddr {
        if self.is_straight() {
            return self.pod_target();
        }
        SocketAddr::new(self.rig.node(1).address.get(Family::V4), NODE_PORT)
    }
}

/// Strains the server from a place.
pub(super) fn strain(
    from: &Place,
    kind: &str,
    to: SocketAddr,
    threads: usize,
    milliseconds: u64,
) -> Result<StrainReport> {
    let report: StrainReport = from.testpod([
        "strain".to_owned(),
        format!("--to={to}"),
        format!("--kind={kind}"),
        format!("--threads={threads}"),
        format!("--milliseconds={milliseconds}"),
    ])?;
    if report.count == 0 {
        bail!("nothing went through to {to}");
    }
    Ok(report)
}

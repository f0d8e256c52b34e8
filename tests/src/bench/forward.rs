//! Rows 6 and 7: how many packets a node forwards, from the packet generator to a counter, both without a stack of their own.
//!
//! The generator has a link of its own to the node, one queue and one processor: what is compared is packets a second of that
//! processor, the generator's own work on each included. On this link (a veth) XDP is never chosen by itself, so the arm that
//! has it runs with `--xdp native`.
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ferrogate_common::{Direction, Port, Protocol, Tuple};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::cluster::options;
use super::command::Settings;
use super::result::{Goal, Measured, Samples};
use super::rounds::{Arm, interleave};
use super::stage::ends;
use crate::kernel::{Balancer, Bystander, Counter, Floor, Kind};
use crate::pktgen::{Flows, Generator, Pace, Traffic, ifindex};
use crate::rig::{Family, FerrogateOptions, NAMESPACE, PodSpec, Proxy, Rig, host_link};

const ROW_6: (u8, &str) = (6, "forwarding to a backend elsewhere");
const ROW_7: (u8, &str) = (7, "forwarding to a backend here");

/// What this file measures.
pub(super) const ROWS: &[(u8, &str)] = &[ROW_6, ROW_7];

const ROUTING: &str = "plain routing";
/// The same, with a program at each end of the node's way that does no more than look the flow up.
const LOOKING: &str = "plain routing, past one look-up a hook";
const REFLECTOR: &str = "XDP_TX reflector";
const XDP: &str = "ours, --xdp native";
const TCX: &str = "ours";
const REDIRECT: &str = "ours, --forwarding redirect";
const DSR: &str = "ours, --dsr on";
const DSR_XDP: &str = "ours, --dsr on, --xdp native";
const NFTABLES: &str = "kube-proxy nftables";

/// Ends of the link: the generator's and the node's.
const NEAR: &str = "gen0";
const FAR: &str = "up1";
const NEAR_ADDRESS: &str = "172.30.0.2";
const FAR_ADDRESS: &str = "172.30.0.1";
const NEAR_MAC: [u8; 6] = [2, 0xfe, 0, 0, 1, 2];
const FAR_MAC: [u8; 6] = [2, 0xfe, 0, 0, 1, 1];

/// Backends elsewhere: on the far side of the generator's link, and so is their node, which there is none of.
const ELSEWHERE: &str = "10.244.2.0/24";
const ELSEWHERE_POD: &str = "10.244.2.10";
const ELSEWHERE_NODE: (&str, &str) = ("elsewhere", "10.244.2.1");

const SINK: &str = "sink";
const PORT: u16 = 8080;
const NODE_PORTS: [u16; 2] = [30_090, 30_091];
const FLOWS: u32 = 4096;
const PATIENCE: Duration = Duration::from_secs(30);

/// A node with the generator's link.
struct Track {
    name: &'static str,
    rig: Rig,
    hooks: Vec<Bystander>,
}

/// Where packets go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Elsewhere,
    Here,
    /// The pod's own address.
    Pod,
    /// The node's, to come back as they are.
    Reflector,
}

/// Rows 6 and 7.
pub(super) fn measure(settings: &Settings) -> Result<Vec<Measured>> {
    let tracks = boot()?;
    let mut measured = Vec::new();
    if settings.wants(ROW_6.0, ROW_6.1) {
        measured.extend(elsewhere(settings, &tracks)?);
    }
    if settings.wants(ROW_7.0, ROW_7.1) {
        measured.extend(here(settings, &tracks)?);
    }
    Ok(measured)
}

fn boot() -> Result<Vec<Track>> {
    let ferrogate = |xdp, dsr, more: &[&str]| {
        Proxy::Ferrogate(FerrogateOptions {
            xdp,
            dsr,
            more: more.iter().map(|option| (*option).to_owned()).collect(),
            ..FerrogateOptions::default()
        })
    };
    let mut tracks = vec![Track {
        name: ROUTING,
        rig: Rig::boot(options(Proxy::None))?,
        hooks: Vec::new(),
    }];
    for (name, proxy) in [
        (LOOKING, Proxy::None),
        (XDP, ferrogate(true, false, &[])),
        (TCX, ferrogate(false, false, &[])),
        (REDIRECT, ferrogate(false, false, &["--forwarding=redirect"])),
        (DSR_XDP, ferrogate(true, true, &[])),
        (DSR, ferrogate(false, true, &[])),
        (NFTABLES, Proxy::KubeProxy),
    ] {
        let rig = Rig::boot_beside(options(proxy), &tracks[0].rig).with_context(|| format!("arm {name}"))?;
        let hooks = Vec::new();
        tracks.push(Track { name, rig, hooks });
    }
    for track in &mut tracks {
        track.fill().with_context(|| format!("arm {}", track.name))?;
    }
    Ok(tracks)
}

/// A UDP Service with one endpoint that nobody selects.
fn service(name: &str, node_port: u16, endpoint: IpAddr, node: &str) -> [Value; 2] {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {"type": "NodePort", "ports": [
            {"name": "udp", "protocol": "UDP", "port": 80, "targetPort": PORT, "nodePort": node_port}
        ]},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": NAMESPACE, "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [endpoint], "conditions": {"ready": true}, "nodeName": node}],
        "ports": [{"name": "udp", "protocol": "UDP", "port": PORT}],
    });
    [service, slice]
}

impl Track {
    fn fill(&mut self) -> Result<()> {
        self.rig.add_pod(PodSpec::new(SINK, 1).ports(&[]))?;
        let [near, far] = [NEAR_MAC, FAR_MAC].map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
        let node = &self.rig.node(1).place.netns;
        node.ip_batch(&format!(
            "link add {FAR} address {far} type veth peer name {NEAR} address {near} netns {}\nlink set {FAR} up\n\
             addr add {FAR_ADDRESS}/24 dev {FAR}\n",
            self.rig.outside.netns.name()
        ))?;
        let outside = &self.rig.outside.netns;
        outside.ip_batch(&format!("link set {NEAR} up\naddr add {NEAR_ADDRESS}/24 dev {NEAR}\n"))?;
        let clients = clients()?;
        node.ip_batch(&format!(
            "neigh add {NEAR_ADDRESS} lladdr {near} dev {FAR} nud permanent\nroute add {clients} via {NEAR_ADDRESS}\n\
             route add {ELSEWHERE} via {NEAR_ADDRESS}\n"
        ))?;
        // Without an XDP program of its own a veth takes live frames only with this.
        node.enter(|| {
            let status = Command::new("ethtool").args(["-K", FAR, "gro", "on"]).status()?;
            ensure!(status.success(), "ethtool -K {FAR} gro on: {status}");
            Ok(())
        })?;
        let sink = self.rig.pod(SINK).addresses.get(Family::V4);
        let (name, address) = ELSEWHERE_NODE;
        self.rig.apply(&json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        }))?;
        for object in [
            service("elsewhere", NODE_PORTS[0], ELSEWHERE_POD.parse()?, name),
            service("here", NODE_PORTS[1], sink, &self.rig.node(1).name),
        ]
        .as_flattened()
        {
            self.rig.apply(object)?;
        }
        if self.name == LOOKING {
            self.hook()?;
        }
        Ok(())
    }

    /// Attaches programs where the packets meet ours, which look up the flows that they are of.
    fn hook(&mut self) -> Result<()> {
        let traffic = self.traffic(To::Pod)?;
        self.hooks = self.rig.node(1).place.netns.enter(|| {
            let balancer = Balancer::new(traffic.destination)?;
            for packet in traffic.numbered(FLOWS)? {
                let (source, destination) = ends(&packet)?;
                let end = |at: SocketAddr| (at.ip().into(), Port::new(at.port()));
                let protocol = Protocol::Udp as u8;
                balancer.know(&Tuple::new(end(source), end(destination), protocol, Direction::Forward))?;
            }
            Ok(vec![
                balancer.at_ingress(ifindex(FAR)?, false)?,
                balancer.at_egress(ifindex(&host_link(SINK))?, false)?,
            ])
        })?;
        Ok(())
    }

    fn traffic(&self, to: To) -> Result<Traffic> {
        let node = self.rig.node(1).address.get(Family::V4);
        let destination = match to {
            To::Elsewhere | To::Reflector => SocketAddr::new(node, NODE_PORTS[0]),
            To::Here => SocketAddr::new(node, NODE_PORTS[1]),
            To::Pod => SocketAddr::new(self.rig.pod(SINK).addresses.get(Family::V4), PORT),
        };
        Ok(Traffic {
            protocol: Protocol::Udp,
            flags: 0,
            source: clients()?,
            destination,
            flows: Flows::Numbered(FLOWS),
            length: 60,
            source_mac: NEAR_MAC,
            destination_mac: FAR_MAC,
        })
    }

    /// Packets a second that arrive.
    fn send(&self, to: To, milliseconds: u64) -> Result<f64> {
        let traffic = self.traffic(to)?;
        let pace = Pace {
            rate: None,
            duration: Duration::from_millis(milliseconds),
            cpus: vec![0],
        };
        let back: IpNet = match to {
            To::Elsewhere => ELSEWHERE.parse()?,
            To::Reflector => IpNet::from(traffic.destination.ip()),
            // Answers, of which there are none.
            To::Here | To::Pod => clients()?,
        };
        let generate = || {
            self.rig
                .outside
                .netns
                .enter(|| Generator::open(NEAR, back)?.send(&traffic, &pace))
        };
        if matches!(to, To::Elsewhere | To::Reflector) {
            let report = generate()?;
            return Ok(report.replies as f64 / report.seconds);
        }
        let pod = self.rig.pod(SINK);
        let network = IpNet::from(pod.addresses.get(Family::V4));
        let counter = pod
            .place
            .netns
            .enter(|| Counter::attach(Kind::Tc, ifindex("eth0")?, network))?;
        let report = generate()?;
        Ok(counter.count()? as f64 / report.seconds)
    }

    /// The same for a pod's packets, sent by trafgen: through a packet socket, which costs it more.
    fn send_by_trafgen(&self, to: To, milliseconds: u64) -> Result<f64> {
        const BEGINNING: Duration = Duration::from_millis(200);
        let packets = self.traffic(to)?.numbered(FLOWS)?;
        let mut text = String::new();
        for packet in packets {
            let bytes: Vec<String> = packet.iter().map(|byte| format!("{byte:#04x}")).collect();
            writeln!(text, "{{ {} }}", bytes.join(", "))?;
        }
        let directory = self.rig.lease.directory();
        let file = directory.join("trafgen.cfg");
        fs::write(&file, text)?;
        let pod = self.rig.pod(SINK);
        let network = IpNet::from(pod.addresses.get(Family::V4));
        let counter = pod
            .place
            .netns
            .enter(|| Counter::attach(Kind::Tc, ifindex("eth0")?, network))?;
        let outside = &self.rig.outside;
        let mut command = outside.command("trafgen")?;
        command.args(["--cpus", "1", "--no-sock-mem", "--notouch-irq", "--no-cpu-stats"]);
        command.arg("--dev").arg(NEAR).arg("--conf").arg(&file);
        let mut process = outside.spawn("trafgen", command, &directory.join("trafgen.log"))?;
        thread::sleep(BEGINNING);
        let (begun, before) = (Instant::now(), counter.count()?);
        thread::sleep(Duration::from_millis(milliseconds));
        let (after, seconds) = (counter.count()?, begun.elapsed().as_secs_f64());
        process.kill()?;
        Ok((after - before) as f64 / seconds)
    }

    /// Until packets arrive.
    fn wait(&self, to: To) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.send(to, 50)? == 0.0 {
            if Instant::now() > deadline {
                bail!("no packet arrives by {}", self.name);
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

fn clients() -> Result<IpNet> {
    Ok("198.18.0.0/15".parse()?)
}

/// Arms that send, once packets arrive.
fn run(settings: &Settings, paths: &[(&'static str, &Track, To)]) -> Result<Samples> {
    let milliseconds = settings.choose(700, 2000);
    for (name, track, to) in paths {
        track.wait(*to).with_context(|| format!("arm {name}"))?;
    }
    let mut arms: Vec<_> = paths
        .iter()
        .map(|(name, track, to)| Arm::new(*name, move || track.send(*to, milliseconds)))
        .collect();
    let [samples] = interleave(settings.choose(5, 11), &mut arms)?;
    Ok(samples)
}

/// What of these arms the check by another generator is about.
fn run_by_trafgen(settings: &Settings, paths: &[(&'static str, &Track, To)]) -> Result<Samples> {
    let milliseconds = settings.choose(500, 2000);
    let checked = paths
        .iter()
        .filter(|(name, ..)| [TCX, NFTABLES, ROUTING, LOOKING].contains(name));
    let mut arms: Vec<_> = checked
        .map(|(name, track, to)| Arm::new(*name, move || track.send_by_trafgen(*to, milliseconds)))
        .collect();
    let [samples] = interleave(settings.choose(5, 11), &mut arms)?;
    Ok(samples)
}

fn elsewhere(settings: &Settings, tracks: &[Track]) -> Result<Vec<Measured>> {
    let reflector = Floor::reflector()?;
    let node = &tracks[0].rig.node(1).place.netns;
    let _attached = node.enter(|| reflector.attach(ifindex(FAR)?))?;
    // What goes elsewhere is redirected in any case.
    let plain = tracks[1..]
        .iter()
        .filter(|track| ![REDIRECT, LOOKING].contains(&track.name));
    let mut paths: Vec<_> = plain.map(|track| (track.name, track, To::Elsewhere)).collect();
    paths.push((REFLECTOR, &tracks[0], To::Reflector));
    let samples = run(settings, &paths)?;
    [
        (XDP, NFTABLES, 5.0),
        (TCX, NFTABLES, 5.0),
        (XDP, REFLECTOR, 0.6),
        (DSR_XDP, XDP, 1.0),
        (DSR, TCX, 1.0),
    ]
    .into_iter()
    .map(|(ours, over, least)| {
        let case = format!("64-byte UDP, {ours}, over {over}");
        samples.measured(ROW_6, &case, (ours, over), Goal::AtLeast(least), "packets/s")
    })
    .collect()
}

/// How a case calls an arm; one of no proxy shows how much of a goal is within reach.
fn gain(arm: &str) -> String {
    if arm == LOOKING {
        format!("and what there is to gain: {arm}")
    } else {
        arm.to_owned()
    }
}

fn here(settings: &Settings, tracks: &[Track]) -> Result<Vec<Measured>> {
    // To a backend here nothing is handed over.
    let here = tracks.iter().filter(|track| ![DSR, DSR_XDP].contains(&track.name));
    let to = |name| {
        if [ROUTING, LOOKING].contains(&name) {
            To::Pod
        } else {
            To::Here
        }
    };
    let paths: Vec<_> = here.map(|track| (track.name, track, to(track.name))).collect();
    let samples = run(settings, &paths)?;
    let again = run_by_trafgen(settings, &paths)?;
    let checks = [(TCX, NFTABLES, 1.3), (TCX, ROUTING, 0.9), (LOOKING, ROUTING, 0.9)]
        .into_iter()
        .map(|(ours, over, least)| {
            let case = format!("64-byte UDP, {}, over {over}, sent by trafgen", gain(ours));
            again.measured(ROW_7, &case, (ours, over), Goal::AtLeast(least), "packets/s")
        });
    let ours = [
        (TCX, NFTABLES, 1.3),
        (XDP, NFTABLES, 1.3),
        (TCX, ROUTING, 0.9),
        (XDP, ROUTING, 0.9),
        (REDIRECT, ROUTING, 1.2),
        (LOOKING, ROUTING, 0.9),
    ]
    .into_iter()
    .map(|(ours, over, least)| {
        let case = format!("64-byte UDP, {}, over {over}", gain(ours));
        samples.measured(ROW_7, &case, (ours, over), Goal::AtLeast(least), "packets/s")
    });
    ours.chain(checks).collect()
}

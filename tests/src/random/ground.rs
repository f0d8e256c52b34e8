//! The two rigs side by side: the same pods at the same addresses, one API server, kube-proxy in one, Ferrogate in the
//! other.
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};

use super::expect::Profile;
use super::pool::{Backend, Client, EXTERNAL, NODES, OUTSIDE_TWO, TARGET_PORTS, ZONES, node_name, zone_name};
use super::select::Party;
use crate::batch::{BatchReport, BatchRequest, Question, Seen, SocketKind};
use crate::rig::addresses::{self, NODE_BASE, lan};
use crate::rig::{Family, FerrogateOptions, Layout, NAMESPACE, Options, Place, PodSpec, Process, Proxy, Rig, Source};
use crate::wire::Protocol;

/// Where the lanes' further addresses are: [`super::spec::Lane::address`].
const EXTRA_NETWORKS: [&str; 2] = ["198.51.100.0/24", "fd00:51::/64"];
/// How long the proxies may take to show a change.
const PATIENCE: Duration = Duration::from_secs(30);
const MARKER: &str = "zz-marker";
const MARKER_IP: u16 = 900;
const ZONE_MARKER: &str = "zz-zones";
const ZONE_MARKER_IP: u16 = 901;
/// The marker's port moves through this many numbers from here.
const MARKER_PORTS: (u16, u16) = (10_000, 1000);

/// Both rigs, and somebody to ask at every place of them.
pub(super) struct Ground {
    probers: Vec<(Party, Client, Prober)>,
    // The one that follows goes first.
    ferrogate: Rig,
    kube_proxy: Rig,
    // Machines that nobody calls by name.
    _machines: Vec<(Place, Option<Process>)>,
    turn: u16,
}

impl Ground {
    pub(super) fn boot(layout: Layout) -> Result<Self> {
        let options = Options {
            nodes: NODES.len() as u8,
            layout,
            source: Source::ControlPlane,
            proxy: Proxy::KubeProxy,
            ..Options::default()
        };
        let mut kube_proxy = Rig::boot(options.clone())?;
        let mut ferrogate = Rig::boot_beside(
            Options {
                proxy: Proxy::None,
                ..options
            },
            &kube_proxy,
        )?;
        let (mut probers, mut machines) = (Vec::new(), Vec::new());
        for (party, rig) in [(Party::KubeProxy, &mut kube_proxy), (Party::Ferrogate, &mut ferrogate)] {
            furnish(rig)?;
            let external = serve_outside(rig)?;
            let second = rig.add_machine("out2", OUTSIDE_TWO)?;
            prepare_outside(&rig.outside, 1)?;
            prepare_outside(&second, 2)?;
            for node in &rig.nodes {
                quiet(&node.place)?;
            }
            for client in Client::ALL {
                let prober = Prober::start(match client {
                    Client::Pod(node) => &rig.pod(&Backend::Client(node).name()).place,
                    Client::Node(node) => &rig.node(node).place,
                    Client::Outside(1) => &rig.outside,
                    Client::Outside(_) => &second,
                })?;
                probers.push((party, client, prober));
            }
            machines.push(external);
            machines.push((second, None));
        }
        let ground = Self {
            probers,
            ferrogate,
            kube_proxy,
            _machines: machines,
            turn: 0,
        };
        ground.zone_marker()?;
        Ok(ground)
    }

    /// The namespaces of node 1, kube-proxy's and Ferrogate's.
    pub(super) fn names(&self) -> [String; 2] {
        [&self.kube_proxy, &self.ferrogate].map(|rig| rig.lease.name("n1"))
    }

    pub(super) fn layout(&self) -> Layout {
        self.kube_proxy.options.layout
    }

    /// Starts Ferrogate on every node, in place of what ran there before.
    pub(super) fn start(&mut self, profile: Profile) -> Result<()> {
        let rig = &mut self.ferrogate;
        let mut more = vec![format!("--external-ips={}", EXTRA_NETWORKS.join(","))];
        if profile.cluster_cidr {
            more.push(format!(
                "--cluster-cidr={}",
                addresses::cluster_ranges().map(|range| range.to_string()).join(",")
            ));
        }
        if profile.snat_always {
            more.push("--snat=always".to_owned());
        }
        let options = FerrogateOptions {
            socket_edge: profile.socket_edge,
            external_cluster_ip: profile.external_cluster_ip,
            xdp: false,
            more,
            ..FerrogateOptions::default()
        };
        let first = rig.options.proxy == Proxy::None;
        rig.set_proxy(Proxy::Ferrogate(options));
        for node in NODES {
            if !first {
                rig.take_proxy(node)?.terminate(Duration::from_secs(5))?;
            }
            rig.start_proxy(node)?;
        }
        Ok(())
    }

    /// Creates or replaces an object, for both.
    pub(super) fn apply(&self, object: &Value) -> Result<()> {
        self.kube_proxy.apply(object)
    }

    pub(super) fn delete(&self, object: &Value) -> Result<()> {
        self.kube_proxy.delete(object)
    }

    /// Fails when a proxy ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        self.kube_proxy.check_proxies()?;
        self.ferrogate.check_proxies()
    }

    /// Asks everybody at once, each client of each rig one request. The answers are in the order of the requests.
    pub(super) fn ask(&mut self, requests: Vec<(Party, Client, BatchRequest)>) -> Result<Vec<BatchReport>> {
        let mut reports: Vec<_> = requests.iter().map(|_| Ok(BatchReport::default())).collect();
        let mut slots: Vec<_> = reports.iter_mut().map(Some).collect();
        thread::scope(|scope| {
            for (party, client, prober) in &mut self.probers {
                let place = requests.iter().position(|(p, c, _)| (&*party, &*client) == (p, c));
                let Some((place, slot)) = place.and_then(|at| Some((at, slots[at].take()?))) else {
                    continue;
                };
                let request = &requests[place].2;
                scope.spawn(move || *slot = prober.ask(request));
            }
        });
        reports.into_iter().collect()
    }

    /// Waits until everything that was applied before is in effect with both proxies, on both nodes, in both families: a
    /// Service and its slices that were changed after it are. They come by two watches, so the Service's port and the
    /// slices' port number both change.
    pub(super) fn settle(&mut self) -> Result<()> {
        let before = marker_ports(self.turn);
        self.turn = self.turn.wrapping_add(1);
        let (port, target) = marker_ports(self.turn);
        for object in marker(port, target) {
            self.apply(&object)?;
        }
        self.wait(
            "a change",
            |seen, question| {
                if question.to.port() == port {
                    answers_at(seen, target)
                } else {
                    *seen == Seen::Refused
                }
            },
            |family| {
                let ip = addresses::cluster_ip(MARKER_IP).get(family);
                vec![(ip, port).into(), (ip, before.0).into()]
            },
        )
    }

    /// Puts the nodes into zones and waits until both proxies know.
    pub(super) fn set_zones(&mut self, zones: [u8; 2]) -> Result<()> {
        for (node, zone) in NODES.into_iter().zip(zones) {
            self.kube_proxy.set_zone(node, &zone_name(zone))?;
        }
        let port = |client: Client| TARGET_PORTS[usize::from(zones[usize::from(client.node()) - 1]) - 1];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let questions =
                Family::BOTH.map(|family| question((addresses::cluster_ip(ZONE_MARKER_IP).get(family), 80).into()));
            let (clients, reports) = self.ask_pods(&questions)?;
            let right = clients.iter().zip(&reports).all(|(client, report)| {
                report
                    .chains
                    .iter()
                    .flatten()
                    .flatten()
                    .all(|seen| answers_at(seen, port(*client)))
            });
            if right {
                return Ok(());
            }
            self.check()?;
            ensure!(
                Instant::now() < deadline,
                "zones {zones:?} are not in effect: {reports:?}"
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn wait(
        &mut self,
        what: &str,
        right: impl Fn(&Seen, &Question) -> bool,
        to: impl Fn(Family) -> Vec<std::net::SocketAddr>,
    ) -> Result<()> {
        let questions: Vec<_> = Family::BOTH.into_iter().flat_map(to).map(question).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, reports) = self.ask_pods(&questions)?;
            let all = reports.iter().all(|report| {
                let chains = report.chains.iter().zip(&questions);
                chains
                    .into_iter()
                    .all(|(chain, question)| chain.iter().flatten().all(|seen| right(seen, question)))
            });
            if all {
                return Ok(());
            }
            self.check()?;
            ensure!(
                Instant::now() < deadline,
                "{what} is not in effect after {PATIENCE:?}: {reports:?}"
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asks from the pods of both nodes of both rigs.
    fn ask_pods(&mut self, questions: &[Question]) -> Result<(Vec<Client>, Vec<BatchReport>)> {
        let chains: Vec<_> = questions.iter().map(|question| vec![question.clone()]).collect();
        let requests: Vec<_> = Party::BOTH
            .into_iter()
            .flat_map(|party| NODES.map(|node| (party, Client::Pod(node))))
            .map(|(party, client)| (party, client, BatchRequest { chains: chains.clone() }))
            .collect();
        let clients = requests.iter().map(|(_, client, _)| *client).collect();
        Ok((clients, self.ask(requests)?))
    }

    /// A Service with an endpoint for each zone, each at a port of its own.
    fn zone_marker(&self) -> Result<()> {
        self.apply(&service(ZONE_MARKER, ZONE_MARKER_IP, 80))?;
        for family in Family::BOTH {
            for (zone, port) in ZONES.into_iter().zip(TARGET_PORTS) {
                let mut slice = slice(ZONE_MARKER, family, port);
                slice["metadata"]["name"] = format!("{ZONE_MARKER}-{zone}-{family:?}").to_lowercase().into();
                slice["endpoints"][0]["hints"] = json!({"forZones": [{"name": zone_name(zone)}]});
                self.apply(&slice)?;
            }
        }
        Ok(())
    }
}

fn answers_at(seen: &Seen, port: u16) -> bool {
    matches!(seen, Seen::Answer(answer) if answer.port == port)
}

fn question(to: std::net::SocketAddr) -> Question {
    Question {
        to,
        protocol: Protocol::Tcp,
        tries: 1,
        patience_ms: 500,
        socket: SocketKind::Connected,
    }
}

/// The marker's port and its endpoint's, at this turn.
fn marker_ports(turn: u16) -> (u16, u16) {
    (
        MARKER_PORTS.0 + turn % MARKER_PORTS.1,
        TARGET_PORTS[usize::from(turn) % TARGET_PORTS.len()],
    )
}

fn marker(port: u16, target: u16) -> Vec<Value> {
    let slices = Family::BOTH.map(|family| slice(MARKER, family, target));
    [service(MARKER, MARKER_IP, port)].into_iter().chain(slices).collect()
}

fn service(name: &str, ip: u16, port: u16) -> Value {
    let ips = addresses::cluster_ip(ip);
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {
            "clusterIP": ips.v4, "clusterIPs": ips.both(), "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack", "ports": [{"port": port, "protocol": "TCP"}],
        },
    })
}

fn slice(service: &str, family: Family, port: u16) -> Value {
    let backend = Backend::Pod(1);
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": NAMESPACE,
            "name": format!("{service}-{family:?}").to_lowercase(),
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": if family == Family::V4 { "IPv4" } else { "IPv6" },
        "ports": [{"name": "", "protocol": "TCP", "port": port}],
        "endpoints": [{"addresses": [backend.addresses().get(family)], "nodeName": node_name(1)}],
    })
}

/// The pods, each where [`Backend::addresses`] says.
fn furnish(rig: &mut Rig) -> Result<()> {
    for backend in Backend::ALL {
        let Some(node) = backend.node() else { continue };
        let name = backend.name();
        let pod = PodSpec::new(&name, node).ports(&TARGET_PORTS);
        rig.add_pod(if backend == Backend::Host(node) {
            pod.host_network()
        } else {
            pod
        })?;
        let (has, wanted) = (rig.pod(&name).addresses, backend.addresses());
        ensure!(has == wanted, "pod {name} is at {has:?} instead of {wanted:?}");
    }
    Ok(())
}

/// A machine on the LAN that serves and knows its way to pods.
fn serve_outside(rig: &Rig) -> Result<(Place, Option<Process>)> {
    let place = rig.add_machine("x", EXTERNAL)?;
    let mut lines = String::new();
    for node in NODES {
        let ((v4, v6), via) = (addresses::pod_ranges(node), lan(NODE_BASE + node));
        lines += &format!("route add {v4} via {}\nroute add {v6} via {}\n", via.v4, via.v6);
    }
    place.netns.ip_batch(&lines)?;
    let mut command = place.testpod_command()?;
    command.args(["serve", "--name", &Backend::External.name()]);
    command.args(
        Backend::External
            .addresses()
            .both()
            .map(|address| format!("--listen={address}")),
    );
    command.args(TARGET_PORTS.map(|port| format!("--port={port}")));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut server = Process::start("x", command)?;
    let mut line = String::new();
    BufReader::new(server.stdout().context("standard output")?).read_line(&mut line)?;
    ensure!(line.trim() == "ready", "the machine outside does not serve: {line}");
    Ok((place, Some(server)))
}

/// Routes to everything that Services can have, by way of `node`; and no shorter way that the node might tell.
fn prepare_outside(place: &Place, node: u8) -> Result<()> {
    let via = lan(NODE_BASE + node);
    let mut lines = String::new();
    for range in addresses::service_ranges()
        .map(|range| range.to_string())
        .iter()
        .map(String::as_str)
        .chain(EXTRA_NETWORKS)
    {
        let via = if range.contains(':') {
            via.get(Family::V6)
        } else {
            via.get(Family::V4)
        };
        lines += &format!("route replace {range} via {via}\n");
    }
    place.netns.ip_batch(&lines)
}

/// A node that sends every refusal, however many there are at once, and no redirects.
fn quiet(place: &Place) -> Result<()> {
    place.netns.sysctl("net/ipv4/icmp_ratemask", "0")?;
    for scope in ["all", "eth0"] {
        place
            .netns
            .sysctl(&format!("net/ipv4/conf/{scope}/send_redirects"), "0")?;
    }
    Ok(())
}

/// A `testpod batch`.
struct Prober {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _process: Process,
}

impl Prober {
    fn start(place: &Place) -> Result<Self> {
        let mut command = place.testpod_command()?;
        command.arg("batch").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start("batch", command)?;
        let (Some(input), Some(output)) = (process.stdin(), process.stdout()) else {
            bail!("testpod batch has no pipes");
        };
        Ok(Self {
            input,
            output: BufReader::new(output),
            _process: process,
        })
    }

    fn ask(&mut self, request: &BatchRequest) -> Result<BatchReport> {
        if request.chains.is_empty() {
            return Ok(BatchReport::default());
        }
        writeln!(self.input, "{}", serde_json::to_string(request)?)?;
        self.input.flush()?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).map_err(|error| anyhow!("report of testpod batch: {error}: {line}"))
    }
}

//! A rig under load, and what faults do with it.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::api_proxy::{self, ApiProxy};
use super::links::{self, LinkIds};
use super::report::Row;
use super::siege::{Load, Siege};
use super::{Fault, Harm, flood};
use crate::binaries;
use crate::rig::{Family, FerrogateOptions, Options, Proxy, Rig, ServiceSpec};
use crate::walks::fixture::{self, CLIENT_PODS, PORT, TARGET_PORT};
use crate::wire::api::Weather;
use crate::wire::siege::SiegeReport;
use crate::wire::{ProbeRequest, Protocol};

/// How long a new Service may take to be answered after a fault. A fault that says more tells it in its note.
const PATIENCE: Duration = Duration::from_secs(60);
/// The load goes on this long after a fault, so that what it has broken shows.
const SETTLE: Duration = Duration::from_millis(1500);
/// ClusterIPs of markers begin here.
const MARKERS: u16 = 1000;

/// A rig with Services that are served.
pub struct Ground {
    pub rig: Rig,
    pub random: fastrand::Rng,
    /// Whether there is time for much.
    pub long: bool,
    /// Packets a second of a flood.
    pub flood_rate: u64,
    /// An agent of another build.
    pub other_agent: Option<PathBuf>,
    /// Options that every agent of this ground starts with.
    options: FerrogateOptions,
    /// On each node, the way by which our agents reach the API server.
    ways: Vec<ApiProxy>,
    markers: u16,
}

impl Ground {
    pub fn boot(options: Options, seed: u64) -> Result<Self> {
        let mut ferrogate = match &options.proxy {
            Proxy::Ferrogate(options) => options.clone(),
            _ => FerrogateOptions::default(),
        };
        let rig = fixture::boot(options)?;
        let mut ways = Vec::new();
        let control_plane = rig.control_plane().context("faults need a control plane")?;
        for node in &rig.nodes {
            ways.push(ApiProxy::start(
                &node.place,
                control_plane.kubeconfig(),
                &node.directory,
            )?);
        }
        ferrogate
            .more
            .push(format!("--api-server=http://{}", api_proxy::LISTEN));
        let mut ground = Self {
            rig,
            random: fastrand::Rng::with_seed(seed),
            long: false,
            flood_rate: flood::RATE,
            other_agent: None,
            options: ferrogate,
            ways,
            markers: 0,
        };
        ground.set_agent_options(&[]);
        if ground.ours() {
            for node in ground.nodes() {
                ground.rig.take_proxy(node)?.terminate(PATIENCE)?;
                ground.start(node)?;
            }
        }
        fixture::wait_ready(&mut ground.rig, PATIENCE)?;
        Ok(ground)
    }

    /// What the API server seems like to our agents from now on.
    pub fn set_weather(&mut self, weather: Weather) -> Result<()> {
        self.ways.iter_mut().try_for_each(|way| way.set(weather))
    }

    /// Fails unless every Service of the fixture is answered now.
    pub fn check_services(&mut self) -> Result<()> {
        fixture::wait_ready(&mut self.rig, Duration::from_secs(3)).map(drop)
    }

    /// Whether the proxies are ours.
    pub fn ours(&self) -> bool {
        matches!(self.rig.options.proxy, Proxy::Ferrogate(_))
    }

    /// The numbers of the nodes.
    pub fn nodes(&self) -> std::ops::RangeInclusive<u8> {
        1..=self.rig.options.nodes
    }

    /// Lays a siege, lets the fault happen, and says what came of it.
    pub(super) fn suffer(&mut self, fault: &Fault, load: Load) -> Result<Row> {
        let before = self.links()?;
        let siege = Siege::lay(&self.rig, load)?;
        let begin = Instant::now();
        let aftermath = (fault.inflict)(self);
        let took = begin.elapsed();
        thread::sleep(SETTLE);
        let reports = siege.lift()?;
        let aftermath = aftermath?;
        self.rig.check_proxies()?;
        let mut sum = SiegeReport::default();
        let mut wrong = Vec::new();
        for (edge, report) in reports {
            let mut losses = report.losses.clone();
            // What is said of flows is expected of some faults.
            losses.sort_by_key(|loss| loss.what == "flow");
            let losses = losses.iter().take(5);
            wrong.extend(losses.map(|loss| format!("{}: {loss:?}", edge.name())));
            sum.add(report);
        }
        if self.ours()
            && !before.is_empty()
            && let Err(error) = links::same(&before, &self.links()?)
        {
            wrong.insert(0, format!("{error:#}"));
            sum.lost += 1;
        }
        let harmless = sum.lost == 0
            && sum.refused == 0
            && sum.failed == 0
            && sum.misdirected == 0
            && (fault.harm == Harm::Delay || (sum.unanswered == 0 && sum.moved == 0));
        Ok(Row {
            fault: fault.name.to_owned(),
            proxy: if self.ours() { "Ferrogate" } else { "kube-proxy" }.to_owned(),
            rate: load.rate,
            seconds: took.as_secs_f32(),
            load: sum,
            converged: aftermath.converged,
            note: aftermath.note,
            harmless,
            wrong,
        })
    }

    /// The pinned links of all nodes, by node and pin.
    pub(super) fn links(&self) -> Result<BTreeMap<String, LinkIds>> {
        let mut all = BTreeMap::new();
        if !self.ours() {
            return Ok(all);
        }
        for node in &self.rig.nodes {
            for (pin, ids) in links::links(&node.bpffs)? {
                all.insert(format!("{}/{pin}", node.name), ids);
            }
        }
        Ok(all)
    }

    /// The options that agents start with from now on: those of the ground, and these.
    pub fn set_agent_options(&mut self, more: &[String]) {
        if self.ours() {
            let mut options = self.options.clone();
            // An option that is given here goes before the ground's.
            let name = |option: &str| option.split('=').next().unwrap_or_default().to_owned();
            options.more.retain(|old| more.iter().all(|new| name(new) != name(old)));
            options.more.extend_from_slice(more);
            self.rig.set_proxy(Proxy::Ferrogate(options));
        }
    }

    /// From now on the proxies that start are our agents.
    pub fn become_ours(&mut self) {
        self.rig.set_proxy(Proxy::Ferrogate(self.options.clone()));
    }

    /// Runs a `ferrogate` command on a node, with that node's directories.
    pub fn command(&self, node: u8, words: &[&str]) -> Result<String> {
        let node = self.rig.node(node);
        let program = binaries::workspace("ferrogate")?;
        let mut arguments: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        arguments.push(format!("--run-dir={}", node.directory.display()));
        arguments.push(format!("--state-dir={}", node.bpffs.display()));
        node.place.run(&program.to_string_lossy(), arguments)
    }

    /// Asks until the answer is yes.
    pub fn eventually(&self, what: &str, mut question: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let begin = Instant::now();
        loop {
            let answer = question(self);
            if matches!(answer, Ok(true)) {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                answer.with_context(|| what.to_owned())?;
                bail!("not within {PATIENCE:?}: {what}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What starts the agents from now on.
    pub fn set_launcher(&mut self, launcher: &[String]) {
        if let Proxy::Ferrogate(options) = &mut self.rig.options.proxy {
            options.launcher = launcher.to_vec();
        }
    }

    /// Starts a proxy that is to stay.
    pub fn start(&mut self, node: u8) -> Result<()> {
        self.rig.start_proxy(node)
    }

    /// Starts an agent that is to fail, waits for its end, and returns what it wrote.
    pub fn start_in_vain(&mut self, node: u8) -> Result<String> {
        let log = self.rig.node(node).directory.join("proxy.log");
        let old = std::fs::read_to_string(&log).unwrap_or_default().len();
        self.rig.start_proxy(node)?;
        let mut process = self.rig.take_proxy(node)?;
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = process.ended()? {
                break status;
            }
            if Instant::now() > deadline {
                process.terminate(Duration::from_secs(5))?;
                bail!("an agent that was to fail runs");
            }
            thread::sleep(Duration::from_millis(10));
        };
        let text = std::fs::read_to_string(&log)?;
        let said = text.get(old..).unwrap_or_default().to_owned();
        ensure!(!status.success(), "an agent that was to fail ended well: {said}");
        Ok(said)
    }

    /// A Service that is new, to see when the proxies have taken it in.
    pub fn marker(&mut self) -> Result<Marker> {
        self.markers += 1;
        let number = self.markers;
        let service = ServiceSpec::new(&format!("marker-{number}"), "a", MARKERS + number % 10_000);
        self.rig
            .add_service(service.port(Protocol::Tcp, PORT, TARGET_PORT, None))?;
        Ok(Marker {
            name: format!("marker-{number}"),
        })
    }

    /// Waits until the marker is answered on every node, in both families, and deletes it; how long that took.
    pub fn await_marker(&mut self, marker: &Marker) -> Result<Duration> {
        let took = self.await_answer(marker)?;
        self.delete_marker(marker)?;
        Ok(took)
    }

    /// The same, and the marker stays.
    pub fn await_answer(&mut self, marker: &Marker) -> Result<Duration> {
        let begin = Instant::now();
        for pod in CLIENT_PODS {
            for family in Family::BOTH {
                let address = self.rig.service(&marker.name).cluster_ip.get(family);
                let request = ProbeRequest::new(Protocol::Tcp, (address, PORT).into()).timeout_ms(200);
                while !self.rig.pod(pod).place.probe(&request)?.complete() {
                    self.rig.check_proxies()?;
                    ensure!(
                        begin.elapsed() < PATIENCE,
                        "{} is not answered within {PATIENCE:?}",
                        marker.name
                    );
                    thread::sleep(Duration::from_millis(10));
                }
            }
        }
        Ok(begin.elapsed())
    }

    /// Waits until a marker that was deleted is answered no more.
    pub fn await_silence(&mut self, deleted: &Marker) -> Result<()> {
        let what = format!("{}, which was deleted, is served no more", deleted.name);
        self.eventually(&what, |ground| Ok(!ground.answers(deleted)?))
    }

    /// The marker's ClusterIP.
    pub fn address(&self, marker: &Marker) -> String {
        self.rig.service(&marker.name).cluster_ip.get(Family::V4).to_string()
    }

    pub fn delete_marker(&mut self, marker: &Marker) -> Result<()> {
        let object = serde_json::json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": crate::rig::NAMESPACE, "name": marker.name},
        });
        self.rig
            .delete(&object)
            .with_context(|| format!("deleting {}", marker.name))
    }

    /// Whether the marker is answered, on node 1 and over IPv4.
    pub fn answers(&self, marker: &Marker) -> Result<bool> {
        let address = self.rig.service(&marker.name).cluster_ip.get(Family::V4);
        let request = ProbeRequest::new(Protocol::Tcp, (address, PORT).into()).timeout_ms(200);
        Ok(self.rig.pod(CLIENT_PODS[0]).place.probe(&request)?.complete())
    }
}

/// A Service that [`Ground::marker`] has made.
pub struct Marker {
    name: String,
}

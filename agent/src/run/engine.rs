//! The steps of the loop.

mod addresses;
mod conntrack;
mod grace;
mod kube_proxy;
mod loopback;
mod losses;
mod node_events;
mod report;
mod scopes;
mod status;

use self::kube_proxy::KubeProxy;
use self::losses::Losses;
use self::report::report;
use super::model::{Applied, Shared};
use super::{RETRY, settings};
use crate::admin::{EdgeStatus, InterfaceStatus};
use crate::cli::{AgentArgs, DsrMode, SocketEdge};
use crate::health::{Health, Written};
use crate::kernel::{self, Cgroup, ConntrackFloors, Datapath, Scopes, find_cgroup, trim_heap};
use crate::net::{Network, Ways};
use crate::source::Event;
use crate::source::cluster::Events;
use crate::stuck::Reaper;
use anyhow::{Context, Result};
use ferrogate_control::{Changes, Op, Plan, Planner};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tracing::{debug, error, info, warn};

/// Where the socket edge is to be.
pub(super) enum Sockets {
    Off,
    /// For the processes of this cgroup2 directory.
    Below(PathBuf),
    /// There is no cgroup2; why.
    Nowhere(String),
}

impl Sockets {
    /// Whether the pods of this node are of interest.
    pub(super) fn follow_pods(&self) -> bool {
        matches!(self, Self::Below(_))
    }

    /// Fails when `--cgroup` is not a cgroup2 directory.
    pub(super) fn find(args: &AgentArgs) -> Result<Self> {
        if args.socket_edge == SocketEdge::Off {
            return Ok(Self::Off);
        }
        Ok(
            match find_cgroup(args.cgroup.as_deref()).context("cannot use --cgroup")? {
                Cgroup::Found(path) => Self::Below(path),
                Cgroup::None(why) => Self::Nowhere(why),
            },
        )
    }
}

/// The datapath and what is to become of it.
pub(super) struct Engine {
    datapath: Datapath,
    shared: Arc<Shared>,
    health: Arc<Health>,
    /// Arrival of the oldest event that is not written yet.
    oldest: Option<Instant>,
    /// The kernel held services when the agent started.
    restored: bool,
    /// The tables and the planner may differ: a write failed.
    lost: bool,
    generation: u64,
    node_addresses: Option<Vec<IpAddr>>,
    /// A network that could not be written.
    unwritten: Option<Network>,
    /// `--service-cidr`.
    service_cidrs: Vec<IpNet>,
    /// The source has ServiceCIDRs of its own.
    asks_for_service_cidrs: bool,
    written_service_cidrs: Option<BTreeSet<IpNet>>,
    /// The same of whom the socket edge serves.
    unwritten_scopes: Option<Scopes>,
    /// Passes for what the plans so far have freed.
    grace: Option<grace::Waiting>,
    /// Tells connected UDP sockets that their backend has ended.
    reaper: Option<Reaper>,
    pod_edge: bool,
    uplink_edge: bool,
    node_edge: bool,
    /// The loopback device has been taken care of, or can't be.
    loopback: bool,
    /// NodePorts are not on every address.
    few_addresses: bool,
    kube_proxy: KubeProxy,
    /// What conntrack is to be raised to, until it was.
    conntrack: Option<ConntrackFloors>,
    /// Packets that found no room.
    losses: Losses,
    /// Publishes what an operator must know; none where there is no cluster.
    reporter: Option<Events>,
    /// Reasons of what is wrong with the Node, and published.
    told_of_the_node: BTreeSet<&'static str>,
}

impl Engine {
    /// Loads the programs and reads back what the kernel holds.
    pub(super) fn open(args: &AgentArgs, shared: Arc<Shared>, health: Arc<Health>) -> Result<Self> {
        let begun = Instant::now();
        let mut datapath = Datapath::open(&settings::datapath(args)).context("cannot load the datapath")?;
        let kube_proxy = KubeProxy::find(args.snat_ports.base..=args.snat_ports.end);
        shared.lock().problems.rival = kube_proxy.problem();
        datapath
            .set_config(settings::config(args, kube_proxy.any())?)
            .context("cannot configure the datapath")?;
        // Before the first of our flows can be made, and again once all of them are.
        kube_proxy.pass_over(&datapath);
        datapath
            .set_cluster_networks(&args.cluster_cidr)
            .context("cannot write --cluster-cidr")?;
        if args.dsr == DsrMode::Off {
            datapath.forget_nodes().context("cannot remove what is left of --dsr")?;
        }
        let ports = args.snat_ports;
        if let Err(error) = datapath.reserve_ports(ports.base..=ports.end) {
            warn!(
                error = chain(&error),
                "cannot keep the SNAT ports out of the kernel's own choice of ports"
            );
        }
        if let Some(log) = datapath.packet_log() {
            tokio::spawn(async move {
                if let Err(error) = log.run().await {
                    warn!(%error, "packets are logged no more");
                }
            });
        }
        let snapshot = datapath.snapshot().context("cannot read the maps back")?;
        let restored = !snapshot.frontends.is_empty();
        datapath.fill_filter().context("cannot fill the filter of addresses")?;
        let clock = if datapath.clock_error().is_some() {
            "helper"
        } else {
            "jiffies"
        };
        info!(frontends = snapshot.frontends.len(), clock, took = ?begun.elapsed(), "datapath loaded");
        if let Some(error) = datapath.clock_error() {
            warn!(%error, "the programs cannot read the time off the kernel's jiffies and ask a helper: each packet costs more");
        }
        for kept in datapath.kept_sizes() {
            warn!("{kept}");
        }
        {
            let mut model = shared.lock();
            model.planner = Planner::restore(datapath.limits(), snapshot);
            model.problems.sizes = datapath.kept_sizes().iter().map(ToString::to_string).collect();
        }
        Ok(Self {
            datapath,
            shared,
            health,
            oldest: None,
            restored,
            lost: false,
            generation: 0,
            node_addresses: None,
            unwritten: None,
            service_cidrs: args.service_cidr.clone(),
            asks_for_service_cidrs: args.manifests.is_none(),
            written_service_cidrs: None,
            unwritten_scopes: None,
            reaper: None,
            pod_edge: args.pod_edge.is_on(),
            uplink_edge: args.uplink_edge.is_on(),
            node_edge: args.node_edge.is_on(),
            loopback: false,
            grace: None,
            reporter: None,
            told_of_the_node: BTreeSet::new(),
            few_addresses: !args.node_port_addresses.is_empty(),
            kube_proxy,
            conntrack: args.timeouts.conntrack_floors(),
            losses: Losses::default(),
        })
    }

    /// Has what an operator must know published as Events.
    pub(super) fn report_to(&mut self, reporter: Option<Events>) {
        self.reporter = reporter;
    }

    /// Attaches the socket edge, or falls back to the others where there is no cgroup2.
    pub(super) fn attach_sockets(&mut self, sockets: &Sockets) -> Result<()> {
        let (on, detail) = match sockets {
            Sockets::Off => (false, "switched off".to_owned()),
            Sockets::Below(cgroup) => {
                self.datapath
                    .attach_socket_edge(cgroup)
                    .context("cannot attach the socket edge")?;
                info!(cgroup = %cgroup.display(), "socket edge attached");
                (true, format!("cgroup {}", cgroup.display()))
            }
            Sockets::Nowhere(why) => {
                warn!(
                    why,
                    "no socket edge: the pod and node edges translate instead; --cgroup names a cgroup2 directory"
                );
                (false, format!("{why}; the pod and node edges translate instead"))
            }
        };
        if !on
            && self
                .datapath
                .detach_socket_edge()
                .context("cannot detach the socket edge")?
        {
            info!("socket edge of an earlier run detached");
        }
        let edge = EdgeStatus {
            edge: "socket".to_owned(),
            on,
            detail,
        };
        self.shared.lock().edges.insert(0, edge);
        Ok(())
    }

    /// Takes in what the source says.
    pub(super) fn take(&mut self, arrived: Instant, event: &Event) {
        let mut model = self.shared.lock();
        for notice in model.state.take(event) {
            warn!("{notice}");
            if let Some(reporter) = &self.reporter {
                reporter.tell(&notice);
            }
        }
        model.update_phase();
        self.health.heard(event);
        self.health.set_node_eligible(model.state.node_is_eligible());
        if model.state.is_dirty() {
            self.oldest.get_or_insert(arrived);
            if model.state.is_synced() {
                self.health.queued();
            }
        }
    }

    /// The node's own addresses, when they have changed.
    pub(super) fn new_node_addresses(&mut self) -> Option<Vec<IpAddr>> {
        let addresses = self.shared.lock().state.node_addresses()?.to_vec();
        if self.node_addresses.as_ref() == Some(&addresses) {
            return None;
        }
        self.node_addresses = Some(addresses.clone());
        Some(addresses)
    }

    /// Asks for a full comparison.
    pub(super) fn reconcile(&mut self) {
        self.shared.lock().state.mark_all();
        if self.datapath.filter_is_stale()
            && let Err(error) = tokio::task::block_in_place(|| self.datapath.fill_filter())
        {
            warn!(
                error = chain(&error),
                "cannot fill the filter of addresses: the programs do without it"
            );
        }
    }

    /// Asks for another attempt at what failed.
    pub(super) fn retry(&mut self) {
        self.health.retry();
        self.look_at_losses();
        {
            let mut model = self.shared.lock();
            if self.lost {
                model.state.mark_all();
            }
            if model.problems.nodes.is_some() {
                model.state.mark_nodes();
            }
        }
        if let Some(network) = self.unwritten.take() {
            self.sync_network(&network);
        }
        tokio::task::block_in_place(|| self.follow_kube_proxy());
        if let Some(scopes) = self.unwritten_scopes.clone() {
            self.set_scopes(scopes);
        }
        self.tell_of_the_node();
    }

    /// To be called whenever packets may go other ways than before.
    pub(super) fn on_changed_ways(&self) -> impl Fn(Ways) + Send + use<> {
        let routes = self.datapath.routes();
        move |ways| match ways {
            Ways::Changed => routes.changed(),
            Ways::BySource => routes.go(true),
        }
    }

    /// Makes tables and edges follow the network. A failure is reported, and tried again.
    pub(super) fn sync_network(&mut self, network: &Network) {
        self.take_addresses(network);
        self.raise_conntrack();
        let begun = Instant::now();
        let outcome = tokio::task::block_in_place(|| self.datapath.sync_network(network));
        let problem = match outcome {
            Ok(()) => {
                self.unwritten = None;
                debug!(interfaces = network.interfaces.len(), took = ?begun.elapsed(), "interfaces followed");
                None
            }
            Err(error) => {
                self.unwritten = Some(network.clone());
                Some(format!("interfaces cannot all be followed: {}", chain(&error)))
            }
        };
        let node_ports = || network.node_port_addresses.clone();
        self.health.set_addresses(self.few_addresses.then(node_ports));
        let interfaces = self.interfaces(network);
        let mut model = self.shared.lock();
        match &problem {
            Some(problem) if model.problems.network.as_ref() != Some(problem) => error!("{problem}"),
            None if model.problems.network.is_some() => info!("interfaces are followed again"),
            _ => {}
        }
        let before = &model.interfaces;
        let new = names(interfaces.iter().filter(|one| !before.contains(one)));
        if !new.is_empty() {
            info!(interfaces = new, "edges attached");
        }
        let gone = names(
            before
                .iter()
                .filter(|one| interfaces.iter().all(|now| now.ifindex != one.ifindex)),
        );
        if !gone.is_empty() {
            info!(interfaces = gone, "edges gone");
        }
        model.problems.network = problem;
        model.interfaces = interfaces;
        model.network_tables = self.datapath.network_tables().cloned();
        self.show_edges(&mut model);
    }

    /// Writes what has changed, if enough is known to write anything.
    pub(super) fn write(&mut self) {
        let begun = Instant::now();
        self.end_grace();
        if let Some((changes, plan)) = self.plan() {
            self.write_plan(begun, &changes, &plan);
            let all = changes.full;
            drop((changes, plan));
            if all {
                trim_heap();
            }
        }
        self.write_service_cidrs();
        self.write_nodes();
    }

    fn write_plan(&mut self, begun: Instant, changes: &Changes, plan: &Plan) {
        self.attend_loopback_for(plan);
        let written = self.datapath.apply(plan);
        if written.is_ok() {
            self.begin_grace();
        }
        if let Some(reaper) = &self.reaper
            && plan.ops.iter().any(|op| matches!(op, Op::RetireBackend { .. }))
        {
            reaper.wake();
        }
        let arrived = self.oldest.take().unwrap_or(begun);
        let mut model = self.shared.lock();
        model.refused = plan.refused.iter().map(ToString::to_string).collect();
        report::outcome(plan);
        if let Some(reporter) = &self.reporter {
            plan.notices.iter().for_each(|notice| reporter.tell(notice));
        }
        match written {
            Ok(()) => {
                if model.problems.writing.take().is_some() {
                    info!("maps can be written again");
                }
                self.health.written(&Written {
                    full: changes.full,
                    took: begun.elapsed(),
                    operations: plan.ops.len(),
                    triggers: model.state.pending().done(),
                });
                let checks = changes.services.keys();
                let checks = checks.map(|name| (name.clone(), model.state.health_check(name)));
                self.health.set_checks(checks.collect(), changes.full);
                if plan.is_empty() && model.last_apply.is_some() {
                    return;
                }
                self.generation += 1;
                let applied = Applied {
                    generation: self.generation,
                    at: Instant::now(),
                    latency: arrived.elapsed(),
                    took: begun.elapsed(),
                    operations: plan.ops.len(),
                };
                report(changes, &applied);
                model.last_apply = Some(applied);
            }
            Err(failure) => {
                let problem = format!("maps cannot be written: {}", chain(&failure));
                if model.problems.writing.as_ref() != Some(&problem) {
                    error!(operations = plan.ops.len(), retry = ?RETRY, "{problem}");
                }
                model.problems.writing = Some(problem);
                self.health.failed();
                self.lost = true;
            }
        }
    }

    /// What is to be written now.
    fn plan(&mut self) -> Option<(Changes, Plan)> {
        let mut model = self.shared.lock();
        if !model.state.is_synced() || !model.state.is_dirty() {
            return None;
        }
        if model.last_apply.is_none() && self.waits(&mut model) {
            return None;
        }
        if self.lost {
            // What a failed write has left is read, not guessed.
            let snapshot = self.datapath.snapshot().ok()?;
            model.planner = Planner::restore(self.datapath.limits(), snapshot);
            model.state.mark_all();
            self.lost = false;
        }
        let changes = model.state.compile();
        let plan = model.planner.plan(&changes);
        Some((changes, plan))
    }

    /// Whether the first write should wait: for the Node, a little; for manifests that cannot be read, if there is something
    /// in the kernel that they may be about.
    fn waits(&self, model: &mut super::model::Model) -> bool {
        if !model.state.knows_node() && model.since.elapsed() < RETRY {
            return true;
        }
        let held = (self.restored && !model.state.unreadable().is_empty()).then(|| {
            "nothing is written while manifests cannot be read: their services may be among those the kernel holds"
                .to_owned()
        });
        if let Some(why) = &held
            && model.problems.held.is_none()
        {
            warn!("{why}");
        }
        model.problems.held = held;
        model.problems.held.is_some()
    }
}

fn names<'a>(interfaces: impl Iterator<Item = &'a InterfaceStatus>) -> String {
    let names: Vec<_> = interfaces.map(|one| format!("{} ({})", one.name, one.role)).collect();
    names.join(", ")
}

/// The error and its causes in one line.
pub(super) fn chain(error: &kernel::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

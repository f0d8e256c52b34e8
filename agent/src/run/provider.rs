//! What the admin socket is answered with.

mod checkup;
mod counters;

use super::model::{Applied, Model, Phase, Shared};
use crate::admin::{
    self, ApplyStatus, Checkup, Counters, Diff, Explained, FlowsPage, MapStatus, Provider, ServiceRow, SourceState,
    SourceStatus, Status,
};
use crate::explain::{self, Client, Facts};
use crate::health::{Health, Observation, Observe, SourceLabel};
use crate::kernel::{StateDir, Tables};
use crate::views::{self, Filter, Names};
use anyhow::{Context, Result};
use ferrogate_common::maps::{self, MapSpec};
use ferrogate_common::{Address, Config, FrontendKey, service_flags};
use ferrogate_control::{Family, ServiceName};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counting the entries of full tables takes tens of milliseconds: metrics show counts of up to this age.
const COUNTS_HOLD: Duration = Duration::from_secs(10);
/// Counting takes one part in this many of the time of one CPU, at most.
const COUNTS_SHARE: u32 = 200;

/// The maps of Services.
const REFUSING: [MapSpec; 5] = [
    maps::FRONTENDS,
    maps::SERVICES,
    maps::SLOTS,
    maps::BACKENDS,
    maps::NETWORKS,
];

/// How full the tables were.
#[derive(Debug)]
struct Counted {
    at: Instant,
    /// How long it may be told.
    hold: Duration,
    maps: Vec<MapStatus>,
}

/// The model, and handles to the maps of its own: a question never waits for a write, nor a write for a question.
#[derive(Debug)]
pub(super) struct Knowledge {
    tables: Tables,
    shared: Arc<Shared>,
    health: Arc<Health>,
    counted: Mutex<Option<Counted>>,
    state: StateDir,
    /// What `CONFIG` was set to.
    config: Config,
}

impl Knowledge {
    pub(super) fn open(state_dir: &Path, config: Config, shared: Arc<Shared>, health: Arc<Health>) -> Result<Self> {
        let state = StateDir::new(state_dir);
        let tables = Tables::open(&state).context("cannot open the maps for reading")?;
        Ok(Self {
            tables,
            shared,
            health,
            counted: Mutex::new(None),
            state,
            config,
        })
    }

    /// What the kernel has to say of a Service. The flow tables are walked, without the model's lock.
    fn facts(&self, service: &ServiceName) -> Result<Facts> {
        let frontends: BTreeSet<FrontendKey> = {
            let model = self.shared.lock();
            let ports = model.planner.ports().filter(|port| port.name.service == *service);
            ports.flat_map(|port| port.frontends.keys().copied()).collect()
        };
        let flows = views::flows_by_backend(&self.tables, &frontends)?;
        let model = self.shared.lock();
        let mut troubles = model.problems.all();
        if let Some(why) = model.state.away() {
            troubles.push(format!("the API server is away, the last known state is served: {why}"));
        }
        let has_xdp = |hooks: &[String]| hooks.iter().any(|hook| hook.contains("xdp"));
        Ok(Facts {
            node: self.shared.node.clone(),
            config: Some(self.tables.config()?),
            edges: model
                .edges
                .iter()
                .filter(|edge| edge.on)
                .map(|edge| edge.edge.clone())
                .collect(),
            xdp: model.interfaces.iter().any(|one| has_xdp(&one.hooks)),
            node_addresses: self.tables.node_addresses()?.iter().map(Address::ip).collect(),
            cluster_networks: self.tables.cluster_networks()?,
            counted: self.tables.counted()?,
            flows,
            reasons: self
                .tables
                .reasons()?
                .into_iter()
                .map(|(reason, count)| (reason.label(), count))
                .collect(),
            troubles,
        })
    }

    /// How full the tables are; empty when they cannot be read.
    fn counted(&self) -> Vec<MapStatus> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        match &*counted {
            Some(counted) if counted.at.elapsed() < counted.hold => counted.maps.clone(),
            _ => {
                let begun = Instant::now();
                let maps = views::maps(&self.tables).unwrap_or_default();
                *counted = Some(Counted {
                    at: Instant::now(),
                    hold: COUNTS_HOLD.max(begun.elapsed() * COUNTS_SHARE),
                    maps: maps.clone(),
                });
                maps
            }
        }
    }
}

impl Provider for Knowledge {
    fn status(&self) -> Result<Status> {
        let maps = views::maps(&self.tables)?;
        let reasons = views::reasons(self.tables.reasons()?);
        let model = self.shared.lock();
        Ok(Status {
            node: self.shared.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: ferrogate_common::ABI_VERSION,
            pid: Some(std::process::id()),
            uptime_seconds: Some(self.shared.started.elapsed().as_secs()),
            source: Some(source(&model)),
            services: Some(model.planner.ports().count() as u64),
            last_apply: model.last_apply.map(apply),
            edges: model.edges.clone(),
            interfaces: model.interfaces.clone(),
            maps,
            reasons,
            problems: model.all_problems().into_iter().chain(self.health.problems()).collect(),
        })
    }

    fn metrics(&self) -> Result<String> {
        self.health.text().context("the metrics cannot be written")
    }

    fn services(&self, name: Option<&str>) -> Result<Vec<ServiceRow>> {
        let counted = self.tables.counted()?;
        let model = self.shared.lock();
        let wanted = |port: &ferrogate_control::PortView<'_>| {
            let service = &port.name.service;
            name.is_none_or(|name| views::matches_service((&service.namespace, &service.name), name))
        };
        let rows = model.planner.ports().filter(wanted);
        Ok(rows.map(|port| views::service(&port, counted.get(&port.id))).collect())
    }

    fn explain(&self, service: &str, from: Option<&str>) -> Result<Explained> {
        let wanted = explain::Wanted::parse(service);
        let (found, phase) = {
            let model = self.shared.lock();
            (explain::find_service(model.state.index(), &wanted), model.phase)
        };
        let name = match found {
            Ok(name) => name,
            Err(mut unknown) => {
                if phase == Phase::Syncing {
                    unknown.why += " among those that were read; the agent is still reading";
                }
                return Ok(Explained::Unknown(unknown));
            }
        };
        let facts = self.facts(&name)?;
        let model = self.shared.lock();
        let index = model.state.index();
        let client = match from {
            None => Client::Any,
            Some(from) => {
                let pod = |namespace: &str, name: &str| model.state.pod(namespace, name).cloned();
                let node = (facts.node.as_str(), facts.node_addresses.as_slice());
                match explain::find_client(index, pod, node, (from, &name.namespace)) {
                    Ok(client) => client,
                    Err(unknown) => return Ok(Explained::Unknown(unknown)),
                }
            }
        };
        Ok(explain::explain(
            index,
            &model.planner,
            &facts,
            (&name, wanted.port),
            &client,
        ))
    }

    fn diff(&self) -> Result<Diff> {
        self.compare()
    }

    fn doctor(&self) -> Result<Checkup> {
        self.examine()
    }

    fn counters(&self, backends_of: Option<u32>) -> Result<Counters> {
        self.count(backends_of)
    }

    fn names(&self, pod: Option<&str>) -> Result<admin::Names> {
        self.name(pod)
    }

    fn flows(&self, service: Option<&str>, client: Option<IpAddr>, limit: u32) -> Result<FlowsPage> {
        let names = names(&self.shared.lock());
        let wanted: Option<BTreeSet<FrontendKey>> = service.map(|wanted| {
            let its = names.iter().filter(|(_, name)| views::is_of(name, wanted));
            its.map(|(key, _)| *key).collect()
        });
        let frontends = wanted.as_ref();
        views::flows(
            &self.tables,
            &names,
            Filter {
                frontends,
                client,
                limit,
            },
        )
    }

    fn port_flows(&self, id: u32, limit: u32) -> Result<FlowsPage> {
        self.flows_of(id, limit)
    }
}

impl Observe for Knowledge {
    fn observe(&self) -> Observation {
        let maps = self.counted();
        let reasons = self.tables.reasons().unwrap_or_default();
        let mut counted = self.tables.counted().unwrap_or_default();
        let mut model = self.shared.lock();
        let (pending_services, pending_slices) = model.state.pending().counts();
        let ports = || model.planner.ports();
        let mut no_local: BTreeMap<(&'static str, Family), u64> = BTreeMap::new();
        for port in ports().filter(|port| port.range.cluster > 0 && port.range.local == 0) {
            for (policy, flag) in [
                ("internal", service_flags::INTERNAL_LOCAL),
                ("external", service_flags::EXTERNAL_LOCAL),
            ] {
                if port.flags & flag != 0 {
                    *no_local.entry((policy, port.name.family)).or_default() += 1;
                }
            }
        }
        let mut refused: BTreeMap<&'static str, u64> = REFUSING.map(|map| (map.name, 0)).into();
        for map in model.planner.refused().filter_map(|refusal| refusal.reason.full_map()) {
            *refused.entry(map).or_default() += 1;
        }
        Observation {
            reasons: reasons
                .into_iter()
                .map(|(reason, count)| (reason.label(), count))
                .collect(),
            services: ports()
                .filter_map(|port| Some((port.name.clone(), counted.remove(&port.id)?)))
                .collect(),
            maps,
            refused,
            no_local,
            pending_services,
            pending_slices,
            service_ports: ports().count(),
            without_endpoints: ports().filter(|port| port.range.cluster == 0).count(),
            source: match model.phase {
                Phase::Syncing => SourceLabel::Syncing,
                Phase::Synced => SourceLabel::Synced,
                Phase::Away => SourceLabel::Away,
            },
            away: match model.phase {
                Phase::Away => model.since.elapsed(),
                Phase::Syncing | Phase::Synced => Duration::ZERO,
            },
            problems: model.all_problems().len() + self.health.problems().len(),
        }
    }
}

fn names(model: &Model) -> Names {
    let of_port = |port: ferrogate_control::PortView<'_>| {
        let name = format!("{}:{}", port.name.service, port.name.port);
        port.frontends
            .keys()
            .map(|key| (*key, name.clone()))
            .collect::<Vec<_>>()
    };
    model.planner.ports().flat_map(of_port).collect()
}

fn source(model: &Model) -> SourceStatus {
    SourceStatus {
        origin: model.origin.clone(),
        state: match model.phase {
            Phase::Syncing => SourceState::Syncing,
            Phase::Synced => SourceState::Synced,
            Phase::Away => SourceState::Away,
        },
        since_seconds: model.since.elapsed().as_secs(),
        detail: model.state.away().map(str::to_owned),
    }
}

fn apply(applied: Applied) -> ApplyStatus {
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    ApplyStatus {
        generation: applied.generation,
        ago_seconds: applied.at.elapsed().as_secs(),
        latency_microseconds: micros(applied.latency),
        apply_microseconds: micros(applied.took),
        operations: applied.operations as u64,
    }
}

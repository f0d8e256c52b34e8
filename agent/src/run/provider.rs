//! What the admin socket is answered with.

use super::model::{Applied, Model, Phase, Shared};
use crate::admin::{ApplyStatus, FlowsPage, Provider, ServiceRow, SourceState, SourceStatus, Status};
use crate::kernel::{StateDir, Tables};
use crate::views::{self, Filter, Names};
use anyhow::{Context, Result};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// The model, and handles to the maps of its own: a question never waits for a write, nor a write for a question.
pub(super) struct Knowledge {
    tables: Tables,
    shared: Arc<Shared>,
}

impl Knowledge {
    pub(super) fn open(state_dir: &Path, shared: Arc<Shared>) -> Result<Self> {
        let tables = Tables::open(&StateDir::new(state_dir)).context("cannot open the maps for reading")?;
        Ok(Self { tables, shared })
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
            problems: model.all_problems(),
        })
    }

    fn services(&self, name: Option<&str>) -> Result<Vec<ServiceRow>> {
        let connections = self.tables.connections()?;
        let model = self.shared.lock();
        let wanted = |port: &ferrogate_control::PortView<'_>| {
            let service = &port.name.service;
            name.is_none_or(|name| views::matches_service((&service.namespace, &service.name), name))
        };
        let rows = model.planner.ports().filter(wanted);
        Ok(rows
            .map(|port| views::service(&port, connections.get(&port.id).copied().unwrap_or_default()))
            .collect())
    }

    fn flows(&self, service: Option<&str>, client: Option<IpAddr>, limit: u32) -> Result<FlowsPage> {
        let names = names(&self.shared.lock());
        views::flows(&self.tables, &names, Filter { service, client, limit })
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
    let micros = |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    ApplyStatus {
        generation: applied.generation,
        ago_seconds: applied.at.elapsed().as_secs(),
        latency_microseconds: micros(applied.latency),
        apply_microseconds: micros(applied.took),
        operations: applied.operations as u64,
    }
}

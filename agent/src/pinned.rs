//! Reading the pinned maps without an agent: what can be told of a datapath that works on by itself.

use crate::admin::{EndpointRow, FlowsPage, InterfaceStatus, ServiceRow, Status};
use crate::kernel::{Counted, StateDir, Tables};
use crate::views::{self, Filter, Names};
use anyhow::{Context, Result};
use ferrogate_common::{ABI_VERSION, FrontendKind, Protocol, backend_flags, interface_flags};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

fn open(state_dir: &Path) -> Result<Tables> {
    Tables::open(&StateDir::new(state_dir)).context("cannot open the pinned maps")
}

/// All but the agent's own state. Programs are not listed: their links say no more than that they exist.
pub(crate) fn status(state_dir: &Path) -> Result<Status> {
    let tables = open(state_dir)?;
    let snapshot = tables.snapshot()?;
    let interfaces = tables.interfaces()?.into_iter().filter_map(|(ifindex, interface)| {
        let role = match interface.flags {
            flags if flags & interface_flags::POD != 0 => "pod",
            flags if flags & interface_flags::UPLINK != 0 => "uplink",
            _ => return None,
        };
        Some(InterfaceStatus {
            name: name_of(ifindex),
            ifindex,
            role: role.to_owned(),
            hooks: vec![],
        })
    });
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        abi: ABI_VERSION,
        services: Some(snapshot.services.len() as u64),
        interfaces: interfaces.collect(),
        maps: views::maps(&tables)?,
        reasons: views::reasons(tables.reasons()?),
        problems: vec!["no agent is running: Services are served as they were when it stopped".to_owned()],
        ..Status::default()
    })
}

/// The interface's name in this network namespace, which the agent's may not be.
fn name_of(ifindex: u32) -> String {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let name = socket.and_then(|socket| netdevice::index_to_name(&socket, ifindex));
    name.unwrap_or_else(|_| format!("#{ifindex}"))
}

/// Service ports by number: the maps hold no names.
pub(crate) fn services(state_dir: &Path) -> Result<Vec<ServiceRow>> {
    let tables = open(state_dir)?;
    let counted = tables.counted()?;
    let snapshot = tables.snapshot()?;
    let mut rows: BTreeMap<u32, ServiceRow> = BTreeMap::new();
    let mut kinds: BTreeMap<u32, BTreeSet<u8>> = BTreeMap::new();
    for (key, frontend) in &snapshot.frontends {
        let Some(kind) = FrontendKind::from_number(frontend.kind).filter(|kind| kind.has_port()) else {
            continue;
        };
        let row = rows.entry(frontend.service).or_insert_with(|| ServiceRow {
            protocol: Protocol::from_number(key.protocol)
                .map_or("?", Protocol::name)
                .to_owned(),
            family: ferrogate_control::Family::of(&key.address).to_string(),
            id: frontend.service,
            connections: counted.get(&frontend.service).map_or(0, Counted::connections),
            refused: counted
                .get(&frontend.service)
                .map_or(0, |counted| counted.refused(None)),
            ..ServiceRow::default()
        });
        row.frontends.push(views::frontend(key, kind));
        kinds.entry(frontend.service).or_default().insert(frontend.kind);
    }
    for (id, kinds) in kinds {
        if let Some(row) = rows.get_mut(&id) {
            row.kind = views::kind(kinds.into_iter().filter_map(FrontendKind::from_number));
        }
    }
    for backend in snapshot.backends.values().filter(|backend| backend.generation != 0) {
        if let Some(row) = rows.get_mut(&backend.service) {
            let address = views::socket(backend.address, backend.port);
            row.endpoints.push(EndpointRow {
                address,
                local: backend.flags & backend_flags::LOCAL != 0,
            });
        }
    }
    Ok(rows.into_values().collect())
}

pub(crate) fn flows(state_dir: &Path, client: Option<IpAddr>, limit: u32) -> Result<FlowsPage> {
    views::flows(
        &open(state_dir)?,
        &Names::new(),
        Filter {
            frontends: None,
            client,
            limit,
        },
    )
}

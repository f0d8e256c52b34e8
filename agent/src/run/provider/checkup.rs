//! `ferrogate diff` and `ferrogate doctor`.

use super::super::model::{LOOPBACK_ROLE, Phase};
use super::Knowledge;
use crate::admin::{Checkup, Diff, Difference, Severity};
use crate::doctor::{Doctor, Host};
use crate::kernel::{self, HookReport};
use crate::net;
use crate::views;
use anyhow::{Context, Result};
use ferrogate_common::{Address, FrontendKind, config_flags};
use ferrogate_control::{Difference as Found, Family};
use std::path::Path;
use std::time::Duration;

/// What is about to be written differs for a moment: a difference is one that is there after this time too.
const MOMENT: Duration = Duration::from_millis(300);

impl Knowledge {
    pub(super) fn compare(&self) -> Result<Diff> {
        let (mut entries, mut differences) = self.compare_once()?;
        if !differences.is_empty() {
            std::thread::sleep(MOMENT);
            let (again, still) = self.compare_once()?;
            entries = again;
            differences.retain(|difference| still.contains(difference));
        }
        let model = self.shared.lock();
        let source = match model.phase {
            Phase::Synced => None,
            Phase::Syncing => Some("the agent is still reading the API's objects".to_owned()),
            Phase::Away => model.state.away().map(|why| format!("the API server is away: {why}")),
        };
        Ok(Diff {
            entries,
            differences: differences.into_iter().map(shown).collect(),
            refused: model.refused.clone(),
            source,
        })
    }

    fn compare_once(&self) -> Result<(u64, Vec<Found>)> {
        let snapshot = self.tables.snapshot().context("cannot read the maps")?;
        let (mut entries, mut differences, network) = {
            let model = self.shared.lock();
            let (entries, differences) = model.planner.differences(&snapshot);
            (entries, differences, model.network_tables.clone())
        };
        if let Some(network) = network {
            let (more, others) = self.tables.network_differences(&network, &self.config)?;
            entries += more;
            differences.extend(others);
        }
        Ok((entries, differences))
    }

    pub(super) fn examine(&self) -> Result<Checkup> {
        let mut doctor = Doctor::new(&self.shared.node);
        let diff = self.compare()?;
        let devices = tokio::runtime::Handle::current().block_on(net::devices());
        let devices = devices.unwrap_or_else(|error| {
            doctor.found(Severity::Note, "interfaces", error.to_string(), "run the agent as root");
            vec![]
        });
        let (edges, interfaces, cgroup) = {
            let model = self.shared.lock();
            for problem in model.problems.of_this_agent() {
                doctor.found(
                    Severity::Error,
                    "agent",
                    problem,
                    "see the agent's log; it tries again every 2 s",
                );
            }
            for loss in &model.problems.losses {
                doctor.found(
                    Severity::Error,
                    "pressure",
                    loss,
                    "see `ferrogate_packets_total` for how it goes on",
                );
            }
            for kept in &model.problems.sizes {
                doctor.found(
                    Severity::Note,
                    "maps",
                    kept,
                    "drain the node (`ferrogate drain --wait`), then `ferrogate cleanup` and start the agent",
                );
            }
            if let Some(why) = model.state.away() {
                doctor.found(
                    Severity::Error,
                    "source",
                    format!("the API server is away, the last known state is served: {why}"),
                    "see --kubeconfig and --api-server; a ClusterIP of the API server leads nowhere on a fresh node",
                );
            }
            for problem in model
                .state
                .unreadable()
                .iter()
                .cloned()
                .chain(model.state.unreadable_objects())
            {
                doctor.found(Severity::Warning, "source", problem, "mend the object or the file");
            }
            let on = model.edges.iter().filter(|edge| edge.on);
            let edges: Vec<String> = on.clone().map(|edge| edge.edge.clone()).collect();
            let socket = on.clone().find(|edge| edge.edge == "socket");
            let cgroup = socket.and_then(|edge| edge.detail.strip_prefix("cgroup ").map(str::to_owned));
            (edges, model.interfaces.clone(), cgroup)
        };
        for problem in self.health.problems() {
            doctor.found(
                Severity::Warning,
                "health",
                problem,
                "see who has the port (ss -lnp), or give another address",
            );
        }
        tables(&mut doctor, &diff);
        doctor.bare_interfaces(&interfaces, &edges);
        let hooks = self.hooks(&interfaces, cgroup.as_deref(), &mut doctor);
        doctor.hooks(&hooks, &interfaces);
        doctor.pressure(&views::maps(&self.tables)?);
        let mut host = self.host(&interfaces)?;
        host.devices = devices;
        host.own_xdp = hooks.iter().filter_map(|hook| hook.xdp).collect();
        host.examine(&mut doctor);
        Ok(doctor.done())
    }

    fn hooks(
        &self,
        interfaces: &[crate::admin::InterfaceStatus],
        cgroup: Option<&str>,
        doctor: &mut Doctor,
    ) -> Vec<HookReport> {
        let mut reports: Vec<HookReport> = Vec::new();
        for interface in interfaces {
            let programs = interface.hooks.iter();
            reports.extend(programs.map(|program| kernel::inspect(&self.state, interface.ifindex, program)));
        }
        match cgroup.map(|cgroup| kernel::inspect_sockets(&self.state, Path::new(cgroup))) {
            Some(Ok(sockets)) => reports.extend(sockets),
            Some(Err(error)) => doctor.found(
                Severity::Error,
                "hooks",
                format!("the socket edge's cgroup cannot be opened: {error}"),
                "restart the agent, or name another directory with --cgroup",
            ),
            None => {}
        }
        reports
    }

    fn host(&self, interfaces: &[crate::admin::InterfaceStatus]) -> Result<Host> {
        let config = self.tables.config()?;
        let of = |role: &str| -> Vec<String> {
            let wanted = interfaces.iter().filter(|one| one.role == role);
            wanted.map(|one| one.name.clone()).collect()
        };
        let model = self.shared.lock();
        let unknown_sources = if config.flags & config_flags::DSR != 0 {
            self.tables.unknown_sources(&config)?
        } else {
            vec![]
        };
        let mut host = Host {
            unknown_sources: unknown_sources.iter().map(Address::ip).collect(),
            uplinks: of("uplink"),
            loopback: !of(LOOPBACK_ROLE).is_empty(),
            pods: of("pod"),
            bridge: config.flags & config_flags::BRIDGE_PORTS != 0,
            redirect: config.flags & config_flags::REDIRECT != 0,
            v6: model.planner.ports().any(|port| port.name.family == Family::V6),
            snat: Some((config.snat_port_base, config.snat_port_count)),
            ..Host::default()
        };
        for port in model.planner.ports() {
            let node_ports = port
                .frontends
                .iter()
                .filter(|(_, kind)| **kind == FrontendKind::NodePort);
            for (key, _) in node_ports {
                let entry = (port.name.protocol.name(), key.port.get(), port.name.service.to_string());
                if !host.node_ports.contains(&entry) {
                    host.node_ports.push(entry);
                }
            }
        }
        Ok(host)
    }
}

fn shown(found: Found) -> Difference {
    Difference {
        map: found.map.to_owned(),
        entry: found.entry,
        service: found.port.map(|port| port.to_string()),
        desired: found.desired,
        kernel: found.found,
    }
}

fn tables(doctor: &mut Doctor, diff: &Diff) {
    doctor.looked_at(format!("tables: entries beside what they should be ({})", diff.entries));
    if !diff.differences.is_empty() {
        let mut services: Vec<&str> = diff
            .differences
            .iter()
            .filter_map(|one| one.service.as_deref())
            .collect();
        services.dedup();
        let of = match services.as_slice() {
            [] => String::new(),
            [one] => format!(" (of {one})"),
            [one, ..] => format!(" (of {one} and others)"),
        };
        doctor.found(
            Severity::Error,
            "tables",
            format!("entries of the kernel's tables that are not as desired: {}{of}", diff.differences.len()),
            "`ferrogate diff` lists them; somebody else writes to the maps, or a write failed. A restarted agent reads the tables \
             back and mends them; connections go on",
        );
    }
    for refused in &diff.refused {
        doctor.found(
            Severity::Warning,
            "tables",
            format!("not programmed: {refused}"),
            "`ferrogate explain` of that Service says what is left of it",
        );
    }
}

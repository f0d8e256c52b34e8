//! `ferrogate top`: all counters at one moment.

use super::Knowledge;
use crate::admin::{BackendFlows, Counters, ServiceCounters};
use crate::kernel::boot_nanos;
use crate::views;
use anyhow::Result;
use ferrogate_control::PortView;
use std::collections::BTreeSet;

impl Knowledge {
    pub(super) fn count(&self, backends_of: Option<u32>) -> Result<Counters> {
        let maps = self.counted();
        let backends = backends_of.map_or(Ok(vec![]), |id| self.backends(id))?;
        let at_nanos = boot_nanos();
        let connections = self.tables.connections()?;
        let reasons = views::reasons(self.tables.reasons()?);
        let model = self.shared.lock();
        let row = |port: PortView<'_>| ServiceCounters {
            service: format!("{}:{}", port.name.service, port.name.port),
            protocol: port.name.protocol.name().to_owned(),
            family: port.name.family.to_string(),
            id: port.id,
            connections: connections.get(&port.id).copied().unwrap_or_default(),
            endpoints: port.backends.len(),
            local: port.backends.keys().filter(|one| one.local).count(),
        };
        Ok(Counters {
            node: self.shared.node.clone(),
            at_nanos,
            services: model.planner.ports().map(row).collect(),
            reasons,
            maps,
            backends,
        })
    }

    /// The endpoints of a Service port with their flows. The flow tables are walked, without the model's lock.
    fn backends(&self, id: u32) -> Result<Vec<BackendFlows>> {
        let (frontends, mut backends) = {
            let model = self.shared.lock();
            let Some(port) = model.planner.ports().find(|port| port.id == id) else {
                return Ok(vec![]);
            };
            let backend = |one: &ferrogate_control::Endpoint| BackendFlows {
                address: views::socket(one.address, one.port),
                local: one.local,
                flows: 0,
            };
            let backends: Vec<BackendFlows> = port.backends.keys().map(backend).collect();
            (port.frontends.keys().copied().collect::<BTreeSet<_>>(), backends)
        };
        for ((_, address), flows) in views::flows_by_backend(&self.tables, &frontends)? {
            // Those of endpoints that are gone are nobody's here.
            if let Some(backend) = backends.iter_mut().find(|backend| backend.address == address) {
                backend.flows += flows;
            }
        }
        Ok(backends)
    }
}

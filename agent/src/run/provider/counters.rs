//! `ferrogate top` and `ferrogate trace`: all counters at one moment, and the names of addresses.

use super::Knowledge;
use crate::admin::{BackendFlows, Counters, FlowsPage, NamedFrontend, Names, ServiceCounters};
use crate::explain::{self, Client};
use crate::kernel::{Counted, boot_nanos};
use crate::views::{self, Filter};
use anyhow::{Result, bail};
use ferrogate_common::FrontendKey;
use ferrogate_control::PortView;
use std::collections::BTreeSet;

impl Knowledge {
    pub(super) fn count(&self, backends_of: Option<u32>) -> Result<Counters> {
        let maps = self.counted();
        let backends = backends_of.map_or(Ok(vec![]), |id| self.backends(id))?;
        let at_nanos = boot_nanos();
        let counted = self.tables.counted()?;
        let reasons = views::reasons(self.tables.reasons()?);
        let model = self.shared.lock();
        let row = |port: PortView<'_>| ServiceCounters {
            service: format!("{}:{}", port.name.service, port.name.port),
            protocol: port.name.protocol.name().to_owned(),
            family: port.name.family.to_string(),
            id: port.id,
            connections: counted.get(&port.id).map_or(0, Counted::connections),
            refused: counted.get(&port.id).map_or(0, |counted| counted.refused(None)),
            traffic: counted.get(&port.id).and_then(views::traffic),
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

    pub(super) fn name(&self, pod: Option<&str>) -> Result<Names> {
        let model = self.shared.lock();
        let ports = model.planner.ports();
        let frontends = ports.flat_map(|port| {
            let service = format!("{}:{}", port.name.service, port.name.port);
            let (protocol, family) = (port.name.protocol.name(), port.name.family.to_string());
            let with_port = port.frontends.iter().filter(|(_, kind)| kind.has_port());
            let named = with_port.map(|(key, kind)| NamedFrontend {
                service: service.clone(),
                protocol: protocol.to_owned(),
                family: family.clone(),
                frontend: views::frontend(key, *kind),
            });
            named.collect::<Vec<_>>()
        });
        let frontends = frontends.collect();
        let pod = match pod {
            None => vec![],
            Some(pod) => {
                let facts = |namespace: &str, name: &str| model.state.pod(namespace, name).cloned();
                let node = (self.shared.node.as_str(), &[][..]);
                match explain::find_client(model.state.index(), facts, node, (pod, "default")) {
                    Ok(Client::Pod { addresses, .. }) => addresses,
                    Ok(other) => bail!("{pod} is {other}, and no pod with an address of its own"),
                    Err(unknown) => bail!("{}", unknown.why),
                }
            }
        };
        Ok(Names { frontends, pod })
    }

    /// Connections to a Service port.
    pub(super) fn flows_of(&self, id: u32, limit: u32) -> Result<FlowsPage> {
        let names: views::Names = {
            let model = self.shared.lock();
            let port = model.planner.ports().find(|port| port.id == id);
            let of_port = |port: PortView<'_>| {
                let name = format!("{}:{}", port.name.service, port.name.port);
                port.frontends.keys().map(|key| (*key, name.clone())).collect()
            };
            port.map(of_port).unwrap_or_default()
        };
        let wanted: BTreeSet<FrontendKey> = names.keys().copied().collect();
        let filter = Filter {
            frontends: Some(&wanted),
            client: None,
            limit,
        };
        views::flows(&self.tables, &names, filter)
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

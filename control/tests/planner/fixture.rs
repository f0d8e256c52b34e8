//! Desired ports in few words, and a planner with the tables it writes.

use ferrogate_common::{Address, Backend, FrontendKey, FrontendKind, Port, Protocol};
use ferrogate_control::{
    Changes, DesiredPort, Endpoint, Family, Limits, MemoryTables, Notice, Op, Planner, PortName, Refusal, ServiceName,
};
use std::collections::BTreeSet;
use std::net::IpAddr;

fn address(text: &str) -> Address {
    text.parse::<IpAddr>()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .into()
}

pub(crate) fn frontend(ip: &str, port: u16) -> FrontendKey {
    FrontendKey::new(address(ip), Port::new(port), Protocol::Tcp)
}

pub(crate) fn node_port(port: u16) -> FrontendKey {
    FrontendKey::new(Family::V4.unspecified(), Port::new(port), Protocol::Tcp)
}

/// Port 8080, on another node.
pub(crate) fn endpoint(ip: &str) -> Endpoint {
    Endpoint {
        address: address(ip),
        port: Port::new(8080),
        local: false,
    }
}

/// How [`endpoint`] is written before it is published.
pub(crate) fn backend_of(ip: &str, service: u32, generation: u32) -> Backend {
    let Endpoint { address, port, .. } = endpoint(ip);
    Backend {
        address,
        port,
        flags: 0,
        generation: 0,
        service,
        last_generation: generation,
    }
}

/// Port 80/TCP, IPv4, of a service in `default`.
pub(crate) fn port(service: &str, frontends: &[(FrontendKey, FrontendKind)], endpoints: &[&str]) -> DesiredPort {
    DesiredPort {
        name: PortName {
            service: ServiceName::new("default", service),
            port: 80,
            protocol: Protocol::Tcp,
            family: Family::V4,
        },
        created: None,
        frontends: frontends.iter().copied().collect(),
        flags: 0,
        source_ranges: BTreeSet::new(),
        cluster: endpoints.iter().map(|ip| endpoint(ip)).collect(),
        local: Vec::new(),
    }
}

pub(crate) fn update(ports: Vec<DesiredPort>) -> Changes {
    let mut changes = Changes::default();
    for port in ports {
        changes
            .services
            .entry(port.name.service.clone())
            .or_default()
            .push(port);
    }
    changes
}

pub(crate) fn removed(service: &str) -> Changes {
    let mut changes = Changes::default();
    changes
        .services
        .insert(ServiceName::new("default", service), Vec::new());
    changes
}

/// A planner and tables that have had all its plans, checked after every write.
pub(crate) struct Fixture {
    pub(crate) limits: Limits,
    pub(crate) planner: Planner,
    pub(crate) tables: MemoryTables,
    /// Of the last plan.
    pub(crate) refused: Vec<Refusal>,
    /// Of the last plan.
    pub(crate) notices: Vec<Notice>,
}

impl Fixture {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            planner: Planner::new(limits),
            tables: MemoryTables::new(limits),
            refused: Vec::new(),
            notices: Vec::new(),
        }
    }

    pub(crate) fn plan(&mut self, changes: &Changes) -> Vec<Op> {
        let plan = self.planner.plan(changes);
        for (number, op) in plan.ops.iter().enumerate() {
            if let Err(violation) = self.tables.apply(op).and_then(|()| self.tables.check()) {
                panic!("write {number} of {:#?}: {violation}\n{}", plan.ops, self.tables);
            }
        }
        let (_, differences) = self.planner.differences(&self.tables.snapshot());
        assert!(differences.is_empty(), "{differences:#?}\n{}", self.tables);
        (self.refused, self.notices) = (plan.refused, plan.notices);
        if self.planner.begin_grace() {
            self.tables.begin_grace();
            self.planner.end_grace();
            self.tables.end_grace();
        }
        plan.ops
    }

    pub(crate) fn restart(&mut self) {
        self.planner = Planner::restore(self.limits, self.tables.snapshot());
    }
}

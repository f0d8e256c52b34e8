//! The desired state of Service ports, in the tables' terms but without ids.

use crate::names::{PortName, ServiceName};
use ferrogate_common::{Address, FrontendKey, FrontendKind, Port};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// One endpoint of one Service port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Endpoint {
    pub address: Address,
    pub port: Port,
    /// It is on this node.
    pub local: bool,
}

/// What the tables should hold for one Service port in one address family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DesiredPort {
    pub name: PortName,
    /// Creation time of the Service, seconds of the Unix epoch: of two that claim one frontend at the same time, the
    /// older gets it. Services without one come last.
    pub created: Option<i64>,
    /// Every address that clients can use, with the kind that decides the policy.
    pub frontends: BTreeMap<FrontendKey, FrontendKind>,
    /// Bits of [`ferrogate_common::service_flags`].
    pub flags: u32,
    /// With the flag SOURCE_RANGES: the networks whose sources may use the load balancer's addresses.
    pub source_ranges: BTreeSet<IpNet>,
    /// The Cluster set, slot by slot: by weights and algorithm, an endpoint can have many.
    pub cluster: Vec<Endpoint>,
    /// The Local set, the same way; empty where no policy of the service is Local.
    pub local: Vec<Endpoint>,
}

/// What [`crate::Index::compile`] found to differ, for [`crate::Planner::plan`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// All services are listed: what is not listed is gone. Else the unlisted ones are as they were.
    pub full: bool,
    /// All ports of each listed service; no port: the service is gone, or has nothing to program.
    pub services: BTreeMap<ServiceName, Vec<DesiredPort>>,
}

impl Changes {
    /// Nothing to plan.
    pub fn is_empty(&self) -> bool {
        !self.full && self.services.is_empty()
    }
}

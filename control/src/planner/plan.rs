//! What a plan is made of.

use crate::names::PortName;
use crate::notice::{Notice, holder_name};
use ferrogate_common::{Address, Backend, Frontend, FrontendKey, NetworkKey, Port, Protocol, SlotRange, maps};

/// One write. A reader between any two of them finds tables that hang together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// The whole entry, with generation 0 (not in use) and `last_generation` the one that is published next.
    WriteBackend {
        id: u32,
        value: Backend,
    },
    /// One 4-byte store of the generation: the backend is in use.
    PublishBackend {
        id: u32,
        generation: u32,
    },
    /// Generation to 0: UDP flows leave the backend on their next packet. `last_generation` stays.
    RetireBackend {
        id: u32,
    },
    /// One 4-byte store of port and [`ferrogate_common::backend_flags`]; the port is the one it has.
    WriteBackendFlags {
        id: u32,
        port: Port,
        flags: u16,
    },
    /// Backend ids to slots that no service's range covers yet.
    WriteSlots {
        base: u32,
        ids: Vec<u32>,
    },
    /// What was counted of the id's last service is none of the new one's.
    ResetCounters {
        id: u32,
    },
    /// Bits of [`ferrogate_common::service_flags`].
    WriteServiceFlags {
        id: u32,
        flags: u32,
    },
    /// One aligned 8-byte store: all frontends of the service go to the new range.
    Flip {
        id: u32,
        range: SlotRange,
    },
    /// A key that is not in the table.
    PutFrontend {
        key: FrontendKey,
        value: Frontend,
    },
    DeleteFrontend {
        key: FrontendKey,
    },
    /// A key of `NETWORKS` that is not there.
    PutNetwork {
        key: NetworkKey,
    },
    DeleteNetwork {
        key: NetworkKey,
    },
    /// Lowest and highest NodePort of any frontend, host order; 0 and 0: none. Never narrower than what is in
    /// `FRONTENDS`.
    SetNodePorts {
        min: u16,
        max: u16,
    },
    /// Wait until every reader that saw what was there before has finished. Only then is what was freed used again.
    Grace,
}

/// Writes in the order they must be made, and what could not be planned.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    pub ops: Vec<Op>,
    /// Everything that is desired and not programmed at the end of this plan, also from earlier ones; tried again
    /// with every plan. Sorted.
    pub refused: Vec<Refusal>,
    /// What of it is news.
    pub notices: Vec<Notice>,
    /// Ports that are whole again.
    pub completed: Vec<PortName>,
}

impl Plan {
    /// No write.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Sizes of the tables, in entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub frontends: u32,
    pub services: u32,
    pub slots: u32,
    pub backends: u32,
    /// Of `NETWORKS`, what services may use: [`NetworkKey::CLUSTER_ENTRIES`] less than there are.
    pub networks: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frontends: maps::FRONTENDS.entries,
            services: maps::SERVICES.entries,
            slots: maps::SLOTS.entries,
            backends: maps::BACKENDS.entries,
            networks: maps::NETWORKS.entries - NetworkKey::CLUSTER_ENTRIES,
        }
    }
}

/// Something of a service port that is not programmed. What was programmed of it before goes on working.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, thiserror::Error)]
#[error("service {port}: {reason}")]
pub struct Refusal {
    pub port: PortName,
    pub reason: RefusalReason,
}

/// Why.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, thiserror::Error)]
pub enum RefusalReason {
    #[error("SERVICES is full ({limit} entries): the port is not programmed")]
    ServicesFull { limit: u32 },
    #[error("BACKENDS is full ({limit} entries): {wanted} more endpoints are not programmed")]
    BackendsFull { limit: u32, wanted: u32 },
    #[error("SLOTS has no {wanted} free entries in a row ({limit} entries): the endpoints are not programmed")]
    SlotsFull { limit: u32, wanted: u32 },
    #[error("FRONTENDS is full ({limit} entries): {} is not programmed", frontend_name(.key))]
    FrontendsFull { limit: u32, key: FrontendKey },
    #[error("NETWORKS has no room for {wanted} more source ranges ({limit} entries): the ones before stay in force")]
    NetworksFull { limit: u32, wanted: u32 },
    #[error("{endpoints} endpoints are more than the 65535 that one port can have: they are not programmed")]
    TooManyEndpoints { endpoints: usize },
    #[error("{} is taken by {}", frontend_name(.key), holder_name(.holder))]
    FrontendTaken {
        key: FrontendKey,
        /// `None`: a service of an earlier run that has not been seen in this one.
        holder: Option<PortName>,
    },
}

impl RefusalReason {
    /// The map that has no room; `None` where room is not what is missing.
    pub const fn full_map(&self) -> Option<&'static str> {
        match self {
            Self::ServicesFull { .. } => Some(maps::SERVICES.name),
            Self::BackendsFull { .. } => Some(maps::BACKENDS.name),
            Self::SlotsFull { .. } | Self::TooManyEndpoints { .. } => Some(maps::SLOTS.name),
            Self::FrontendsFull { .. } => Some(maps::FRONTENDS.name),
            Self::NetworksFull { .. } => Some(maps::NETWORKS.name),
            Self::FrontendTaken { .. } => None,
        }
    }

    /// Whether it is the same thing again, though in other numbers.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::FrontendTaken { .. } | Self::FrontendsFull { .. }, _) => self == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// `address:port/protocol` as people write it; a NodePort's address is `*`.
pub(crate) fn frontend_name(key: &FrontendKey) -> String {
    let port = key.port;
    let protocol = Protocol::from_number(key.protocol).map_or("?", Protocol::name);
    if key.protocol == 0 {
        key.address.to_string()
    } else if key.address == Address::UNSPECIFIED {
        format!("[*]:{port}/{protocol}")
    } else if key.address == Address::UNSPECIFIED_V4 {
        format!("*:{port}/{protocol}")
    } else {
        format!("{}/{protocol}", std::net::SocketAddr::new(key.address.ip(), port.get()))
    }
}

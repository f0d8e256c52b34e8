//! What services and their ports are called.

use ferrogate_common::{Address, Protocol};
use std::fmt;
use std::sync::Arc;

/// `namespace/name` of a Service. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ServiceName {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address family. A dual-stack Service port is two table entries, since a client can only be sent to a backend of
/// its own family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub const fn of(address: &Address) -> Self {
        if address.is_v4() { Self::V4 } else { Self::V6 }
    }

    /// The address that stands for "any node address" in a NodePort's frontend key.
    pub const fn unspecified(self) -> Address {
        match self {
            Self::V4 => Address::UNSPECIFIED_V4,
            Self::V6 => Address::UNSPECIFIED,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One Service port in one address family: what has an entry in `SERVICES`.
///
/// The port is the Service's (`spec.ports[].port`), in host order: number and protocol are unique in a Service, and
/// renaming a port disturbs nothing. Ordered by service first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    pub service: ServiceName,
    pub port: u16,
    pub protocol: Protocol,
    pub family: Family,
}

impl PortName {
    /// The lowest name that a port of this service can have; all its ports follow it in order.
    pub(crate) fn first_of(service: &ServiceName) -> Self {
        Self {
            service: service.clone(),
            port: 0,
            protocol: Protocol::Tcp,
            family: Family::V4,
        }
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{} {}", self.service, self.port, self.protocol, self.family)
    }
}

impl fmt::Debug for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

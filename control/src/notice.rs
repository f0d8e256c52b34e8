//! What an operator must know about an object that was taken differently from how it reads.

use crate::names::{PortName, ServiceName};
use crate::planner::RefusalReason;
use ferrogate_common::Algorithm;
use std::fmt;
use std::net::IpAddr;

/// Something about a service that an operator must know. `Display` gives the whole line for the log.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Notice {
    /// The service; for an object without a usable name, what there is of one.
    pub service: ServiceName,
    pub kind: NoticeKind,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service {}: {}", self.service, self.kind)
    }
}

/// What a [`Notice`] is about; `Display` gives the sentence without the service's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, thiserror::Error)]
pub enum NoticeKind {
    #[error("an object without a name: ignored")]
    Unnamed,
    #[error("no clusterIP is allotted: nothing to program (the API server allots one; a manifest must name it)")]
    NoClusterIp,
    #[error("{field} {value:?} is not an IP address that can be used: ignored")]
    InvalidAddress { field: &'static str, value: String },
    #[error("{field} {address} is of a family that the service has no clusterIP of: ignored")]
    ForeignFamily { field: &'static str, address: IpAddr },
    #[error("externalIPs {address} is in no range that is allowed for external IPs: refused (CVE-2020-8554)")]
    ExternalIpRefused { address: IpAddr },
    #[error("load balancer entry {hostname:?} has a name and no address: nothing to program for it")]
    HostnameOnly { hostname: String },
    #[error("loadBalancerSourceRanges {value:?} is not a network: it admits nobody, and the other ranges still count")]
    InvalidSourceRange { value: String },
    #[error("clusterIP {address} is an address of this node itself (a local DNS cache?): left alone here")]
    LocalClusterIp { address: IpAddr },
    #[error("port {port} is not a port number from 1 to 65535: ignored")]
    InvalidPort { port: i32 },
    #[error("nodePort {port} is not a port number from 1 to 65535: ignored")]
    InvalidNodePort { port: i32 },
    #[error("healthCheckNodePort {port} is not a port number from 1 to 65535: load balancers cannot ask this node")]
    InvalidHealthCheckPort { port: i32 },
    #[error("port {port} has no nodePort: the service type asks for one")]
    NoNodePort { port: u16 },
    #[error("protocol {protocol:?} of port {port} is none of TCP, UDP, SCTP: ignored")]
    UnknownProtocol { protocol: String, port: i32 },
    #[error("port {port}/{protocol} is listed twice: the first entry counts")]
    DuplicatePort { port: u16, protocol: &'static str },
    #[error("sessionAffinity {value:?} is unknown: connections are balanced without it")]
    SessionAffinity { value: String },
    #[error(
        "annotation ferrogate.dev/algorithm {value:?} is unknown: taken as round-robin (known are {})",
        algorithms()
    )]
    UnknownAlgorithm { value: String },
    #[error(
        "annotation ferrogate.dev/weights: {rule:?} is ignored; write ADDRESS, CIDR, pod:NAME, pod:BEGINNING*, node:NAME, zone:NAME \
         or *, then = and a weight from 0 to 100"
    )]
    InvalidWeight { rule: String },
    #[error("{field} {value:?} is unknown: taken as Cluster")]
    UnknownPolicy { field: &'static str, value: String },
    #[error("endpoint slice {slice} has the unknown address type {address_type:?}: ignored")]
    UnknownAddressType { slice: String, address_type: String },
    #[error("endpoint slice {slice} has a port without a name (\"\" is one): that port is ignored")]
    UnnamedSlicePort { slice: String },
    #[error("endpoint slice {slice} has a port {port}, which is not from 1 to 65535: that port is ignored")]
    InvalidSlicePort { slice: String, port: i32 },
    #[error("endpoint slice {slice} has an endpoint {address:?}, which is not an address of its type: ignored")]
    InvalidEndpoint { slice: String, address: String },
    #[error("endpoint slice {slice} has the {class} endpoint {address}: refused (CVE-2021-25740)")]
    EndpointRefused {
        slice: String,
        address: IpAddr,
        class: &'static str,
    },
    #[error("port {} ({}): {reason}", .port.port, .port.family)]
    NoRoom { port: PortName, reason: RefusalReason },
    #[error(
        "{frontend} of port {} is taken by {}: not programmed until that one gives it up",
        .port.port,
        holder_name(.holder)
    )]
    FrontendTaken {
        /// `address:port/protocol`.
        frontend: String,
        port: PortName,
        /// `None`: a service of an earlier run that has not been seen in this one.
        holder: Option<PortName>,
    },
}

pub(crate) fn holder_name(holder: &Option<PortName>) -> String {
    match holder {
        Some(port) => format!("service {port}"),
        None => "a service that an earlier run programmed".to_owned(),
    }
}

fn algorithms() -> String {
    Algorithm::ALL.map(Algorithm::name).join(", ")
}

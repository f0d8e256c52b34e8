//! From Kubernetes objects to the compact model that the index keeps.
//!
//! Objects may say anything: what cannot be used is left out, and said in a notice. The rules are kube-proxy's
//! (Kubernetes
//! 1.36, `pkg/proxy/serviceport.go`, `endpointslicecache.go`).

mod address;
mod pod;
mod selection;
mod service;
mod slice;

pub(crate) use selection::Selection;
pub(crate) use service::{PortModel, ServiceModel, SourceRanges, service};
pub use service::{ServiceKind, Unprogrammed};
pub use slice::set_api_defaults;
pub(crate) use slice::{EndpointModel, Names, NodeHint, Number, SliceModel, slice};

use ferrogate_common::{Annotation, Protocol};

/// Label of slices and Services without a cluster IP (`k8s.io/api/core/v1.IsHeadlessService`).
const HEADLESS: &str = Annotation::HEADLESS.key;
/// Label that hands a Service to another proxy (KEP-2447).
const PROXY_NAME: &str = Annotation::PROXY_NAME.key;

/// Kubernetes' name of a protocol; none is TCP.
fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

/// A port number from 1 to 65535.
fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|&port| port != 0)
}

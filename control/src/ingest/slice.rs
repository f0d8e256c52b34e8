//! EndpointSlices.

use super::pod::{PodName, pods};
use super::{HEADLESS, PROXY_NAME, address, port_number, protocol};
use crate::index::{Options, namespace_of};
use crate::names::{Family, ServiceName};
use crate::notice::NoticeKind;
use ferrogate_common::{Address, Protocol};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice};
use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;

/// Label that names the Service a slice belongs to (`k8s.io/api/discovery/v1.LabelServiceName`).
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A slice of a Service: one address family.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct SliceModel {
    pub(crate) service: ServiceName,
    pub(crate) family: Family,
    pub(crate) ports: Box<[SlicePort]>,
    /// Of these there are more than of anything else.
    pub(crate) endpoints: Box<[EndpointModel]>,
}

#[derive(PartialEq, Eq, Debug)]
pub(crate) struct SlicePort {
    pub(crate) name: Box<str>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

#[derive(PartialEq, Eq, Debug)]
pub(crate) struct EndpointModel {
    pub(crate) address: Address,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    /// On this node.
    pub(crate) local: bool,
    pub(crate) node_hint: NodeHint,
    /// Zones the endpoint is meant for, as [`Names`] numbers them, which keeps each list once.
    pub(crate) zone_hints: Arc<Vec<Number>>,
    /// Name of the pod, where it is one.
    pub(crate) pod: Option<PodName>,
    /// Node and zone that it is in, as [`Names`] numbers them.
    pub(crate) node: Option<Number>,
    pub(crate) zone: Option<Number>,
}

#[cfg(test)]
impl EndpointModel {
    /// A ready endpoint somewhere.
    pub(crate) fn at(ip: std::net::IpAddr) -> Self {
        Self {
            address: ip.into(),
            ready: true,
            serving: true,
            terminating: false,
            local: false,
            node_hint: NodeHint::Absent,
            zone_hints: Arc::default(),
            pod: None,
            node: None,
            zone: None,
        }
    }
}

/// Whether an endpoint is meant for certain nodes, and ours is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NodeHint {
    Absent,
    Ours,
    Others,
}

/// What a name is known by; not 0, so that none takes no more room than one.
pub(crate) type Number = NonZeroU32;

/// Numbers for the names of zones and nodes, and lists of zones: there are few of them, and many endpoints that name them.
#[derive(Default, Debug)]
pub(crate) struct Names {
    numbers: HashMap<Box<str>, Number>,
    lists: HashSet<Arc<Vec<Number>>>,
}

impl Names {
    /// The number of a name that something had.
    pub(crate) fn find(&self, name: &str) -> Option<Number> {
        self.numbers.get(name).copied()
    }

    /// The names by their numbers.
    pub(crate) fn by_number(&self) -> HashMap<Number, &str> {
        self.numbers
            .iter()
            .map(|(name, number)| (*number, name.as_ref()))
            .collect()
    }

    pub(crate) fn number(&mut self, name: &str) -> Number {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = Number::MIN.saturating_add(self.numbers.len() as u32);
        self.numbers.insert(name.into(), number);
        number
    }

    fn list(&mut self, names: impl Iterator<Item = impl AsRef<str>>) -> Arc<Vec<Number>> {
        let list: Arc<Vec<Number>> = Arc::new(names.map(|name| self.number(name.as_ref())).collect());
        if let Some(known) = self.lists.get(&list) {
            return Arc::clone(known);
        }
        self.lists.insert(Arc::clone(&list));
        list
    }
}

/// The model of a slice and what the operator must know; none for a slice that is no Service's, or is not ours to
/// program.
pub(crate) fn slice(
    object: &EndpointSlice,
    options: &Options,
    names: &mut Names,
) -> Option<(SliceModel, Vec<NoticeKind>)> {
    let labels = object.metadata.labels.as_ref()?;
    let service = labels.get(SERVICE_NAME).filter(|name| !name.is_empty())?;
    let foreign = labels
        .get(PROXY_NAME)
        .is_some_and(|name| Some(name) != options.proxy_name.as_ref());
    if foreign || labels.contains_key(HEADLESS) {
        return None;
    }
    let namespace = namespace_of(&object.metadata);
    let mut reader = Reader {
        slice: object.metadata.name.as_deref().unwrap_or_default(),
        options,
        names,
        notices: Vec::new(),
    };
    let family = reader.family(&object.address_type);
    let mut model = SliceModel {
        service: ServiceName::new(namespace, service),
        family: family.unwrap_or(Family::V4),
        ports: Box::default(),
        endpoints: Box::default(),
    };
    if family.is_some() {
        model.ports = reader.ports(object);
        let endpoints = object.endpoints.as_deref().unwrap_or_default();
        model.endpoints = endpoints
            .iter()
            .zip(pods(endpoints))
            .filter_map(|(entry, pod)| reader.endpoint(entry, pod, model.family))
            .collect();
    }
    Some((model, reader.notices))
}

/// Fills in what the API server would have: for slices that come from a file and never met one.
///
/// Port names become "", protocols TCP (`pkg/apis/discovery/v1/defaults.go`).
pub fn set_api_defaults(slice: &mut EndpointSlice) {
    for port in slice.ports.iter_mut().flatten() {
        port.name.get_or_insert_default();
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
}

struct Reader<'a> {
    slice: &'a str,
    options: &'a Options,
    names: &'a mut Names,
    notices: Vec<NoticeKind>,
}

impl Reader<'_> {
    /// FQDN slices are for other consumers than a proxy.
    fn family(&mut self, address_type: &str) -> Option<Family> {
        match address_type {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            "FQDN" => None,
            other => {
                self.notices.push(NoticeKind::UnknownAddressType {
                    slice: self.slice.to_owned(),
                    address_type: other.to_owned(),
                });
                None
            }
        }
    }

    fn ports(&mut self, object: &EndpointSlice) -> Box<[SlicePort]> {
        let mut ports = Vec::new();
        for entry in object.ports.as_deref().unwrap_or_default() {
            let slice = || self.slice.to_owned();
            let number = entry.port.unwrap_or_default();
            if number == 0 {
                continue;
            }
            let Some(name) = entry.name.as_deref() else {
                self.notices.push(NoticeKind::UnnamedSlicePort { slice: slice() });
                continue;
            };
            match (port_number(number), protocol(entry.protocol.as_deref())) {
                (Some(port), Some(protocol)) => ports.push(SlicePort {
                    name: name.into(),
                    protocol,
                    port,
                }),
                (None, _) => self.notices.push(NoticeKind::InvalidSlicePort {
                    slice: slice(),
                    port: number,
                }),
                // No Service port has such a protocol either, and there it is said.
                (_, None) => {}
            }
        }
        ports.into()
    }

    fn endpoint(&mut self, entry: &Endpoint, pod: Option<PodName>, family: Family) -> Option<EndpointModel> {
        // All addresses of an endpoint are one pod's; kube-proxy has used the first only, since ever.
        let text = entry.addresses.first()?;
        let ip = address::parse(text).filter(|ip| Family::of(&(*ip).into()) == family);
        let Some(ip) = ip else {
            self.notices.push(NoticeKind::InvalidEndpoint {
                slice: self.slice.to_owned(),
                address: text.clone(),
            });
            return None;
        };
        if let Some(class) = address::special(&ip) {
            self.notices.push(NoticeKind::EndpointRefused {
                slice: self.slice.to_owned(),
                address: ip,
                class,
            });
            return None;
        }
        let conditions = entry.conditions.clone().unwrap_or_default();
        let hints = entry.hints.as_ref();
        Some(EndpointModel {
            address: ip.into(),
            ready: conditions.ready.unwrap_or(true),
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
            local: entry.node_name.as_ref() == Some(&self.options.node_name),
            node_hint: hints.map_or(NodeHint::Absent, |hints| self.node_hint(hints)),
            zone_hints: hints.map_or_else(Arc::default, |hints| self.zone_hints(hints)),
            pod,
            node: entry.node_name.as_deref().map(|name| self.names.number(name)),
            zone: entry.zone.as_deref().map(|name| self.names.number(name)),
        })
    }

    fn node_hint(&self, hints: &EndpointHints) -> NodeHint {
        match hints.for_nodes.as_deref().unwrap_or_default() {
            [] => NodeHint::Absent,
            nodes if nodes.iter().any(|node| node.name == self.options.node_name) => NodeHint::Ours,
            _ => NodeHint::Others,
        }
    }

    fn zone_hints(&mut self, hints: &EndpointHints) -> Arc<Vec<Number>> {
        let zones = hints.for_zones.as_deref().unwrap_or_default();
        self.names.list(zones.iter().map(|zone| &zone.name))
    }
}

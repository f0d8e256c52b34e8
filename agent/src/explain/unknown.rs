//! What is asked for and does not exist, and what is called like it.

use crate::admin::Unknown;
use ferrogate_control::{Index, PortExplained, ServiceExplained, ServiceName};

/// Names that are listed at most.
const NEAR: usize = 5;

/// `[NAMESPACE/]NAME[:PORT]`, as it was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wanted<'a> {
    namespace: Option<&'a str>,
    name: &'a str,
    pub(crate) port: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        let (service, port) = match text.rsplit_once(':') {
            Some((service, port)) => (service, Some(port)),
            None => (text, None),
        };
        let (namespace, name) = match service.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, service),
        };
        Self { namespace, name, port }
    }
}

/// The Service that is meant: of one that is named without its namespace, the one in `default`, or else the only one.
pub(crate) fn service(index: &Index, wanted: &Wanted<'_>) -> Result<ServiceName, Unknown> {
    let exact = ServiceName::new(wanted.namespace.unwrap_or("default"), wanted.name);
    if index.service_names().any(|name| *name == exact) {
        return Ok(exact);
    }
    let same_name: Vec<&ServiceName> = index
        .service_names()
        .filter(|name| *name.name == *wanted.name)
        .collect();
    match (wanted.namespace, same_name.as_slice()) {
        (None, [only]) => Ok((*only).clone()),
        (None, [_, ..]) => Err(Unknown {
            why: format!("several namespaces have a Service {}: say which", wanted.name),
            near: same_name.iter().map(ToString::to_string).collect(),
        }),
        _ => Err(Unknown {
            why: format!("there is no Service {exact}"),
            near: near(index, &exact),
        }),
    }
}

/// The same name elsewhere, then names with few letters changed, then those of which one has the other in it.
fn near(index: &Index, wanted: &ServiceName) -> Vec<String> {
    let most = wanted.name.len() / 4 + 1;
    let rank = |name: &ServiceName| {
        let letters = strsim::damerau_levenshtein(&name.name, &wanted.name);
        let alike = letters <= most || name.name.contains(&*wanted.name) || wanted.name.contains(&*name.name);
        alike.then(|| (letters, name.namespace != wanted.namespace, name.to_string()))
    };
    let mut ranked: Vec<_> = index.service_names().filter_map(rank).collect();
    ranked.sort();
    ranked.into_iter().take(NEAR).map(|(_, _, name)| name).collect()
}

/// Whether a port is called so: by its number or its name.
pub(super) fn is_called(port: &PortExplained, wanted: &str) -> bool {
    port.port_name == wanted || port.desired.name.port.to_string() == wanted
}

pub(super) fn port(name: &ServiceName, service: &ServiceExplained, wanted: &str) -> Unknown {
    let mut near: Vec<String> = Vec::new();
    for port in &service.ports {
        let number = port.desired.name.port;
        let text = match port.port_name.as_str() {
            "" => format!("{name}:{number}"),
            called => format!("{name}:{number} ({called})"),
        };
        if !near.contains(&text) {
            near.push(text);
        }
    }
    let node_port = service
        .ports
        .iter()
        .find(|port| port.node_port.is_some_and(|number| number.to_string() == wanted));
    let why = match node_port {
        Some(port) => format!(
            "{wanted} is the nodePort of port {} of Service {name}; ask for that",
            port.desired.name.port
        ),
        None => format!("Service {name} has no port {wanted}: clients that use it at the ClusterIP are refused"),
    };
    Unknown { why, near }
}

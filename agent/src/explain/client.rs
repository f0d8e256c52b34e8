//! From whom a Service is asked: `--from`.

use crate::admin::Unknown;
use crate::run::PodFacts;
use crate::scope::PodScope;
use ferrogate_control::Index;
use std::fmt;
use std::net::IpAddr;

/// Who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Client {
    /// Nobody in particular.
    Any,
    /// A pod of this node.
    Pod {
        name: String,
        addresses: Vec<IpAddr>,
        scope: Option<PodScope>,
    },
    /// A process of this node.
    Node,
    /// Somebody at the far side of an uplink; the address, where it matters.
    Outside(Option<IpAddr>),
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any client"),
            Self::Pod { name, addresses, .. } => {
                write!(f, "pod {name}")?;
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                if addresses.is_empty() {
                    return Ok(());
                }
                write!(f, " ({})", addresses.join(", "))
            }
            Self::Node => f.write_str("a process of this node"),
            Self::Outside(None) => f.write_str("a client outside the node"),
            Self::Outside(Some(address)) => write!(f, "{address}, outside the node"),
        }
    }
}

/// The client that `--from` names: `node`, `outside`, an address, or a pod.
pub(crate) fn find(
    index: &Index,
    pod: impl Fn(&str, &str) -> Option<PodFacts>,
    (node, node_addresses): (&str, &[IpAddr]),
    (text, namespace): (&str, &str),
) -> Result<Client, Unknown> {
    match text {
        "node" => return Ok(Client::Node),
        "outside" => return Ok(Client::Outside(None)),
        _ => {}
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        let own = address.is_loopback() || node_addresses.contains(&address);
        return Ok(if own {
            Client::Node
        } else {
            Client::Outside(Some(address))
        });
    }
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    let full = format!("{namespace}/{name}");
    if let Some(facts) = pod(namespace, name) {
        return Ok(if facts.host_network {
            Client::Node
        } else {
            Client::Pod {
                name: full,
                addresses: facts.addresses,
                scope: facts.scope,
            }
        });
    }
    match index.find_pod(namespace, name) {
        Some((addresses, at)) if at.as_deref().is_none_or(|at| at == node) => Ok(Client::Pod {
            name: full,
            addresses,
            scope: None,
        }),
        Some((_, at)) => Err(Unknown {
            why: format!(
                "pod {full} is on node {}, whose agent translates its connections: ask there",
                at.unwrap_or_default()
            ),
            near: vec![],
        }),
        None => Err(Unknown {
            why: format!(
                "node {node} has no pod {full}: give a pod of this node, `node`, `outside`, or an address (each node's agent \
                 translates for its own pods)"
            ),
            near: vec![],
        }),
    }
}

//! What a probe asks, in the words of the case files.
use anyhow::{Result, bail};
use serde::Deserialize;

/// A target and the Service it belongs to: `NodePort@n1 of web port 81`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Target {
    /// As it is written.
    pub text: String,
    pub kind: Kind,
    /// The Service; where a case has only one, it need not be named.
    pub service: Option<String>,
    /// The Service port, by name or number; else the first one of the protocol.
    pub port: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    ClusterIp,
    /// A ClusterIP that no Service has.
    Unused,
    /// The NodePort at the address of this node.
    NodePort(u8),
    /// The address of this node itself, at the port that is named.
    Node(u8),
    /// The NodePort at the loopback address of the client's node.
    Localhost,
    /// A load balancer's address; odd ones are routed to node 1 from outside, even ones to node 2.
    Vip(u8),
    /// One of `spec.externalIPs`, routed in the same way.
    External(u8),
    /// The same outside the networks that ours is told to allow.
    Forbidden(u8),
    /// Straight to a pod.
    Pod(String),
    /// The healthCheckNodePort of this node.
    Health(u8),
    /// An echo request to the address of the target.
    Ping(Box<Kind>),
    /// The A or AAAA records of a name; `.` at its end makes it absolute, else it is below the case's namespace.
    Name(String),
}

impl TryFrom<String> for Target {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (kind, rest) = kind(&words)?;
        let (mut service, mut port) = (None, None);
        for pair in rest.chunks(2) {
            match pair {
                ["of", name] => service = Some((*name).to_owned()),
                ["port", name] => port = Some((*name).to_owned()),
                _ => bail!("target {text:?}: {pair:?} is neither `of SERVICE` nor `port PORT`"),
            }
        }
        Ok(Self {
            kind,
            service,
            port,
            text,
        })
    }
}

fn kind<'a, 'w>(words: &'w [&'a str]) -> Result<(Kind, &'w [&'a str])> {
    let [first, rest @ ..] = words else {
        bail!("an empty target")
    };
    let (word, node) = first.split_once('@').unwrap_or((first, ""));
    let node = || match node {
        "n1" => Ok(1),
        "n2" => Ok(2),
        _ => bail!("{first}: the node is n1 or n2, as in {word}@n1"),
    };
    Ok(match (word, rest) {
        ("ClusterIP", _) => (Kind::ClusterIp, rest),
        ("Unused", _) => (Kind::Unused, rest),
        ("NodePort", _) => (Kind::NodePort(node()?), rest),
        ("Node", _) => (Kind::Node(node()?), rest),
        ("Localhost", _) => (Kind::Localhost, rest),
        ("Health", _) => (Kind::Health(node()?), rest),
        ("Pod", [name, rest @ ..]) => (Kind::Pod((*name).to_owned()), rest),
        ("Name", [name, rest @ ..]) => (Kind::Name((*name).to_owned()), rest),
        ("Ping", _) => {
            let (of, rest) = kind(rest)?;
            (Kind::Ping(Box::new(of)), rest)
        }
        _ => {
            let numbers = [
                numbered(word, "VIP").map(Kind::Vip),
                numbered(word, "External").map(Kind::External),
                numbered(word, "Forbidden").map(Kind::Forbidden),
            ];
            match numbers.into_iter().flatten().next() {
                Some(kind) => (kind, rest),
                None => bail!("no target {first}"),
            }
        }
    })
}

fn numbered(word: &str, prefix: &str) -> Option<u8> {
    word.strip_prefix(prefix)?
        .parse()
        .ok()
        .filter(|number| (1..=4).contains(number))
}

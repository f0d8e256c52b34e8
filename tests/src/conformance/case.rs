//! A case as its YAML file says it: manifests in a short form, who asks what, and what must be seen.
//!
//! `cases/README.md` describes the form for those who write cases.
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::{self, DeserializeOwned, Deserializer};
use serde_json::Value;

use super::target::Target;
use crate::rig::Family;
use crate::wire::Protocol;

/// The files, in the order in which their cases run and are printed.
const FILES: &[(&str, &str)] = &[
    ("cluster-ip", include_str!("cases/cluster-ip.yaml")),
    ("node-port", include_str!("cases/node-port.yaml")),
    ("load-balancer", include_str!("cases/load-balancer.yaml")),
    ("external-ips", include_str!("cases/external-ips.yaml")),
    ("internal-policy", include_str!("cases/internal-policy.yaml")),
    ("external-policy", include_str!("cases/external-policy.yaml")),
    ("terminating", include_str!("cases/terminating.yaml")),
    ("topology", include_str!("cases/topology.yaml")),
    ("affinity", include_str!("cases/affinity.yaml")),
    ("ports", include_str!("cases/ports.yaml")),
    ("families", include_str!("cases/families.yaml")),
    ("endpoint-slices", include_str!("cases/endpoint-slices.yaml")),
    ("controllers", include_str!("cases/controllers.yaml")),
    ("changes", include_str!("cases/changes.yaml")),
    ("flows", include_str!("cases/flows.yaml")),
    ("refusals", include_str!("cases/refusals.yaml")),
    ("host-network", include_str!("cases/host-network.yaml")),
    ("health-check", include_str!("cases/health-check.yaml")),
    ("names", include_str!("cases/names.yaml")),
    ("sctp", include_str!("cases/sctp.yaml")),
    ("ownership", include_str!("cases/ownership.yaml")),
];

/// One case: steps that are taken one after the other, on objects of its own.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    /// Its name, and that of its namespace.
    case: String,
    title: String,
    /// The upstream test that it is modelled on.
    #[serde(default)]
    upstream: String,
    #[serde(default)]
    services: BTreeMap<String, Value>,
    #[serde(default)]
    objects: Vec<Value>,
    #[serde(default)]
    probes: Vec<Probe>,
    /// What comes after the first step, which the case itself is.
    #[serde(default)]
    then: Vec<Step>,
}

/// One case, checked.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub title: String,
    pub upstream: String,
    pub steps: Vec<Step>,
    /// Its place among all cases, from which the addresses follow that it gives to its Services.
    pub number: u16,
}

/// Changes, and what is seen once they are programmed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Step {
    /// Services by name, merged into what they were before (RFC 7396: null removes).
    #[serde(default)]
    pub services: BTreeMap<String, Value>,
    /// Any other objects, as they are applied.
    #[serde(default)]
    pub objects: Vec<Value>,
    /// Time that passes between the change and the probes.
    #[serde(default)]
    pub pause_ms: u64,
    #[serde(default)]
    pub probes: Vec<Probe>,
}

/// Clients, targets, protocols and families, each with each, and what all of them see.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Probe {
    /// Pods, `n1`, `n2`, `out`, or the groups `pods`, `nodes`, `inside`, `all`.
    #[serde(deserialize_with = "many")]
    from: Vec<String>,
    #[serde(deserialize_with = "many")]
    pub to: Vec<Target>,
    #[serde(default = "both_protocols", deserialize_with = "many")]
    pub protocol: Vec<Protocol>,
    #[serde(default = "both_families", deserialize_with = "many")]
    pub family: Vec<Family>,
    /// What ours must see, and kube-proxy too unless `kube-proxy` says otherwise.
    pub see: See,
    pub source: Option<Source>,
    /// healthCheckNodePort: `localEndpoints`, which is also the header's weight.
    pub local_endpoints: Option<u64>,
    /// What kube-proxy sees instead.
    pub kube_proxy: Option<Other>,
    /// What ours sees without its socket edge.
    pub edge_off: Option<Other>,
    /// Why the two differ, and ours is right.
    pub why: Option<String>,
    /// Keep each connection or socket under this name, for `resume` in a later step.
    pub hold: Option<String>,
    pub resume: Option<String>,
    #[serde(default)]
    pub unconnected: bool,
    #[serde(default)]
    pub source_port: u16,
    #[serde(default)]
    pub pause_ms: u64,
}

/// What is seen instead. `see` is the same where it is not given; the source then is not looked at.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Other {
    pub see: Option<See>,
    pub source: Option<Source>,
    pub local_endpoints: Option<u64>,
}

/// What one proxy's clients must see.
#[derive(Clone, Debug)]
pub struct Sight<'a> {
    pub see: &'a See,
    pub source: Option<Source>,
    pub local_endpoints: Option<u64>,
}

impl Probe {
    /// Who asks, as it is written.
    pub fn from(&self) -> &[String] {
        &self.from
    }

    /// The places that ask: groups are taken apart.
    pub fn clients(&self) -> Vec<String> {
        let places = |name: &String| {
            match name.as_str() {
                "pods" => vec!["c1", "c2"],
                "nodes" => vec!["n1", "n2"],
                "inside" => vec!["c1", "c2", "n1", "n2"],
                "all" => vec!["c1", "c2", "n1", "n2", "out"],
                _ => vec![name.as_str()],
            }
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
        };
        self.from.iter().flat_map(places).collect()
    }

    /// What the clients of this proxy must see.
    pub fn sight(&self, side: Side, socket_edge: bool) -> Sight<'_> {
        let other = match side {
            Side::KubeProxy => &self.kube_proxy,
            Side::Ours if !socket_edge => &self.edge_off,
            Side::Ours => &None,
        };
        match other {
            Some(other) => Sight {
                see: other.see.as_ref().unwrap_or(&self.see),
                source: other.source,
                local_endpoints: other.local_endpoints,
            },
            None => Sight {
                see: &self.see,
                source: self.source,
                local_endpoints: self.local_endpoints,
            },
        }
    }
}

/// Whose cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    KubeProxy,
    Ours,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum See {
    Word(Word),
    /// The status code of a health check.
    Status(u16),
    /// Exactly these answer, each of them; `pod` or `pod:port`. For names: exactly these addresses.
    All(Vec<String>),
    /// One and the same of these answers every time.
    One {
        one: Vec<String>,
    },
    /// Some of these answer, and nobody else.
    Some {
        some: Vec<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// ECONNREFUSED, by TCP RST or an ICMP error.
    Refused,
    /// Nothing comes back.
    Dropped,
    /// Nobody answers, whatever comes back.
    Unanswered,
    /// Sometimes the one, sometimes the other: nothing is asserted.
    Unsteady,
    /// An echo reply.
    Reply,
    /// The name does not exist.
    NoSuchName,
}

/// Whose address the backend sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    Client,
    /// The node that translates.
    Node,
}

impl See {
    /// Pods that have to answer, as their server names itself.
    pub fn wanted(&self) -> Vec<String> {
        match self {
            See::All(pods) => pods.iter().map(|pod| name_of(pod).to_owned()).collect(),
            _ => Vec::new(),
        }
    }
}

/// `a1:8081` is pod a1 at a port.
pub fn name_of(pod: &str) -> &str {
    pod.split_once(':').map_or(pod, |(name, _)| name)
}

/// All cases, or what is wrong with them.
pub fn all() -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut names = BTreeSet::new();
    for (file, text) in FILES {
        let written: Vec<Written> =
            serde_yaml_ng::from_str(text).with_context(|| format!("tests/src/conformance/cases/{file}.yaml"))?;
        for case in written {
            let case = checked(file, case, cases.len() as u16)?;
            ensure!(names.insert(case.name.clone()), "two cases are named {}", case.name);
            cases.push(case);
        }
    }
    Ok(cases)
}

fn checked(file: &str, written: Written, number: u16) -> Result<Case> {
    let name = format!("{file}-{}", written.case);
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        name.len() <= 63 && name.chars().all(legal),
        "{name} is no name of a namespace"
    );
    let first = Step {
        services: written.services,
        objects: written.objects,
        pause_ms: 0,
        probes: written.probes,
    };
    let case = Case {
        name,
        title: written.title,
        upstream: written.upstream,
        steps: [first].into_iter().chain(written.then).collect(),
        number,
    };
    for probe in case.probes() {
        ensure!(
            probe.see != See::Word(Word::Unsteady),
            "{}: ours is never unsteady",
            case.name
        );
        ensure!(
            probe.kube_proxy.is_none() || probe.why.is_some(),
            "{}: kube-proxy differs, and there is no `why`",
            case.name
        );
    }
    ensure!(case.probes().next().is_some(), "{}: nothing is probed", case.name);
    Ok(case)
}

impl Case {
    pub fn probes(&self) -> impl Iterator<Item = &Probe> {
        self.steps.iter().flat_map(|step| &step.probes)
    }
}

fn both_protocols() -> Vec<Protocol> {
    vec![Protocol::Tcp, Protocol::Udp]
}

fn both_families() -> Vec<Family> {
    Family::BOTH.to_vec()
}

/// One, or a list.
fn many<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Many {
        List(Vec<Value>),
        One(Value),
    }
    let values = match Many::deserialize(deserializer)? {
        Many::List(values) => values,
        Many::One(value) => vec![value],
    };
    let one = |value| serde_json::from_value(value).map_err(de::Error::custom);
    values.into_iter().map(one).collect()
}

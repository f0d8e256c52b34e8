//! Whether what was told is what must be seen.
use std::collections::BTreeSet;
use std::net::IpAddr;

use super::case::{See, Side, Sight, Source, Word, name_of};
use super::cluster::Cluster;
use super::question::Question;
use super::target::Kind;
use crate::rig::Family;
use crate::wire::ask::{Seen, Told};
use crate::wire::{Failure, FailureKind};

/// What one question came to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcome {
    /// It is what this proxy's clients must see.
    pub expected: bool,
    /// What was seen, in few words.
    pub seen: String,
}

/// Judges one answer.
pub fn judge(cluster: &Cluster, question: &Question, sight: &Sight<'_>, known: &dyn Names, told: &Told) -> Outcome {
    let judge = Judge {
        cluster,
        question,
        sight,
    };
    let (expected, seen) = match told {
        Told::Reached { seen, failure: None } => judge.reached(seen),
        Told::Reached {
            seen,
            failure: Some(failure),
        } => judge.failed(seen, failure),
        Told::Failed(failure) => judge.failed(&[], failure),
        Told::Pinged(reply) => {
            let wanted = *sight.see == See::Word(Word::Reply);
            (*reply == wanted, if *reply { "reply" } else { "no reply" }.to_owned())
        }
        Told::Resolved(report) => match &report.failure {
            Some(failure) => judge.failed(&[], failure),
            None => judge.resolved(known, report.code, &report.addresses),
        },
        Told::Got { status, headers, body } => judge.got(*status, headers, body),
    };
    Outcome { expected, seen }
}

/// Gives the address of what a case file calls by a name: a pod, `ClusterIP`, `ClusterIP of web`.
pub trait Names {
    fn address(&self, name: &str, family: Family) -> Option<IpAddr>;
}

struct Judge<'a> {
    cluster: &'a Cluster,
    question: &'a Question,
    sight: &'a Sight<'a>,
}

impl Judge<'_> {
    fn reached(&self, seen: &[Seen]) -> (bool, String) {
        let pods: BTreeSet<&str> = seen.iter().map(|one| one.pod.as_str()).collect();
        let is = |wanted: &String, one: &Seen| match wanted.split_once(':') {
            Some((pod, port)) => pod == one.pod && port.parse() == Ok(one.port),
            None => *wanted == one.pod,
        };
        let within = |wanted: &[String]| seen.iter().all(|one| wanted.iter().any(|wanted| is(wanted, one)));
        let right = match self.sight.see {
            See::All(wanted) => within(wanted) && wanted.iter().all(|pod| pods.contains(name_of(pod))),
            See::One { one } => within(one) && pods.len() == 1,
            See::Some { some } => within(some),
            See::Word(Word::Unsteady) => true,
            See::Word(_) | See::Status(_) => false,
        };
        let mut text: Vec<String> = pods.iter().map(|pod| (*pod).to_owned()).collect();
        let ports_matter = match self.sight.see {
            See::All(wanted) | See::One { one: wanted } | See::Some { some: wanted } => {
                wanted.iter().any(|pod| pod.contains(':'))
            }
            See::Word(_) | See::Status(_) => false,
        };
        if ports_matter {
            let ports: BTreeSet<String> = seen.iter().map(|one| format!("{}:{}", one.pod, one.port)).collect();
            text = ports.into_iter().collect();
        }
        let Some(source) = self.sight.source else {
            return (right, text.join(" "));
        };
        let sources: BTreeSet<&'static str> = seen.iter().map(|one| self.source(one.source)).collect();
        let source_right = seen.iter().all(|one| self.source_is(source, one.source));
        let sources: Vec<_> = sources.into_iter().collect();
        (
            right && source_right,
            format!("{} from {}", text.join(" "), sources.join("+")),
        )
    }

    fn source_is(&self, wanted: Source, address: IpAddr) -> bool {
        match wanted {
            Source::Client => self.cluster.own_addresses(&self.question.client).contains(&address),
            Source::Node => self
                .entry()
                .is_some_and(|node| self.cluster.node_addresses(node).contains(&address)),
        }
    }

    /// Whose address it is, in a word.
    fn source(&self, address: IpAddr) -> &'static str {
        if self.cluster.own_addresses(&self.question.client).contains(&address) {
            "client"
        } else if self.cluster.node_addresses(1).contains(&address) {
            "n1"
        } else if self.cluster.node_addresses(2).contains(&address) {
            "n2"
        } else {
            "elsewhere"
        }
    }

    /// The node that translates.
    fn entry(&self) -> Option<u8> {
        let client = self.cluster.node_of(&self.question.client);
        match self.question.target.kind {
            Kind::NodePort(node) => Some(node),
            Kind::Vip(index) | Kind::External(index) | Kind::Forbidden(index) => client.or(Some(2 - index % 2)),
            // From outside, ClusterIPs are routed to the first node.
            _ => client.or(Some(1)),
        }
    }

    fn failed(&self, seen: &[Seen], failure: &Failure) -> (bool, String) {
        // What kube-proxy refuses or drops of a node's own datagrams, send(2) fails with EPERM.
        let forbidden = self.cluster.side == Side::KubeProxy && failure.kind == FailureKind::Unreachable;
        let kind = failure.kind;
        let unsteady = *self.sight.see == See::Word(Word::Unsteady);
        let right = unsteady
            || seen.is_empty()
                && match self.sight.see {
                    See::Word(Word::Refused) => kind == FailureKind::Refused || forbidden,
                    See::Word(Word::Dropped) => kind == FailureKind::Silence || forbidden,
                    See::Word(Word::Unanswered) => true,
                    _ => false,
                };
        let word = match kind {
            _ if forbidden => "not permitted".to_owned(),
            FailureKind::Refused => "refused".to_owned(),
            FailureKind::Silence if right => "timed out".to_owned(),
            FailureKind::Silence => format!("timed out ({})", failure.text),
            FailureKind::Unreachable => "unreachable".to_owned(),
            FailureKind::Other => format!("{}: {}", failure.stage, failure.text),
        };
        if seen.is_empty() {
            return (right, word);
        }
        let pods: BTreeSet<&str> = seen.iter().map(|one| one.pod.as_str()).collect();
        let pods: Vec<_> = pods.into_iter().collect();
        (
            unsteady,
            format!("{}, then {word} (attempt {})", pods.join(" "), seen.len() + 1),
        )
    }

    fn resolved(&self, names: &dyn Names, code: u8, addresses: &[IpAddr]) -> (bool, String) {
        const NO_SUCH_NAME: u8 = 3;
        let told: BTreeSet<IpAddr> = addresses.iter().copied().collect();
        let right = match self.sight.see {
            See::Word(Word::NoSuchName) => code == NO_SUCH_NAME,
            See::All(wanted) => {
                let wanted: Option<BTreeSet<IpAddr>> = wanted
                    .iter()
                    .map(|name| names.address(name, self.question.family))
                    .collect();
                code == 0 && wanted == Some(told)
            }
            _ => false,
        };
        let text: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
        (right, format!("code {code}: {}", text.join(" ")))
    }

    fn got(&self, status: u16, headers: &[(String, String)], body: &str) -> (bool, String) {
        let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        let (local, weight) = (
            body["localEndpoints"].as_u64(),
            header("x-load-balancing-endpoint-weight").and_then(|weight| weight.parse().ok()),
        );
        let text = format!(
            "{status} localEndpoints {} weight {}",
            local.map_or("-".to_owned(), |local| local.to_string()),
            weight.map_or("-".to_owned(), |weight: u64| weight.to_string()),
        );
        let local_right = self
            .sight
            .local_endpoints
            .is_none_or(|wanted| local == Some(wanted) && weight == Some(wanted));
        (*self.sight.see == See::Status(status) && local_right, text)
    }
}

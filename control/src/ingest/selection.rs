//! How a Service's backends are chosen: annotations of the Service.
//!
//! ```text
//! ferrogate.dev/algorithm: round-robin | random | maglev | source-hash | least-connections
//! ferrogate.dev/weights: "pod:web-canary-*=5, zone:eu-1=20, 10.244.9.0/24=0, *=10"
//! ```

use super::address;
use super::slice::{EndpointModel, Names, Number};
use crate::notice::NoticeKind;
use ferrogate_common::{Algorithm, Annotation};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;

const ALGORITHM: &str = Annotation::ALGORITHM.key;
const WEIGHTS: &str = Annotation::WEIGHTS.key;

/// Weights are 0 to this.
const HEAVIEST: u16 = 100;

/// What the annotations say.
#[derive(PartialEq, Eq, Debug, Default)]
pub(crate) struct Selection {
    pub(crate) algorithm: Algorithm,
    /// The first that matches an endpoint counts; none does: weight 1.
    weights: Vec<(Selector, u16)>,
}

/// Which endpoints a weight is for.
#[derive(PartialEq, Eq, Debug)]
enum Selector {
    All,
    In(IpNet),
    /// A pod of this name, or one whose name begins so.
    Pod(String),
    Pods(String),
    Node(String),
    Zone(String),
}

impl Selection {
    /// The annotations of a Service, and what of them cannot be read.
    pub(super) fn read(object: &Service, notices: &mut Vec<NoticeKind>) -> Self {
        let annotation = |key| object.metadata.annotations.as_ref().and_then(|all| all.get(key));
        let mut selection = Self::default();
        if let Some(value) = annotation(ALGORITHM) {
            match Algorithm::ALL.into_iter().find(|one| one.name() == value.trim()) {
                Some(algorithm) => selection.algorithm = algorithm,
                None => notices.push(NoticeKind::UnknownAlgorithm { value: value.clone() }),
            }
        }
        let rules = annotation(WEIGHTS).map_or("", String::as_str).split(',').map(str::trim);
        for rule in rules.filter(|rule| !rule.is_empty()) {
            match read_rule(rule) {
                Some(weight) => selection.weights.push(weight),
                None => notices.push(NoticeKind::InvalidWeight { rule: rule.to_owned() }),
            }
        }
        selection
    }

    /// The weight of an endpoint.
    pub(crate) fn weight(&self, endpoint: &EndpointModel, names: &Names) -> u16 {
        let found = self
            .weights
            .iter()
            .find(|(selector, _)| selector.matches(endpoint, names));
        found.map_or(1, |(_, weight)| *weight)
    }
}

fn read_rule(rule: &str) -> Option<(Selector, u16)> {
    let (selector, weight) = rule.rsplit_once('=')?;
    let weight = weight.trim().parse().ok().filter(|weight| *weight <= HEAVIEST)?;
    let selector = selector.trim();
    let named = |prefix: &str| selector.strip_prefix(prefix).filter(|name| !name.is_empty());
    let selector = if selector == "*" {
        Selector::All
    } else if let Some(pod) = named("pod:") {
        match pod.strip_suffix('*') {
            Some(beginning) => Selector::Pods(beginning.to_owned()),
            None => Selector::Pod(pod.to_owned()),
        }
    } else if let Some(node) = named("node:") {
        Selector::Node(node.to_owned())
    } else if let Some(zone) = named("zone:") {
        Selector::Zone(zone.to_owned())
    } else {
        let address = address::parse(selector).map(IpNet::from);
        Selector::In(address.or_else(|| address::parse_network(selector))?)
    };
    Some((selector, weight))
}

impl Selector {
    fn matches(&self, endpoint: &EndpointModel, names: &Names) -> bool {
        let is = |number: Option<Number>, name: &str| number.is_some() && number == names.find(name);
        match self {
            Self::All => true,
            Self::In(net) => net.contains(&endpoint.address.ip()),
            Self::Pod(name) => endpoint.pod.as_deref() == Some(name),
            Self::Pods(beginning) => endpoint.pod.as_ref().is_some_and(|pod| pod.starts_with(beginning)),
            Self::Node(name) => is(endpoint.node, name),
            Self::Zone(name) => is(endpoint.zone, name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(algorithm: &str, weights: &str) -> (Selection, Vec<String>) {
        let mut service = Service::default();
        let annotations = [(ALGORITHM, algorithm), (WEIGHTS, weights)];
        service.metadata.annotations = Some(
            annotations
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        );
        let mut notices = Vec::new();
        let selection = Selection::read(&service, &mut notices);
        (selection, notices.iter().map(ToString::to_string).collect())
    }

    fn endpoint(pod: Option<&str>, names: &mut Names) -> EndpointModel {
        EndpointModel {
            pod: pod.map(Into::into),
            node: Some(names.number("node-b")),
            zone: Some(names.number("eu-1")),
            ..EndpointModel::at("10.244.1.5".parse().expect("an address"))
        }
    }

    #[test]
    fn an_algorithm_is_known_by_its_name_and_an_unknown_one_is_said_and_round_robin() {
        for algorithm in Algorithm::ALL {
            let (selection, notices) = read(algorithm.name(), "");
            assert_eq!((selection.algorithm, notices.len()), (algorithm, 0));
        }
        let (selection, notices) = read("fastest", "");
        assert_eq!(selection.algorithm, Algorithm::RoundRobin);
        assert!(
            notices[0].contains("fastest") && notices[0].contains("least-connections"),
            "{notices:?}"
        );
    }

    #[test]
    fn the_first_rule_that_matches_gives_the_weight() {
        let names = &mut Names::default();
        let canary = endpoint(Some("web-canary-5d8-x2"), names);
        for (rules, weight) in [
            ("", 1),
            ("*=7", 7),
            ("pod:web-canary-*=5, *=10", 5),
            ("*=10, pod:web-canary-*=5", 10),
            ("pod:web-canary-5d8-x2=0", 0),
            ("pod:web-canary=5", 1),
            ("node:node-b=3", 3),
            ("node:node-c=3, zone:eu-1 = 4", 4),
            ("zone:eu-2=4", 1),
            ("10.244.1.5=8", 8),
            ("10.244.0.0/16=9", 9),
            ("10.245.0.0/16=9, fd00::/8=2", 1),
        ] {
            let (selection, notices) = read("round-robin", rules);
            assert_eq!(
                (selection.weight(&canary, names), notices.len()),
                (weight, 0),
                "{rules}"
            );
        }
        assert_eq!(
            read("", "pod:*=6").0.weight(&endpoint(None, names), names),
            1,
            "no pod, no name"
        );
    }

    #[test]
    fn a_rule_that_cannot_be_read_is_said_and_the_others_count() {
        let (selection, notices) = read("random", "10.244.1.5=101, web=2, pod:=3, zone:a, *=4, 10.0.0.0/40=1");
        assert_eq!(notices.len(), 5, "{notices:?}");
        let names = &mut Names::default();
        assert_eq!(selection.weight(&endpoint(None, names), names), 4);
    }
}

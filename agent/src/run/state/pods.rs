//! The pods of this node.

use super::{Known, object};
use crate::scope::{self, PodScope, Wanted};
use crate::source::{Change, ObjectName};
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;
use std::net::IpAddr;
use tracing::warn;

/// What `ferrogate explain` needs of a pod of this node.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct PodFacts {
    pub(crate) addresses: Vec<IpAddr>,
    /// It shares the node's network: its processes are the node's own.
    pub(crate) host_network: bool,
    /// What it asks of the socket edge.
    pub(crate) scope: Option<PodScope>,
}

impl PodFacts {
    fn of(pod: &Pod, scope: Option<PodScope>) -> Self {
        let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network);
        let addresses = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
        Self {
            addresses: addresses.filter_map(|address| address.ip.parse().ok()).collect(),
            host_network: host_network.unwrap_or_default(),
            scope,
        }
    }
}

/// What the pods of this node ask of the socket edge.
#[derive(Default, Debug)]
pub(super) struct Pods {
    known: Known,
    asked: BTreeMap<ObjectName, (String, PodScope)>,
    facts: BTreeMap<ObjectName, PodFacts>,
    /// What they ask for and cannot have.
    problems: BTreeMap<ObjectName, String>,
    /// [`Pods::asked`] is not what was last told.
    changed: bool,
}

impl Pods {
    pub(super) fn take(&mut self, change: &Change<Pod>, node_name: &str) {
        let was_synced = self.known.synced;
        let here = |pod: &&Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node_name);
        if let Some(pod) = object(change).filter(here) {
            let name = ObjectName::of(pod);
            let asked = scope::of_pod(pod);
            match asked.as_ref().err() {
                Some(problem) if self.problems.get(&name) != Some(problem) => {
                    warn!("Pod {name}: {problem}");
                    self.problems.insert(name.clone(), problem.clone());
                }
                Some(_) => {}
                None => {
                    self.problems.remove(&name);
                }
            }
            let asked = asked.unwrap_or_default();
            let scope = asked.as_ref().map(|(_, scope)| *scope);
            self.facts.insert(name.clone(), PodFacts::of(pod, scope));
            self.set(name, asked);
        }
        for gone in self.known.track(change) {
            self.problems.remove(&gone);
            self.facts.remove(&gone);
            self.set(gone, None);
        }
        self.changed |= self.known.synced != was_synced;
    }

    fn set(&mut self, name: ObjectName, asked: Option<(String, PodScope)>) {
        self.changed |= self.asked.get(&name) != asked.as_ref();
        match asked {
            Some(asked) => self.asked.insert(name, asked),
            None => self.asked.remove(&name),
        };
    }

    /// All that is asked, when that has changed and every pod is known.
    pub(super) fn news(&mut self) -> Option<Wanted> {
        let told = self.known.synced && std::mem::take(&mut self.changed);
        told.then(|| self.asked.values().cloned().collect())
    }

    /// One sentence for each pod that asks for what it cannot have.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.problems
            .iter()
            .map(|(name, problem)| format!("Pod {name}: {problem}"))
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&PodFacts> {
        let name = ObjectName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        self.facts.get(&name)
    }
}

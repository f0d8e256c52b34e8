//! What Pods ask of the socket edge.

use ferrogate_common::{Annotation, cgroup_scope};
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;

/// Annotation or label of a Pod, of which the annotation counts.
const KEY: &str = Annotation::SOCKET_EDGE.key;
/// The kubelet runs a static pod under a uid of its own making, which the Pod that stands for it in the API has here
/// (`k8s.io/api/core/v1.MirrorPodAnnotationKey`).
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What a Pod asks for; most ask for nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PodScope {
    /// Its connections are left to the other edges.
    Off,
    /// No other edge sees its packets (macvlan, ipvlan, SR-IOV): nothing is left to the pod edge.
    Only,
}

impl PodScope {
    /// One of [`cgroup_scope`].
    pub fn number(self) -> u32 {
        match self {
            Self::Off => cgroup_scope::OFF,
            Self::Only => cgroup_scope::ONLY,
        }
    }
}

/// What pods ask for, by the uid that is in their cgroup's name.
pub type Wanted = BTreeMap<String, PodScope>;

/// The pod's uid and what it asks for; `None` where it asks for nothing, or has ended.
///
/// # Errors
/// The value has no meaning: one sentence about it.
pub fn of_pod(pod: &Pod) -> Result<Option<(String, PodScope)>, String> {
    let value = |map: &Option<BTreeMap<String, String>>, key: &str| map.as_ref()?.get(key).cloned();
    let meta = &pod.metadata;
    let Some(asked) = value(&meta.annotations, KEY).or_else(|| value(&meta.labels, KEY)) else {
        return Ok(None);
    };
    let scope = match asked.as_str() {
        "on" | "all" => return Ok(None),
        "off" => PodScope::Off,
        "only" => PodScope::Only,
        _ => {
            return Err(format!(
                "{KEY}: {asked:?} is neither \"off\" nor \"only\" nor \"on\": the pod is served as any other"
            ));
        }
    };
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Ok(None);
    }
    let uid = value(&meta.annotations, MIRROR).or_else(|| meta.uid.clone());
    match uid {
        Some(uid) => Ok(Some((uid, scope))),
        None => Err(format!(
            "{KEY}: {asked:?}, but without metadata.uid its cgroup cannot be found"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn asks(metadata: Value, phase: &str) -> Result<Option<(String, PodScope)>, String> {
        let pod = json!({"metadata": metadata, "status": {"phase": phase}});
        of_pod(&serde_json::from_value(pod).expect("a Pod"))
    }

    #[test]
    fn annotation_and_label_are_read_and_the_annotation_counts() {
        let off = Ok(Some(("u-1".to_owned(), PodScope::Off)));
        let only = Ok(Some(("u-1".to_owned(), PodScope::Only)));
        assert_eq!(asks(json!({"uid": "u-1"}), "Running"), Ok(None));
        assert_eq!(asks(json!({"uid": "u-1", "labels": {KEY: "off"}}), "Pending"), off);
        assert_eq!(
            asks(json!({"uid": "u-1", "annotations": {KEY: "only"}}), "Running"),
            only
        );
        let both = json!({"uid": "u-1", "annotations": {KEY: "off"}, "labels": {KEY: "only"}});
        assert_eq!(asks(both, "Running"), off);
    }

    #[test]
    fn a_static_pod_has_the_uid_that_its_kubelet_gave_it() {
        let mirror = json!({"uid": "api", "annotations": {KEY: "off", MIRROR: "0123"}});
        assert_eq!(asks(mirror, "Running"), Ok(Some(("0123".to_owned(), PodScope::Off))));
    }

    #[test]
    fn a_pod_that_has_ended_asks_for_nothing() {
        for phase in ["Succeeded", "Failed"] {
            assert_eq!(asks(json!({"uid": "u-1", "labels": {KEY: "off"}}), phase), Ok(None));
        }
    }

    #[test]
    fn a_value_without_a_meaning_and_a_pod_without_a_uid_are_told() {
        let error = asks(json!({"uid": "u-1", "labels": {KEY: "no"}}), "Running").expect_err("no meaning");
        assert!(error.contains("\"no\""), "{error}");
        assert!(asks(json!({"labels": {KEY: "off"}}), "Running").is_err());
    }
}

//! Changes that were taken in and are not written yet.

use crate::source::{Change, Event, ObjectName};
use ferrogate_control::Family;
use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

/// Annotation of an EndpointSlice: when the pod or Service changed that the slice follows, RFC 3339
/// (`k8s.io/api/core/v1.EndpointsLastChangeTriggerTime`).
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Label that names the Service a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// See the module.
#[derive(Debug)]
pub(super) struct Pending {
    /// Hashes of their names: they are only counted, and at a start there are as many as in the cluster.
    services: HashSet<u64>,
    slices: HashSet<u64>,
    hasher: RandomState,
    triggers: BTreeMap<ObjectName, Vec<(Family, Timestamp)>>,
    /// What changed before is no news when it is read for the first time.
    started: Timestamp,
}

impl Default for Pending {
    fn default() -> Self {
        Self {
            services: HashSet::new(),
            slices: HashSet::new(),
            hasher: RandomState::new(),
            triggers: BTreeMap::new(),
            started: Timestamp::now(),
        }
    }
}

impl Pending {
    /// After an event was taken in. `marked`: whether the Service (namespace and name) has something to write.
    pub(super) fn note(&mut self, event: &Event, marked: impl Fn(&str, &str) -> bool) {
        match event {
            Event::Service(change) => {
                let name = match change {
                    Change::Listed(object) | Change::Applied(object) => ObjectName::of(object.as_ref()),
                    Change::Deleted(name) => name.clone(),
                    Change::Restart | Change::Complete | Change::Unreadable(..) => return,
                };
                if marked(&name.namespace, &name.name) {
                    self.services.insert(self.hasher.hash_one(name));
                }
            }
            Event::Slice(Change::Listed(slice) | Change::Applied(slice)) => {
                let name = ObjectName::of(slice.as_ref());
                let labels = slice.metadata.labels.as_ref();
                let service = labels.and_then(|labels| labels.get(SERVICE_NAME));
                if service.is_some_and(|service| marked(&name.namespace, service)) {
                    self.slices.insert(self.hasher.hash_one(&name));
                    if let Some(trigger) = trigger(slice).filter(|(_, time)| *time > self.started) {
                        self.triggers.entry(name).or_default().push(trigger);
                    }
                }
            }
            Event::Slice(Change::Deleted(name)) => {
                // Its last change is not what is waited for any more.
                self.triggers.remove(name);
                self.slices.insert(self.hasher.hash_one(name));
            }
            Event::Slice(_) | Event::Node(_) | Event::Pod(_) | Event::ServiceCidr(_) | Event::Health(_) => {}
        }
    }

    /// Services and slices.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.services.len(), self.slices.len())
    }

    /// All is written. Returns when what was written had changed.
    pub(super) fn done(&mut self) -> Vec<(Family, Timestamp)> {
        (self.services, self.slices) = Default::default();
        std::mem::take(&mut self.triggers).into_values().flatten().collect()
    }
}

fn trigger(slice: &EndpointSlice) -> Option<(Family, Timestamp)> {
    let family = match slice.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        _ => return None,
    };
    let time = slice.metadata.annotations.as_ref()?.get(TRIGGER)?.parse().ok()?;
    Some((family, time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;
    use std::time::Duration;

    fn slice(name: &str, time: &str) -> Event {
        let object = json!({
            "metadata": {
                "name": name, "namespace": "shop", "labels": {SERVICE_NAME: "web"}, "annotations": {TRIGGER: time},
            },
            "addressType": "IPv6", "endpoints": [],
        });
        Event::Slice(Change::Applied(serde_json::from_value(object).expect("a slice")))
    }

    fn service() -> Event {
        let object: Service =
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop"}})).expect("a Service");
        Event::Service(Change::Applied(Box::new(object)))
    }

    #[test]
    fn only_what_has_to_be_written_is_pending_and_a_write_takes_it_away() {
        let mut pending = Pending::default();
        pending.note(&service(), |_, _| false);
        assert_eq!(pending.counts(), (0, 0));
        let soon = pending.started + Duration::from_secs(1);
        let marked = |namespace: &str, name: &str| (namespace, name) == ("shop", "web");
        pending.note(&service(), marked);
        pending.note(&service(), marked);
        pending.note(&slice("web-1", &soon.to_string()), marked);
        assert_eq!(pending.counts(), (1, 1));
        assert_eq!(pending.done(), [(Family::V6, soon)]);
        assert_eq!((pending.counts(), pending.done().len()), ((0, 0), 0));
    }

    #[test]
    fn changes_from_before_the_start_and_of_slices_that_are_gone_are_not_timed() {
        let mut pending = Pending::default();
        let soon = (pending.started + Duration::from_secs(1)).to_string();
        pending.note(&slice("web-1", "2020-01-01T00:00:00Z"), |_, _| true);
        pending.note(&slice("web-2", "yesterday"), |_, _| true);
        pending.note(&slice("web-3", &soon), |_, _| true);
        let gone = ObjectName {
            namespace: "shop".to_owned(),
            name: "web-3".to_owned(),
        };
        pending.note(&Event::Slice(Change::Deleted(gone)), |_, _| true);
        assert_eq!(pending.counts(), (0, 3));
        assert_eq!(pending.done(), []);
    }
}

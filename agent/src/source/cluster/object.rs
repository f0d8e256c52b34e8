//! Objects as the API server sends them, each read for itself: one that cannot be read must not hide the others.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::borrow::Cow;

/// What nothing here depends on: bulk, and a field that the API server leaves null where its own schema wants a time.
const UNUSED: [(&str, &str); 4] = [
    ("metadata", "managedFields"),
    ("metadata", "ownerReferences"),
    ("status", "conditions"),
    ("status", "images"),
];

/// An object, or why it cannot be read.
#[derive(Clone, Debug)]
pub(super) struct Received<K> {
    /// Name, namespace and version, and nothing else.
    meta: ObjectMeta,
    pub(super) object: Result<Box<K>, String>,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Received<K> {
    /// Fails for what is no object with a name.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let text = |field: &str| value["metadata"][field].as_str().map(str::to_owned);
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        if meta.name.is_none() {
            return Err(D::Error::custom("an object without a name"));
        }
        for (part, field) in UNUSED {
            if let Some(fields) = value.get_mut(part).and_then(Value::as_object_mut) {
                fields.remove(field);
            }
        }
        let object = K::deserialize(value).map(Box::new).map_err(|error| error.to_string());
        Ok(Self { meta, object })
    }
}

impl<K: Resource> Resource for Received<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &K::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &K::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &K::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &K::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    #[test]
    fn a_condition_without_a_time_does_not_spoil_a_service() {
        let received: Received<Service> = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "resourceVersion": "7"},
            "spec": {"clusterIP": "10.0.0.1"},
            "status": {"conditions": [{"type": "A", "status": "True", "lastTransitionTime": null}], "loadBalancer": {}},
        }))
        .expect("an object");
        assert_eq!(received.meta().resource_version.as_deref(), Some("7"));
        let service = received.object.expect("a Service");
        assert_eq!(
            service.spec.and_then(|spec| spec.cluster_ip).as_deref(),
            Some("10.0.0.1")
        );
    }

    #[test]
    fn an_object_that_cannot_be_read_still_has_its_name() {
        let received: Received<Service> = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default"}, "spec": {"ports": "none"},
        }))
        .expect("an object");
        assert_eq!(received.meta().name.as_deref(), Some("web"));
        assert!(received.object.is_err());
        assert!(serde_json::from_value::<Received<Service>>(json!({"status": {}})).is_err());
    }
}

//! Names of pods: there are more of them than of anything else, and the names of a slice's pods are kept as one text.

use k8s_openapi::api::discovery::v1::Endpoint;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// The name of a pod: a part of a text that all endpoints of a slice share.
pub(crate) struct PodName {
    text: Arc<String>,
    start: u32,
    length: u32,
}

impl Deref for PodName {
    type Target = str;

    fn deref(&self) -> &str {
        let start = self.start as usize;
        &self.text[start..start + self.length as usize]
    }
}

impl From<&str> for PodName {
    fn from(name: &str) -> Self {
        Self {
            text: Arc::new(name.to_owned()),
            start: 0,
            length: name.len() as u32,
        }
    }
}

impl PartialEq for PodName {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for PodName {}

impl fmt::Debug for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// The pods of a slice's endpoints, in their order; none where an endpoint is no pod.
pub(super) fn pods(endpoints: &[Endpoint]) -> impl Iterator<Item = Option<PodName>> {
    let mut all = String::with_capacity(endpoints.iter().filter_map(name).map(str::len).sum());
    let places: Vec<Option<Range<usize>>> = endpoints
        .iter()
        .map(|entry| {
            let start = all.len();
            all.push_str(name(entry)?);
            Some(start..all.len())
        })
        .collect();
    let text = Arc::new(all);
    places.into_iter().map(move |place| {
        place.map(|place| PodName {
            text: Arc::clone(&text),
            start: place.start as u32,
            length: place.len() as u32,
        })
    })
}

fn name(entry: &Endpoint) -> Option<&str> {
    let target = entry.target_ref.as_ref()?;
    target.name.as_deref().filter(|_| target.kind.as_deref() == Some("Pod"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ObjectReference;

    #[test]
    fn each_endpoint_has_its_own_name_of_the_one_text() {
        let target = |kind: &str, name: &str| Endpoint {
            target_ref: Some(ObjectReference {
                kind: Some(kind.to_owned()),
                name: Some(name.to_owned()),
                ..ObjectReference::default()
            }),
            ..Endpoint::default()
        };
        let endpoints = [
            target("Pod", "web-1"),
            target("VirtualMachine", "vm"),
            Endpoint::default(),
            target("Pod", "db-22"),
        ];
        let found: Vec<_> = pods(&endpoints).collect();
        let names: Vec<_> = found.iter().map(Option::as_deref).collect();
        assert_eq!(names, [Some("web-1"), None, None, Some("db-22")]);
        assert_eq!(found[3], Some("db-22".into()));
    }
}

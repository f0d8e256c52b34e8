//! Files into objects.

use super::super::{Change, Event, ObjectName};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fmt;

/// An object that matters here.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Object {
    Service(Box<Service>),
    Slice(Box<EndpointSlice>),
    Node(Box<Node>),
    Pod(Box<Pod>),
}

/// What an object is called.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Key {
    Service(ObjectName),
    Slice(ObjectName),
    Node(ObjectName),
    Pod(ObjectName),
}

impl Object {
    pub(super) fn key(&self) -> Key {
        match self {
            Self::Service(object) => Key::Service(ObjectName::of(object.as_ref())),
            Self::Slice(object) => Key::Slice(ObjectName::of(object.as_ref())),
            Self::Node(object) => Key::Node(ObjectName::of(object.as_ref())),
            Self::Pod(object) => Key::Pod(ObjectName::of(object.as_ref())),
        }
    }

    pub(super) fn listed(self) -> Event {
        match self {
            Self::Service(object) => Event::Service(Change::Listed(object)),
            Self::Slice(object) => Event::Slice(Change::Listed(object)),
            Self::Node(object) => Event::Node(Change::Listed(object)),
            Self::Pod(object) => Event::Pod(Change::Listed(object)),
        }
    }

    pub(super) fn applied(self) -> Event {
        match self {
            Self::Service(object) => Event::Service(Change::Applied(object)),
            Self::Slice(object) => Event::Slice(Change::Applied(object)),
            Self::Node(object) => Event::Node(Change::Applied(object)),
            Self::Pod(object) => Event::Pod(Change::Applied(object)),
        }
    }
}

impl Key {
    pub(super) fn deleted(&self) -> Event {
        match self.clone() {
            Self::Service(name) => Event::Service(Change::Deleted(name)),
            Self::Slice(name) => Event::Slice(Change::Deleted(name)),
            Self::Node(name) => Event::Node(Change::Deleted(name)),
            Self::Pod(name) => Event::Pod(Change::Deleted(name)),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "Service {name}"),
            Self::Slice(name) => write!(f, "EndpointSlice {name}"),
            Self::Node(name) => write!(f, "Node {}", name.name),
            Self::Pod(name) => write!(f, "Pod {name}"),
        }
    }
}

/// What a file holds.
#[derive(Default, Debug)]
pub(super) struct Content {
    pub(super) objects: Vec<Object>,
    /// Kinds that mean nothing here.
    pub(super) ignored: Vec<String>,
}

/// Where and why a file cannot be read.
#[derive(PartialEq, Eq, Debug)]
pub struct Malformed {
    /// Line in the file, from 1.
    pub line: usize,
    /// Document in the file, from 1.
    pub document: usize,
    pub reason: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} (document {}): {}", self.line, self.document, self.reason)
    }
}

/// The members that say what a document is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: Option<String>,
    kind: Option<String>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<serde_json::Value>,
}

/// Reads all documents of a YAML file (JSON is YAML).
pub(super) fn parse(text: &str) -> Result<Content, Malformed> {
    let mut content = Content::default();
    for (index, (first_line, document)) in documents(text).into_iter().enumerate() {
        parse_document(document, &mut content).map_err(|(line, reason)| Malformed {
            line: first_line + line.saturating_sub(1),
            document: index + 1,
            reason,
        })?;
    }
    Ok(content)
}

/// Splits at `---`, which at the start of a line means nothing else in YAML (1.2, section 9.1.2). With each document the
/// number of its first line. Documents without content are left out.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut found = vec![];
    let (mut begin, mut first_line, mut offset) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marker {
            found.push((first_line, &text[begin..offset]));
            (begin, first_line) = (offset, index + 1);
        }
        offset += line.len();
    }
    found.push((first_line, &text[begin..]));
    found.retain(|(_, document)| document.lines().any(has_content));
    found
}

fn has_content(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#') && line != "---" && line != "..." && !line.starts_with('%')
}

/// Line in the document, from 1, and reason.
type Fault = (usize, String);

fn parse_document(text: &str, content: &mut Content) -> Result<(), Fault> {
    let header: Option<Header> = yaml(text)?;
    let Some(header) = header else { return Ok(()) };
    let kind = header.kind.ok_or_else(|| (1, "no kind".to_owned()))?;
    let version = header
        .api_version
        .ok_or_else(|| (1, format!("{kind} without apiVersion")))?;
    match (version.as_str(), kind.as_str()) {
        ("v1", "Service") => content
            .objects
            .push(named(Object::Service(yaml(text)?)).map_err(|why| (1, why))?),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            content
                .objects
                .push(named(Object::Slice(yaml(text)?)).map_err(|why| (1, why))?);
        }
        ("v1", "Node") => content
            .objects
            .push(named(Object::Node(yaml(text)?)).map_err(|why| (1, why))?),
        ("v1", "Pod") => content
            .objects
            .push(named(Object::Pod(yaml(text)?)).map_err(|why| (1, why))?),
        (_, "List" | "ServiceList" | "EndpointSliceList" | "NodeList" | "PodList") => {
            let list: List = yaml(text)?;
            for (index, item) in list.items.into_iter().enumerate() {
                parse_item(item, &kind, content).map_err(|reason| (1, format!("items[{index}]: {reason}")))?;
            }
        }
        _ => content.ignored.push(format!("{version} {kind}")),
    }
    Ok(())
}

/// One item of a list. Typed lists may leave the kind out of their items.
fn parse_item(item: serde_json::Value, list: &str, content: &mut Content) -> Result<(), String> {
    let implied = list.strip_suffix("List").filter(|kind| !kind.is_empty());
    let kind = item
        .get("kind")
        .and_then(|kind| kind.as_str())
        .or(implied)
        .ok_or("no kind")?
        .to_owned();
    let object = match kind.as_str() {
        "Service" => Object::Service(json(item, "v1", &kind)?),
        "EndpointSlice" => Object::Slice(json(item, "discovery.k8s.io/v1", &kind)?),
        "Node" => Object::Node(json(item, "v1", &kind)?),
        "Pod" => Object::Pod(json(item, "v1", &kind)?),
        _ => {
            content.ignored.push(kind);
            return Ok(());
        }
    };
    content.objects.push(named(object)?);
    Ok(())
}

fn json<T: DeserializeOwned>(mut item: serde_json::Value, version: &str, kind: &str) -> Result<T, String> {
    if let Some(members) = item.as_object_mut() {
        members.entry("apiVersion").or_insert_with(|| version.into());
        members.entry("kind").or_insert_with(|| kind.into());
    }
    serde_json::from_value(item).map_err(|error| error.to_string())
}

fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    serde_yaml_ng::from_str(text).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        // The place is said once, counted from the top of the file and not of the document.
        let full = error.to_string();
        let reason = full.split(" at line ").next().unwrap_or(&full).to_owned();
        (line, reason)
    })
}

/// Checks the name and fills in what the API server would have.
fn named(mut object: Object) -> Result<Object, String> {
    let meta = match &mut object {
        Object::Service(object) => &mut object.metadata,
        Object::Slice(object) => &mut object.metadata,
        Object::Node(object) => &mut object.metadata,
        Object::Pod(object) => &mut object.metadata,
    };
    if meta.name.as_deref().unwrap_or_default().is_empty() {
        return Err("no metadata.name".to_owned());
    }
    meta.managed_fields = None;
    match &mut object {
        Object::Service(object) => namespaced(&mut object.metadata),
        Object::Slice(object) => {
            namespaced(&mut object.metadata);
            ferrogate_control::set_api_defaults(object);
        }
        Object::Node(_) => {}
        Object::Pod(object) => namespaced(&mut object.metadata),
    }
    Ok(object)
}

/// As kubectl does it.
fn namespaced(meta: &mut ObjectMeta) {
    meta.namespace.get_or_insert_with(|| "default".to_owned());
}

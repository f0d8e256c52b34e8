//! Where the desired state comes from: a cluster's API server or a directory of manifests. Both send the same [`Event`]s.

pub mod cluster;
pub mod manifests;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use std::fmt;
use std::time::Instant;
use tokio::sync::mpsc;

/// Events waiting to be indexed; a full queue holds the source back. Objects are ten times as large here as in the index, and it fills
/// while the programs are loaded.
const QUEUE: usize = 256;

/// Name of a namespaced object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

impl ObjectName {
    /// The name in an object's metadata. An object without a namespace is in `default`.
    pub fn of<K: kube::Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.clone().unwrap_or_else(|| "default".to_owned()),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What happened to the objects of one kind.
///
/// A list is `Restart`, any number of `Listed`, `Complete`; what was known before and is not in it is gone. Lists come
/// first, and again whenever the source has lost track.
#[derive(Clone, Debug)]
pub enum Change<K> {
    Restart,
    Listed(Box<K>),
    Complete,
    Applied(Box<K>),
    Deleted(ObjectName),
    /// Listed or applied, but it cannot be read, and why: what was known of it holds.
    Unreadable(ObjectName, String),
}

/// What a source has to say.
#[derive(Clone, Debug)]
pub enum Event {
    Service(Change<Service>),
    Slice(Change<EndpointSlice>),
    Node(Change<Node>),
    ServiceCidr(Change<ServiceCIDR>),
    /// Of this node; a source may say nothing of any.
    Pod(Change<Pod>),
    Health(Health),
}

/// How the source is. Sent at each change, not at each attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    /// It answers.
    Good,
    /// It does not answer; the last known state holds.
    Away(String),
    /// It answers, but a part of the desired state cannot be read.
    Partial(Vec<String>),
}

/// Sending end of a source's queue.
#[derive(Clone, Debug)]
pub struct Sender(mpsc::Sender<(Instant, Event)>);

/// Receiving end: events and when they arrived.
pub type Receiver = mpsc::Receiver<(Instant, Event)>;

/// The agent is ending: nobody takes events any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closed;

impl Sender {
    pub async fn send(&self, event: Event) -> Result<(), Closed> {
        self.0.send((Instant::now(), event)).await.map_err(|_| Closed)
    }

    /// For threads outside the runtime.
    pub fn blocking_send(&self, event: Event) -> Result<(), Closed> {
        self.0.blocking_send((Instant::now(), event)).map_err(|_| Closed)
    }
}

/// A source's queue.
pub fn queue() -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Sender(sender), receiver)
}

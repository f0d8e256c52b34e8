//! One word about all watches.

use super::super::{Closed, Event, Health, Sender};
use super::client;
use kube::runtime::watcher;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tracing::{info, warn};

/// Which watch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Watch {
    Services,
    Slices,
    Node,
    ServiceCidrs,
    Pods,
}

impl Watch {
    /// Whether its objects are worth having, but everything else works without: older API servers have none.
    pub(super) fn is_optional(self) -> bool {
        self == Self::ServiceCidrs
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Slices => "endpointslices",
            Self::Node => "node",
            Self::ServiceCidrs => "servicecidrs",
            Self::Pods => "pods",
        }
    }
}

/// Logs and reports when a watch begins to fail and when it is good again; what lies between is not repeated.
pub(super) struct Monitor {
    events: Sender,
    origin: String,
    failing: Mutex<BTreeMap<Watch, (Instant, String)>>,
}

impl Monitor {
    pub(super) fn new(events: Sender, origin: String) -> Self {
        Self {
            events,
            origin,
            failing: Mutex::default(),
        }
    }

    pub(super) async fn failed(&self, watch: Watch, error: &watcher::Error) -> Result<(), Closed> {
        let reason = client::explain(error);
        let changed = {
            let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
            let known = failing.contains_key(&watch);
            failing.entry(watch).or_insert_with(|| (Instant::now(), reason.clone()));
            !known
        };
        if !changed {
            return Ok(());
        }
        warn!(
            watch = watch.name(),
            servers = self.origin,
            reason,
            "the API server does not answer this watch; the last known state is served until it does"
        );
        if watch == Watch::Pods {
            return Ok(());
        }
        self.report().await
    }

    pub(super) async fn good(&self, watch: Watch) -> Result<(), Closed> {
        let was = self
            .failing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&watch);
        if let Some((since, _)) = was {
            let away = since.elapsed();
            info!(
                watch = watch.name(),
                servers = self.origin,
                ?away,
                "the API server answers this watch again"
            );
        }
        self.report().await
    }

    async fn report(&self) -> Result<(), Closed> {
        let health = {
            let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
            // Services do not depend on what is known of pods, which the agent may not even be allowed to see.
            match failing.iter().find(|(watch, _)| **watch != Watch::Pods) {
                Some((watch, (_, reason))) => Health::Away(format!("{}: {reason}", watch.name())),
                None => Health::Good,
            }
        };
        self.events.send(Event::Health(health)).await
    }
}

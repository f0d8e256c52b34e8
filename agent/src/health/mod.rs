//! What probes, load balancers and Prometheus ask of a node, as they ask kube-proxy.
//!
//! | where | what |
//! |---|---|
//! | `--healthz-bind-address` | `/healthz`, `/livez` |
//! | `--metrics-bind-address` | `/metrics`, `/proxyMode`, `/healthz` (that the server answers, no more) |
//! | each `healthCheckNodePort` | whether that Service has ready endpoints here |
//!
//! Sources: `pkg/proxy/healthcheck`, `pkg/proxy/metrics` and `cmd/kube-proxy/app/server.go` of Kubernetes 1.36.

mod answer;
mod checks;
mod metrics;
mod state;

pub use self::metrics::{ALL as METRICS, Kind as MetricKind, Requests, Spec as MetricSpec};
pub(crate) use self::metrics::{Observation, Observe, SourceLabel, Written};

use self::checks::Checks;
use self::metrics::{Format, Metrics, encode};
use self::state::{Moment, ProxyHealth};
use crate::http::{self, Answer, Handler, Question};
use crate::source::{Change, Event};
use ferrogate_control::{Family, HealthCheck, ServiceName};
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tracing::{info, warn};

/// What `/proxyMode` answers. kube-proxy names its mode there; tools that look for `iptables`, `ipvs` or `nftables` look for
/// that mode's rules next, and there are none.
pub const PROXY_MODE: &str = "ferrogate";
/// A server that could not be opened is tried again after this long, as kube-proxy does it.
const REBIND: Duration = Duration::from_secs(5);

/// What the options say.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `None`: not served.
    pub(crate) healthz: Option<SocketAddr>,
    pub(crate) metrics: Option<SocketAddr>,
    /// A change that waits for this long makes the proxy unhealthy.
    pub(crate) timeout: Duration,
    /// Service ports with a metric of their own, at most.
    pub(crate) services: usize,
}

/// The agent's health: told by the loop, asked by servers.
#[derive(Debug)]
pub(crate) struct Health {
    settings: Settings,
    proxy: Arc<Mutex<ProxyHealth>>,
    checks: Mutex<Checks>,
    metrics: Metrics,
    /// Servers that cannot be opened, by name, and why.
    unopened: Mutex<BTreeMap<&'static str, String>>,
    /// From [`Health::serve`] on.
    registry: OnceLock<Mutex<Registry>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is changed in single steps.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Health {
    pub(crate) fn new(settings: Settings, requests: Requests) -> Arc<Self> {
        let proxy = Arc::new(Mutex::new(ProxyHealth::new(settings.timeout)));
        Arc::new(Self {
            checks: Mutex::new(Checks::new(Arc::clone(&proxy))),
            metrics: Metrics::new(requests),
            unopened: Mutex::default(),
            registry: OnceLock::new(),
            settings,
            proxy,
        })
    }

    /// Starts the servers. They live as long as the runtime.
    pub(crate) fn serve(self: &Arc<Self>, observe: Arc<dyn Observe>) {
        let now = Moment::now();
        // The families count from here on, with nothing to write yet.
        Family::ALL
            .iter()
            .for_each(|family| lock(&self.proxy).updated(*family, now));
        self.metrics.queued(now.wall);
        self.registry
            .get_or_init(|| Mutex::new(self.metrics.registry(observe, self.settings.services)));
        if let Some(address) = self.settings.healthz {
            let health = Arc::clone(self);
            let handler: Handler = Arc::new(move |question| health.answer_health(question));
            tokio::spawn(Arc::clone(self).keep("--healthz-bind-address", address, handler));
        }
        if let Some(address) = self.settings.metrics {
            let health = Arc::clone(self);
            let handler: Handler = Arc::new(move |question| health.answer_metrics(question));
            tokio::spawn(Arc::clone(self).keep("--metrics-bind-address", address, handler));
        }
    }

    /// Keeps a server open; while it cannot be, that is a problem.
    pub(crate) async fn keep(self: Arc<Self>, option: &'static str, address: SocketAddr, handler: Handler) {
        loop {
            let error = match http::listen_everywhere(address) {
                Ok(listener) => {
                    if lock(&self.unopened).remove(option).is_some() {
                        info!(option, %address, "listening at last");
                    }
                    let Err(error) = http::serve(listener, Arc::clone(&handler)).await;
                    error
                }
                Err(error) => error,
            };
            let problem = format!(
                "cannot listen on {option} {address}: {error}; tried again every {} s (choose another, or `off`)",
                REBIND.as_secs()
            );
            if lock(&self.unopened).insert(option, problem.clone()).as_ref() != Some(&problem) {
                warn!("{problem}");
            }
            tokio::time::sleep(REBIND).await;
        }
    }

    fn answer_health(&self, question: &Question<'_>) -> Answer {
        let verdict = lock(&self.proxy).verdict(Moment::now());
        match question.path {
            "/healthz" => {
                let answer = answer::healthz(&verdict);
                self.metrics.healthz(answer.status);
                answer
            }
            "/livez" => {
                let answer = answer::livez(&verdict);
                self.metrics.livez(answer.status);
                answer
            }
            _ => Answer::not_found(),
        }
    }

    fn answer_metrics(&self, question: &Question<'_>) -> Answer {
        match question.path {
            "/metrics" => {
                let format = Format::of(question.header("accept"));
                // Maps are read: not in the way of other tasks.
                match tokio::task::block_in_place(|| self.encode(format)) {
                    Some(text) => Answer {
                        content_type: format.content_type(),
                        ..Answer::text(text)
                    },
                    None => Answer {
                        status: 500,
                        ..Answer::text("the metrics cannot be written\n")
                    },
                }
            }
            "/proxyMode" => Answer::text(PROXY_MODE),
            "/healthz" => Answer::text("ok"),
            _ => Answer::not_found(),
        }
    }

    /// All metrics, as Prometheus reads them.
    pub(crate) fn text(&self) -> Option<String> {
        self.encode(Format::Prometheus)
    }

    fn encode(&self, format: Format) -> Option<String> {
        encode(&lock(self.registry.get()?), format).ok()
    }

    /// The loop takes something up, or comes to rest.
    pub(crate) fn set_busy(&self, busy: bool) {
        lock(&self.proxy).set_busy(busy, Moment::now());
    }

    /// Counts an event.
    pub(crate) fn heard(&self, event: &Event) {
        match event {
            Event::Service(change) => self.metrics.service_changes.inc_by(objects(change)),
            Event::Slice(change) => self.metrics.endpoint_changes.inc_by(objects(change)),
            Event::Node(_) | Event::Pod(_) | Event::ServiceCidr(_) | Event::Health(_) => 0,
        };
    }

    /// There is something to write.
    pub(crate) fn queued(&self) {
        let now = Moment::now();
        Family::ALL
            .iter()
            .for_each(|family| lock(&self.proxy).queued(*family, now));
        self.metrics.queued(now.wall);
    }

    /// All that was known is written.
    pub(crate) fn written(&self, written: &Written) {
        let now = Moment::now();
        Family::ALL
            .iter()
            .for_each(|family| lock(&self.proxy).updated(*family, now));
        self.metrics.written(written, now.wall);
    }

    /// A write failed: what it should have written waits, whoever asked for it.
    pub(crate) fn failed(&self) {
        self.metrics.failed();
        self.queued();
    }

    pub(crate) fn set_node_eligible(&self, eligible: bool) {
        lock(&self.proxy).set_node_eligible(eligible);
    }

    /// What load balancers ask about these Services now; `full`: and about no others. Needs a runtime.
    pub(crate) fn set_checks(&self, changed: BTreeMap<ServiceName, Option<HealthCheck>>, full: bool) {
        lock(&self.checks).update(changed, full);
    }

    /// Where load balancers ask; `None`: on every address. Needs a runtime.
    pub(crate) fn set_addresses(&self, addresses: Option<Vec<IpAddr>>) {
        lock(&self.checks).set_addresses(addresses);
    }

    /// Tries again what could not be opened. Needs a runtime.
    pub(crate) fn retry(&self) {
        lock(&self.checks).retry();
    }

    /// Servers that cannot be opened, one sentence each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let unopened: Vec<String> = lock(&self.unopened).values().cloned().collect();
        unopened
            .into_iter()
            .chain(lock(&self.checks).problems().cloned())
            .collect()
    }
}

/// How many objects the change is about: one, or the list itself.
fn objects<K>(change: &Change<K>) -> u64 {
    match change {
        Change::Restart | Change::Complete => 0,
        Change::Listed(_) | Change::Applied(_) | Change::Deleted(_) | Change::Unreadable(..) => 1,
    }
}

#[cfg(test)]
mod tests;

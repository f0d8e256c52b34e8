//! What Prometheus is told: kube-proxy's metrics where they mean the same, and our own.
//!
//! Some count what happens ([`Metrics`]); the others are looked up when they are asked for ([`observed`]).

mod client;
mod observed;
mod process;
mod spec;
mod text;

pub use client::Requests;
pub(crate) use observed::{Observation, Observe, SourceLabel};
pub use spec::{ALL, Kind, Spec};
pub(super) use text::{Format, encode};

use ferrogate_control::Family;
use jiff::Timestamp;
use observed::Observer;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// One label with a value that is known beforehand.
type One = [(&'static str, &'static str); 1];
type Histograms = Labelled<One, Histogram, fn() -> Histogram>;
type Seconds = Gauge<f64, AtomicU64>;

/// What happens, counted.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    sync: Histograms,
    sync_full: Histograms,
    sync_partial: Histograms,
    sync_last: Labelled<One, Seconds>,
    sync_queued: Labelled<One, Seconds>,
    network_programming: Histograms,
    pub(super) service_changes: Counter,
    pub(super) endpoint_changes: Counter,
    healthz: Labelled<One, Counter>,
    livez: Labelled<One, Counter>,
    map_writes: Counter,
    sync_failures: Counter,
    requests: Requests,
}

/// A write that succeeded.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    /// Everything was compared.
    pub(crate) full: bool,
    pub(crate) took: Duration,
    /// Map writes.
    pub(crate) operations: usize,
    /// When what it wrote had changed in the cluster.
    pub(crate) triggers: Vec<(Family, Timestamp)>,
}

fn by_family(family: Family) -> One {
    [(
        "ip_family",
        match family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        },
    )]
}

fn sync_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// 0.25 s, 0.5 s, then whole seconds to a minute, 5 s to two, 30 s to five.
fn programming_buckets() -> Histogram {
    let whole = (1..60).map(f64::from);
    let five = (60..120).step_by(5).map(f64::from);
    let thirty = (120..=300).step_by(30).map(f64::from);
    Histogram::new([0.25, 0.5].into_iter().chain(whole).chain(five).chain(thirty))
}

impl Metrics {
    pub(super) fn new(requests: Requests) -> Self {
        let syncs = || Histograms::new_with_constructor(sync_buckets);
        let metrics = Self {
            sync: syncs(),
            sync_full: syncs(),
            sync_partial: syncs(),
            sync_last: Labelled::default(),
            sync_queued: Labelled::default(),
            network_programming: Histograms::new_with_constructor(programming_buckets),
            service_changes: Counter::default(),
            endpoint_changes: Counter::default(),
            healthz: Labelled::default(),
            livez: Labelled::default(),
            map_writes: Counter::default(),
            sync_failures: Counter::default(),
            requests,
        };
        // Rates need a first value.
        for family in Family::ALL {
            for histograms in [
                &metrics.sync,
                &metrics.sync_full,
                &metrics.sync_partial,
                &metrics.network_programming,
            ] {
                drop(histograms.get_or_create(&by_family(family)));
            }
        }
        for code in ["200", "503"] {
            drop(metrics.healthz.get_or_create(&[("code", code)]));
            drop(metrics.livez.get_or_create(&[("code", code)]));
        }
        metrics
    }

    /// All metrics; those that are looked up ask `observe`.
    pub(super) fn registry(&self, observe: Arc<dyn Observe>, services: usize) -> Registry {
        let mut registry = Registry::default();
        add(&mut registry, &spec::SYNC, self.sync.clone());
        add(&mut registry, &spec::SYNC_FULL, self.sync_full.clone());
        add(&mut registry, &spec::SYNC_PARTIAL, self.sync_partial.clone());
        add(&mut registry, &spec::SYNC_LAST, self.sync_last.clone());
        add(&mut registry, &spec::SYNC_QUEUED, self.sync_queued.clone());
        add(
            &mut registry,
            &spec::NETWORK_PROGRAMMING,
            self.network_programming.clone(),
        );
        add(&mut registry, &spec::SERVICE_CHANGES, self.service_changes.clone());
        add(&mut registry, &spec::ENDPOINT_CHANGES, self.endpoint_changes.clone());
        add(&mut registry, &spec::HEALTHZ, self.healthz.clone());
        add(&mut registry, &spec::LIVEZ, self.livez.clone());
        add(&mut registry, &spec::MAP_WRITES, self.map_writes.clone());
        add(&mut registry, &spec::SYNC_FAILURES, self.sync_failures.clone());
        add(&mut registry, &spec::REQUESTS, self.requests.counter());
        add(&mut registry, &spec::REQUEST_TIME, self.requests.histogram());
        registry.register_collector(Box::new(Observer::new(observe, services)));
        registry
    }

    pub(super) fn queued(&self, now: Timestamp) {
        for family in Family::ALL {
            self.sync_queued.get_or_create(&by_family(family)).set(seconds(now));
        }
    }

    pub(super) fn written(&self, written: &Written, now: Timestamp) {
        let took = written.took.as_secs_f64();
        let kind = if written.full {
            &self.sync_full
        } else {
            &self.sync_partial
        };
        for family in Family::ALL {
            let family = by_family(family);
            self.sync.get_or_create(&family).observe(took);
            kind.get_or_create(&family).observe(took);
            self.sync_last.get_or_create(&family).set(seconds(now));
        }
        for (family, trigger) in &written.triggers {
            let latency = seconds(now) - seconds(*trigger);
            self.network_programming
                .get_or_create(&by_family(*family))
                .observe(latency.max(0.0));
        }
        self.map_writes.inc_by(written.operations as u64);
    }

    pub(super) fn failed(&self) {
        self.sync_failures.inc();
    }

    pub(super) fn healthz(&self, status: u16) {
        self.healthz.get_or_create(&[("code", code(status))]).inc();
    }

    pub(super) fn livez(&self, status: u16) {
        self.livez.get_or_create(&[("code", code(status))]).inc();
    }
}

fn add(registry: &mut Registry, spec: &Spec, metric: impl Metric) {
    registry.register(spec.family(), spec.phrase(), metric);
}

fn code(status: u16) -> &'static str {
    if status == 200 { "200" } else { "503" }
}

/// Unix time.
fn seconds(time: Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}

#[cfg(test)]
mod tests;

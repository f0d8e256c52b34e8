//! Every metric: name, type, labels and meaning, in one table. `docs/reference.md` prints it.

use prometheus_client::metrics::MetricType;

/// What Prometheus calls the type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    pub(super) const fn encoded(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
            Self::Histogram => MetricType::Histogram,
        }
    }
}

/// One metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spec {
    /// As Prometheus stores it.
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    /// A sentence.
    pub help: &'static str,
}

impl Spec {
    /// What the encoder is told: it adds `_total` to counters.
    pub(super) fn family(&self) -> &'static str {
        match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            Kind::Gauge | Kind::Histogram => self.name,
        }
    }

    /// The help text for the encoder, which ends it with a full stop itself.
    pub(super) fn phrase(&self) -> &'static str {
        self.help.strip_suffix('.').unwrap_or(self.help)
    }
}

macro_rules! metrics {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal)*) => {
        $(pub(super) const $id: Spec = Spec { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*

        /// All metrics, in the order in which they are documented.
        pub const ALL: &[Spec] = &[$($id),*];
    };
}

// The names that begin with kubeproxy_ and rest_client_, and their labels, are kube-proxy's: pkg/proxy/metrics/metrics.go and
// component-base/metrics/prometheus/restclient of Kubernetes 1.36.
metrics! {
    SYNC: Histogram "kubeproxy_sync_proxy_rules_duration_seconds" ["ip_family"]
        "Time of a write of all that changed, from planning to the last map; one write serves both families."
    SYNC_FULL: Histogram "kubeproxy_sync_full_proxy_rules_duration_seconds" ["ip_family"]
        "The same, of the writes that compared everything."
    SYNC_PARTIAL: Histogram "kubeproxy_sync_partial_proxy_rules_duration_seconds" ["ip_family"]
        "The same, of the writes for the Services that changed."
    SYNC_LAST: Gauge "kubeproxy_sync_proxy_rules_last_timestamp_seconds" ["ip_family"]
        "When the maps were last brought up to date, Unix time."
    SYNC_QUEUED: Gauge "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds" ["ip_family"]
        "When a change to write was last heard of, Unix time."
    NETWORK_PROGRAMMING: Histogram "kubeproxy_network_programming_duration_seconds" ["ip_family"]
        "From the change of a pod or Service, as the EndpointSlice's annotation has it, to the write of the maps."
    SERVICE_CHANGES: Counter "kubeproxy_sync_proxy_rules_service_changes_total" []
        "Services heard of: listed, changed or deleted."
    SERVICE_PENDING: Gauge "kubeproxy_sync_proxy_rules_service_changes_pending" []
        "Changed Services that are not written yet."
    ENDPOINT_CHANGES: Counter "kubeproxy_sync_proxy_rules_endpoint_changes_total" []
        "EndpointSlices heard of: listed, changed or deleted."
    ENDPOINT_PENDING: Gauge "kubeproxy_sync_proxy_rules_endpoint_changes_pending" []
        "Changed EndpointSlices that are not written yet."
    NO_LOCAL: Gauge "kubeproxy_sync_proxy_rules_no_local_endpoints_total" ["traffic_policy", "ip_family"]
        "Service ports with traffic policy Local and endpoints, but none on this node."
    HEALTHZ: Counter "kubeproxy_proxy_healthz_total" ["code"] "Answers of /healthz, by HTTP status."
    LIVEZ: Counter "kubeproxy_proxy_livez_total" ["code"] "Answers of /livez, by HTTP status."
    REQUESTS: Counter "rest_client_requests_total" ["code", "method", "host"]
        "Requests to the API server, by HTTP status (`<error>`: none came), method and server."
    REQUEST_TIME: Histogram "rest_client_request_duration_seconds" ["verb", "host"]
        "Time to the head of the API server's answer; a watch goes on after it."
    PACKETS: Counter "ferrogate_packets_total" ["reason"]
        "Packets and socket calls that the programs saw, by what became of them: see Reasons."
    CONNECTIONS: Counter "ferrogate_connections_total" ["namespace", "service", "port", "protocol", "ip_family", "edge"]
        "New connections to a Service port, by whether packets (`packet`) or socket calls (`socket`) are translated; the busiest ports, up to `--metrics-services`."
    CONNECTIONS_OMITTED: Gauge "ferrogate_connections_omitted_services" []
        "Service ports with connections that `--metrics-services` leaves out."
    REFUSALS: Counter "ferrogate_refusals_total" ["namespace", "service", "port", "protocol", "ip_family", "reason", "edge"]
        "Packets and socket calls to a Service port that got no further, by reason and edge; the ports that refuse most, up to `--metrics-services`."
    REFUSALS_OMITTED: Gauge "ferrogate_refusals_omitted_services" []
        "Service ports that refused something and that `--metrics-services` leaves out."
    SERVICE_PACKETS: Counter "ferrogate_service_packets_total" ["namespace", "service", "port", "protocol", "ip_family", "direction"]
        "With `--service-traffic`: packets of a Service port that packet edges translated, `request` or `reply`; the ports with most bytes, up to `--metrics-services`."
    SERVICE_BYTES: Counter "ferrogate_service_bytes_total" ["namespace", "service", "port", "protocol", "ip_family", "direction"]
        "The same in bytes of IP packets."
    FLOWS: Gauge "ferrogate_flows" ["table"] "Entries of the flow tables, two a connection; counted every 10 s at most."
    MAP_ENTRIES: Gauge "ferrogate_map_entries" ["map"] "Entries in use of a map; counted every 10 s at most, and less often where counting takes long."
    MAP_MAX: Gauge "ferrogate_map_max_entries" ["map"] "Entries that a map has room for."
    MAP_PRESSURE: Gauge "ferrogate_map_pressure" ["map"] "Share of a map that is in use, 0 to 1."
    REFUSED: Gauge "ferrogate_refused" ["map"]
        "Things of Service ports that are not programmed because this map has no room: lines under Problems, Events on the Services."
    MAP_WRITES: Counter "ferrogate_map_writes_total" [] "Writes to the maps that brought Services up to date."
    SYNC_FAILURES: Counter "ferrogate_sync_failures_total" [] "Writes that failed and are tried again."
    SERVICE_PORTS: Gauge "ferrogate_service_ports" [] "Service ports programmed, a dual-stack one twice."
    WITHOUT_ENDPOINTS: Gauge "ferrogate_service_ports_without_endpoints" []
        "Those of them that have no usable endpoint anywhere: their clients are refused."
    SOURCE: Gauge "ferrogate_source" ["state"]
        "1 for the state that the API server or the manifests are in: `syncing`, `synced` or `away`."
    SOURCE_AWAY: Gauge "ferrogate_source_away_seconds" []
        "How long no watch has been answered in full, 0 while all are: so old may be what is served."
    PROBLEMS: Gauge "ferrogate_problems" [] "Lines under Problems in `ferrogate status`."
    BUILD: Gauge "ferrogate_build_info" ["version", "abi"] "1; which agent this is."
    PROCESS_CPU: Counter "process_cpu_seconds_total" [] "CPU time of the agent, user and system."
    PROCESS_RESIDENT: Gauge "process_resident_memory_bytes" [] "Memory of the agent that is in RAM."
    PROCESS_VIRTUAL: Gauge "process_virtual_memory_bytes" [] "Address space of the agent."
    PROCESS_FDS: Gauge "process_open_fds" [] "File descriptors that the agent has open."
    PROCESS_MAX_FDS: Gauge "process_max_fds" [] "File descriptors that the agent may open."
    PROCESS_START: Gauge "process_start_time_seconds" [] "When the agent was started, Unix time."
}

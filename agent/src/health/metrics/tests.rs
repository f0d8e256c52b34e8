use super::*;
use crate::admin::MapStatus;
use crate::kernel::Counted;
use ferrogate_common::{Protocol, Reason, Traffic, trace_edge};
use ferrogate_control::{PortName, ServiceName};
use std::collections::BTreeSet;

#[derive(Debug)]
struct Fixed;

fn port(name: &str, family: Family) -> PortName {
    PortName {
        service: ServiceName::new("shop", name),
        port: 80,
        protocol: Protocol::Tcp,
        family,
    }
}

impl Observe for Fixed {
    fn observe(&self) -> Observation {
        let map = |name: &str| MapStatus {
            name: name.to_owned(),
            purpose: String::new(),
            used: Some(25),
            limit: 100,
        };
        let counted = |packet, socket, refused: &[(Reason, u8, u64)]| Counted {
            packet,
            socket,
            traffic: Traffic {
                packets: [packet, 0],
                bytes: [100 * packet, 0],
            },
            refusals: refused
                .iter()
                .map(|(reason, edge, count)| ((*reason, *edge), *count))
                .collect(),
        };
        let refused = [
            (Reason::NoEndpoints, trace_edge::POD, 3),
            (Reason::NoEndpoints, trace_edge::SOCKET, 2),
        ];
        Observation {
            reasons: vec![("new_flow", 7)],
            services: vec![
                (port("web", Family::V4), counted(5, 0, &[])),
                (port("web", Family::V6), counted(1, 8, &refused)),
                (
                    port("api", Family::V4),
                    counted(0, 5, &[(Reason::SourceRange, trace_edge::XDP, 4)]),
                ),
            ],
            maps: vec![map("FLOWS"), map("FRONTENDS")],
            refused: [("SLOTS", 2)].into(),
            no_local: [(("external", Family::V4), 2)].into(),
            pending_services: 1,
            pending_slices: 4,
            service_ports: 3,
            without_endpoints: 1,
            source: SourceLabel::Away,
            away: Duration::from_millis(1500),
            problems: 0,
        }
    }
}

fn written(full: bool, triggers: Vec<(Family, Timestamp)>) -> Written {
    Written {
        full,
        took: Duration::from_millis(3),
        operations: 12,
        triggers,
    }
}

fn scrape(metrics: &Metrics, format: Format) -> String {
    encode(&metrics.registry(Arc::new(Fixed), 2), format).expect("text")
}

/// Metrics that have seen everything once.
fn busy() -> Metrics {
    let requests = Requests::default();
    let metrics = Metrics::new(requests);
    let now: Timestamp = "2026-03-01T12:00:00Z".parse().expect("a time");
    metrics.queued(now);
    metrics.written(
        &written(false, vec![(Family::V4, now - Duration::from_millis(700))]),
        now,
    );
    metrics.written(&written(true, vec![]), now);
    metrics.healthz(503);
    metrics.livez(200);
    metrics
}

fn line<'a>(text: &'a str, begin: &str) -> &'a str {
    let line = text.lines().find(|line| line.starts_with(begin));
    line.unwrap_or_else(|| panic!("no {begin} in\n{text}"))
}

#[test]
fn every_metric_of_the_table_is_served_with_its_type_and_its_labels_and_no_other_is() {
    let metrics = busy();
    let asked = "https://10.0.0.1:6443/api".parse().expect("a URI");
    let mut client = tower::Layer::layer(
        &metrics.requests.layer(&asked),
        tower::service_fn(|_: http::Request<()>| async {
            Ok::<_, std::convert::Infallible>(http::Response::builder().status(410).body(()).expect("a response"))
        }),
    );
    let request = http::Request::builder()
        .uri("/api/v1/services")
        .body(())
        .expect("a request");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime
        .block_on(tower::Service::call(&mut client, request))
        .expect("an answer");
    let text = scrape(&metrics, Format::Prometheus);
    assert!(
        text.contains("rest_client_requests_total{code=\"410\",method=\"GET\",host=\"10.0.0.1:6443\"} 1"),
        "{text}"
    );
    for spec in ALL {
        assert_eq!(
            line(&text, &format!("# TYPE {} ", spec.name)),
            format!("# TYPE {} {}", spec.name, spec.kind.name())
        );
        assert_eq!(
            line(&text, &format!("# HELP {} ", spec.name)),
            format!("# HELP {} {}", spec.name, spec.help)
        );
        let sample = match spec.kind {
            Kind::Histogram => line(&text, &format!("{}_count", spec.name)),
            Kind::Counter | Kind::Gauge => text
                .lines()
                .find(|line| line.split(['{', ' ']).next() == Some(spec.name))
                .unwrap_or_else(|| panic!("no value of {}", spec.name)),
        };
        let labels: Vec<&str> = match sample.split_once('{') {
            Some((_, rest)) => rest
                .split("\",")
                .filter_map(|label| label.split_once("=\"").map(|(name, _)| name))
                .collect(),
            None => vec![],
        };
        assert_eq!(labels, spec.labels, "{sample}");
    }
    let served: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    assert_eq!(served, ALL.iter().map(|spec| spec.name).collect());
}

#[test]
fn buckets_are_kube_proxys() {
    let text = scrape(&busy(), Format::Prometheus);
    let buckets = |name: &str| {
        text.lines()
            .filter(|line| line.starts_with(&format!("{name}_bucket{{")))
            .count()
    };
    assert_eq!(buckets("kubeproxy_sync_proxy_rules_duration_seconds"), 2 * 16);
    assert_eq!(buckets("kubeproxy_network_programming_duration_seconds"), 2 * 81);
    for (bound, count) in [("0.5", 0), ("1", 1), ("300", 1)] {
        let expected = format!(
            "kubeproxy_network_programming_duration_seconds_bucket{{le=\"{bound}\",ip_family=\"IPv4\"}} {count}"
        );
        assert!(text.lines().any(|line| line == expected), "{expected} in\n{text}");
    }
    assert!(
        text.contains("kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.004\",ip_family=\"IPv6\"} 2"),
        "{text}"
    );
    assert!(
        text.contains("kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 1"),
        "{text}"
    );
}

#[test]
fn the_busiest_services_are_listed_and_the_others_counted() {
    let text = scrape(&busy(), Format::Prometheus);
    let rows: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("ferrogate_connections_total{"))
        .collect();
    assert_eq!(
        rows,
        [
            "ferrogate_connections_total{namespace=\"shop\",service=\"web\",port=\"80\",protocol=\"TCP\",ip_family=\"IPv6\",edge=\"packet\"} 1",
            "ferrogate_connections_total{namespace=\"shop\",service=\"web\",port=\"80\",protocol=\"TCP\",ip_family=\"IPv6\",edge=\"socket\"} 8",
            "ferrogate_connections_total{namespace=\"shop\",service=\"api\",port=\"80\",protocol=\"TCP\",ip_family=\"IPv4\",edge=\"socket\"} 5",
        ]
    );
    assert!(
        line(&text, "ferrogate_connections_omitted_services").ends_with(" 1.0"),
        "{text}"
    );
}

#[test]
fn traffic_is_told_by_direction() {
    let text = scrape(&busy(), Format::Prometheus);
    let of = "{namespace=\"shop\",service=\"web\",port=\"80\",protocol=\"TCP\",ip_family=\"IPv4\"";
    for expected in [
        format!("ferrogate_service_packets_total{of},direction=\"request\"}} 5"),
        format!("ferrogate_service_bytes_total{of},direction=\"request\"}} 500"),
        format!("ferrogate_service_bytes_total{of},direction=\"reply\"}} 0"),
    ] {
        assert!(text.lines().any(|line| line == expected), "{expected} in\n{text}");
    }
}

#[test]
fn refusals_are_told_by_service_reason_and_edge() {
    let text = scrape(&busy(), Format::Prometheus);
    for expected in [
        "service=\"web\",port=\"80\",protocol=\"TCP\",ip_family=\"IPv6\",reason=\"no_endpoints\",edge=\"pod\"} 3",
        "service=\"web\",port=\"80\",protocol=\"TCP\",ip_family=\"IPv6\",reason=\"no_endpoints\",edge=\"socket\"} 2",
        "service=\"api\",port=\"80\",protocol=\"TCP\",ip_family=\"IPv4\",reason=\"source_range\",edge=\"xdp\"} 4",
    ] {
        let expected = format!("ferrogate_refusals_total{{namespace=\"shop\",{expected}");
        assert!(text.lines().any(|line| line == expected), "{expected} in\n{text}");
    }
    assert!(
        line(&text, "ferrogate_refusals_omitted_services").ends_with(" 0.0"),
        "{text}"
    );
}

#[test]
fn a_source_that_is_away_says_for_how_long() {
    let text = scrape(&busy(), Format::Prometheus);
    assert!(line(&text, "ferrogate_source_away_seconds").ends_with(" 1.5"), "{text}");
    assert_eq!(
        line(&text, "ferrogate_source{state=\"away\"}"),
        "ferrogate_source{state=\"away\"} 1.0"
    );
    assert!(
        line(&text, "ferrogate_service_ports_without_endpoints").ends_with(" 1.0"),
        "{text}"
    );
}

#[test]
fn openmetrics_is_for_those_that_ask_for_it() {
    assert_eq!(Format::of("text/plain"), Format::Prometheus);
    assert_eq!(Format::of("*/*"), Format::Prometheus);
    assert_eq!(
        Format::of("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2"),
        Format::OpenMetrics
    );
    assert_eq!(Format::of("application/openmetrics-text;q=0"), Format::Prometheus);
    let text = scrape(&busy(), Format::OpenMetrics);
    assert!(
        text.ends_with("# EOF\n") && text.contains("# TYPE ferrogate_packets counter\n"),
        "{text}"
    );
    assert!(!scrape(&busy(), Format::Prometheus).contains("# EOF"));
}

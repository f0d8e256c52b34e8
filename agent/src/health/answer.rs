//! What is answered, to the byte: kube-proxy's documents and headers, which load balancers and probes read.

use super::state::Verdict;
use crate::http::{Answer, JSON};
use ferrogate_control::{Family, ServiceName};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;

/// The zero of Go's `time.Time`: "never".
const NEVER: &str = "0001-01-01T00:00:00Z";

/// A header of the load balancers' own: how many endpoints stand behind this node.
const WEIGHT: &str = "X-Load-Balancing-Endpoint-Weight";

fn json(healthy: bool, body: String) -> Answer {
    Answer {
        status: if healthy { 200 } else { 503 },
        content_type: JSON,
        ..Answer::text(body)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<String, Proxier>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Proxier {
    last_updated: String,
    healthy: bool,
}

/// `/healthz`: the proxy, and whether the Node should get traffic.
pub(super) fn healthz(verdict: &Verdict) -> Answer {
    document(
        verdict,
        verdict.healthy && verdict.node_eligible,
        Some(verdict.node_eligible),
    )
}

/// `/livez`: the proxy alone.
pub(super) fn livez(verdict: &Verdict) -> Answer {
    document(verdict, verdict.healthy, None)
}

/// The member `healthy` is about the proxy alone, in both.
fn document(verdict: &Verdict, ok: bool, node_eligible: Option<bool>) -> Answer {
    let text = |time: Timestamp| time.to_string();
    let proxier = |(family, (updated, healthy)): (&Family, &(Timestamp, bool))| {
        let last_updated = text(*updated);
        let healthy = *healthy;
        (family.to_string(), Proxier { last_updated, healthy })
    };
    // A proxy with nothing to do is as good as one that has just written: its time is now.
    let updated = if ok { Some(verdict.now) } else { verdict.updated };
    let document = Document {
        last_updated: updated.map_or_else(|| NEVER.to_owned(), text),
        current_time: text(verdict.now),
        node_eligible,
        healthy: verdict.healthy,
        status: verdict.families.iter().map(proxier).collect(),
    };
    // Strings and booleans can always be written.
    json(ok, serde_json::to_string(&document).unwrap_or_default())
}

/// A Service's `healthCheckNodePort`, on every path.
pub(super) fn service(name: &ServiceName, ready: usize, healthy: bool) -> Answer {
    let ServiceName { namespace, name } = name;
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\
         \t\"localEndpoints\": {ready},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    );
    Answer {
        headers: vec![(WEIGHT, ready.to_string())],
        ..json(ready > 0 && healthy, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict() -> Verdict {
        let time = |text: &str| text.parse().expect("a time");
        let families = [
            (Family::V4, (time("2026-03-01T12:00:00.5Z"), true)),
            (Family::V6, (time("2026-03-01T11:59:00Z"), true)),
        ];
        Verdict {
            healthy: true,
            node_eligible: true,
            updated: Some(time("2026-03-01T12:00:00.5Z")),
            now: time("2026-03-01T12:01:00.123456789Z"),
            families: families.into(),
        }
    }

    #[test]
    fn a_healthy_proxy_was_updated_now() {
        let answer = healthz(&verdict());
        assert_eq!((answer.status, answer.content_type), (200, "application/json"));
        assert_eq!(
            answer.body,
            r#"{"lastUpdated":"2026-03-01T12:01:00.123456789Z","currentTime":"2026-03-01T12:01:00.123456789Z","nodeEligible":true,"healthy":true,"status":{"IPv4":{"lastUpdated":"2026-03-01T12:00:00.5Z","healthy":true},"IPv6":{"lastUpdated":"2026-03-01T11:59:00Z","healthy":true}}}"#
        );
    }

    #[test]
    fn a_node_that_goes_away_is_unhealthy_for_healthz_and_alive_for_livez() {
        let going = Verdict {
            node_eligible: false,
            ..verdict()
        };
        let answer = healthz(&going);
        assert_eq!(answer.status, 503);
        assert!(
            answer.body.contains(r#""nodeEligible":false,"healthy":true"#),
            "{}",
            answer.body
        );
        assert!(
            answer.body.starts_with(r#"{"lastUpdated":"2026-03-01T12:00:00.5Z""#),
            "{}",
            answer.body
        );
        let alive = livez(&going);
        assert_eq!(alive.status, 200);
        assert!(!alive.body.contains("nodeEligible"), "{}", alive.body);
    }

    #[test]
    fn before_the_first_update_there_is_no_status_and_an_unhealthy_one_would_say_never() {
        let starting = Verdict {
            updated: None,
            families: BTreeMap::new(),
            node_eligible: false,
            ..verdict()
        };
        assert_eq!(
            healthz(&starting).body,
            r#"{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":"2026-03-01T12:01:00.123456789Z","nodeEligible":false,"healthy":true}"#
        );
    }

    #[test]
    fn a_service_is_up_with_ready_endpoints_and_a_healthy_proxy_only() {
        let name = ServiceName::new("shop", "web");
        let answer = service(&name, 2, true);
        let weight = vec![(WEIGHT, "2".to_owned())];
        assert_eq!((answer.status, &answer.headers), (200, &weight));
        assert_eq!(
            answer.body,
            "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
        );
        assert_eq!(service(&name, 0, true).status, 503);
        let sick = service(&name, 2, false);
        assert_eq!((sick.status, sick.headers), (503, weight));
    }
}

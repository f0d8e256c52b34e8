//! What a node answers to probes, load balancers and Prometheus, beside what kube-proxy answers: the same objects, the same
//! questions, in two rigs with a real API server. `--nocapture` shows the answers side by side.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ferrogate_tests::rig::{
    Family, FerrogateOptions, HttpAnswer, Layout, Options, Place, PodSpec, Proxy, Rig, ServiceSpec, Source, addresses,
};
use ferrogate_tests::wire::Protocol;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);
const HEALTHZ: u16 = 10_256;
const METRICS: u16 = 10_249;
/// The healthCheckNodePort, and the one that it is changed to.
const PORTS: [u16; 2] = [32_100, 32_101];

/// What a question is expected to come to; how it is answered in detail is what the two are compared in.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// Nobody listens.
    Closed,
    Status(u16),
    /// A healthCheckNodePort: status and `localEndpoints`.
    Endpoints(u16, u64),
}

impl Expected {
    fn met(self, answer: Option<&HttpAnswer>) -> bool {
        match (self, answer) {
            (Self::Closed, None) => true,
            (Self::Status(status), Some(answer)) => answer.status == status,
            (Self::Endpoints(status, count), Some(answer)) => {
                let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
                answer.status == status && body["localEndpoints"] == count
            }
            _ => false,
        }
    }
}

/// A question and its answer, by what was done before.
type Row = (String, Option<HttpAnswer>);

/// One rig and what it answered.
struct Asked {
    rig: Rig,
    rows: Vec<Row>,
}

impl Asked {
    /// Asks node 1 until the answer is as expected.
    fn ask(&mut self, case: &str, from: Client, port: u16, path: &str, expected: Expected) -> Result<()> {
        let (place, ip): (&Place, IpAddr) = match from {
            Client::Node => (&self.rig.node(1).place, Ipv4Addr::LOCALHOST.into()),
            Client::Outside(family) => (&self.rig.outside, self.rig.node(1).address.get(family)),
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            // A listener that is just closing ends connections without an answer.
            let answer = match place.get(SocketAddr::new(ip, port), path) {
                Ok(answer) if expected.met(answer.as_ref()) => {
                    self.rows.push((case.to_owned(), answer));
                    return Ok(());
                }
                other => other,
            };
            ensure!(
                Instant::now() < deadline,
                "{}: {case}: not {expected:?} within {PATIENCE:?}: {answer:?}",
                self.rig.options.proxy.name()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asks a healthCheckNodePort from outside, in both families.
    fn ask_check(&mut self, case: &str, port: u16, expected: [Expected; 2]) -> Result<()> {
        for (family, expected) in Family::BOTH.into_iter().zip(expected) {
            let case = format!("healthCheckNodePort, {case}, {}", name(family));
            self.ask(&case, Client::Outside(family), port, "/", expected)?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Client {
    /// A process of node 1, over loopback.
    Node,
    Outside(Family),
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn boot(proxy: Proxy) -> Result<Asked> {
    let rig = Rig::boot(Options {
        nodes: 2,
        layout: Layout::Routed,
        source: Source::ControlPlane,
        proxy,
        ..Options::default()
    })?;
    Ok(Asked { rig, rows: vec![] })
}

/// A Service without a selector: the test writes its slices.
fn service(policy: &str, health_check: Option<u16>) -> Value {
    let addresses = addresses::cluster_ip(77);
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": "balanced"},
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": addresses.v4,
            "clusterIPs": addresses.both(),
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "externalTrafficPolicy": policy,
            "ports": [{"name": "web", "port": 80, "targetPort": 8080, "protocol": "TCP", "nodePort": 31_100}],
        },
    });
    if let Some(port) = health_check {
        object["spec"]["healthCheckNodePort"] = port.into();
    }
    object
}

/// Endpoints: last number of the address, number of the node, and whether it is ready; not ready ones are terminating and serve.
fn slice(family: Family, endpoints: &[(u8, u8, bool)]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|&(index, node, ready)| {
            json!({
                "addresses": [addresses::pod(node, index).get(family)],
                "conditions": {"ready": ready, "serving": true, "terminating": !ready},
                "nodeName": format!("n{node}"),
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": format!("balanced-{}", name(family).to_lowercase()),
            "labels": {"kubernetes.io/service-name": "balanced"},
        },
        "addressType": name(family),
        "endpoints": endpoints,
        "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}],
    })
}

/// Everything about the healthCheckNodePort of one Service.
fn health_checks(asked: &mut Asked) -> Result<()> {
    use Expected::{Closed, Endpoints};
    let [first, second] = PORTS;
    asked.ask_check("before the Service is there", first, [Closed, Closed])?;
    asked.rig.apply(&service("Local", Some(first)))?;
    asked.ask_check("no endpoint at all", first, [Endpoints(503, 0), Endpoints(503, 0)])?;
    asked.rig.apply(&slice(Family::V4, &[(20, 2, true)]))?;
    asked.ask_check("one endpoint, elsewhere", first, [Endpoints(503, 0), Endpoints(503, 0)])?;
    asked.rig.apply(&slice(Family::V4, &[(20, 1, true), (20, 2, true)]))?;
    asked.ask_check("one here, of IPv4", first, [Endpoints(200, 1), Endpoints(503, 0)])?;
    asked.rig.apply(&slice(Family::V6, &[(20, 1, true), (21, 1, true)]))?;
    asked.ask_check(
        "one here of IPv4, two of IPv6",
        first,
        [Endpoints(200, 1), Endpoints(200, 2)],
    )?;
    asked.rig.apply(&slice(Family::V6, &[(20, 1, true), (21, 1, false)]))?;
    asked.ask_check("one of IPv6 terminating", first, [Endpoints(200, 1), Endpoints(200, 1)])?;
    asked.rig.apply(&slice(Family::V4, &[(20, 1, false), (20, 2, true)]))?;
    asked.ask_check(
        "the only one of IPv4 terminating",
        first,
        [Endpoints(503, 0), Endpoints(200, 1)],
    )?;
    asked.rig.apply(&slice(Family::V4, &[(20, 1, true)]))?;
    asked.ask_check("it is ready again", first, [Endpoints(200, 1), Endpoints(200, 1)])?;
    asked.rig.apply(&service("Cluster", None))?;
    asked.ask_check("policy Cluster", first, [Closed, Closed])?;
    asked.rig.apply(&service("Local", Some(second)))?;
    asked.ask_check(
        "policy Local, another port",
        second,
        [Endpoints(200, 1), Endpoints(200, 1)],
    )?;
    asked.ask_check("the port it had before", first, [Closed, Closed])?;
    asked.rig.delete(&service("Local", Some(second)))?;
    asked.ask_check("the Service is deleted", second, [Closed, Closed])
}

/// /healthz and /livez as the Node changes.
fn node(asked: &mut Asked) -> Result<()> {
    let object = |spec: Value, metadata: Value| {
        let mut object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {
            "kubernetes.io/hostname": "n1", "topology.kubernetes.io/zone": "zone-1",
        }}, "spec": spec});
        if let (Some(fields), Some(more)) = (object["metadata"].as_object_mut(), metadata.as_object()) {
            fields.extend(more.clone());
        }
        object
    };
    let both = |asked: &mut Asked, case: &str, healthz: u16| -> Result<()> {
        for (path, status) in [("/healthz", healthz), ("/livez", 200)] {
            for family in Family::BOTH {
                let case = format!("{path}, {case}, {}", name(family));
                asked.ask(&case, Client::Outside(family), HEALTHZ, path, Expected::Status(status))?;
            }
        }
        Ok(())
    };
    let ranges = || {
        let (v4, v6) = addresses::pod_ranges(1);
        json!({"podCIDR": v4, "podCIDRs": [v4.to_string(), v6.to_string()]})
    };
    both(asked, "as it is", 200)?;
    let mut tainted = ranges();
    tainted["taints"] = json!([{"key": "ToBeDeletedByClusterAutoscaler", "value": "1", "effect": "NoSchedule"}]);
    asked.rig.apply(&object(tainted, json!({})))?;
    both(asked, "the Node is tainted", 503)?;
    asked.rig.apply(&object(ranges(), json!({})))?;
    both(asked, "the taint is gone", 200)?;
    asked
        .rig
        .apply(&object(ranges(), json!({"finalizers": ["example.com/held"]})))?;
    asked.rig.delete(&object(json!({}), json!({})))?;
    both(asked, "the Node is being deleted", 503)?;
    let other = Client::Outside(Family::V4);
    asked.ask(
        "another path of the same port",
        other,
        HEALTHZ,
        "/other",
        Expected::Status(404),
    )
}

fn mode(asked: &mut Asked) -> Result<()> {
    asked.ask("/proxyMode", Client::Node, METRICS, "/proxyMode", Expected::Status(200))?;
    // So that both have been counted when the metrics are read.
    asked.ask(
        "/healthz from the node",
        Client::Node,
        HEALTHZ,
        "/healthz",
        Expected::Status(200),
    )?;
    asked.ask(
        "/livez from the node",
        Client::Node,
        HEALTHZ,
        "/livez",
        Expected::Status(200),
    )?;
    asked.ask(
        "/healthz of the metrics",
        Client::Node,
        METRICS,
        "/healthz",
        Expected::Status(200),
    )?;
    asked.ask(
        "/proxyMode from outside",
        Client::Outside(Family::V4),
        METRICS,
        "/proxyMode",
        Expected::Closed,
    )
}

/// Name and type of each metric, and names of the labels that its values have.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// Makes every metric have a value, then reads them.
fn metrics(asked: &mut Asked) -> Result<Metrics> {
    // A Service that the endpointslice controller looks after: its slices say when they were due.
    asked.rig.add_pod(PodSpec::new("a", 1).ports(&[8080]))?;
    let service = ServiceSpec::new("counted", "a", 78).port(Protocol::Tcp, 80, 8080, None);
    asked.rig.add_service(service)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), METRICS);
        let answer = asked.rig.node(1).place.get(address, "/metrics")?;
        let answer = answer.context("nobody serves /metrics")?;
        ensure!(answer.status == 200, "{answer:?}");
        let kind = &answer.headers["content-type"];
        ensure!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        let timed = answer.body.lines().any(|line| {
            line.starts_with("kubeproxy_network_programming_duration_seconds_count") && !line.ends_with(" 0")
        });
        if timed {
            return Ok(parse(&answer.body));
        }
        ensure!(
            Instant::now() < deadline,
            "{}: no time from change to write within {PATIENCE:?}:\n{}",
            asked.rig.options.proxy.name(),
            answer.body
        );
        thread::sleep(Duration::from_millis(100));
    }
}

fn parse(text: &str) -> Metrics {
    let types = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut metrics: Metrics = types
        .map(|(name, kind)| (name.to_owned(), (kind.to_owned(), BTreeSet::new())))
        .collect();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, rest)) = line.split_once('{') else {
            continue;
        };
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        let entry = [Some(name), family]
            .into_iter()
            .flatten()
            .find(|name| metrics.contains_key(*name));
        if let Some((_, labels)) = entry.and_then(|name| metrics.get_mut(name)) {
            let names = rest
                .split("\",")
                .filter_map(|label| label.trim_start_matches(',').split_once("=\""));
            labels.extend(
                names
                    .map(|(name, _)| name.trim().to_owned())
                    .filter(|name| name != "le"),
            );
        }
    }
    metrics
}

/// Those whose meaning is the same, so that what reads kube-proxy's reads ours.
const SHARED: [&str; 15] = [
    "kubeproxy_sync_proxy_rules_duration_seconds",
    "kubeproxy_sync_full_proxy_rules_duration_seconds",
    "kubeproxy_sync_partial_proxy_rules_duration_seconds",
    "kubeproxy_network_programming_duration_seconds",
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
    "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
    "kubeproxy_sync_proxy_rules_service_changes_pending",
    "kubeproxy_sync_proxy_rules_service_changes_total",
    "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
    "kubeproxy_sync_proxy_rules_endpoint_changes_total",
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
    "kubeproxy_proxy_healthz_total",
    "kubeproxy_proxy_livez_total",
    "rest_client_requests_total",
    "rest_client_request_duration_seconds",
];

/// Everything of one proxy.
fn everything(proxy: Proxy) -> Result<(Vec<Row>, Metrics)> {
    let mut asked = boot(proxy)?;
    health_checks(&mut asked)?;
    mode(&mut asked)?;
    let found = metrics(&mut asked)?;
    node(&mut asked)?;
    asked.rig.check_proxies()?;
    Ok((asked.rows, found))
}

/// The answer to the byte, but for what differs from moment to moment, in one line.
fn shown(answer: Option<&HttpAnswer>) -> String {
    let Some(answer) = answer else {
        return "closed".to_owned();
    };
    let header = |name: &str| answer.headers.get(name).cloned().unwrap_or_default();
    let mut text = format!(
        "{} {} {}",
        answer.status,
        header("content-type"),
        header("x-content-type-options")
    );
    if let Some(weight) = answer.headers.get("x-load-balancing-endpoint-weight") {
        text.push_str(&format!(" weight={weight}"));
    }
    let body = ["lastUpdated", "currentTime"]
        .iter()
        .fold(answer.body.clone(), |body, name| blank(&body, name));
    format!("{text} {}", body.escape_debug().to_string().replace("\\\"", "\""))
}

/// The text without the moments that this field has; "never" is kept.
fn blank(text: &str, name: &str) -> String {
    let field = format!("\"{name}\":\"");
    let mut parts = text.split(&field);
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (time, rest) = part.split_once('"').unwrap_or((part, ""));
        let is_moment = time.len() >= 20 && time.starts_with("20") && time.as_bytes()[10] == b'T';
        whole.push_str(&format!(
            "\"{name}\":\"{}\"{rest}",
            if is_moment { "<time>" } else { time }
        ));
    }
    whole
}

#[test]
fn probes_load_balancers_and_prometheus_are_answered_as_kube_proxy_answers_them() -> Result<()> {
    let (theirs, their_metrics) = everything(Proxy::KubeProxy).context("kube-proxy")?;
    let (ours, our_metrics) = everything(Proxy::Ferrogate(FerrogateOptions::default())).context("ferrogate")?;
    let mut different = vec![];
    assert_eq!(theirs.len(), ours.len());
    for ((case, theirs), (_, ours)) in theirs.iter().zip(&ours) {
        let (theirs, ours) = (shown(theirs.as_ref()), shown(ours.as_ref()));
        // The mode's name is our own; all else about it is the same.
        let (theirs, ours) = match case.as_str() {
            "/proxyMode" => (
                theirs.replace("nftables", "<mode>"),
                ours.replace("ferrogate", "<mode>"),
            ),
            _ => (theirs, ours),
        };
        println!("{case}\n  kube-proxy  {theirs}\n  ferrogate   {ours}");
        if theirs != ours {
            different.push(case.as_str());
        }
    }
    println!("\n{:<62} {:<44} ferrogate", "metric", "kube-proxy");
    for name in SHARED {
        let show = |metrics: &Metrics| match metrics.get(name) {
            Some((kind, labels)) => format!("{kind} {labels:?}"),
            None => "absent".to_owned(),
        };
        let (theirs, ours) = (show(&their_metrics), show(&our_metrics));
        println!("{name:<62} {theirs:<44} {ours}");
        assert_ne!(ours, "absent", "{name}");
        if theirs != ours {
            different.push(name);
        }
    }
    println!(
        "\n{} answers and {} metrics compared, {} different",
        ours.len(),
        SHARED.len(),
        different.len()
    );
    assert!(different.is_empty(), "{different:?}");
    Ok(())
}

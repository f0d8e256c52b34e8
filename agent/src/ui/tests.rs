use super::*;
use crate::admin::{
    Checkup, Counters, Diff, EndpointExplanation, Explained, Explanation, FlowsPage, Names, PortExplanation,
    ReasonCount, ServiceCounters, ServiceRow, Status,
};
use crate::cli::Cli;
use anyhow::bail;
use clap::CommandFactory as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// A node whose counters grow by a look.
#[derive(Default)]
struct Node {
    looks: AtomicU64,
}

fn port(service: &str, id: u32, connections: u64) -> ServiceCounters {
    ServiceCounters {
        service: service.to_owned(),
        protocol: "TCP".to_owned(),
        family: "IPv4".to_owned(),
        id,
        connections,
        refused: 0,
        traffic: None,
        endpoints: 2,
        local: 1,
    }
}

impl Provider for Node {
    fn status(&self) -> Result<Status> {
        Ok(Status {
            node: "n1".to_owned(),
            version: "1.2.3".to_owned(),
            uptime_seconds: Some(60),
            problems: vec!["something is wrong".to_owned()],
            ..Status::default()
        })
    }

    fn metrics(&self) -> Result<String> {
        bail!("not asked for")
    }

    fn services(&self, _: Option<&str>) -> Result<Vec<ServiceRow>> {
        bail!("not asked for")
    }

    fn explain(&self, service: &str, from: Option<&str>) -> Result<Explained> {
        assert_eq!((service, from), ("shop/web:80", None));
        let endpoint = |last: u16| EndpointExplanation {
            address: ([10, 0, last.to_be_bytes()[0], last.to_be_bytes()[1]], 8080).into(),
            pod: None,
            node: None,
            zone: None,
            local: false,
            state: "ready".to_owned(),
            weight: 1,
            cluster: true,
            local_set: None,
            verdict: "used".to_owned(),
            flows: 0,
            gone: false,
        };
        let of_port = |id: u32| PortExplanation {
            port: 80,
            id: Some(id),
            endpoints: (0..600).map(endpoint).collect(),
            ..PortExplanation::default()
        };
        Ok(Explained::Service(Box::new(Explanation {
            kind: "NodePort".to_owned(),
            ports: vec![of_port(8), of_port(1)],
            ..Explanation::default()
        })))
    }

    fn diff(&self) -> Result<Diff> {
        bail!("not asked for")
    }

    fn doctor(&self) -> Result<Checkup> {
        bail!("not asked for")
    }

    fn counters(&self, backends_of: Option<u32>) -> Result<Counters> {
        assert_eq!(backends_of, None);
        let looks = self.looks.fetch_add(1, Ordering::AcqRel);
        let count = |reason: &str, count| ReasonCount {
            reason: reason.to_owned(),
            count,
            drop: reason == "no_route",
            description: String::new(),
        };
        Ok(Counters {
            node: "n1".to_owned(),
            at_nanos: 1_000_000_000 * (looks + 1),
            services: vec![
                port("default/db:5432", 3, 1000),
                port("shop/api:80", 2, 4 * looks),
                port("shop/web:80", 1, 10 * looks),
            ],
            reasons: vec![count("new_flow", 6 * looks), count("no_route", 2 * looks)],
            ..Counters::default()
        })
    }

    fn names(&self, _: Option<&str>) -> Result<Names> {
        Ok(Names::default())
    }

    fn flows(&self, _: Option<&str>, _: Option<IpAddr>, _: u32) -> Result<FlowsPage> {
        bail!("not asked for")
    }

    fn port_flows(&self, id: u32, limit: u32) -> Result<FlowsPage> {
        assert!(id == 1 && limit <= 100);
        Ok(FlowsPage {
            flows: vec![],
            truncated: true,
        })
    }
}

fn page() -> Page {
    Page::new(Arc::new(Node::default()), Feed::new(0, |_| Ok(Opened::Taken)))
}

fn ask_as(page: &Page, method: &Method, at: &str, headers: &[(&'static str, &str)]) -> Answer {
    let (path, query) = at.split_once('?').unwrap_or((at, ""));
    let header = |(name, value): &(&'static str, &str)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_str(value).expect("a header"),
        )
    };
    let headers: HeaderMap = headers.iter().map(header).collect();
    let question = Question {
        method,
        path,
        query,
        headers: &headers,
    };
    respond(page, &question)
}

fn ask(page: &Page, at: &str) -> Answer {
    ask_as(page, &Method::GET, at, &[("host", "127.0.0.1:10261")])
}

fn json(page: &Page, at: &str) -> Value {
    let answer = ask(page, at);
    assert_eq!(
        (answer.status, answer.content_type),
        (200, "application/json"),
        "{answer:?}"
    );
    serde_json::from_str(&answer.body).expect("JSON")
}

fn names(node: &Value) -> Vec<&str> {
    let rows = node["services"].as_array().expect("rows");
    rows.iter().filter_map(|row| row["service"].as_str()).collect()
}

#[test]
fn the_node_has_rates_between_two_moments_and_services_in_the_order_that_is_asked_for() {
    let page = page();
    let node = json(&page, "/api/node");
    assert!(
        node["seconds"].as_f64() < Some(0.5),
        "one moment has no rates: {node:#}"
    );
    assert_eq!(
        (&node["node"], &node["version"], &node["problems"][0]),
        (&"n1".into(), &"1.2.3".into(), &"something is wrong".into())
    );
    std::thread::sleep(std::time::Duration::from_secs(1));
    let node = json(&page, "/api/node");
    assert_eq!(
        (node["seconds"].as_f64(), node["connections"].as_f64()),
        (Some(1.0), Some(14.0)),
        "{node:#}"
    );
    assert_eq!(names(&node), ["shop/web:80", "shop/api:80", "default/db:5432"]);
    assert_eq!(node["services"][0]["rate"].as_f64(), Some(10.0));
    let drop = &node["drops"][0];
    assert_eq!(
        (drop["reason"].as_str(), drop["rate"].as_f64()),
        (Some("no_route"), Some(2.0))
    );
    assert_eq!(drop["description"], ferrogate_common::Reason::NoRoute.description());

    let shop = json(&page, "/api/node?sort=name&reverse=1&search=SHOP%2F&limit=1");
    assert_eq!((&shop["total"], &shop["matching"]), (&3.into(), &2.into()));
    assert_eq!(names(&shop), ["shop/web:80"]);
    assert_eq!(names(&json(&page, "/api/node?sort=total"))[0], "default/db:5432");
}

#[test]
fn a_service_port_has_its_ways_some_of_its_endpoints_and_its_flows() {
    let page = page();
    let view = json(&page, "/api/service?id=1");
    assert_eq!(
        (&view["service"], &view["kind"], &view["port"]["id"]),
        (&"shop/web:80".into(), &"NodePort".into(), &1.into())
    );
    assert_eq!((&view["endpoints"], &view["more_flows"]), (&600.into(), &true.into()));
    assert_eq!(view["port"]["endpoints"].as_array().map(Vec::len), Some(500));
    let gone = ask(&page, "/api/service?id=77");
    assert!(
        gone.status == 404 && gone.body.contains("no such Service port"),
        "{gone:?}"
    );
}

#[test]
fn events_say_where_they_come_from_and_who_goes_first() {
    let page = page();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let events = json(&page, "/api/events?after=3");
        assert_eq!(
            (&events["events"], &events["next"]),
            (&serde_json::json!([]), &0.into())
        );
        if events["state"] == "waiting" {
            assert!(
                events["why"]
                    .as_str()
                    .is_some_and(|why| why.contains("ferrogate trace"))
            );
            return;
        }
        assert!(std::time::Instant::now() < end, "{events:#}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn what_has_no_meaning_is_refused_with_a_sentence() {
    let page = page();
    for (at, status, part) in [
        ("/api/node?sort=size", 400, "sort"),
        ("/api/node?limit=many", 400, "limit"),
        ("/api/service", 400, "which"),
        ("/api/service?id=-1", 400, "id"),
        ("/api/events?after=x", 400, "after"),
        ("/api/else", 404, "/api lists"),
        ("/../../etc/passwd", 404, "/api lists"),
    ] {
        let answer = ask(&page, at);
        assert_eq!(answer.status, status, "{at}");
        let error: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert!(error["error"].as_str().is_some_and(|why| why.contains(part)), "{error}");
    }
}

#[test]
fn every_endpoint_that_is_documented_answers_and_every_file_is_there() {
    let page = page();
    let help = Cli::command()
        .find_subcommand_mut("agent")
        .map(|agent| agent.render_long_help().to_string());
    let listed = json(&page, "/api");
    for (place, endpoint) in ENDPOINTS.iter().enumerate() {
        assert_eq!(listed[place]["path"], endpoint.path);
        assert!(
            help.as_ref().is_some_and(|help| help.contains(endpoint.path)),
            "{}",
            endpoint.path
        );
        assert_ne!(ask(&page, endpoint.path).status, 404, "{}", endpoint.path);
    }
    for (path, content_type, content) in FILES {
        let answer = ask(&page, path);
        assert_eq!((answer.status, answer.content_type), (200, content_type));
        assert_eq!(answer.body, content);
    }
}

#[test]
fn nothing_of_elsewhere_is_loaded_and_nothing_is_written_into_the_document() {
    let page = page();
    let document = ask(&page, "/").body;
    for (path, _, content) in FILES {
        for part in [
            "http://",
            "https://",
            "//cdn",
            "@import",
            "eval(",
            "innerHTML",
            "document.write",
        ] {
            // The name of the language of pictures is an address that nobody asks for.
            let content = content.replace("http://www.w3.org/2000/svg", "");
            assert!(!content.contains(part), "{path}: {part}");
        }
    }
    for part in [" style=", "<style", " onclick=", "<script>"] {
        assert!(!document.contains(part), "{part}");
    }
    let policy = ask(&page, "/")
        .headers
        .into_iter()
        .find(|(name, _)| *name == "Content-Security-Policy");
    let (_, policy) = policy.expect("a policy");
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
}

#[test]
fn other_methods_names_and_pages_are_refused() {
    let page = page();
    let host = ("host", "localhost:8080");
    for method in [
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::OPTIONS,
    ] {
        let answer = ask_as(&page, &method, "/api/node", &[host]);
        assert_eq!(answer.status, 405, "{method}");
    }
    assert_eq!(ask_as(&page, &Method::HEAD, "/", &[host]).status, 200);
    for at in ["/", "/api/node"] {
        let rebound = ask_as(&page, &Method::GET, at, &[("host", "evil.example:10261")]);
        assert_eq!(rebound.status, 421, "{at}");
        assert_eq!(ask_as(&page, &Method::GET, at, &[]).status, 421, "{at}: without a Host");
    }
    let from = |site| ask_as(&page, &Method::GET, "/api/node", &[host, ("sec-fetch-site", site)]).status;
    assert_eq!(
        ["same-origin", "none", "cross-site", "same-site"].map(from),
        [200, 200, 403, 403]
    );
    let link = ask_as(&page, &Method::GET, "/", &[host, ("sec-fetch-site", "cross-site")]);
    assert_eq!(link.status, 200, "a link to the page may be anywhere");
}

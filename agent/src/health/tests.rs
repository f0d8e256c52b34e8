use super::*;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Instant;

#[derive(Debug)]
struct Nothing;

impl Observe for Nothing {
    fn observe(&self) -> Observation {
        Observation {
            refused: BTreeMap::new(),
            reasons: vec![],
            services: vec![],
            maps: vec![],
            no_local: BTreeMap::new(),
            pending_services: 0,
            pending_slices: 0,
            service_ports: 0,
            without_endpoints: 0,
            source: SourceLabel::Syncing,
            away: Duration::ZERO,
            problems: 0,
        }
    }
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    listener.local_addr().expect("an address")
}

fn settings(healthz: SocketAddr, metrics: SocketAddr) -> Settings {
    Settings {
        healthz: Some(healthz),
        metrics: Some(metrics),
        timeout: Duration::from_secs(60),
        services: 10,
    }
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn wait(address: SocketAddr, path: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match get(address, path) {
            Some(text) => return text,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            None => panic!("nobody answers on {address}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_path_is_answered_and_counted() {
    let (healthz, metrics) = (free_port(), free_port());
    let health = Health::new(settings(healthz, metrics), Requests::default());
    health.serve(Arc::new(Nothing));
    let well = wait(healthz, "/healthz");
    assert!(
        well.starts_with("HTTP/1.1 200 OK\r\n") && well.contains("lastUpdated"),
        "{well}"
    );
    health.set_node_eligible(false);
    assert!(wait(healthz, "/healthz").starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
    assert!(wait(healthz, "/livez").starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(wait(healthz, "/else").starts_with("HTTP/1.1 404 Not Found\r\n"));
    assert!(wait(metrics, "/proxyMode").ends_with("\r\n\r\nferrogate"));
    assert!(wait(metrics, "/healthz").ends_with("\r\n\r\nok"));
    let text = wait(metrics, "/metrics");
    for line in [
        "content-type: text/plain; version=0.0.4; charset=utf-8",
        "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
        "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
        "kubeproxy_proxy_livez_total{code=\"200\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_is_a_problem_that_ends_when_it_is_free() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let healthz = taken.local_addr().expect("an address");
    let health = Health::new(settings(healthz, free_port()), Requests::default());
    health.serve(Arc::new(Nothing));
    let deadline = Instant::now() + Duration::from_secs(10);
    while health.problems().is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let problems = health.problems();
    assert!(
        problems.len() == 1 && problems[0].contains("--healthz-bind-address"),
        "{problems:?}"
    );
    drop(taken);
    assert!(tokio::task::block_in_place(|| wait(healthz, "/livez")).contains("200 OK"));
    assert!(health.problems().is_empty());
}

use super::super::{Health, Receiver, queue};
use super::*;
use crate::health::Requests;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What the stand-in for an API server does about lists that are streamed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Streams {
    Served,
    /// With this status: 422 is a server without the feature, 500 one whose etcd is too old for it.
    Refused(u16),
}

/// Serves one Service (and one that nobody can read), one slice and one Node, and announces the Service's deletion on each watch that follows a list.
async fn answer(stream: TcpStream, streams: Streams) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let (status, lines, open) = reply(&path, streams);
    let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    for line in lines {
        stream.write_all(format!("{line}\n").as_bytes()).await?;
    }
    if open {
        // The watch stays open until the client or the server is gone.
        stream.read_line(&mut String::new()).await?;
    }
    Ok(())
}

fn reply(path: &str, streams: Streams) -> (u16, Vec<Value>, bool) {
    let (kind, version) = match path {
        path if path.contains("/services") => ("Service", "v1"),
        path if path.contains("/endpointslices") => ("EndpointSlice", "discovery.k8s.io/v1"),
        path if path.contains("/pods") => ("Pod", "v1"),
        _ => ("Node", "v1"),
    };
    let mut object = json!({
        "apiVersion": version, "kind": kind,
        "metadata": {"name": "one", "namespace": "default", "resourceVersion": "5"},
    });
    if kind == "EndpointSlice" {
        object["addressType"] = "IPv4".into();
        object["endpoints"] = json!([]);
    }
    let mut objects = vec![object.clone()];
    if kind == "Service" {
        objects.push(json!({
            "metadata": {"name": "bad", "namespace": "default", "resourceVersion": "5"}, "spec": {"ports": "none"},
        }));
    }
    let bookmark = json!({"type": "BOOKMARK", "object": {"apiVersion": version, "kind": kind, "metadata": {
        "resourceVersion": "6", "annotations": {"k8s.io/initial-events-end": "true"}}}});
    match (
        path.contains("watch=true"),
        path.contains("sendInitialEvents=true"),
        streams,
    ) {
        (true, true, Streams::Refused(code)) => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                "message": "sendInitialEvents is forbidden for watch"});
            (code, vec![status], false)
        }
        (true, true, Streams::Served) => {
            let added = objects
                .into_iter()
                .map(|object| json!({"type": "ADDED", "object": object}));
            (200, added.chain([bookmark]).collect(), true)
        }
        (true, false, _) if kind == "Service" => (200, vec![json!({"type": "DELETED", "object": object})], true),
        (true, false, _) => (200, vec![], true),
        (false, ..) => {
            let list = json!({"apiVersion": version, "kind": format!("{kind}List"),
                "metadata": {"resourceVersion": "6"}, "items": objects});
            (200, vec![list], false)
        }
    }
}

/// Serves until it is dropped; then its connections are cut.
struct Server {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(address: SocketAddr, streams: Streams) -> Self {
        let listener = TcpListener::bind(address).await.expect("bind");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(stream, streams));
            }
        });
        Self { address, task }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(dir: &TempDir, servers: &[SocketAddr]) -> Receiver {
    let path = dir.path().join("kubeconfig");
    let text = "apiVersion: v1\nkind: Config\ncurrent-context: x\nclusters: [{name: x, cluster: {server: 'http://127.0.0.1:1'}}]\n\
                contexts: [{name: x, context: {cluster: x, user: x}}]\nusers: [{name: x, user: {}}]\n";
    std::fs::write(&path, text).expect("write");
    let servers = servers.iter().map(|server| format!("http://{server}")).collect();
    let (sender, receiver) = queue();
    let endpoint = Endpoint {
        kubeconfig: Some(path),
        servers,
        requests: Requests::default(),
    };
    let interest = Interest {
        node_name: "one",
        all_nodes: false,
        pods: true,
    };
    let (origin, _) = start(&endpoint, interest, sender).await.expect("start");
    assert!(origin.starts_with("cluster http://127.0.0.1:"), "{origin}");
    receiver
}

/// What happens to Services and the source's health, until `last` is said.
async fn until(events: &mut Receiver, last: &str) -> Vec<String> {
    let mut said = vec![];
    while said.last().is_none_or(|word| word != last) {
        let received = tokio::time::timeout(Duration::from_secs(20), events.recv()).await;
        let (_, event) = received
            .unwrap_or_else(|_| panic!("no {last:?} after {said:?}"))
            .expect("open");
        match event {
            Event::Service(Change::Restart) => said.push("restart".to_owned()),
            Event::Service(Change::Listed(_)) => said.push("listed".to_owned()),
            Event::Service(Change::Complete) => said.push("complete".to_owned()),
            Event::Service(Change::Applied(_)) => said.push("applied".to_owned()),
            Event::Service(Change::Deleted(name)) => said.push(format!("deleted {name}")),
            Event::Service(Change::Unreadable(name, _)) => said.push(format!("unreadable {name}")),
            Event::Health(Health::Away(_)) => said.push("away".to_owned()),
            Event::Health(_) => said.push("good".to_owned()),
            Event::Slice(_) | Event::Node(_) | Event::Pod(_) | Event::ServiceCidr(_) => {}
        }
    }
    said
}

fn services(said: &[String]) -> Vec<&str> {
    said.iter()
        .map(String::as_str)
        .filter(|word| !matches!(*word, "good" | "away"))
        .collect()
}

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

#[tokio::test]
async fn a_server_with_streaming_lists_is_followed_by_one_watch() {
    let (server, dir) = (
        Server::start(ANY_PORT, Streams::Served).await,
        TempDir::new().expect("a directory"),
    );
    let mut events = follow(&dir, &[server.address]).await;
    assert_eq!(
        services(&until(&mut events, "complete").await),
        ["restart", "listed", "unreadable default/bad", "complete"]
    );
}

#[tokio::test]
async fn a_server_without_streaming_lists_is_listed_and_then_watched() {
    for code in [422, 500] {
        let (server, dir) = (
            Server::start(ANY_PORT, Streams::Refused(code)).await,
            TempDir::new().expect("a directory"),
        );
        let mut events = follow(&dir, &[server.address]).await;
        let said = until(&mut events, "deleted default/one").await;
        assert_eq!(
            services(&said),
            [
                "restart",
                "listed",
                "unreadable default/bad",
                "complete",
                "deleted default/one"
            ],
            "{code}"
        );
        assert!(
            !said.contains(&"away".to_owned()),
            "to be refused a stream is no failure ({code}): {said:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_goes_away_is_reported_once_a_watch_and_followed_again_when_it_is_back() {
    let (server, dir) = (
        Server::start(ANY_PORT, Streams::Served).await,
        TempDir::new().expect("a directory"),
    );
    let address = server.address;
    let mut events = follow(&dir, &[address]).await;
    until(&mut events, "complete").await;
    drop(server);
    until(&mut events, "away").await;
    // Several attempts are made meanwhile; they are not reported.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut more = 0;
    while let Ok((_, event)) = events.try_recv() {
        more += usize::from(matches!(event, Event::Health(Health::Away(_))));
    }
    assert!(more <= 3, "one for each of the three other watches at most, not {more}");
    let _server = Server::start(address, Streams::Served).await;
    let said = until(&mut events, "deleted default/one").await;
    assert!(
        !said.contains(&"complete".to_owned()),
        "the watch was resumed, not begun anew: {said:?}"
    );
}

#[tokio::test]
async fn another_server_is_tried_when_the_first_cannot_be_reached() {
    let (server, dir) = (
        Server::start(ANY_PORT, Streams::Served).await,
        TempDir::new().expect("a directory"),
    );
    let gone = Server::start(ANY_PORT, Streams::Served).await.address;
    let mut events = follow(&dir, &[gone, server.address]).await;
    let said = until(&mut events, "complete").await;
    assert_eq!(
        services(&said),
        ["restart", "listed", "unreadable default/bad", "complete"]
    );
}

//! The picture of `ferrogate explain`, 80 columns wide.

mod endpoints;

use crate::admin::{Explanation, PortExplanation, RefusalCount, Way};
use std::fmt::Write as _;

/// A terminal's width at three in the morning.
const WIDTH: usize = 80;
/// Where the text beside the picture begins.
const BESIDE: usize = 21;

/// The whole page.
pub fn explain(explanation: &Explanation) -> String {
    let mut text = String::new();
    let Explanation {
        namespace,
        name,
        node,
        client,
        ..
    } = explanation;
    match &explanation.nothing {
        Some(why) => {
            let _ = writeln!(text, "{namespace}/{name}, on node {node}\n");
            item(&mut text, "", &format!("Nothing to do here, because {why}."));
        }
        None => {
            let kind = &explanation.kind;
            let title = format!("{namespace}/{name} ({kind}), as node {node} serves {client}");
            item(&mut text, "", &title);
        }
    }
    for port in &explanation.ports {
        text.push('\n');
        port_page(&mut text, port, node);
    }
    if !explanation.notes.is_empty() {
        text.push_str("\nNOTES\n");
    }
    for note in &explanation.notes {
        item(&mut text, "- ", note);
    }
    text
}

fn port_page(text: &mut String, port: &PortExplanation, node: &str) {
    let called = if port.name.is_empty() {
        String::new()
    } else {
        format!(" ({})", port.name)
    };
    let title = format!("{}/{}{called} {}", port.port, port.protocol, port.family);
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    let (connections, flows) = (port.connections, port.flows);
    let of_sockets = match port.socket_connections {
        0 => String::new(),
        some => format!(" ({some} at sockets)"),
    };
    let counters = format!(
        "{connections} connection{} so far{of_sockets}, {flows} flow{} now",
        plural(connections),
        plural(flows)
    );
    let _ = writeln!(
        text,
        "{title}  {counters:>rest$}\n",
        rest = WIDTH.saturating_sub(title.chars().count() + 2)
    );
    for way in &port.ways {
        verdict(text, way);
    }
    let said = |refusal: &&String| port.ways.iter().any(|way| way.outcome.contains(refusal.as_str()));
    for refusal in port.refused.iter().filter(|refusal| !said(refusal)) {
        item(text, "  FAILS  ", &format!("not programmed: {refusal}"));
    }
    if let Some(carried) = &port.traffic {
        let both = format!(
            "requests: {} packets, {} bytes; replies: {} packets, {} bytes",
            carried.request_packets, carried.request_bytes, carried.reply_packets, carried.reply_bytes
        );
        item(text, "  carried so far  ", &both);
    }
    if !port.refusals.is_empty() {
        item(text, "  refused so far  ", &refusals(&port.refusals));
    }
    if !port.ways.is_empty() {
        text.push('\n');
        picture(text, port);
    }
    if !port.endpoints.is_empty() {
        text.push('\n');
        endpoints::table(text, &port.endpoints);
        let _ = writeln!(text, "  * on this node ({node})");
    }
}

/// `no_endpoints: pod 2, socket 1; source_range: uplink 17`.
fn refusals(refusals: &[RefusalCount]) -> String {
    let of_reason = refusals.chunk_by(|one, next| one.reason == next.reason);
    let all = of_reason.map(|alike| {
        let edges: Vec<String> = alike.iter().map(|one| format!("{} {}", one.edge, one.count)).collect();
        format!("{}: {}", alike[0].reason, edges.join(", "))
    });
    all.collect::<Vec<_>>().join("; ")
}

/// `  works  outside -> 203.0.113.80:80: 3 endpoints`.
fn verdict(text: &mut String, way: &Way) {
    let mark = if way.works { "  works  " } else { "  FAILS  " };
    let mut outcome = format!("{} -> {} {}: {}", way.client, way.kind, place(way), way.outcome);
    if let Some(reason) = &way.reason {
        let counted = way.counted.unwrap_or_default();
        let _ = write!(outcome, " [{reason}, counted {counted} times on this node]");
    }
    item(text, mark, &outcome);
}

/// Client, load balancer, node, ClusterIP, pods, one below the other: what the Service has of them.
fn picture(text: &mut String, port: &PortExplanation) {
    let ways = distinct(&port.ways);
    let mut clients: Vec<&str> = Vec::new();
    for way in &port.ways {
        if !clients.contains(&way.client.as_str()) {
            clients.push(&way.client);
        }
    }
    let mut picture = Picture { text, first: true };
    picture.node("client", &clients.join("; "));
    for way in ways {
        let label = match way.kind.as_str() {
            "LoadBalancer" => "load balancer",
            "NodePort" => "node:nodePort",
            "ExternalIP" => "external IP",
            _ => "ClusterIP",
        };
        picture.node(label, &place(way));
        if way.kind == "LoadBalancer" {
            picture.beside("in the cloud: spreads clients over the nodes");
        }
        for line in beside(way, port) {
            picture.beside(&line);
        }
        if way.kind == "ClusterIP" {
            picture.beside(&choice(port));
        }
    }
    let live = port.endpoints.iter().filter(|one| !one.gone);
    let used = live
        .clone()
        .filter(|one| one.cluster || one.local_set == Some(true))
        .count();
    picture.node("pods", &format!("{used} of {} endpoints are used", live.count()));
    if let Some(hints) = &port.hints {
        picture.beside(hints);
    }
}

/// The first way of each address: the picture has it once, whoever uses it.
fn distinct(ways: &[Way]) -> Vec<&Way> {
    let mut found: Vec<&Way> = Vec::new();
    for way in ways {
        if !found
            .iter()
            .any(|one| (&one.kind, &one.addresses, one.port) == (&way.kind, &way.addresses, way.port))
        {
            found.push(way);
        }
    }
    found
}

fn beside(way: &Way, port: &PortExplanation) -> Vec<String> {
    let mut lines = Vec::new();
    if way.edge.is_empty() {
        lines.push("no edge translates here".to_owned());
    } else {
        // The last one is for replies.
        let (replies, requests) = way
            .hooks
            .split_last()
            .map_or(("", way.hooks.as_slice()), |(last, rest)| (last.as_str(), rest));
        lines.push(format!(
            "{} edge: {}; replies by {replies}",
            way.edge,
            requests.join(", ")
        ));
        lines.extend(way.edge_why.as_ref().map(|why| format!("({why})")));
    }
    if way.kind == "ClusterIP" {
        lines.push(policy("internal", &port.internal_policy));
    } else {
        lines.push(policy("external", &port.external_policy));
    }
    if way.kind == "LoadBalancer" && port.restricted {
        let ranges = if port.source_ranges.is_empty() {
            "nobody".to_owned()
        } else {
            port.source_ranges.join(", ")
        };
        lines.push(format!("loadBalancerSourceRanges: {ranges}"));
    }
    if !way.source.is_empty() {
        lines.push(format!("pods see {}", way.source));
    }
    lines
}

fn policy(which: &str, policy: &str) -> String {
    let means = if policy == "Local" {
        "endpoints of this node only"
    } else {
        "endpoints of any node"
    };
    format!("{which}TrafficPolicy {policy}: {means}")
}

fn choice(port: &PortExplanation) -> String {
    match port.affinity_seconds {
        Some(seconds) => format!("{}; ClientIP affinity, {}", port.algorithm, super::age(seconds.into())),
        None => format!("{}; no affinity", port.algorithm),
    }
}

/// `172.31.0.11:30080`, or `172.31.0.11, 10.244.1.1 :30080`.
fn place(way: &Way) -> String {
    match way.addresses.as_slice() {
        [] => format!("*:{}", way.port),
        [one] => std::net::SocketAddr::new(*one, way.port).to_string(),
        several => {
            let several: Vec<String> = several.iter().map(ToString::to_string).collect();
            format!("{} port {}", several.join(", "), way.port)
        }
    }
}

struct Picture<'a> {
    text: &'a mut String,
    first: bool,
}

impl Picture<'_> {
    fn node(&mut self, label: &str, place: &str) {
        if !std::mem::take(&mut self.first) {
            self.text.push_str("         |\n");
        }
        let label = format!("  [ {label} ]");
        let begin = format!("{label:<BESIDE$}");
        self.lines(&begin, place);
    }

    fn beside(&mut self, line: &str) {
        let begin = format!("{:<BESIDE$}", "         |");
        self.lines(&begin, line);
    }

    fn lines(&mut self, begin: &str, line: &str) {
        let mut begin = begin.to_owned();
        for part in parts(line, WIDTH - BESIDE) {
            let _ = writeln!(self.text, "{begin}{part}");
            begin = format!("{:<BESIDE$}", "         |");
        }
    }
}

/// A paragraph whose first line begins with `mark`, and the others below its text.
pub(super) fn item(text: &mut String, mark: &str, paragraph: &str) {
    let mut begin = mark.to_owned();
    for part in parts(paragraph, WIDTH - mark.len()) {
        let _ = writeln!(text, "{begin}{part}");
        begin = " ".repeat(mark.len());
    }
}

/// Lines of up to `width` characters, broken between words.
fn parts(paragraph: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in paragraph.split_whitespace() {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

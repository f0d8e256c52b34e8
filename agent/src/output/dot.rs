//! The graph of `ferrogate explain --output dot`, for Graphviz.

use crate::admin::{Explanation, PortExplanation, Way};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Ways that fail are red and dashed; endpoints without new connections are grey.
pub fn dot(explanation: &Explanation) -> String {
    let Explanation { namespace, name, .. } = explanation;
    let mut text = String::from("digraph service {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n");
    let _ = writeln!(
        text,
        "  label={}; labelloc=t;",
        quoted(&format!("{namespace}/{name} on {}", explanation.node))
    );
    if let Some(why) = &explanation.nothing {
        let _ = writeln!(
            text,
            "  nothing [shape=note, label={}];",
            quoted(&format!("Nothing to do here: {why}"))
        );
    }
    for (index, port) in explanation.ports.iter().enumerate() {
        cluster(&mut text, index, port);
    }
    text.push_str("}\n");
    text
}

fn cluster(text: &mut String, index: usize, port: &PortExplanation) {
    let title = format!("{}/{} {}", port.port, port.protocol, port.family);
    let _ = writeln!(text, "  subgraph cluster_{index} {{\n    label={};", quoted(&title));
    let clients: BTreeSet<&str> = port.ways.iter().map(|way| way.client.as_str()).collect();
    for client in &clients {
        let id = quoted(&format!("{index} {client}"));
        let _ = writeln!(text, "    {id} [shape=ellipse, label={}];", quoted(client));
    }
    let mut seen = BTreeSet::new();
    for way in &port.ways {
        let id = frontend_id(index, way);
        if seen.insert(id.clone()) {
            let label = format!("{}\n{}", way.kind, addresses(way));
            let _ = writeln!(text, "    {id} [label={}];", quoted(&label));
        }
        let client = quoted(&format!("{index} {}", way.client));
        let (style, label) = if way.works {
            ("solid", format!("{} edge\n{} set", way.edge, way.set))
        } else {
            ("dashed, color=red", way.outcome.clone())
        };
        let _ = writeln!(text, "    {client} -> {id} [style={style}, label={}];", quoted(&label));
    }
    for endpoint in &port.endpoints {
        let id = quoted(&format!("{index} {}", endpoint.address));
        let pod = endpoint.pod.as_deref().unwrap_or("-");
        let node = endpoint.node.as_deref().unwrap_or("-");
        let label = format!("{}\n{pod} on {node}\n{}", endpoint.address, endpoint.verdict);
        let used = endpoint.cluster || endpoint.local_set == Some(true);
        let style = if used { "solid" } else { "dashed, color=grey" };
        let _ = writeln!(text, "    {id} [style={style}, label={}];", quoted(&label));
        let mut drawn = BTreeSet::new();
        for way in port.ways.iter().filter(|way| way.works) {
            let member = match way.set.as_str() {
                "Local" => endpoint.local_set == Some(true),
                _ => endpoint.cluster,
            };
            let from = frontend_id(index, way);
            if member && drawn.insert(from.clone()) {
                let _ = writeln!(text, "    {from} -> {id};");
            }
        }
    }
    text.push_str("  }\n");
}

fn frontend_id(index: usize, way: &Way) -> String {
    quoted(&format!("{index} {} {}", way.kind, addresses(way)))
}

fn addresses(way: &Way) -> String {
    let addresses: Vec<String> = way.addresses.iter().map(ToString::to_string).collect();
    match addresses.as_slice() {
        [] => format!("*:{}", way.port),
        addresses => format!("{} port {}", addresses.join(", "), way.port),
    }
}

/// A string of the DOT language.
fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{text}\"")
}

//! Tables and sentences for people.

mod doctor;
mod dot;
mod explain;

pub use doctor::{diff, doctor};
pub use dot::dot;
pub use explain::explain;

use crate::admin::{EndpointRow, FlowEntry, FlowsPage, FrontendRow, ServiceRow, SourceState, Status};
use anyhow::{Context, Result};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write};
use std::net::IpAddr;
use std::time::Duration;

/// Widest line of any table.
const WIDTH: u16 = 100;
/// As many problems are shown: where a table is full, each Service of a large cluster can be one.
const PROBLEMS: usize = 100;

/// Prints to standard output. A reader that stops early (`| head`) is no failure.
pub fn print(text: &str) -> Result<()> {
    write(text).map(|_| ())
}

/// The same; whether anybody reads on.
pub fn write(text: &str) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| {
        if text.ends_with('\n') {
            Ok(())
        } else {
            out.write_all(b"\n")
        }
    }) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context("cannot write to standard output"),
    }
}

/// A table without borders. `right` lists columns of numbers.
fn table(header: &[&str], right: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH);
    table.set_header(header.to_vec());
    table.add_rows(rows);
    for &index in right {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    // The first column starts at the margin, and the last ends with its text.
    table.column_mut(0).into_iter().for_each(|column| {
        column.set_padding((0, 1));
    });
    let lines = table.lines().map(|line| line.trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// `12 s`, `3 min`, `5 h`, `2 d`: the largest unit that fits at least twice, or seconds.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn micros(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.1} ms", Duration::from_micros(micros).as_secs_f64() * 1e3),
        _ => format!("{:.1} s", Duration::from_micros(micros).as_secs_f64()),
    }
}

/// The page of `ferrogate status`.
pub fn status(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<11}{value}");
    };
    line(
        "Node",
        if status.node.is_empty() {
            "unknown (no agent runs)".to_owned()
        } else {
            status.node.clone()
        },
    );
    let process = status.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    let uptime = status
        .uptime_seconds
        .map(|seconds| format!(", up {}", age(seconds)))
        .unwrap_or_default();
    line(
        "Version",
        format!("{}, ABI {}{process}{uptime}", status.version, status.abi),
    );
    if let Some(source) = &status.source {
        let state = match source.state {
            SourceState::Syncing => "syncing: nothing is changed before everything is read",
            SourceState::Synced => "synced",
            SourceState::Away => "away: the last known state is served",
        };
        line(
            "Source",
            format!("{}, {state} (for {})", source.origin, age(source.since_seconds)),
        );
        if let Some(detail) = &source.detail {
            line("", detail.clone());
        }
    }
    if let Some(services) = status.services {
        line("Services", format!("{services} ports programmed"));
    }
    match &status.last_apply {
        Some(apply) => line(
            "Applied",
            format!(
                "#{} {} ago: {} writes in {}, {} after the event",
                apply.generation,
                age(apply.ago_seconds),
                apply.operations,
                micros(apply.apply_microseconds),
                micros(apply.latency_microseconds)
            ),
        ),
        None if status.pid.is_some() => line("Applied", "nothing yet".to_owned()),
        None => {}
    }
    section(&mut text, edges(status));
    section(&mut text, interfaces(status));
    section(&mut text, maps(status));
    section(&mut text, reasons(status));
    if !status.problems.is_empty() {
        text.push_str("\nPROBLEMS\n");
        for problem in status.problems.iter().take(PROBLEMS) {
            let _ = writeln!(text, "- {problem}");
        }
        if status.problems.len() > PROBLEMS {
            let more = status.problems.len() - PROBLEMS;
            let _ = writeln!(text, "- and {more} more: `ferrogate status --output json` has all");
        }
    }
    text
}

fn section(text: &mut String, table: Option<String>) {
    if let Some(table) = table {
        text.push('\n');
        text.push_str(&table);
    }
}

fn edges(status: &Status) -> Option<String> {
    let row = |edge: &crate::admin::EdgeStatus| {
        let state = if edge.on { "on" } else { "off" };
        vec![edge.edge.clone(), state.to_owned(), edge.detail.clone()]
    };
    (!status.edges.is_empty()).then(|| table(&["EDGE", "STATE", "WHERE"], &[], status.edges.iter().map(row)))
}

fn interfaces(status: &Status) -> Option<String> {
    let row = |one: &crate::admin::InterfaceStatus| {
        vec![
            one.name.clone(),
            one.ifindex.to_string(),
            one.role.clone(),
            one.hooks.join(" "),
        ]
    };
    let rows = status.interfaces.iter().map(row);
    (!status.interfaces.is_empty()).then(|| table(&["INTERFACE", "INDEX", "ROLE", "PROGRAMS"], &[1], rows))
}

fn maps(status: &Status) -> Option<String> {
    let row = |map: &crate::admin::MapStatus| {
        let used = map.used.map_or_else(|| "-".to_owned(), |used| used.to_string());
        let percent = map
            .used
            .filter(|_| map.limit > 0)
            .map(|used| format!("{} %", used * 100 / map.limit));
        vec![
            map.name.clone(),
            used,
            map.limit.to_string(),
            percent.unwrap_or_default(),
            map.purpose.clone(),
        ]
    };
    let rows = status.maps.iter().map(row);
    (!status.maps.is_empty()).then(|| table(&["MAP", "USED", "LIMIT", "", "PURPOSE"], &[1, 2, 3], rows))
}

fn reasons(status: &Status) -> Option<String> {
    let counted: Vec<_> = status.reasons.iter().filter(|reason| reason.count > 0).collect();
    let row = |reason: &&crate::admin::ReasonCount| {
        let verdict = if reason.drop { "drop" } else { "" };
        vec![
            reason.reason.clone(),
            reason.count.to_string(),
            verdict.to_owned(),
            reason.description.clone(),
        ]
    };
    (!counted.is_empty()).then(|| table(&["REASON", "COUNT", "", "MEANING"], &[1], counted.iter().map(row)))
}

/// The table of `ferrogate services`; with `endpoints`, their addresses below each line.
pub fn services(rows: &[ServiceRow], endpoints: bool) -> String {
    if rows.is_empty() {
        return "No services.\n".to_owned();
    }
    let row = |row: &ServiceRow| {
        let addresses: Vec<String> = row.frontends.iter().map(frontend).collect();
        let local = row.endpoints.iter().filter(|endpoint| endpoint.local).count();
        let mut cells = vec![
            service_name(row),
            row.protocol.clone(),
            row.kind.clone(),
            addresses.join("\n"),
            format!("{} ({local})", row.endpoints.len()),
            row.connections.to_string(),
        ];
        if endpoints {
            let line =
                |endpoint: &EndpointRow| format!("{}{}", endpoint.address, if endpoint.local { " here" } else { "" });
            cells.push(row.endpoints.iter().map(line).collect::<Vec<_>>().join("\n"));
        }
        cells
    };
    let mut header = vec!["SERVICE", "PROTO", "TYPE", "ADDRESSES", "READY (HERE)", "NEW CONNS"];
    if endpoints {
        header.push("ENDPOINTS");
    }
    table(&header, &[4, 5], rows.iter().map(row))
}

/// Where only the maps were read there is no name: the number stands for it.
fn service_name(row: &ServiceRow) -> String {
    match row.name.is_empty() {
        true => format!("#{}", row.id),
        false => format!("{}/{}:{}", row.namespace, row.name, row.port),
    }
}

fn frontend(frontend: &FrontendRow) -> String {
    let port = frontend.port;
    match frontend.address {
        None => format!("*:{port} ({})", frontend.kind),
        Some(IpAddr::V4(address)) => format!("{address}:{port} ({})", frontend.kind),
        Some(IpAddr::V6(address)) => format!("[{address}]:{port} ({})", frontend.kind),
    }
}

/// The table of `ferrogate flows`.
pub fn flows(page: &FlowsPage) -> String {
    if page.flows.is_empty() {
        return "No flows.\n".to_owned();
    }
    let row = |flow: &FlowEntry| {
        let backend = match flow.snat {
            Some(snat) => format!("{}\n(as {snat})", flow.backend),
            None => flow.backend.to_string(),
        };
        let state: Vec<&str> = std::iter::once(&flow.state)
            .chain(&flow.marks)
            .map(String::as_str)
            .collect();
        vec![
            flow.protocol.clone(),
            flow.client.to_string(),
            flow.frontend.to_string(),
            backend,
            flow.service.clone().unwrap_or_default(),
            state.join(" "),
            age(flow.idle_seconds),
        ]
    };
    let header = ["PROTO", "CLIENT", "FRONTEND", "BACKEND", "SERVICE", "STATE", "IDLE"];
    let mut text = table(&header, &[6], page.flows.iter().map(row));
    if page.truncated {
        text.push_str("There are more; raise --limit to see them.\n");
    }
    text
}

#[cfg(test)]
mod tests;

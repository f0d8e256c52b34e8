//! The picture: lines of text, which need no colours, for a terminal of any size from 80x24 on, or for a pipe.

use super::{Rates, ServiceRate, Sort};
use crate::admin::MapStatus;
use std::cmp::Reverse;

/// What is shown of the rates, and how.
#[derive(Clone, Debug)]
pub struct Look {
    pub sort: Sort,
    pub reverse: bool,
    /// Columns.
    pub width: usize,
    /// Lines for the table's services; `None`: all of them.
    pub rows: Option<usize>,
    /// The line that the cursor is on, and the first that is shown.
    pub cursor: Option<usize>,
    pub first: usize,
    /// Index into `SERVICES` of the Service port whose backends are shown below it.
    pub open: Option<u32>,
}

impl Look {
    /// Everything, for a pipe.
    pub const fn whole(sort: Sort, reverse: bool) -> Self {
        Self {
            sort,
            reverse,
            width: 100,
            rows: None,
            cursor: None,
            first: 0,
            open: None,
        }
    }
}

/// Lines above the services.
pub(super) const HEAD: usize = 6;

/// `0`, `0.4`, `12.3`, `123`, `12.3k`, `1.2M`: seven characters at most.
pub(super) fn number(value: f64) -> String {
    match value {
        _ if value < 0.05 => "0".to_owned(),
        _ if value < 99.95 => format!("{value:.1}"),
        _ if value < 9_999.5 => format!("{value:.0}"),
        _ if value < 999_950.0 => format!("{:.1}k", value / 1e3),
        _ if value < 999_950_000.0 => format!("{:.1}M", value / 1e6),
        _ => format!("{:.1}G", value / 1e9),
    }
}

/// The page. The services are in the order of `rates`.
pub fn page(rates: &Rates, look: &Look) -> Vec<String> {
    let mut lines = head(rates, look);
    let table = table(rates, look);
    let shown = look.rows.unwrap_or(table.len());
    lines.extend(table.into_iter().skip(look.first).take(shown));
    lines.into_iter().map(|line| cut(line.trim_end(), look.width)).collect()
}

fn head(rates: &Rates, look: &Look) -> Vec<String> {
    let reverse = if look.reverse { ", reversed" } else { "" };
    let left = format!("ferrogate top: {}", rates.node);
    let right = format!(
        "{} service ports by {}{reverse}, over {:.1} s",
        rates.services.len(),
        look.sort.title(),
        rates.seconds
    );
    let gap = look.width.saturating_sub(left.chars().count() + right.chars().count());
    vec![
        format!("{left}{}{right}", " ".repeat(gap.max(2))),
        format!(
            "Per s    connections {}, translated {}, passed on {}, socket calls {}",
            number(rates.connections),
            number(rates.translated),
            number(rates.passed),
            number(rates.socket_calls)
        ),
        listed("Dropped  ", &drops(rates), look.width),
        listed(
            "Maps     ",
            &by_interest(&rates.maps)
                .into_iter()
                .filter_map(pressure)
                .collect::<Vec<_>>(),
            look.width,
        ),
        String::new(),
        heading(look.width, counts_traffic(rates)),
    ]
}

fn drops(rates: &Rates) -> Vec<String> {
    if rates.drops.is_empty() {
        return vec!["nothing since the maps were made".to_owned()];
    }
    let sum = format!("{}/s", number(rates.refused));
    let rows = rates
        .drops
        .iter()
        .map(|one| format!("{} {}/s ({})", one.reason, number(one.rate), one.count));
    std::iter::once(sum).chain(rows).collect()
}

/// Flow tables first, which every connection needs; then the fullest.
fn by_interest(maps: &[MapStatus]) -> Vec<&MapStatus> {
    const FIRST: [&str; 3] = ["FLOWS", "HALF_OPEN", "SNAT_FLOWS"];
    let mut maps: Vec<&MapStatus> = maps.iter().collect();
    maps.sort_by_key(|map| {
        let share = map.used.unwrap_or_default() * 1000 / map.limit.max(1);
        (!FIRST.contains(&map.name.as_str()), Reverse(share))
    });
    maps
}

fn pressure(map: &MapStatus) -> Option<String> {
    let share = map.used? as f64 * 100.0 / map.limit.max(1) as f64;
    // What would be taken for full, or for empty, and is not, says so.
    let percent = match share {
        _ if share > 0.0 && share < 1.0 => "<1".to_owned(),
        _ => format!("{:.0}", share.floor()),
    };
    Some(format!("{} {percent}%", map.name))
}

/// As many items as fit, and how many do not.
fn listed(title: &str, items: &[String], width: usize) -> String {
    for shown in (1..=items.len()).rev() {
        let mut line = title.to_owned() + &items[..shown].join(", ");
        if shown < items.len() {
            line += &format!(", {} more", items.len() - shown);
        }
        if line.chars().count() <= width || shown == 1 {
            return line;
        }
    }
    title.to_owned()
}

/// Columns of the service's name.
const fn name_width(width: usize) -> usize {
    let rest = width.saturating_sub(2 + 6 + 7 + 8 + 11 + 10 + 12);
    if rest < 16 { 16 } else { rest }
}

/// Whether bytes are shown in place of all connections so far.
fn counts_traffic(rates: &Rates) -> bool {
    rates.services.iter().any(|row| row.traffic.is_some())
}

fn heading(width: usize, traffic: bool) -> String {
    let total = if traffic { "BYTES/S" } else { "CONNS" };
    row(
        "  ",
        "SERVICE",
        ["PROTO", "FAMILY", "CONN/S", total, "REFUSED/S", "READY(HERE)"],
        width,
    )
}

fn row(mark: &str, name: &str, cells: [&str; 6], width: usize) -> String {
    let [protocol, family, rate, total, refused, endpoints] = cells;
    let (columns, length) = (name_width(width), name.chars().count());
    // The end tells Services of one namespace apart.
    let name = if length > columns {
        let tail: String = name.chars().skip(length - columns + 2).collect();
        format!("..{tail}")
    } else {
        name.to_owned()
    };
    format!("{mark}{name:<columns$} {protocol:<5} {family:<6}{rate:>8} {total:>10} {refused:>9} {endpoints:>11}")
}

fn table(rates: &Rates, look: &Look) -> Vec<String> {
    if rates.services.is_empty() {
        return vec!["  no Service is programmed".to_owned()];
    }
    let traffic = counts_traffic(rates);
    let mut lines = Vec::new();
    for (index, one) in rates.services.iter().enumerate() {
        let mark = if look.cursor == Some(index) { "> " } else { "  " };
        lines.push(service(mark, one, traffic, look.width));
        if look.open == Some(one.id) {
            lines.extend(rates.backends.iter().map(|backend| {
                let here = if backend.local { "here" } else { "" };
                format!(
                    "      {:<43} {here:<5} {:>9} flows",
                    backend.address.to_string(),
                    backend.flows
                )
            }));
            if rates.backends.is_empty() {
                lines.push("      no endpoint".to_owned());
            }
        }
    }
    lines
}

fn service(mark: &str, one: &ServiceRate, traffic: bool, width: usize) -> String {
    let endpoints = format!("{} ({})", one.endpoints, one.local);
    let total = if traffic {
        number(one.bytes())
    } else {
        one.connections.to_string()
    };
    let cells = [
        one.protocol.as_str(),
        one.family.as_str(),
        &number(one.rate),
        &total,
        &number(one.refused_rate),
        &endpoints,
    ];
    row(mark, &one.service, cells, width)
}

fn cut(line: &str, width: usize) -> String {
    line.chars().take(width).collect()
}

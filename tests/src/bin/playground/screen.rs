//! The live view's picture. It fits a terminal of 80 columns and 24 lines; a larger one shows older notes too.
use std::env;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Instant;

use ferrogate_tests::rig::Family;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::symbols::border;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph};

use crate::cluster::{MOST_ORDERS, TARGET_PORT};
use crate::live::View;
use crate::path::Path;
use crate::stats::Tally;

/// Columns of the longest bar.
const BAR: usize = 10;
/// The keys, and what each does.
const KEYS: [(&str, &str); 6] = [
    ("+ -", "order pods"),
    ("1-5", "path"),
    ("f s", "faster, slower"),
    ("r", "zero"),
    ("p", "pause"),
    ("q", "quit"),
];
/// The colour of each order pod.
const COLOURS: [Color; MOST_ORDERS as usize] = [Color::Green, Color::Cyan, Color::Magenta, Color::Yellow, Color::Blue];

pub(crate) fn draw(frame: &mut Frame, view: &mut View) {
    let now = Instant::now();
    let rates: Vec<_> = view.tallies.iter_mut().map(|tally| tally.rate(now)).collect();
    let diagram = diagram(view);
    let [top, paths, picture, notes, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(2 + view.paths.len() as u16),
        Constraint::Length(1 + diagram.len() as u16),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(header(view, rates.iter().sum(), top), top);
    frame.render_widget(
        Paragraph::new(table(view, &rates)).block(
            titled("Who answered, since the pods last changed")
                .title(Line::from(format!(" {} ", view.page)).cyan().right_aligned()),
        ),
        paths,
    );
    let path = &view.paths[view.selected];
    frame.render_widget(
        Paragraph::new(diagram).block(titled(&format!("{} of {}", path.name, path.service))),
        picture,
    );
    let lines: Vec<_> = view.notes.iter().map(|note| Line::from(format!(" {note}"))).collect();
    frame.render_widget(Paragraph::new(lines), notes);
    frame.render_widget(footer(), keys);
}

/// Whether the terminal can be expected to draw more than ASCII: its locale says so.
fn draws_unicode() -> bool {
    static ABLE: OnceLock<bool> = OnceLock::new();
    *ABLE.get_or_init(|| {
        let variables = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .filter_map(|name| env::var(name).ok());
        let locale = variables
            .into_iter()
            .find(|value| !value.is_empty())
            .unwrap_or_default();
        locale.to_lowercase().replace('-', "").ends_with("utf8")
    })
}

fn titled(title: &str) -> Block<'static> {
    let set = if draws_unicode() {
        border::PLAIN
    } else {
        border::Set {
            horizontal_top: "-",
            ..border::PLAIN
        }
    };
    Block::new()
        .borders(Borders::TOP)
        .border_set(set)
        .border_style(Style::new().dim())
        .title(Span::from(format!(" {title} ")).bold())
}

fn header(view: &View, rate: f64, area: Rect) -> Paragraph<'static> {
    let left = format!(
        " Ferrogate playground   {} of {MOST_ORDERS} order pods",
        view.cluster.scale()
    );
    let state = if view.paused {
        "paused".to_owned()
    } else {
        format!("{rate:.0} connections/s")
    };
    let right = format!("{state}   {} ", view.elapsed());
    let gap = usize::from(area.width).saturating_sub(left.len() + right.len());
    Paragraph::new(format!("{left}{}{right}", " ".repeat(gap))).style(Style::new().add_modifier(Modifier::REVERSED))
}

fn footer() -> Line<'static> {
    let mut spans = vec![Span::from(" ")];
    for (key, what) in KEYS {
        spans.extend([Span::from(key).bold().cyan(), Span::from(format!(" {what}   "))]);
    }
    Line::from(spans)
}

/// A row for each path, a column for each order pod.
fn table(view: &View, rates: &[f64]) -> Vec<Line<'static>> {
    let mut head = format!(
        "   {:<13}{:>7}{:>8}{:>8}{:>5} ",
        "", "conn/s", "answers", "refused", "lost"
    );
    let orders: Vec<_> = view.cluster.orders().map(|pod| pod.spec.name.clone()).collect();
    for (index, name) in orders.iter().enumerate() {
        // `order-1 -2 -3`: five full names and the counts need more than 80 columns.
        let name = if index == 0 {
            name
        } else {
            name.trim_start_matches("order")
        };
        head += &format!("{name:>7}");
    }
    let mut lines = vec![Line::from(head).dim()];
    for (index, ((path, tally), rate)) in view.paths.iter().zip(&view.tallies).zip(rates).enumerate() {
        let selected = index == view.selected;
        let mark = if selected { ">" } else { " " };
        let lost = tally.silent + tally.failed;
        let mut spans = vec![
            Span::from(format!(
                "{mark}{} {:<13}{rate:>7.1}{:>8}",
                index + 1,
                path.name,
                tally.answered
            )),
            alarm(format!("{:>8}", tally.refused), tally.refused, Color::Yellow),
            alarm(format!("{lost:>5} "), lost, Color::Red),
        ];
        for (name, colour) in orders.iter().zip(COLOURS) {
            spans.push(Span::from(format!("{:>7}", tally.pod(name))).fg(colour));
        }
        let line = Line::from(spans);
        lines.push(if selected { line.bold() } else { line });
    }
    lines
}

/// A number that should be 0.
fn alarm(text: String, number: u64, colour: Color) -> Span<'static> {
    if number == 0 {
        Span::from(text)
    } else {
        Span::from(text).fg(colour).bold()
    }
}

/// The path that is selected, hop by hop.
fn diagram(view: &View) -> Vec<Line<'static>> {
    let (path, tally) = (&view.paths[view.selected], &view.tallies[view.selected]);
    let mut client = path.client_text.clone();
    if tally.answered > 0 {
        client += &format!(", answered in {:.2} ms (mean)", tally.answer_ms());
    }
    let mut lines = vec![hop("Client", client)];
    if let Some(public) = path.balancer {
        lines.push(Line::from("     |"));
        lines.push(hop(
            "LoadBalancer",
            format!("{public} of the cloud, takes the nodes in turn"),
        ));
    }
    if !path.node_ports.is_empty() {
        lines.push(Line::from("     |"));
        lines.push(hop("NodePort", doors(path, tally)));
    }
    lines.push(Line::from(vec![
        Span::from("     |            "),
        Span::from(format!("<- {}: {}", path.edge.name(), path.edge.how(path.protocol))).yellow(),
    ]));
    lines.push(hop("ClusterIP", format!("{}, takes the pods in turn", path.cluster_ip)));
    lines.push(Line::from("     |"));
    lines.extend(pods(view, path, tally));
    lines
}

fn hop(name: &str, text: String) -> Line<'static> {
    Line::from(vec![
        Span::from(format!(" {:<17}", format!("[ {name} ]"))).bold(),
        Span::from(text),
    ])
}

/// Every node's door and its share of the connections.
fn doors(path: &Path, tally: &Tally) -> String {
    let all: u64 = tally.by_node.values().sum();
    let door = |(node, address): &(String, _)| {
        let count = tally.by_node.get(node).copied().unwrap_or(0);
        format!("{node} {address} {:>3.0} %", percent(count, all))
    };
    path.node_ports.iter().map(door).collect::<Vec<_>>().join("    ")
}

fn percent(part: u64, all: u64) -> f64 {
    if all == 0 {
        0.0
    } else {
        100.0 * part as f64 / all as f64
    }
}

/// A line for each order pod: its share, and in whose name the last request reached it.
fn pods(view: &View, path: &Path, tally: &Tally) -> Vec<Line<'static>> {
    let most = tally.by_pod.values().max().copied().unwrap_or(0).max(1);
    let mut lines = Vec::new();
    for (pod, colour) in view.cluster.orders().zip(COLOURS) {
        let name = &pod.spec.name;
        let ip = pod.addresses.get(Family::of(path.cluster_ip.ip()));
        let address = SocketAddr::new(ip, TARGET_PORT);
        let count = tally.pod(name);
        let mark = if draws_unicode() { "█" } else { "#" };
        let bar = mark.repeat((count as usize * BAR).div_ceil(most as usize));
        let seen = tally.seen.get(name).map(|ip| format!(" saw {ip}")).unwrap_or_default();
        let head = if lines.is_empty() { " [ Pod ] " } else { "         " };
        lines.push(Line::from(vec![
            Span::from(head).bold(),
            Span::from(format!("{name} n{} {address:<20} ", pod.spec.node)),
            Span::from(format!("{bar:<BAR$}")).fg(colour),
            Span::from(format!("{count:>6}{seen}")),
        ]));
    }
    if lines.is_empty() {
        let mut line = " [ Pod ] none: every new connection is refused at once".to_owned();
        if tally.refused > 0 {
            line += &format!(", in {:.2} ms (mean)", tally.refusal_ms());
        }
        lines.push(Line::from(line).fg(Color::Yellow).bold());
    }
    lines
}

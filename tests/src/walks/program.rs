//! The command line of the walks: which rigs to boot and what to run in each.
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Parser, ValueEnum};

use super::cell::Cell;
use super::others::Level;
use super::report::{Column, Mark, Report};
use super::{fixture, matrix, others};
use crate::rig::{FerrogateOptions, Layout, Options, Proxy, Rig, SocketEdge, Source, Uplink};

/// Walks packets through clusters of network namespaces and prints who was reached.
#[derive(Clone, Debug, Parser)]
#[command(name = "walks")]
pub struct Arguments {
    /// Proxies to run, each in rigs of its own.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ferrogate")]
    pub proxy: Vec<ProxyName>,
    /// Layouts: routed, bridge, bridge-nonf, vxlan.
    #[arg(long, value_delimiter = ',', default_value = "routed,bridge,bridge-nonf,vxlan", value_parser = Layout::parse)]
    pub layout: Vec<Layout>,
    /// Ferrogate's socket edge.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "all,off")]
    pub socket_edge: Vec<EdgeName>,
    /// Where Ferrogate learns about Services; kube-proxy always has the control plane.
    #[arg(long, value_enum, default_value = "manifests")]
    pub source: SourceName,
    /// Ferrogate answers ClusterIPs from outside.
    #[arg(long)]
    pub external_cluster_ip: bool,
    /// Ferrogate's nodes hand packets over to those of their backends, which answer themselves.
    #[arg(long)]
    pub dsr: bool,
    /// Ferrogate's XDP program on the uplinks, whose offloads are set so that it works on veths.
    #[arg(long)]
    pub xdp: bool,
    /// Every node drops what conntrack calls invalid.
    #[arg(long)]
    pub firewall: bool,
    /// What a node's uplink is.
    #[arg(long, value_enum, default_value = "plain")]
    pub uplink: Uplink,
    #[arg(long, value_enum, default_value = "quick")]
    pub level: Level,
    /// Only the walks, cells included, whose name contains this.
    #[arg(long, default_value = "")]
    pub filter: String,
    /// After the walks, keep each rig until Enter is pressed: `ip netns exec` shows it from inside.
    #[arg(long)]
    pub hold: bool,
    /// Further options of `ferrogate agent`.
    #[arg(long = "agent-option", allow_hyphen_values = true)]
    pub agent_options: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProxyName {
    Ferrogate,
    KubeProxy,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EdgeName {
    All,
    Node,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SourceName {
    Manifests,
    ControlPlane,
}

/// Runs the walks of the command line; fails when one failed.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut report = Report::default();
    for options in rigs(&arguments) {
        report.columns.push(column(&arguments, options));
    }
    print!("{}", report.text());
    if report.totals().1 == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The rigs of a run: layouts x proxies, and Ferrogate once for each setting of its socket edge.
fn rigs(arguments: &Arguments) -> Vec<Options> {
    let mut rigs = Vec::new();
    for layout in &arguments.layout {
        for proxy in arguments.proxy.iter().flat_map(|proxy| proxies(arguments, *proxy)) {
            let source = match (&proxy, arguments.source) {
                (Proxy::KubeProxy, _) | (_, SourceName::ControlPlane) => Source::ControlPlane,
                (_, SourceName::Manifests) => Source::Manifests,
            };
            rigs.push(Options {
                nodes: 2,
                layout: *layout,
                source,
                proxy,
                firewall: arguments.firewall,
                uplink: arguments.uplink,
            });
        }
    }
    rigs
}

fn proxies(arguments: &Arguments, name: ProxyName) -> Vec<Proxy> {
    match name {
        ProxyName::None => vec![Proxy::None],
        ProxyName::KubeProxy => vec![Proxy::KubeProxy],
        ProxyName::Ferrogate => {
            let edges = arguments.socket_edge.iter().map(|edge| match edge {
                EdgeName::All => SocketEdge::All,
                EdgeName::Node => SocketEdge::Node,
                EdgeName::Off => SocketEdge::Off,
            });
            let options = |socket_edge| FerrogateOptions {
                socket_edge,
                external_cluster_ip: arguments.external_cluster_ip,
                dsr: arguments.dsr,
                xdp: arguments.xdp,
                more: arguments.agent_options.clone(),
                ..FerrogateOptions::default()
            };
            edges.map(options).map(Proxy::Ferrogate).collect()
        }
    }
}

/// One rig from boot to removal. A rig that does not come up is one failed walk.
fn column(arguments: &Arguments, options: Options) -> Column {
    let firewall = if options.firewall { " firewall" } else { "" };
    let uplink = match options.uplink {
        Uplink::Plain => "",
        Uplink::Bond => " bond",
        Uplink::Vlan => " vlan",
        Uplink::Vrf => " vrf",
    };
    let name = format!("{} {}{firewall}{uplink}", options.layout.name(), options.proxy.name());
    eprintln!("walking: {name}");
    let mut column = Column {
        name,
        ..Column::default()
    };
    if let Err(error) = fill(&mut column, arguments, options) {
        column
            .others
            .push(("the rig".to_owned(), Mark::Fail(format!("{error:#}"))));
    }
    column
}

fn fill(column: &mut Column, arguments: &Arguments, options: Options) -> Result<()> {
    let begin = Instant::now();
    let mut rig = fixture::boot(options)?;
    let booted = begin.elapsed();
    let ready = ready(&mut rig, column)?;
    let cells: Vec<_> = Cell::all()
        .into_iter()
        .filter(|cell| cell.to_string().contains(&arguments.filter))
        .collect();
    let walking = Instant::now();
    column.cells = matrix::run(&rig, &cells);
    let walked = walking.elapsed();
    column
        .others
        .extend(others::run(&mut rig, arguments.level, &arguments.filter));
    if arguments.hold {
        eprintln!("held: {} and its like; Enter removes it", rig.lease.name("n1"));
        std::io::stdin().read_line(&mut String::new())?;
    }
    rig.check_proxies()?;
    column.notes.push(format!(
        "boot {:.1} s, ready after {:.1} s more, matrix {:.1} s, all {:.1} s",
        booted.as_secs_f32(),
        ready.as_secs_f32(),
        walked.as_secs_f32(),
        begin.elapsed().as_secs_f32()
    ));
    Ok(())
}

/// Waits for the proxies. Services that do not come up are a failed walk of their own: the cells show which.
fn ready(rig: &mut Rig, column: &mut Column) -> Result<Duration> {
    if rig.options.proxy == Proxy::None {
        return Ok(Duration::ZERO);
    }
    let begin = Instant::now();
    if let Err(error) = fixture::wait_ready(rig, fixture::START) {
        rig.check_proxies()?;
        column
            .others
            .push(("every Service comes up".to_owned(), Mark::Fail(format!("{error:#}"))));
    }
    Ok(begin.elapsed())
}

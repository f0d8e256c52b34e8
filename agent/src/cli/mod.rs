//! The `ferrogate` command.

mod agent;
mod cleanup;
mod doctor;
mod drain;
mod explain;
mod flows;
mod metrics;
pub mod parse;
mod query;
mod services;
mod shell;
mod sock_destroy;
mod status;
mod top;
mod trace;

pub use agent::{AgentArgs, DsrMode, Forwarding, SnatMode, SocketEdge, Switch, XdpMode};
pub use query::{OutputFormat, QueryArgs};

use anyhow::Result;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default());

/// Ferrogate: the service load balancer of a Kubernetes node.
///
/// The agent watches Services and EndpointSlices and fills the tables of its eBPF programs, which translate every connection
/// where its client meets the node. It takes kube-proxy's place on any CNI.
#[derive(Parser, Debug)]
#[command(name = "ferrogate", version, styles = STYLES, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the agent of this node, in the foreground
    Agent(Box<AgentArgs>),
    /// Show what the agent and its programs are doing
    Status(status::StatusArgs),
    /// List the Services that are programmed, with their endpoints
    Services(services::ServicesArgs),
    /// Draw the way to a Service, with every reason why it works or not
    Explain(explain::ExplainArgs),
    /// Compare the desired state with the kernel's tables
    Diff(doctor::DiffArgs),
    /// Look for what is not as it should be on this node
    Doctor(doctor::DoctorArgs),
    /// List the connections that are being translated
    Flows(flows::FlowsArgs),
    /// Show live which Services are busy, what is refused, how full the maps are
    Top(top::TopArgs),
    /// Show connections as they begin, and what is refused or dropped, and why
    Trace(trace::TraceArgs),
    /// Print the metrics of the agent, as Prometheus reads them
    Metrics(metrics::MetricsArgs),
    /// Leave new connections to another proxy, and go on with those that there are: before `cleanup`
    Drain(drain::DrainArgs),
    /// Take every trace of Ferrogate off this node: programs, maps, settings
    Cleanup(cleanup::CleanupArgs),
    /// Print what completes this command's options in a shell
    Completions(shell::CompletionsArgs),
    /// Write manual pages
    Man(shell::ManArgs),
    /// Destroy sockets for the agent, in any network namespace: the one part that needs CAP_SYS_ADMIN for it
    SockDestroyHelper(sock_destroy::HelperArgs),
    /// Say whether this command takes these arguments, and do nothing else
    #[command(hide = true)]
    CheckArguments(shell::CheckArgs),
}

/// Runs the command. An error is meant for a person: what failed, where, and what to do.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Diff(args) => return doctor::diff(&args),
        Command::Doctor(args) => return doctor::doctor(&args),
        Command::Agent(args) => agent::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Services(args) => services::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Flows(args) => flows::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Metrics(args) => metrics::run(&args),
        Command::Drain(args) => drain::run(&args),
        Command::Cleanup(args) => cleanup::run(&args),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
        Command::SockDestroyHelper(args) => sock_destroy::run(&args),
        Command::CheckArguments(args) => shell::check_arguments(&args),
    }?;
    Ok(ExitCode::SUCCESS)
}

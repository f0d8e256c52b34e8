//! The program that plays servers and clients in the rig's namespaces. Everything it prints is JSON of
//! [`ferrogate_tests::wire`].
mod api_proxy;
mod ask;
mod balance;
mod batch;
mod browse;
mod chase;
mod client;
mod dns;
mod echo;
mod failure;
mod hold;
mod load;
mod ping;
mod probe;
mod sctp;
mod serve;
mod siege;
mod strain;
mod web;

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use clap::{Parser, Subcommand};
use ferrogate_tests::rig::{Options, Rig};
use ferrogate_tests::wire::siege::SiegeRequest;
use ferrogate_tests::wire::{ProbeRequest, Protocol};
use serde::Serialize;

#[derive(Parser)]
#[command(about = "Server and client of the cluster rig")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer on TCP, UDP and SCTP with who we are.
    Serve(serve::Options),
    /// Ask one or more addresses and print who answered.
    Probe(ProbeRequest),
    /// Ask many addresses at once: a line of JSON of `ferrogate_tests::batch` in, a line out, until standard input ends.
    Batch,
    /// Ask at a steady rate, a line of JSON for each attempt, until standard input ends.
    Load(load::Options),
    /// Hold connections and flows, and open new ones all the time, until standard input ends.
    Siege(SiegeRequest),
    /// Ask what standard input says, a line of JSON each, many at once, until it ends.
    Ask,
    /// Serve HTTP until SIGTERM, and then to the end of what was begun.
    Web(web::Options),
    /// Ask over HTTP, on kept and on new connections, until standard input ends.
    Browse(browse::Options),
    /// Ask Services whose endpoints change, until standard input ends.
    Chase(chase::Options),
    /// Pass requests on to the API server, as badly as standard input says.
    ApiProxy(api_proxy::Options),
    /// Balance TCP connections over node ports, as a cloud's load balancer does.
    Balance(balance::Options),
    /// Keep asking on one TCP connection until standard input ends.
    Tick {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, default_value_t = 20)]
        interval_ms: u64,
        #[arg(long, default_value_t = 5000)]
        timeout_ms: u64,
    },
    /// Ask once over a connected UDP socket, then wait for what ends the wait.
    AwaitError {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, default_value_t = 5000)]
        timeout_ms: u64,
    },
    /// Move many bytes over TCP and check each of them.
    Bulk {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        bytes: u64,
        /// From the server to us, instead of from us to the server.
        #[arg(long)]
        download: bool,
        #[arg(long, default_value_t = 5000)]
        timeout_ms: u64,
    },
    /// Send one ICMP echo request and wait for its reply.
    Ping {
        #[arg(long)]
        to: IpAddr,
        #[arg(long, default_value_t = 1000)]
        timeout_ms: u64,
    },
    /// Ask a `testpod lean` as much and as fast as can be, and print how much that was.
    Strain(strain::Options),
    /// Connect many UDP sockets, and hold them until standard input ends.
    Hold(hold::Options),
    /// Answer such questions, and do nothing else.
    Lean {
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Boot an empty rig, print its id, and hold it until killed: what it leaves is for `sweep`.
    HoldRig,
    /// Ask a DNS server for a name's addresses.
    Resolve {
        #[arg(long)]
        server: SocketAddr,
        #[arg(long)]
        name: String,
        #[arg(long, value_enum, default_value = "udp")]
        protocol: Protocol,
        /// Ask for AAAA records instead of A records.
        #[arg(long)]
        ipv6: bool,
        #[arg(long, default_value_t = 2000)]
        timeout_ms: u64,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Serve(options) => serve::run(&options),
        Command::Probe(request) => print(&probe::run(&request)),
        Command::Batch => batch::run(),
        Command::Load(options) => load::run(options),
        Command::Siege(request) => siege::run(request),
        Command::Ask => ask::run(),
        Command::Web(options) => web::run(&options),
        Command::Browse(options) => print(&browse::run(&options)?),
        Command::Chase(options) => chase::run(&options),
        Command::ApiProxy(options) => api_proxy::run(&options),
        Command::Balance(options) => balance::run(options),
        Command::Tick {
            to,
            interval_ms,
            timeout_ms,
        } => print(&client::tick(to, interval_ms, timeout_ms)),
        Command::AwaitError { to, timeout_ms } => print(&client::await_error(to, timeout_ms)),
        Command::Bulk {
            to,
            bytes,
            download,
            timeout_ms,
        } => print(&client::bulk(to, bytes, download, timeout_ms)),
        Command::Ping { to, timeout_ms } => print(&ping::run(to, timeout_ms)),
        Command::Strain(options) => print(&strain::run(&options)?),
        Command::Hold(options) => hold::run(&options),
        Command::Lean { listen } => strain::serve(listen),
        Command::HoldRig => hold_rig(),
        Command::Resolve {
            server,
            name,
            protocol,
            ipv6,
            timeout_ms,
        } => print(&dns::resolve(server, &name, protocol, ipv6, timeout_ms)),
    }
}

fn hold_rig() -> Result<()> {
    let rig = Rig::boot(Options::default())?;
    println!("{}", rig.lease.id());
    loop {
        std::thread::park();
    }
}

fn print<T: Serialize>(report: &T) -> Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}

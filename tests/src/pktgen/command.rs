//! `pktgen`, the program.
use std::fmt::Write as _;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Parser, ValueEnum};
use ferrogate_common::Protocol;
use ipnet::IpNet;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use super::generator::{Generator, Pace, Report};
use super::traffic::{Flows, Traffic};
use crate::binaries;

/// How long a neighbour may take to answer.
const RESOLUTION: Duration = Duration::from_secs(3);

/// The port that throws everything away (RFC 863).
const DISCARD: u16 = 9;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum Transport {
    Udp,
    Tcp,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum Flag {
    Fin = 0x01,
    Syn = 0x02,
    Rst = 0x04,
    Psh = 0x08,
    Ack = 0x10,
}

#[derive(Parser)]
#[command(
    name = "pktgen",
    about = "Send packets as fast as the kernel takes them, or at a fixed rate, and count what comes back",
    after_help = "Packets are live frames of BPF_PROG_TEST_RUN: an XDP program writes each of them, and the interface sends it. \
                  Needs root and an interface whose driver can send such frames; a veth's far end must have generic \
                  receive offload on (ethtool -K DEVICE gro on) or an XDP program of its own.\n\n\
                  While it runs, packets that arrive at the interface for the clients' network are counted and taken away.\n\n\
                  A SYN flood:       pktgen --device eth0 --to 192.0.2.10:30080 --protocol tcp --flags syn --random\n\
                  A UDP flood:       pktgen --device eth0 --to 192.0.2.10:30080 --random\n\
                  A steady load:     pktgen --device eth0 --to 192.0.2.10:30080 --flows 4096 --rate 100000"
)]
struct Arguments {
    /// The interface to send from
    #[arg(long, value_name = "NAME")]
    device: String,
    /// The network namespace it is in, by its name (as of `ip netns`) or its file [default: this one]
    #[arg(long, value_name = "NAME|FILE")]
    netns: Option<PathBuf>,
    /// Where to send: an address and a port
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: SocketAddr,
    /// The link-layer address to send to [default: that of the next hop, as this namespace's routes and neighbours have it]
    #[arg(long, value_name = "MAC")]
    to_mac: Option<String>,
    /// Where the clients are [default: 198.18.0.0/15, the range for benchmarks, and 2001:2::/48]
    #[arg(long, value_name = "NETWORK")]
    clients: Option<IpNet>,
    #[arg(long, value_enum, default_value = "udp")]
    protocol: Transport,
    /// Flags of TCP packets
    #[arg(long, value_enum, value_delimiter = ',', default_value = "syn")]
    flags: Vec<Flag>,
    /// Clients' addresses and ports, which take turns
    #[arg(long, value_name = "N", default_value_t = 4096)]
    flows: u32,
    /// A random client address and port in every packet, instead
    #[arg(long, conflicts_with = "flows")]
    random: bool,
    /// Bytes of each frame, without its check sequence; the headers at least
    #[arg(long, value_name = "BYTES", default_value_t = 60, value_parser = clap::value_parser!(u16).range(42..=1514))]
    length: u16,
    /// Packets a second [default: as many as will go]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// How long
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    seconds: f64,
    /// The CPUs to send from, a thread each
    #[arg(long, value_name = "N[,N]", value_delimiter = ',', default_value = "0")]
    cpus: Vec<usize>,
    /// Count what arrives for this network, instead of for the clients'
    #[arg(long, value_name = "NETWORK")]
    count: Option<IpNet>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the program.
pub fn run() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        arguments.seconds > 0.0 && arguments.seconds < 86_400.0,
        "--seconds {}: more than 0 and less than a day",
        arguments.seconds
    );
    // A namespace is a thread's.
    let work = thread::spawn(move || {
        if let Some(netns) = &arguments.netns {
            enter(netns)?;
        }
        let report = send(&arguments)?;
        print!("{}", shown(&report, arguments.json)?);
        Ok(())
    });
    work.join().map_err(|_| anyhow!("the sending thread panicked"))?
}

fn enter(netns: &Path) -> Result<()> {
    let file = if netns.components().count() == 1 {
        Path::new("/run/netns").join(netns)
    } else {
        netns.to_owned()
    };
    let open = File::open(&file).with_context(|| format!("--netns {}: {}", netns.display(), file.display()))?;
    move_into_link_name_space(open.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("--netns {}: cannot enter it", netns.display()))
}

fn send(arguments: &Arguments) -> Result<Report> {
    let clients = match (arguments.clients, arguments.to.is_ipv4()) {
        (Some(clients), _) => clients,
        (None, true) => "198.18.0.0/15".parse()?,
        (None, false) => "2001:2::/48".parse()?,
    };
    let traffic = Traffic {
        protocol: match arguments.protocol {
            Transport::Udp => Protocol::Udp,
            Transport::Tcp => Protocol::Tcp,
        },
        flags: arguments.flags.iter().fold(0, |flags, flag| flags | *flag as u8),
        source: clients,
        destination: arguments.to,
        flows: if arguments.random {
            Flows::Random
        } else {
            Flows::Numbered(arguments.flows)
        },
        length: arguments.length.into(),
        source_mac: own_mac(&arguments.device)?,
        destination_mac: match &arguments.to_mac {
            Some(text) => mac(text).with_context(|| format!("--to-mac {text}"))?,
            None => next_hop(&arguments.device, arguments.to.ip())?,
        },
    };
    let pace = Pace {
        rate: arguments.rate,
        duration: Duration::from_secs_f64(arguments.seconds),
        cpus: arguments.cpus.clone(),
    };
    Generator::open(&arguments.device, arguments.count.unwrap_or(clients))?.send(&traffic, &pace)
}

fn shown(report: &Report, json: bool) -> Result<String> {
    if json {
        return Ok(serde_json::to_string(report)? + "\n");
    }
    let mut text = String::new();
    for (what, count) in [
        ("sent", report.sent),
        ("accepted", report.accepted),
        ("replies", report.replies),
    ] {
        let rate = count as f64 / report.seconds;
        writeln!(text, "{what:<10} {count:>12} packets {rate:>12.0} /s")?;
    }
    writeln!(text, "{:<10} {:>12.3} s", "in", report.seconds)?;
    Ok(text)
}

/// Six bytes in hexadecimal, with colons.
fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .with_context(|| format!("{text} is no link-layer address, such as 02:00:00:00:00:01"))?;
    bytes
        .try_into()
        .map_err(|_| anyhow!("{text} is no link-layer address: six bytes"))
}

/// What `ip -json` says.
fn ip(arguments: &[&str]) -> Result<Value> {
    let output = Command::new(binaries::system("ip")?)
        .arg("-json")
        .args(arguments)
        .output()?;
    if !output.status.success() {
        bail!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("what ip {} says", arguments.join(" ")))
}

fn own_mac(device: &str) -> Result<[u8; 6]> {
    let link = ip(&["link", "show", "dev", device])?;
    mac(link[0]["address"].as_str().unwrap_or_default())
}

/// The link-layer address of the next hop towards `to`.
fn next_hop(device: &str, to: IpAddr) -> Result<[u8; 6]> {
    let text = to.to_string();
    let route = ip(&["route", "get", &text, "oif", device])?;
    let hop = route[0]["gateway"].as_str().unwrap_or(&text).to_owned();
    let deadline = Instant::now() + RESOLUTION;
    loop {
        let neighbour = ip(&["neighbour", "show", "to", &hop, "dev", device])?;
        if let Some(known) = neighbour[0]["lladdr"].as_str() {
            return mac(known);
        }
        ensure!(
            Instant::now() < deadline,
            "{hop} on {device} does not tell its link-layer address: name it with --to-mac"
        );
        // A datagram makes the kernel ask.
        let any: IpAddr = if to.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        UdpSocket::bind((any, 0))?.send_to(&[], (to, DISCARD))?;
        thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_layer_addresses_are_six_bytes() {
        assert_eq!(mac("02:00:00:00:0a:ff").unwrap(), [2, 0, 0, 0, 10, 255]);
        for wrong in ["", "02:00:00:00:0a", "02:00:00:00:0a:ff:00", "02:00:00:00:0a:xy"] {
            assert!(mac(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}

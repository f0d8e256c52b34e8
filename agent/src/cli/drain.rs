//! `ferrogate drain`.

use super::query::{STATE_DIR, Source};
use crate::admin::{self, Request, Status};
use crate::kernel::{FlowEntry, FlowRow, FlowTable, StateDir, Tables, boot_seconds};
use crate::kube_proxy::{self, Replies};
use crate::output;
use anyhow::{Context, Result, bail};
use clap::Args;
use ferrogate_common::{Address, Direction, Port, Protocol, flow_flags};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A UDP flow without a packet for this many seconds counts as ended.
const UDP_IDLE: u32 = 30;

/// For handing a node to another proxy without breaking a connection: start that one, stop the agent, drain, and clean up when
/// the last connection has ended. An agent that starts takes the node back.
#[derive(Args, Clone, Debug)]
pub struct DrainArgs {
    /// Wait until the last connection has ended, this many seconds at most
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,

    /// The agent's state directory
    #[arg(long, value_name = "DIR", env = "FERROGATE_STATE_DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,

    #[command(flatten)]
    source: Source,
}

pub(super) fn run(args: &DrainArgs) -> Result<()> {
    let socket = args.source.socket();
    if !matches!(
        admin::ask::<Status>(&socket, &Request::Status),
        Err(admin::Error::NotRunning { .. })
    ) {
        bail!(
            "an agent holds {} and serves new connections; stop it first",
            socket.display()
        );
    }
    let tables = Tables::open(&StateDir::new(&args.state_dir)).context("cannot open the pinned maps")?;
    reserve_ports(&tables);
    tables.set_hand_over(true).context("cannot tell the programs")?;
    // Those of flows that began meanwhile.
    reserve_ports(&tables);
    let begin = Instant::now();
    loop {
        let left = live(&tables)?;
        match args.wait {
            Some(seconds) if left > 0 && begin.elapsed() < Duration::from_secs(seconds) => {
                sleep(Duration::from_secs(1));
            }
            Some(seconds) if left > 0 => bail!("{left} connections go on after {seconds} s"),
            _ => {
                return output::print(&format!(
                    "New connections are left to the kernel. {left} connections go on, which `ferrogate cleanup` would break."
                ));
            }
        }
    }
}

/// Keeps the other proxy's masquerading from giving ports of our flows to new connections with the same backend, which would lose their
/// replies to ours.
fn reserve_ports(tables: &Tables) {
    let reserved = tables
        .flows(usize::MAX)
        .map_err(anyhow::Error::from)
        .and_then(|rows| Ok(kube_proxy::reserve(rows.iter().filter_map(replies))?));
    if let Err(error) = reserved {
        eprintln!(
            "warning: connection tracking cannot be told which ports are in use: a new connection may get one of them, and \
             no answer ({error:#})"
        );
    }
}

/// How the replies of a flow come in that has a port of this node; a process of the node has its own address changed to itself.
fn replies(row: &FlowRow) -> Option<Replies> {
    let FlowEntry::Snat(flow) = row.entry else { return None };
    let end = |address: Address, port: Port| SocketAddr::new(address.ip(), port.get());
    let of_a_pod = flow.flags & flow_flags::PORT_ONLY != 0;
    let to_a_frontend = flow.flags & flow_flags::TO_ITSELF == flow_flags::TO_ITSELF;
    // It stands for a connection that connection tracking knows.
    let of_others = flow.client == Address::UNSPECIFIED;
    (!of_a_pod && !to_a_frontend && !of_others).then(|| Replies {
        protocol: row.tuple.protocol,
        from: end(row.tuple.source, row.tuple.source_port),
        to: end(row.tuple.destination, row.tuple.destination_port),
    })
}

/// Connections that are translated packet by packet still.
fn live(tables: &Tables) -> Result<usize> {
    let now = boot_seconds();
    let rows = tables.flows(usize::MAX).context("cannot read the flows")?;
    let lives = rows.iter().filter(|row| {
        let idle = now.saturating_sub(row.seen()) > UDP_IDLE;
        let ended = row.flags() & flow_flags::ENDED == flow_flags::ENDED;
        let may_be_over = row.tuple.protocol == Protocol::Udp as u8 || row.flags() & flow_flags::CLOSING != 0;
        row.table == FlowTable::Established
            && row.direction() == Direction::Forward
            && matches!(row.entry, FlowEntry::Flow(_))
            && !ended
            && !(may_be_over && idle)
    });
    Ok(lives.count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrogate_common::{SnatFlow, Tuple};
    use std::net::IpAddr;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().map(Address::from).expect("an address")
    }

    /// A flow to 10.0.0.80:8080, whose replies come to port 62000 of this address.
    fn row(to: &str, client: Address, flags: u16) -> FlowRow {
        let from = (address("10.0.0.80"), Port::new(8080));
        let to = (address(to), Port::new(62_000));
        FlowRow {
            table: FlowTable::Snat,
            tuple: Tuple::new(from, to, Protocol::Tcp as u8, Direction::Reply),
            entry: FlowEntry::Snat(SnatFlow {
                client,
                frontend: address("10.96.0.1"),
                client_port: Port::new(40_000),
                frontend_port: Port::new(80),
                seen: 0,
                uplink: 0,
                flags,
                reserved: 0,
            }),
        }
    }

    #[test]
    fn ports_of_this_nodes_addresses_are_reserved() {
        let node = "192.0.2.1";
        let of_outside = row(node, address("198.51.100.7"), flow_flags::SNAT);
        let of_the_node = row(node, address(node), flow_flags::SNAT | flow_flags::NODE);
        for row in [of_outside, of_the_node] {
            let replies = replies(&row).expect("to be reserved");
            assert_eq!(replies.from.to_string(), "10.0.0.80:8080");
            assert_eq!(replies.to.to_string(), "192.0.2.1:62000");
        }
    }

    #[test]
    fn ports_of_other_addresses_are_not() {
        let pod = "10.0.0.7";
        let of_a_pod = row(pod, address(pod), flow_flags::PORT_ONLY);
        let to_itself = flow_flags::SNAT | flow_flags::TO_ITSELF;
        let to_a_frontend = row("10.96.0.1", address("192.0.2.1"), to_itself);
        let of_others = row("192.0.2.1", Address::UNSPECIFIED, 0);
        for row in [of_a_pod, to_a_frontend, of_others] {
            assert_eq!(replies(&row), None);
        }
    }
}

//! A cloud's load balancer: haproxy on a machine of its own beside the nodes, which balances TCP over their NodePorts and
//! asks the nodes which of them to use.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::addresses::{Family, LOAD_BALANCER, Pair, lan};
use super::cluster::Rig;
use super::machine::tail;
use super::process::{Place, Process};
use crate::binaries;

/// Where haproxy tells about itself, inside its namespace.
const STATISTICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8404);

/// One port of the load balancer.
#[derive(Clone, Copy, Debug)]
pub struct Balanced {
    /// The port that clients know.
    pub port: u16,
    pub node_port: u16,
    /// Where each node is asked whether it is to be used, over HTTP.
    pub check_port: u16,
    pub check_path: &'static str,
}

/// What haproxy says of one node, for one port and family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// Its last health check was passed.
    pub up: bool,
    /// Connections that were given to it.
    pub connections: u64,
    /// Connections that it did not take.
    pub refused: u64,
}

/// A load balancer that runs. Nothing is tried twice: what a node does not take is lost.
#[derive(Debug)]
pub struct LoadBalancer {
    // Before the namespace it runs in.
    _process: Process,
    place: Place,
    nodes: usize,
    ports: usize,
}

impl LoadBalancer {
    /// Starts it in front of all nodes, and waits until each of them was checked.
    pub fn start(rig: &Rig, services: &[Balanced]) -> Result<Self> {
        let place = rig.add_machine("lb", LOAD_BALANCER)?;
        let directory = rig.lease.directory();
        let file = directory.join("haproxy.cfg");
        fs::write(&file, configuration(rig, services)?)?;
        let log = directory.join("haproxy.log");
        let mut command = place.command(binaries::system("haproxy")?)?;
        command.arg("-db").arg("-f").arg(&file);
        let process = place.spawn("haproxy", command, &log)?;
        let mut balancer = Self {
            _process: process,
            place,
            nodes: rig.nodes.len(),
            ports: services.len(),
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !balancer.checked()? {
            if balancer._process.ended()?.is_some() || Instant::now() > deadline {
                bail!("haproxy has not checked its servers: {}", tail(&log));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(balancer)
    }

    /// Its address: what `status.loadBalancer` of the Services says.
    pub fn address() -> Pair {
        lan(LOAD_BALANCER)
    }

    /// The nodes behind one port, by name.
    pub fn servers(&self, port: u16, family: Family) -> Result<BTreeMap<String, Server>> {
        let wanted = backend(port, family);
        let rows = self.rows()?.into_iter().filter(|row| row["pxname"] == wanted);
        let servers = rows.filter(|row| row["svname"].starts_with('n')).map(|row| {
            let number = |column: &str| row.get(column).and_then(|text| text.parse().ok()).unwrap_or(0);
            let server = Server {
                up: row["status"].starts_with("UP"),
                connections: number("stot"),
                refused: number("econ") + number("eresp") + number("wretr") + number("wredis"),
            };
            (row["svname"].clone(), server)
        });
        Ok(servers.collect())
    }

    /// A server counts as up before its first check.
    fn checked(&self) -> Result<bool> {
        let Ok(rows) = self.rows() else { return Ok(false) };
        let checked = rows
            .iter()
            .filter(|row| row["svname"].starts_with('n') && !matches!(row["check_status"].as_str(), "" | "INI"));
        Ok(checked.count() == self.nodes * self.ports * Family::BOTH.len())
    }

    /// The table of statistics: a row by its columns' names.
    fn rows(&self) -> Result<Vec<BTreeMap<String, String>>> {
        let answer = self.place.get(STATISTICS, "/;csv")?.context("haproxy's statistics")?;
        let mut lines = answer.body.lines();
        let header = lines
            .next()
            .and_then(|line| line.strip_prefix("# "))
            .context("a header")?;
        let columns: Vec<_> = header.split(',').collect();
        let row = |line: &str| {
            let values = line.split(',').map(str::to_owned);
            columns.iter().map(|name| (*name).to_owned()).zip(values).collect()
        };
        Ok(lines.filter(|line| !line.is_empty()).map(row).collect())
    }
}

fn backend(port: u16, family: Family) -> String {
    format!("port-{port}-{family:?}").to_lowercase()
}

fn configuration(rig: &Rig, services: &[Balanced]) -> Result<String> {
    let mut text = format!(
        "global\n  maxconn 4000\n  nbthread 1\n  log stdout format raw local0 info\n\
         defaults\n  log global\n  mode tcp\n  option dontlog-normal\n  retries 0\n  timeout connect 2s\n  \
         timeout client 60s\n  timeout server 60s\n  timeout check 1s\n\
         listen statistics\n  mode http\n  no log\n  bind {STATISTICS}\n  stats enable\n  stats uri /\n"
    );
    for service in services {
        for family in Family::BOTH {
            let (port, address) = (service.port, LoadBalancer::address().get(family));
            writeln!(
                text,
                "listen {}\n  bind {}\n  balance roundrobin\n  option httpchk GET {}\n  http-check expect status 200\n  \
                 default-server check inter 200ms fall 2 rise 1 port {}",
                backend(port, family),
                SocketAddr::new(address, port),
                service.check_path,
                service.check_port
            )?;
            for node in &rig.nodes {
                let to = SocketAddr::new(node.address.get(family), service.node_port);
                writeln!(text, "  server {} {to}", node.name)?;
            }
        }
    }
    Ok(text)
}

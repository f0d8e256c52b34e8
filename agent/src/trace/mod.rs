//! `ferrogate trace`: connections as they begin, and what is refused or dropped, told by the programs themselves.

mod events;
mod packets;
mod pcap;
mod process;
mod turn;

pub use events::Events;
pub use packets::{Packets, keys};
pub use process::Processes;
pub use turn::{Turn, wanted};

use crate::admin::Names;
use crate::views;
use ferrogate_common::{Address, Protocol, Reason, TraceEvent, flow_flags, trace_edge};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

/// What happens to the connections that are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Verdict {
    /// A connection begins
    New,
    /// It is refused, or a packet is dropped
    Refused,
}

/// Bit n: the reason with number n is told.
pub fn reasons(verdict: Option<Verdict>, only: &[Reason]) -> u64 {
    let begins = |reason: Reason| matches!(reason, Reason::NewFlow | Reason::SocketTranslated);
    let told = Reason::ALL.iter().filter(|reason| {
        let of_verdict = match verdict {
            None => begins(**reason) || reason.is_drop(),
            Some(Verdict::New) => begins(**reason),
            Some(Verdict::Refused) => reason.is_drop(),
        };
        of_verdict && (only.is_empty() || only.contains(reason))
    });
    told.fold(0, |bits, reason| bits | 1 << *reason as u8)
}

/// One event, as `--output json` prints it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Line {
    /// Of this node's clock, to a few milliseconds.
    pub time: Timestamp,
    /// `socket`, `pod`, `uplink`, `node` or `xdp`: which edge's program tells.
    pub edge: &'static str,
    /// Where the packet was met; of a socket call none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    pub protocol: String,
    /// Of a socket call without port; and without address where the process was gone too soon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_port: Option<u16>,
    /// Who made a socket call: `curl[4711]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    pub frontend: SocketAddr,
    /// `namespace/name:port`, where the agent knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<SocketAddr>,
    /// What the backend sees in the client's place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SocketAddr>,
    pub reason: &'static str,
    /// It got no further.
    pub refused: bool,
}

/// Makes events into lines.
#[derive(Debug)]
pub struct Reader {
    /// Nanoseconds from the boot clock to Unix time.
    offset: i128,
    /// `SOURCES`.
    sources: BTreeMap<u32, Address>,
    frontends: HashMap<(Option<IpAddr>, u16, u8, bool), String>,
}

impl Reader {
    /// `boot_nanos` and `now` are one moment.
    pub fn new(boot_nanos: u64, now: Timestamp, sources: BTreeMap<u32, Address>, names: &Names) -> Self {
        let mut reader = Self {
            offset: now.as_nanosecond() - i128::from(boot_nanos),
            sources,
            frontends: HashMap::new(),
        };
        reader.set_names(names);
        reader
    }

    /// Services come and go.
    pub fn set_names(&mut self, names: &Names) {
        let named = names.frontends.iter().filter_map(|one| {
            let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
            let protocol = protocols.into_iter().find(|protocol| protocol.name() == one.protocol)?;
            let v4 = one.family == "IPv4";
            let key = (one.frontend.address, one.frontend.port, protocol as u8, v4);
            Some((key, one.service.clone()))
        });
        self.frontends = named.collect();
    }

    fn service(&self, event: &TraceEvent) -> Option<String> {
        let (address, port) = (event.tuple.destination.ip(), event.tuple.destination_port.get());
        let (protocol, v4) = (event.tuple.protocol, address.is_ipv4());
        let exact = self.frontends.get(&(Some(address), port, protocol, v4));
        exact
            .or_else(|| self.frontends.get(&(None, port, protocol, v4)))
            .cloned()
    }

    /// `interface` names an ifindex; `caller` is a socket call's process and the addresses of its network namespace.
    pub fn line(
        &self,
        event: &TraceEvent,
        interface: impl Fn(u32) -> Option<String>,
        caller: Option<(String, Option<IpAddr>)>,
    ) -> Option<Line> {
        let reason = *Reason::ALL.iter().find(|reason| **reason as u8 == event.reason)?;
        let (tuple, flow) = (&event.tuple, &event.flow);
        let of_call = event.edge == trace_edge::SOCKET;
        let time = i128::from(event.nanos) + self.offset;
        let protocol = Protocol::from_number(tuple.protocol);
        let snat = flow.flags & flow_flags::SNAT != 0;
        let source = self.sources.get(&u32::from(flow.source)).filter(|_| snat);
        let (process, of_caller) = caller.unzip();
        Some(Line {
            time: Timestamp::from_nanosecond(time).ok()?,
            edge: trace_edge::name(event.edge),
            interface: if of_call { None } else { interface(event.ifindex) },
            protocol: protocol.map_or_else(|| tuple.protocol.to_string(), |protocol| protocol.name().to_owned()),
            client: if of_call {
                of_caller.flatten()
            } else {
                Some(tuple.source.ip())
            },
            client_port: (!of_call).then(|| tuple.source_port.get()),
            process,
            frontend: views::socket(tuple.destination, tuple.destination_port),
            service: self.service(event),
            backend: (flow.generation != 0).then(|| views::socket(flow.address, flow.port)),
            source: source.map(|source| views::socket(*source, flow.source_port)),
            reason: reason.label(),
            refused: reason.is_drop(),
        })
    }
}

impl Line {
    /// For people: time, edge, who to whom, by way of what, and why.
    pub fn text(&self) -> String {
        let client = match (self.client, self.client_port) {
            (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
            (Some(address), None) => address.to_string(),
            (None, _) => "?".to_owned(),
        };
        let process = self.process.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        let place = self
            .interface
            .as_ref()
            .map(|name| format!("/{name}"))
            .unwrap_or_default();
        let outcome = match (&self.backend, &self.source) {
            (Some(backend), Some(source)) => format!(" => {backend} as {source}"),
            (Some(backend), None) => format!(" => {backend}"),
            (None, _) => format!(" REFUSED {}", self.reason),
        };
        let service = self
            .service
            .as_ref()
            .map(|name| format!("  {name}"))
            .unwrap_or_default();
        let (time, edge, protocol) = (self.time.strftime("%H:%M:%S%.3f"), self.edge, &self.protocol);
        format!(
            "{time} {edge}{place} {protocol} {client}{process} -> {}{outcome}{service}",
            self.frontend
        )
    }
}

/// Which events are meant, of those that the programs tell.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// `name` or `namespace/name`.
    pub service: Option<String>,
    /// One of these is its client, frontend, backend or source; empty: all.
    pub addresses: Vec<IpAddr>,
}

impl Filter {
    pub fn takes(&self, line: &Line) -> bool {
        let of_service = |wanted: &str| line.service.as_deref().is_some_and(|name| views::is_of(name, wanted));
        let its = [
            line.client,
            Some(line.frontend.ip()),
            line.backend.map(|backend| backend.ip()),
            line.source.map(|source| source.ip()),
        ];
        self.service.as_deref().is_none_or(of_service)
            && (self.addresses.is_empty() || its.iter().flatten().any(|address| self.addresses.contains(address)))
    }
}

#[cfg(test)]
mod tests;

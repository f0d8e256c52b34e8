//! `ferrogate top`: what a node is doing now, from the counters that its programs keep anyway.

mod live;
mod page;

pub use live::live;
pub use page::{Look, page};

use crate::admin::{BackendFlows, Counters, MapStatus, ServiceCounters, TrafficCount};
use clap::ValueEnum;
use ferrogate_common::Reason;
use serde::Serialize;
use std::cmp::Ordering;
use std::collections::HashMap;

/// What comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Sort {
    /// New connections a second
    Rate,
    /// Bytes a second, with --service-traffic
    Bytes,
    /// New connections so far
    Total,
    /// Packets and calls a second that got no further
    Refused,
    /// Endpoints, the fewest first
    Endpoints,
    /// Namespace, name and port
    Name,
}

impl Sort {
    /// In a heading.
    const fn title(self) -> &'static str {
        match self {
            Self::Rate => "connections/s",
            Self::Bytes => "bytes/s",
            Self::Total => "connections",
            Self::Refused => "refused/s",
            Self::Endpoints => "endpoints",
            Self::Name => "name",
        }
    }
}

/// What happened between two moments, as `--output json` prints it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Rates {
    pub node: String,
    /// Between the two moments.
    pub seconds: f64,
    /// Packets a second that were translated, and that were passed on as they were.
    pub translated: f64,
    pub passed: f64,
    /// Socket calls a second that were translated.
    pub socket_calls: f64,
    /// Packets and calls a second that got no further.
    pub refused: f64,
    /// New connections a second, of all Services.
    pub connections: f64,
    pub services: Vec<ServiceRate>,
    /// What was refused or dropped, by reason: those that ever were, the most frequent first.
    pub drops: Vec<DropRate>,
    pub maps: Vec<MapStatus>,
    /// Of the Service port that was asked about.
    pub backends: Vec<BackendFlows>,
}

/// One Service port in one family.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ServiceRate {
    /// `namespace/name:port`.
    pub service: String,
    pub protocol: String,
    pub family: String,
    /// Index into the map `SERVICES`.
    pub id: u32,
    /// New connections a second, and so far.
    pub rate: f64,
    pub connections: u64,
    /// Packets and calls that got no further: a second, and so far.
    pub refused_rate: f64,
    pub refused: u64,
    /// What packet edges carried; absent without `--service-traffic`.
    pub traffic: Option<TrafficRate>,
    pub endpoints: usize,
    pub local: usize,
}

impl ServiceRate {
    /// Both ways, a second.
    fn bytes(&self) -> f64 {
        self.traffic
            .map_or(0.0, |traffic| traffic.request_bytes + traffic.reply_bytes)
    }
}

/// Of a Service port, a second.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct TrafficRate {
    pub request_packets: f64,
    pub request_bytes: f64,
    pub reply_packets: f64,
    pub reply_bytes: f64,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DropRate {
    pub reason: String,
    pub rate: f64,
    pub count: u64,
}

/// What becomes of packets and calls, for the sums of the heading.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Translated,
    Passed,
    SocketCall,
    Refused,
    /// Counted once more by the program behind.
    Elsewhere,
}

fn fate(reason: Reason) -> Fate {
    match reason {
        Reason::Translated | Reason::NewFlow | Reason::Reply | Reason::IcmpError | Reason::Echo => Fate::Translated,
        Reason::SocketTranslated | Reason::SocketReply => Fate::SocketCall,
        Reason::LeftToTcx => Fate::Elsewhere,
        _ if reason.is_drop() => Fate::Refused,
        _ => Fate::Passed,
    }
}

/// A counter that went back was begun anew: what it has now came since.
fn grown(before: u64, after: u64) -> u64 {
    after.checked_sub(before).unwrap_or(after)
}

impl Rates {
    /// From two moments of one node, the earlier first.
    pub fn between(before: &Counters, after: Counters) -> Self {
        let seconds = (after.at_nanos.saturating_sub(before.at_nanos) as f64 / 1e9).max(1e-3);
        let rate = |before: u64, after: u64| grown(before, after) as f64 / seconds;
        // An id can have become another Service's.
        let known: HashMap<(u32, &str), &ServiceCounters> = before
            .services
            .iter()
            .map(|row| ((row.id, row.service.as_str()), row))
            .collect();
        let nothing = ServiceCounters::default();
        let services: Vec<ServiceRate> = after
            .services
            .into_iter()
            .map(|row| {
                let before = known.get(&(row.id, row.service.as_str())).copied().unwrap_or(&nothing);
                let traffic = row.traffic.as_ref().map(|after| {
                    let of =
                        |count: fn(&TrafficCount) -> u64| rate(before.traffic.as_ref().map_or(0, count), count(after));
                    TrafficRate {
                        request_packets: of(|one| one.request_packets),
                        request_bytes: of(|one| one.request_bytes),
                        reply_packets: of(|one| one.reply_packets),
                        reply_bytes: of(|one| one.reply_bytes),
                    }
                });
                ServiceRate {
                    rate: rate(before.connections, row.connections),
                    refused_rate: rate(before.refused, row.refused),
                    refused: row.refused,
                    traffic,
                    service: row.service,
                    protocol: row.protocol,
                    family: row.family,
                    id: row.id,
                    connections: row.connections,
                    endpoints: row.endpoints,
                    local: row.local,
                }
            })
            .collect();
        let earlier: HashMap<&str, u64> = before
            .reasons
            .iter()
            .map(|one| (one.reason.as_str(), one.count))
            .collect();
        let (mut drops, mut sums) = (Vec::new(), [0.0; 5]);
        for reason in Reason::ALL {
            let Some(one) = after.reasons.iter().find(|one| one.reason == reason.label()) else {
                continue;
            };
            let rate = rate(earlier.get(reason.label()).copied().unwrap_or_default(), one.count);
            sums[fate(*reason) as usize] += rate;
            if reason.is_drop() && one.count > 0 {
                drops.push(DropRate {
                    reason: one.reason.clone(),
                    rate,
                    count: one.count,
                });
            }
        }
        drops.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.count.cmp(&a.count)));
        Self {
            node: after.node,
            seconds,
            translated: sums[Fate::Translated as usize],
            passed: sums[Fate::Passed as usize],
            socket_calls: sums[Fate::SocketCall as usize],
            refused: sums[Fate::Refused as usize],
            connections: services.iter().map(|row| row.rate).sum(),
            services,
            drops,
            maps: after.maps,
            backends: after.backends,
        }
    }

    /// Puts the services in order; those that are equal, by name.
    pub fn sort(&mut self, by: Sort, reverse: bool) {
        let order = |a: &ServiceRate, b: &ServiceRate| match by {
            Sort::Rate => b.rate.total_cmp(&a.rate).then(b.connections.cmp(&a.connections)),
            Sort::Bytes => b.bytes().total_cmp(&a.bytes()),
            Sort::Total => b.connections.cmp(&a.connections),
            Sort::Refused => b
                .refused_rate
                .total_cmp(&a.refused_rate)
                .then(b.refused.cmp(&a.refused)),
            Sort::Endpoints => a.endpoints.cmp(&b.endpoints),
            Sort::Name => Ordering::Equal,
        };
        let name = |a: &ServiceRate, b: &ServiceRate| {
            (&a.service, &a.protocol, &a.family).cmp(&(&b.service, &b.protocol, &b.family))
        };
        self.services.sort_by(|a, b| {
            let order = order(a, b).then_with(|| name(a, b));
            if reverse { order.reverse() } else { order }
        });
    }
}

#[cfg(test)]
mod tests;

//! Walks of packets other than plain ones: fragments, ICMP errors, echo requests.
use anyhow::{Result, ensure};

use super::cell::{Client, Target};
use super::fixture;
use super::others::{Level, Outcome};
use crate::rig::{Family, Layout, Proxy, Rig};
use crate::wire::{BulkReport, FailureKind, PingReport, ProbeRequest, Protocol};

/// More than two packets hold.
const LARGE: usize = 4000;

/// The small MTU of a hop on the way: the least that IPv6 allows.
const NARROW: u32 = 1280;

/// Ways to a backend beyond a router: both clients' edges, and transit.
const WAYS: [(Client, Target, &str); 6] = [
    (Client::Pod, Target::ClusterIp, "local"),
    (Client::Pod, Target::ClusterIp, "remote"),
    (Client::Pod, Target::NodePort(2), "remote"),
    (Client::Node, Target::ClusterIp, "remote"),
    (Client::Outside, Target::NodePort(1), "remote"),
    (Client::Outside, Target::NodePort(2), "remote"),
];

pub(super) fn fragments(rig: &mut Rig, _: Level) -> Result<Outcome> {
    for (client, target, service) in WAYS {
        for family in Family::BOTH {
            let to = fixture::address(rig, service, target, family);
            let request = ProbeRequest::new(Protocol::Udp, to).size(LARGE);
            let wraps = matches!(&rig.options.proxy, Proxy::Ferrogate(options) if options.dsr);
            // What is sent on into a tunnel is not cut up there: the first datagram may be lost, and tells how much fits.
            for _ in [rig.options.layout == Layout::Vxlan, wraps]
                .iter()
                .filter(|narrow| **narrow)
            {
                fixture::place(rig, client).probe(&request)?;
            }
            let request = request.count(3).questions(2);
            let report = fixture::place(rig, client).probe(&request)?;
            ensure!(
                report.complete(),
                "{client:?} {target:?} {service} {family:?}: {report:?}"
            );
        }
    }
    Ok(Outcome::Passed)
}

/// A backend's "port unreachable" arrives, as if the Service had said it.
pub(super) fn closed_port(rig: &mut Rig, _: Level) -> Result<Outcome> {
    for (client, target, service) in WAYS {
        let service = fixture::closed(service);
        for family in Family::BOTH {
            let to = fixture::address(rig, service, target, family);
            let request = ProbeRequest::new(Protocol::Udp, to);
            let report = fixture::place(rig, client).probe(&request)?;
            let refused = report.attempts.iter().all(|attempt| {
                attempt
                    .failure
                    .as_ref()
                    .is_some_and(|failure| failure.kind == FailureKind::Refused)
            });
            ensure!(refused, "{client:?} {target:?} {service} {family:?}: {report:?}");
        }
    }
    Ok(Outcome::Passed)
}

pub(super) fn ping(rig: &mut Rig, _: Level) -> Result<Outcome> {
    if !matches!(rig.options.proxy, Proxy::Ferrogate(_)) {
        return Ok(Outcome::Skipped("kube-proxy does not answer ping to a ClusterIP"));
    }
    for client in [Client::Pod, Client::Node] {
        for family in Family::BOTH {
            let to = fixture::address(rig, "remote", Target::ClusterIp, family).ip();
            let arguments = ["ping".to_owned(), format!("--to={to}")];
            let report: PingReport = fixture::place(rig, client).testpod(arguments)?;
            ensure!(report.from == Some(to), "{client:?} {family:?}: {report:?}");
        }
    }
    Ok(Outcome::Passed)
}

/// Node 2 can send less at a time to a backend than its clients think: it tells them.
pub(super) fn narrow_hop(rig: &mut Rig, _: Level) -> Result<Outcome> {
    const BYTES: u64 = 4 << 20;
    let backend = rig.pod("b").addresses;
    let node = rig.node(2).place.netns.clone();
    for address in backend.both() {
        let route = rig
            .node(2)
            .place
            .run("ip", ["-o", "route", "get", &address.to_string()])?;
        let device = route.split_once(" dev ").and_then(|(_, rest)| rest.split(' ').next());
        let device = device.unwrap_or_default();
        node.ip_batch(&format!("route replace {address} dev {device} mtu lock {NARROW}\n"))?;
    }
    for (client, target, service) in WAYS.into_iter().filter(|(_, _, service)| *service == "remote") {
        for family in Family::BOTH {
            let to = fixture::address(rig, service, target, family);
            let arguments = ["bulk".to_owned(), format!("--to={to}"), format!("--bytes={BYTES}")];
            let report: BulkReport = fixture::place(rig, client).testpod(arguments)?;
            let right = report.failure.is_none() && report.intact == BYTES;
            ensure!(right, "{client:?} {target:?} {family:?}: {report:?}");
        }
    }
    Ok(Outcome::Passed)
}

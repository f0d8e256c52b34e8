//! Services and slices out of a random number generator.
use std::collections::BTreeMap;

use fastrand::Rng;

use super::pool::{Backend, NODES, TARGET_PORTS, ZONES};
use super::spec::{Attachment, EXTRA_ADDRESSES, Endpoint, Ingress, Kind, Lane, Port, Service, Slice, SlicePort};
use crate::rig::Family;
use crate::wire::Protocol;

/// ClusterIPs of lane 0 start here; each lane has 64, each of its Services 16.
const CLUSTER_IPS: u16 = 1000;
/// Node ports of lane 0 start here; each lane has 100, each of its Services 30.
const NODE_PORTS: u16 = 30_000;
const SERVICE_PORTS: [u16; 3] = [80, 81, 443];

/// True so many times in a hundred.
pub(super) fn chance(rng: &mut Rng, percent: u32) -> bool {
    rng.u32(0..100) < percent
}

pub(super) fn one_of<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(0..choices.len())]
}

pub(super) fn kind(rng: &mut Rng) -> Kind {
    match rng.u32(0..100) {
        0..30 => Kind::ClusterIp,
        30..60 => Kind::NodePort,
        60..94 => Kind::LoadBalancer,
        94..97 => Kind::Headless,
        _ => Kind::ExternalName,
    }
}

pub(super) fn families(rng: &mut Rng) -> Vec<Family> {
    match rng.u32(0..10) {
        0..2 => vec![Family::V4],
        2..4 => vec![Family::V6],
        4..8 => vec![Family::V4, Family::V6],
        _ => vec![Family::V6, Family::V4],
    }
}

pub(super) fn cluster_ip(rng: &mut Rng, lane: u8, index: usize) -> u16 {
    CLUSTER_IPS + u16::from(lane) * 64 + index as u16 * 16 + rng.u16(0..4)
}

/// A Service that is not there yet, with its slices.
pub(super) fn service(rng: &mut Rng, lane: u8, index: usize) -> Service {
    let mut service = Service {
        name: format!("r{lane}-{index}"),
        present: false,
        kind: kind(rng),
        families: families(rng),
        cluster_ip: cluster_ip(rng, lane, index),
        ports: Vec::new(),
        internal_local: chance(rng, 25),
        external_local: chance(rng, 45),
        affinity: chance(rng, 20).then(|| rng.u32(30..10_800)),
        ingress: Vec::new(),
        lb_node_ports: chance(rng, 75),
        external_ips: Vec::new(),
        source_ranges: source_ranges(rng),
        foreign: chance(rng, 3),
        headless_label: false,
        slices: Vec::new(),
    };
    for _ in 0..rng.usize(1..4) {
        add_port(rng, lane, index, &mut service);
    }
    for _ in 0..rng.usize(0..3) {
        service.ingress.push(ingress(rng, index));
    }
    if chance(rng, 30) {
        service.external_ips = vec![(EXTRA_ADDRESSES / 2 + index as u8, one_of(rng, &Family::BOTH))];
    }
    for family in Family::BOTH {
        for _ in 0..one_of(rng, &[0, 1, 1, 1, 1, 1, 1, 2]) {
            add_slice(rng, &mut service, family);
        }
    }
    service
}

/// Networks of every kind of client, of both families, some of them as only the API server would let pass.
const SOURCE_RANGES: [&str; 11] = [
    "172.31.0.0/24",
    "172.31.0.100/32",
    "172.31.0.11/32",
    "10.244.1.0/24",
    " 10.244.0.0/16 ",
    "fd00:31::/64",
    "fd00:31::64/128",
    "fd00:244:2::/64",
    "192.0.2.0/24",
    "0.0.0.0/0",
    "::/0",
];

pub(super) fn source_ranges(rng: &mut Rng) -> Vec<&'static str> {
    let mut ranges = Vec::new();
    if chance(rng, 25) {
        for _ in 0..rng.usize(1..4) {
            let range = one_of(rng, &SOURCE_RANGES);
            if !ranges.contains(&range) {
                ranges.push(range);
            }
        }
    }
    ranges
}

/// One more port, if there is room for it. Only a port that is alone may have no name.
pub(super) fn add_port(rng: &mut Rng, lane: u8, index: usize, service: &mut Service) {
    let protocol = one_of(rng, &[Protocol::Tcp, Protocol::Udp]);
    let port = one_of(rng, &SERVICE_PORTS);
    let node_port = NODE_PORTS + u16::from(lane) * 100 + index as u16 * 30 + rng.u16(0..8);
    // The API server shares a node port between two protocols of one port only.
    let clash = |other: &Port| match (other.protocol == protocol, other.port == port) {
        (true, true) => true,
        (false, true) => false,
        _ => other.node_port == node_port,
    };
    if service.ports.iter().any(clash) {
        return;
    }
    let used = |name: &String| service.ports.iter().any(|other| other.name == *name);
    let name = (0..).map(|number| format!("port-{number}")).find(|name| !used(name));
    let alone = service.ports.is_empty();
    let name = if alone && chance(rng, 40) { None } else { name };
    for other in service.ports.iter_mut().filter(|other| other.name.is_empty()) {
        rename(&mut service.slices, &other.name, "port-main");
        other.name = "port-main".to_owned();
    }
    let name = name.unwrap_or_default();
    for slice in &mut service.slices {
        if chance(rng, 70) && !slice.ports.iter().any(|other| other.name == name) {
            slice.ports.push(SlicePort {
                name: name.clone(),
                protocol,
                port: Some(one_of(rng, &TARGET_PORTS)),
            });
        }
    }
    service.ports.push(Port {
        name,
        protocol,
        port,
        node_port,
    });
}

fn rename(slices: &mut [Slice], from: &str, to: &str) {
    for port in slices.iter_mut().flat_map(|slice| &mut slice.ports) {
        if port.name == from {
            port.name = to.to_owned();
        }
    }
}

pub(super) fn ingress(rng: &mut Rng, index: usize) -> Ingress {
    if chance(rng, 6) {
        return Ingress::Hostname;
    }
    Ingress::Address {
        number: index as u8,
        family: one_of(rng, &Family::BOTH),
        proxied: chance(rng, 12),
    }
}

/// One more slice for some of the Service's ports, each with a number of this slice's own.
pub(super) fn add_slice(rng: &mut Rng, service: &mut Service, family: Family) {
    let suffix = if family == Family::V4 { "v4" } else { "v6" };
    let fqdn = chance(rng, 2);
    let used = |name: &String| service.slices.iter().any(|other| other.name == *name);
    let stem = if fqdn { "fqdn" } else { suffix };
    let name = (0..)
        .map(|number| format!("{}-{stem}-{number}", service.name))
        .find(|name| !used(name));
    let mut ports: Vec<_> = service
        .ports
        .iter()
        .map(|port| SlicePort {
            name: port.name.clone(),
            protocol: port.protocol,
            port: Some(one_of(rng, &TARGET_PORTS)),
        })
        .collect();
    if ports.len() > 1 && chance(rng, 10) {
        ports.pop();
    }
    if chance(rng, 4) {
        ports.iter_mut().take(1).for_each(|port| port.port = None);
    }
    if chance(rng, 6) {
        ports.push(SlicePort {
            name: "of-no-service".to_owned(),
            protocol: Protocol::Tcp,
            port: Some(one_of(rng, &TARGET_PORTS)),
        });
    }
    let mut slice = Slice {
        name: name.unwrap_or_default(),
        family,
        attachment: attachment(rng),
        fqdn,
        ports,
        endpoints: Vec::new(),
    };
    for _ in 0..one_of(rng, &[0, 1, 1, 2, 2, 3, 3, 4, 4]) {
        add_endpoint(rng, &mut slice);
    }
    if chance(rng, 45) {
        hint(rng, &mut slice);
    }
    service.slices.push(slice);
}

fn attachment(rng: &mut Rng) -> Attachment {
    match rng.u32(0..100) {
        0..94 => Attachment::Label,
        94..96 => Attachment::Headless,
        96..98 => Attachment::Stranger,
        _ => Attachment::Nothing,
    }
}

/// An endpoint that the slice does not have yet.
pub(super) fn add_endpoint(rng: &mut Rng, slice: &mut Slice) {
    let backend = one_of(rng, &Backend::ALL);
    if slice.endpoints.iter().any(|endpoint| endpoint.backend == backend) {
        return;
    }
    let mut endpoint = Endpoint {
        backend,
        with_node: matches!(backend, Backend::Host(_)) || chance(rng, 92),
        ready: None,
        serving: None,
        terminating: None,
        zones: Vec::new(),
        nodes: Vec::new(),
    };
    condition(rng, &mut endpoint);
    slice.endpoints.push(endpoint);
}

pub(super) fn condition(rng: &mut Rng, endpoint: &mut Endpoint) {
    let (ready, serving, terminating) = match rng.u32(0..100) {
        0..25 => (None, None, None),
        25..60 => (Some(true), Some(true), Some(false)),
        60..72 => (Some(false), Some(false), Some(false)),
        72..90 => (Some(false), Some(true), Some(true)),
        90..94 => (Some(false), Some(false), Some(true)),
        _ => {
            let any = [None, Some(false), Some(true)];
            (one_of(rng, &any), one_of(rng, &any), one_of(rng, &any))
        }
    };
    endpoint.ready = ready;
    endpoint.serving = serving;
    endpoint.terminating = terminating;
}

/// Hints on all endpoints, on some, or on none.
pub(super) fn hint(rng: &mut Rng, slice: &mut Slice) {
    let (zones, nodes) = (one_of(rng, &[0, 70, 100]), one_of(rng, &[0, 0, 70, 100]));
    for endpoint in &mut slice.endpoints {
        endpoint.zones.clear();
        endpoint.nodes.clear();
        if chance(rng, zones) {
            endpoint.zones.push(one_of(rng, &ZONES));
            let more = one_of(rng, &ZONES);
            if chance(rng, 20) && !endpoint.zones.contains(&more) {
                endpoint.zones.push(more);
            }
        }
        if chance(rng, nodes) {
            endpoint.nodes.push(one_of(rng, &NODES));
        }
    }
}

/// A lane as a sequence starts it: nothing is there yet, but what will be is decided.
pub(super) fn lane(rng: &mut Rng, number: u8) -> Lane {
    Lane {
        number,
        services: (0..super::spec::SERVICES)
            .map(|index| service(rng, number, index))
            .collect(),
        relabelled: BTreeMap::new(),
    }
}

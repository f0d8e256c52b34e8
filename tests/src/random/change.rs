//! One random change of a lane.
use fastrand::Rng;

use super::generate::{
    add_endpoint, add_port, add_slice, chance, cluster_ip, condition, families, hint, ingress, kind, one_of,
    source_ranges,
};
use super::pool::TARGET_PORTS;
use super::spec::{Attachment, EXTRA_ADDRESSES, Kind, Lane, Service, Slice};
use crate::rig::Family;

/// The lane's last address for externalIPs, which goes from one Service to another.
const WANDERING: u8 = EXTRA_ADDRESSES - 1;

/// Changes something; says what.
pub(super) fn change(rng: &mut Rng, lane: &mut Lane) -> String {
    let index = rng.usize(0..lane.services.len());
    let name = lane.services[index].name.clone();
    let what = if !lane.services[index].present {
        if chance(rng, 80) {
            appear(rng, lane, index)
        } else {
            endpoints(rng, &mut lane.services[index])
        }
    } else {
        match rng.u32(0..100) {
            0..50 => endpoints(rng, &mut lane.services[index]),
            50..58 => disappear(rng, lane, index),
            _ => service(rng, lane, index),
        }
    };
    format!("{name}: {what}")
}

/// A lane without anything, as a sequence leaves it.
pub(super) fn clear(lane: &mut Lane) {
    for service in &mut lane.services {
        service.present = false;
        service.slices.clear();
    }
}

fn appear(rng: &mut Rng, lane: &mut Lane, index: usize) -> String {
    let number = lane.number;
    if chance(rng, 40) {
        lane.services[index].cluster_ip = cluster_ip(rng, number, index);
    }
    lane.services[index].present = true;
    "appears".to_owned()
}

fn disappear(rng: &mut Rng, lane: &mut Lane, index: usize) -> String {
    let number = lane.number;
    let service = &mut lane.services[index];
    service.present = false;
    if chance(rng, 50) {
        service.slices.clear();
        if chance(rng, 60) {
            *service = super::generate::service(rng, number, index);
            service.slices.clear();
        }
        return "disappears with its slices".to_owned();
    }
    "disappears".to_owned()
}

/// A change of the Service object.
fn service(rng: &mut Rng, lane: &mut Lane, index: usize) -> String {
    let number = lane.number;
    let wandering = lane
        .services
        .iter()
        .any(|other| other.external_ips.iter().any(|(at, _)| *at == WANDERING));
    let service = &mut lane.services[index];
    match rng.u32(0..14) {
        0 => {
            service.kind = kind(rng);
            format!("becomes {:?}", service.kind)
        }
        1 => {
            service.internal_local ^= true;
            format!("internalTrafficPolicy Local: {}", service.internal_local)
        }
        2 | 3 => {
            service.external_local ^= true;
            format!("externalTrafficPolicy Local: {}", service.external_local)
        }
        4 => {
            change_families(rng, service);
            format!("families {:?}", service.families)
        }
        5 => {
            add_port(rng, number, index, service);
            "one more port".to_owned()
        }
        6 if service.ports.len() > 1 => {
            let gone = service.ports.remove(rng.usize(0..service.ports.len()));
            format!("without port {}/{:?}", gone.port, gone.protocol)
        }
        7 => {
            let ports = service.ports.len();
            let mut other = service.clone();
            other.ports.remove(rng.usize(0..ports));
            add_port(rng, number, index, &mut other);
            if !other.ports.is_empty() {
                *service = other;
            }
            "another port in place of one".to_owned()
        }
        8 => {
            service.affinity = if service.affinity.is_some() {
                None
            } else {
                Some(rng.u32(30..10_800))
            };
            format!("affinity {:?}", service.affinity)
        }
        9 => {
            service.ingress = (0..rng.usize(0..3)).map(|_| ingress(rng, index)).collect();
            format!("ingress {:?}", service.ingress)
        }
        10 => {
            let own = EXTRA_ADDRESSES / 2 + index as u8;
            let number = if wandering { own } else { one_of(rng, &[own, WANDERING]) };
            service.external_ips = Family::BOTH
                .into_iter()
                .filter(|_| chance(rng, 60))
                .map(|f| (number, f))
                .collect();
            format!("externalIPs {:?}", service.external_ips)
        }
        11 => {
            service.lb_node_ports ^= true;
            format!("node ports of a load balancer: {}", service.lb_node_ports)
        }
        12 => {
            service.source_ranges = source_ranges(rng);
            format!("loadBalancerSourceRanges {:?}", service.source_ranges)
        }
        _ => label(rng, service),
    }
}

/// The first family stays, as the API server wants it, where the Service has more than one way to change.
fn change_families(rng: &mut Rng, service: &mut Service) {
    let (first, other) = (service.families[0], families(rng));
    service.families = match service.families.len() {
        1 => vec![first, if first == Family::V4 { Family::V6 } else { Family::V4 }],
        _ if chance(rng, 80) => vec![first],
        _ => other,
    };
}

fn label(rng: &mut Rng, service: &mut Service) -> String {
    if service.foreign || service.headless_label {
        service.foreign = false;
        service.headless_label = false;
        return "is ours".to_owned();
    }
    if chance(rng, 50) {
        service.foreign = true;
        return "is another proxy's".to_owned();
    }
    if service.kind == Kind::ClusterIp {
        service.headless_label = true;
        return "is labelled headless".to_owned();
    }
    "as it was".to_owned()
}

/// A change of the Service's slices.
fn endpoints(rng: &mut Rng, service: &mut Service) -> String {
    if service.slices.is_empty() || chance(rng, 10) {
        let family = one_of(rng, &Family::BOTH);
        add_slice(rng, service, family);
        return format!("one more slice of {family:?}");
    }
    match rng.u32(0..100) {
        0..8 => {
            let gone = service.slices.remove(rng.usize(0..service.slices.len()));
            format!("without slice {}", gone.name)
        }
        8..14 => {
            service.slices.iter_mut().for_each(|slice| slice.endpoints.clear());
            "without endpoints".to_owned()
        }
        14..24 => duplicate(rng, service),
        _ => {
            let at = rng.usize(0..service.slices.len());
            let slice = &mut service.slices[at];
            let what = slice_change(rng, slice);
            format!("slice {} {what}", slice.name)
        }
    }
}

fn slice_change(rng: &mut Rng, slice: &mut Slice) -> &'static str {
    let endpoints = slice.endpoints.len();
    match rng.u32(0..100) {
        0..30 => {
            add_endpoint(rng, slice);
            "gains an endpoint"
        }
        30..50 if endpoints > 0 => {
            slice.endpoints.remove(rng.usize(0..endpoints));
            "loses an endpoint"
        }
        50..72 if endpoints > 0 => {
            let endpoint = &mut slice.endpoints[rng.usize(0..endpoints)];
            condition(rng, endpoint);
            "has an endpoint in another condition"
        }
        72..86 => {
            hint(rng, slice);
            "has other hints"
        }
        86..93 => {
            for port in &mut slice.ports {
                port.port = Some(one_of(rng, &TARGET_PORTS));
            }
            "has other numbers for its ports"
        }
        93..96 => {
            slice.attachment = match slice.attachment {
                Attachment::Label => one_of(rng, &[Attachment::Nothing, Attachment::Stranger, Attachment::Headless]),
                _ => Attachment::Label,
            };
            "changes its label"
        }
        _ => {
            slice.endpoints.clear();
            while slice.endpoints.len() < 3 {
                add_endpoint(rng, slice);
            }
            "has endpoints of its own"
        }
    }
}

/// An endpoint of one slice in a further slice too, as while a controller moves it: as it is, or terminating.
fn duplicate(rng: &mut Rng, service: &mut Service) -> String {
    let slices = service.slices.len();
    let (from, to) = (rng.usize(0..slices), rng.usize(0..slices));
    let same = service.slices[from].family == service.slices[to].family;
    let endpoints = service.slices[from].endpoints.len();
    if from == to || !same || endpoints == 0 {
        return "as it was".to_owned();
    }
    let mut copy = service.slices[from].endpoints[rng.usize(0..endpoints)].clone();
    if chance(rng, 30) {
        copy.ready = Some(false);
        copy.terminating = Some(true);
    }
    let ports = service.slices[from].ports.clone();
    let slice = &mut service.slices[to];
    slice.ports = ports;
    slice.endpoints.retain(|endpoint| endpoint.backend != copy.backend);
    slice.endpoints.push(copy);
    format!("an endpoint in {} too", slice.name)
}

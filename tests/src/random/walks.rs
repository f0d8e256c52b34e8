//! Which walks to take after a change.
use std::collections::BTreeSet;

use fastrand::Rng;

use super::expect::{Door, Scene, Walk};
use super::generate::{chance, one_of};
use super::pool::Client;
use super::spec::{EXTRA_ADDRESSES, Ingress, Lane};
use crate::batch::SocketKind;
use crate::rig::Family;
use crate::wire::Protocol;

/// Walks in each lane: of the Services that changed, of the others, and to addresses that are nobody's now.
const CHANGED: usize = 20;
const OTHERS: usize = 6;
const CLOSED: usize = 4;

/// A random choice, most of it about the Services named.
pub(super) fn choose(rng: &mut Rng, scene: &Scene<'_>, changed: &BTreeSet<usize>) -> Vec<Walk> {
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for service in 0..scene.lane.services.len() {
        let all = if changed.contains(&service) {
            &mut near
        } else {
            &mut far
        };
        list(rng, scene.lane, service, all);
    }
    let (mut near, mut closed): (Vec<_>, Vec<_>) = near.into_iter().partition(|walk| scene.is_open(walk));
    far.retain(|walk| scene.is_open(walk));
    for (walks, count) in [(&mut near, CHANGED), (&mut far, OTHERS), (&mut closed, CLOSED)] {
        rng.shuffle(walks);
        walks.truncate(count);
    }
    near.extend(far);
    near.extend(closed);
    near
}

fn list(rng: &mut Rng, lane: &Lane, index: usize, walks: &mut Vec<Walk>) {
    let service = &lane.services[index];
    let mut doors = vec![Door::ClusterIp, Door::ClusterIp, Door::NodePort(1), Door::NodePort(2)];
    doors.extend(extra(lane, index).into_iter().map(Door::Extra));
    for (port, family) in (0..service.ports.len()).flat_map(|port| Family::BOTH.map(|family| (port, family))) {
        let protocol = service.ports[port].protocol;
        for client in Client::ALL {
            for door in doors.iter().copied() {
                let door = if door == Door::ClusterIp && chance(rng, 12) {
                    Door::NoSuchPort
                } else {
                    door
                };
                let second = if protocol == Protocol::Tcp {
                    SocketKind::Bound
                } else {
                    SocketKind::Unconnected
                };
                walks.push(Walk {
                    client,
                    service: index,
                    port,
                    family,
                    door,
                    socket: one_of(rng, &[SocketKind::Connected, second]),
                });
            }
        }
    }
}

/// The further addresses that are this Service's, or would be: its own, and those that it names and no other does.
fn extra(lane: &Lane, index: usize) -> BTreeSet<u8> {
    let named = |index: usize| {
        let service = &lane.services[index];
        let ingress = service.ingress.iter().filter_map(|entry| match entry {
            Ingress::Address { number, .. } => Some(*number),
            Ingress::Hostname => None,
        });
        let all = ingress.chain(service.external_ips.iter().map(|(number, _)| *number));
        all.collect::<BTreeSet<_>>()
    };
    let mut numbers = named(index);
    numbers.extend([index as u8, EXTRA_ADDRESSES / 2 + index as u8]);
    let others = (0..lane.services.len()).filter(|other| *other != index).flat_map(named);
    let others: BTreeSet<_> = others.collect();
    numbers.difference(&others).copied().collect()
}

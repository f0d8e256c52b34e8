//! Keys that services share: a load balancer's or external address as such. Each of its services would write the same; one of
//! them owns the key, and when it gives it up, another takes it over.

use super::port::Round;
use super::{Planner, Programmed};
use crate::desired::DesiredPort;
use crate::names::PortName;
use ferrogate_common::{Frontend, FrontendKey, FrontendKind};
use std::collections::BTreeSet;

impl Planner {
    /// Notes which shared keys a port wants.
    pub(super) fn share(&mut self, desired: &DesiredPort, port: &mut Programmed) {
        let shared = desired.frontends.iter().filter(|(_, kind)| **kind == FrontendKind::Vip);
        let wanted: BTreeSet<FrontendKey> = shared.map(|(key, _)| *key).collect();
        for key in wanted.difference(&port.shared) {
            self.sharers.entry(*key).or_default().insert(desired.name.clone());
        }
        self.unshare(&desired.name, port.shared.difference(&wanted).copied());
        port.shared = wanted;
    }

    /// A port wants these keys no more.
    pub(super) fn unshare(&mut self, name: &PortName, keys: impl Iterator<Item = FrontendKey>) {
        for key in keys {
            if let Some(sharers) = self.sharers.get_mut(&key) {
                sharers.remove(name);
                if sharers.is_empty() {
                    self.sharers.remove(&key);
                }
            }
        }
    }

    /// Gives each shared key that its owner has given up to another of its sharers: before anything else uses the room.
    pub(super) fn hand_over(&mut self, round: &mut Round) {
        for key in std::mem::take(&mut self.orphans) {
            let heir = self.sharers.get(&key).and_then(BTreeSet::first);
            if let Some(port) = heir.and_then(|name| self.ports.get_mut(name)) {
                let value = Frontend::new(port.id, FrontendKind::Vip);
                port.frontends.insert(key, FrontendKind::Vip);
                self.frontends.insert(key, port.id);
                round.put(key, value);
            }
        }
    }
}

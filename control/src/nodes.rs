//! With `--dsr`: which node an address belongs to. The map `NODES` follows this.
//!
//! An endpoint that is gone keeps its entry until everything is compared: nobody asks for it, and whoever gets its address gets the entry
//! too.

use crate::ingest::{EndpointModel, Number};
use crate::names::Family;
use ferrogate_common::{Address, Dsr};
use k8s_openapi::api::core::v1::Node;
use std::collections::{BTreeMap, HashMap, HashSet};

/// What is to be written to `NODES`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeChanges {
    /// These entries, `None` to be removed.
    Some(BTreeMap<Address, Option<Address>>),
    /// Nothing but these is to be there.
    All(HashMap<Address, Address>),
}

/// Addresses of nodes, by the numbers of their names, and of what runs there.
#[derive(Default, Debug)]
pub(crate) struct Nodes {
    addresses: BTreeMap<Number, Vec<Address>>,
    table: HashMap<Address, Address>,
    /// Addresses of nodes, which no endpoint's entry replaces.
    own: HashSet<Address>,
    changed: BTreeMap<Address, Option<Address>>,
    /// The table is to be made anew.
    stale: bool,
}

impl Nodes {
    /// A Node as it is now.
    pub(crate) fn apply(&mut self, number: Number, object: &Node) {
        let addresses = object.status.as_ref().and_then(|status| status.addresses.as_deref());
        let mut addresses: Vec<_> = addresses.unwrap_or_default().iter().collect();
        // What others reach it by first.
        addresses.sort_by_key(|address| address.type_ != "InternalIP");
        let all = addresses
            .iter()
            .filter(|address| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"))
            .filter_map(|address| address.address.parse::<std::net::IpAddr>().ok())
            .map(Address::from)
            .collect::<Vec<_>>();
        self.set(number, all);
    }

    /// The Node is gone.
    pub(crate) fn remove(&mut self, number: Number) {
        self.set(number, Vec::new());
    }

    fn set(&mut self, number: Number, addresses: Vec<Address>) {
        let old = if addresses.is_empty() {
            self.addresses.remove(&number).unwrap_or_default()
        } else {
            self.addresses.insert(number, addresses.clone()).unwrap_or_default()
        };
        self.stale |= old != addresses;
    }

    /// Endpoints as they are now.
    pub(crate) fn follow(&mut self, endpoints: &[EndpointModel]) {
        for endpoint in endpoints {
            if endpoint.local || self.own.contains(&endpoint.address) {
                continue;
            }
            let wanted = self.node_of(endpoint);
            if self.table.get(&endpoint.address) != wanted.as_ref() {
                match wanted {
                    Some(node) => self.table.insert(endpoint.address, node),
                    None => self.table.remove(&endpoint.address),
                };
                self.changed.insert(endpoint.address, wanted);
            }
        }
    }

    /// The address, in its own family, of the node that an endpoint is on.
    fn node_of(&self, endpoint: &EndpointModel) -> Option<Address> {
        let family = Family::of(&endpoint.address);
        let addresses = self.addresses.get(&endpoint.node?)?;
        addresses.iter().find(|address| Family::of(address) == family).copied()
    }

    /// Asks for a comparison of everything.
    pub(crate) fn mark_all(&mut self) {
        self.stale = true;
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.stale || !self.changed.is_empty()
    }

    /// What changed since the last call; `own`: the number of our node's name.
    pub(crate) fn take<'a>(
        &mut self,
        own: Option<Number>,
        endpoints: impl Iterator<Item = &'a [EndpointModel]>,
    ) -> NodeChanges {
        if !std::mem::take(&mut self.stale) {
            return NodeChanges::Some(std::mem::take(&mut self.changed));
        }
        self.table.clear();
        for (number, addresses) in &self.addresses {
            let here = Some(*number) == own;
            let value = |address: &Address| if here { Dsr::HERE } else { *address };
            self.table
                .extend(addresses.iter().map(|address| (*address, value(address))));
        }
        self.own = self.table.keys().copied().collect();
        endpoints.for_each(|endpoints| self.follow(endpoints));
        self.table.shrink_to_fit();
        self.changed.clear();
        NodeChanges::All(self.table.clone())
    }
}

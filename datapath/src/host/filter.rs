//! The filter in front of the look-ups.

use super::HostTables;
use super::Touched;
use ferrogate_common::{Address, FilterPlace, Tuple, address_roles};
use std::vec::Vec;

impl HostTables {
    /// Adds what an address may be to the filter.
    pub fn add_role(&mut self, address: &Address, role: u32) {
        let place = FilterPlace::of(address);
        *self.addresses.entry(place.index).or_default() |= u64::from(role) << place.shift;
        self.touched.insert(Touched::Addresses(place.index));
    }

    /// The same for the addresses of a flow's entry.
    pub fn add_flow_roles(&mut self, key: &Tuple) {
        let (address, role) = address_roles::of_flow(key);
        self.add_role(address, role);
    }

    /// Makes the filter anew from all that the tables hold.
    pub fn fill_filter(&mut self) {
        self.addresses.clear();
        let frontends: Vec<Address> = self.frontends.keys().map(|key| key.address).collect();
        for address in frontends.iter().chain(&self.node_addresses.clone()) {
            self.add_role(address, address_roles::DESTINATION);
        }
        for backend in self.backends.clone() {
            self.add_role(&backend.address, address_roles::BACKEND);
        }
        let flows: Vec<Tuple> = self.flows.keys().chain(self.half_open.keys()).copied().collect();
        for key in &flows {
            self.add_flow_roles(key);
        }
    }
}

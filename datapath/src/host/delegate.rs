//! The pipeline's `Tables` for whatever has [`super::HostTables`].

/// Makes a type with a field `tables` that is or refers to `HostTables` the pipeline's `Tables`.
macro_rules! delegate_tables {
    ($type:ty) => {
        impl $crate::env::Tables for $type {
            fn config(&self) -> Config {
                self.tables.config()
            }
            fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
                self.tables.frontend(key)
            }
            fn is_node_address(&self, address: &Address) -> bool {
                self.tables.is_node_address(address)
            }
            fn roles(&self, address: &Address) -> u32 {
                self.tables.roles(address)
            }
            fn add_destination(&mut self, address: &Address) {
                self.tables.add_destination(address);
            }
            fn is_in_service_cidrs(&self, address: &Address) -> bool {
                self.tables.is_in_service_cidrs(address)
            }
            fn is_in_networks(&self, set: u32, address: &Address) -> bool {
                self.tables.is_in_networks(set, address)
            }
            fn service(&self, id: u32) -> Option<Service> {
                self.tables.service(id)
            }
            fn active(&self, backend: u32) -> u32 {
                self.tables.active(backend)
            }
            fn begin(&mut self, backend: u32) {
                self.tables.begin(backend);
            }
            fn next_cursor(&mut self, service: u32) -> u32 {
                self.tables.next_cursor(service)
            }
            fn slot(&self, index: u32) -> Option<u32> {
                self.tables.slot(index)
            }
            fn backend(&self, id: u32) -> Option<Backend> {
                self.tables.backend(id)
            }
            fn generation(&self, id: u32) -> u32 {
                self.tables.generation(id)
            }
            fn source(&self, index: u16) -> Option<Address> {
                self.tables.source(index)
            }
            fn node_of(&self, address: &Address) -> Option<Address> {
                self.tables.node_of(address)
            }
            fn is_dsr(&self) -> bool {
                self.tables.is_dsr()
            }
            fn is_redirect(&self) -> bool {
                self.tables.is_redirect()
            }
            fn interface(&self, ifindex: u32) -> Option<Interface> {
                self.tables.interface(ifindex)
            }
            fn flow(&self, table: FlowTable, key: &Tuple) -> Option<Flow> {
                self.tables.flow(table, key)
            }
            fn put_flow(&mut self, table: FlowTable, key: &Tuple, flow: &Flow) -> bool {
                self.tables.put_flow(table, key, flow)
            }
            fn insert_flow(&mut self, table: FlowTable, key: &Tuple, flow: &Flow) -> Insert {
                self.tables.insert_flow(table, key, flow)
            }
            fn remove_flow(&mut self, table: FlowTable, key: &Tuple) {
                self.tables.remove_flow(table, key);
            }
            fn mark_flow(&mut self, table: FlowTable, key: &Tuple, seen: u32, flags: u16) -> bool {
                self.tables.mark_flow(table, key, seen, flags)
            }
            fn snat_flow(&self, key: &Tuple) -> Option<SnatFlow> {
                self.tables.snat_flow(key)
            }
            fn insert_snat_flow(&mut self, key: &Tuple, flow: &SnatFlow) -> Insert {
                self.tables.insert_snat_flow(key, flow)
            }
            fn remove_snat_flow(&mut self, key: &Tuple) {
                self.tables.remove_snat_flow(key);
            }
            fn mark_snat_flow(&mut self, key: &Tuple, seen: u32, flags: u16) -> bool {
                self.tables.mark_snat_flow(key, seen, flags)
            }
            fn fragment(&self, key: &ferrogate_common::FragmentKey) -> Option<ferrogate_common::FragmentPorts> {
                self.tables.fragment(key)
            }
            fn put_fragment(&mut self, key: &ferrogate_common::FragmentKey, ports: &ferrogate_common::FragmentPorts) {
                self.tables.put_fragment(key, ports);
            }
            fn affinity(&self, key: &ferrogate_common::AffinityKey) -> Option<ferrogate_common::Affinity> {
                self.tables.affinity(key)
            }
            fn put_affinity(&mut self, key: &ferrogate_common::AffinityKey, affinity: &ferrogate_common::Affinity) {
                self.tables.put_affinity(key, affinity);
            }
            fn count(&mut self, reason: Reason) {
                self.tables.count(reason);
            }
            fn count_connection(&mut self, service: u32) {
                self.tables.count_connection(service);
            }
            fn counts_traffic(&self) -> bool {
                self.tables.counts_traffic()
            }
            fn count_traffic(
                &mut self,
                service: u32,
                direction: ferrogate_common::Direction,
                packets: u32,
                bytes: u32,
            ) {
                self.tables.count_traffic(service, direction, packets, bytes);
            }
            fn count_socket_connection(&mut self, service: u32) {
                self.tables.count_socket_connection(service);
            }
            fn count_refusal(&mut self, key: &ferrogate_common::RefusalKey) {
                self.tables.count_refusal(key);
            }
        }

        impl $crate::env::Random for $type {
            fn random(&mut self) -> u32 {
                // Xorshift (Marsaglia 2003).
                let state = &mut self.tables.random;
                *state ^= *state << 13;
                *state ^= *state >> 17;
                *state ^= *state << 5;
                *state
            }
        }

        impl $crate::env::Stages for $type {}

        impl $crate::env::Opaque for $type {
            fn opaque(&self, value: u32) -> u32 {
                value
            }
        }
    };
}
pub(crate) use delegate_tables;

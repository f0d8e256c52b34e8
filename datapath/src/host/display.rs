//! What a failed test prints.

use super::{HostPacket, HostTables};
use core::fmt;

impl fmt::Display for HostPacket {
    /// The context, then the bytes in hexadecimal, 16 a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "ifindex {} link {} from this node {} partial {} segmented {}, {} bytes",
            self.ifindex,
            self.link,
            self.from_this_node,
            self.partial,
            self.segmented,
            self.bytes.len()
        )?;
        for (line, bytes) in self.bytes.chunks(16).enumerate() {
            write!(f, "{:04x} ", line * 16)?;
            for byte in bytes {
                write!(f, " {byte:02x}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for HostTables {
    /// Every entry that is in use, one a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "CONFIG {:?}", self.config)?;
        writeln!(f, "NODE_ADDRESSES {:?}", self.node_addresses)?;
        writeln!(f, "SERVICE_CIDRS {:?}", self.service_cidrs)?;
        writeln!(f, "NETWORKS {:?}", self.networks)?;
        writeln!(f, "SOURCES {:?}", self.sources)?;
        for (ifindex, interface) in &self.interfaces {
            writeln!(f, "INTERFACES {ifindex}: {interface:?}")?;
        }
        for (key, frontend) in &self.frontends {
            writeln!(
                f,
                "FRONTENDS {}:{}/{} -> {frontend:?}",
                key.address, key.port, key.protocol
            )?;
        }
        for (id, service) in self.services.iter().enumerate().filter(|(_, s)| s.range != 0) {
            let range = ferrogate_common::SlotRange::unpack(service.range);
            let slots = self.slots.get(range.base as usize..(range.base + range.len()) as usize);
            let cursor = self.cursors[id];
            writeln!(
                f,
                "SERVICES {id}: flags {} {range:?} slots {slots:?} cursor {cursor}",
                service.flags
            )?;
        }
        for (id, backend) in self.backends.iter().enumerate().filter(|(_, b)| b.port.be() != 0) {
            writeln!(f, "BACKENDS {id}: {backend:?}")?;
        }
        for (name, table) in [("FLOWS", &self.flows), ("HALF_OPEN", &self.half_open)] {
            for (key, flow) in table {
                writeln!(f, "{name} {key:?} -> {flow:?}")?;
            }
        }
        for (key, ports) in &self.fragments {
            writeln!(f, "  fragment  {key:?} {ports:?}")?;
        }
        for (key, flow) in &self.snat_flows {
            writeln!(f, "SNAT_FLOWS {key:?} -> {flow:?}")?;
        }
        Ok(())
    }
}

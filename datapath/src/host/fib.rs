//! A routing table as `bpf_fib_lookup` sees it.

use crate::env::{Route, Routed, Transport};
use bytemuck::Zeroable;
use core::net::IpAddr;
use ferrogate_common::Address;
use std::collections::BTreeMap;
use std::vec::Vec;

/// What a route leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Neighbours on the device itself.
    Link(u32),
    /// A gateway behind the device.
    Gateway(u32, Address),
    /// This node, by its address on a device.
    Own(u32),
    /// Nowhere at all.
    Nowhere,
}

impl Target {
    /// Whether packets that may leave by this device only (0: by any) can take it.
    fn leaves_by(&self, device: u32) -> bool {
        match self {
            Self::Link(out) | Self::Gateway(out, _) | Self::Own(out) => device == 0 || *out == device,
            Self::Nowhere => true,
        }
    }
}

/// One route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostRoute {
    pub destination: Address,
    /// Length of the prefix, in bits of the family's own addresses.
    pub prefix: u8,
    pub target: Target,
}

impl HostRoute {
    /// To a network.
    pub fn new(destination: IpAddr, prefix: u8, target: Target) -> Self {
        Self {
            destination: destination.into(),
            prefix,
            target,
        }
    }

    /// Bits of prefix in the 16-byte address.
    fn bits(&self) -> u32 {
        u32::from(self.prefix) + if self.destination.is_v4() { 96 } else { 0 }
    }

    fn matches(&self, address: &Address) -> bool {
        let mask = u128::MAX.checked_shl(128 - self.bits()).unwrap_or(0);
        let [a, b] = [self.destination, *address].map(|address| u128::from_be_bytes(address.octets()));
        self.destination.is_v4() == address.is_v4() && a & mask == b & mask
    }
}

/// A device that packets can leave by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostDevice {
    pub mac: [u8; 6],
    /// Bytes of IP packet.
    pub mtu: u16,
}

/// Routes, neighbours and devices. Empty: there is no way to anywhere.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostFib {
    pub routes: Vec<HostRoute>,
    /// Resolved neighbours by device.
    pub neighbours: BTreeMap<(u32, Address), [u8; 6]>,
    /// Devices by ifindex. Only packets that come in by one of them are routed.
    pub devices: BTreeMap<u32, HostDevice>,
}

impl HostFib {
    /// Looks up a way. What is found goes to `hop`, only device and MTU where the packet is too big.
    pub fn route(&self, hop: &mut Route, ifindex: u32, destination: &Address, transport: Transport) -> Routed {
        let ifindex = if transport.out == 0 { ifindex } else { transport.out };
        if !self.devices.contains_key(&ifindex) {
            return Routed::Nowhere;
        }
        let Some(route) = self
            .routes
            .iter()
            .filter(|route| route.matches(destination) && route.target.leaves_by(transport.out))
            .max_by_key(|route| route.prefix)
        else {
            return Routed::Nowhere;
        };
        let (out, next_hop) = match route.target {
            Target::Link(out) => (out, *destination),
            Target::Gateway(out, gateway) => (out, gateway),
            Target::Own(_) | Target::Nowhere => return Routed::Nowhere,
        };
        let Some(device) = self.devices.get(&out) else {
            return Routed::Nowhere;
        };
        let neighbour = self.neighbours.get(&(out, next_hop));
        if transport.length.saturating_add(transport.overhead) > device.mtu {
            hop.ifindex = ifindex;
            hop.mtu = device.mtu.saturating_sub(transport.overhead);
            return Routed::TooBig;
        }
        let mtu = hop.mtu;
        *hop = Route::zeroed();
        hop.mtu = mtu;
        hop.ifindex = out;
        hop.next_hop = next_hop;
        if let Some(mac) = neighbour {
            hop.destination_mac = words(*mac);
            hop.source_mac = words(device.mac);
        }
        Routed::To
    }
}

/// A link-layer address in three native words.
fn words(mac: [u8; 6]) -> [u16; 3] {
    let [a, b, c, d, e, f] = mac;
    [
        u16::from_ne_bytes([a, b]),
        u16::from_ne_bytes([c, d]),
        u16::from_ne_bytes([e, f]),
    ]
}

//! What the datapath knows of the node's interfaces and addresses.

use bytemuck::{Pod, Zeroable};

/// Value of `INTERFACES`, keyed by ifindex (u32, host order).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Interface {
    /// ifindex of the layer-3 device that owns the addresses: the bridge for a bridge port, else the interface itself.
    pub layer3: u32,
    /// Index into `SOURCES` of the IPv4 address that flows leaving here get as their source; 0: none.
    pub source4: u16,
    /// The same for IPv6.
    pub source6: u16,
    /// Bits of [`interface_flags`].
    pub flags: u32,
    pub reserved: u32,
}

/// ifindex of the loopback device, in every network namespace.
pub const LOOPBACK: u32 = 1;

/// Bits of [`Interface::flags`].
pub mod interface_flags {
    /// Pod-facing: the host's end of a veth, or a port of a pod bridge.
    pub const POD: u32 = 1;
    /// An uplink: clients outside the node are behind it.
    pub const UPLINK: u32 = 1 << 1;
    /// A port of a bridge: backends on the same bridge are reached by their MAC.
    pub const BRIDGE_PORT: u32 = 1 << 2;
    /// No Ethernet header: packets begin with the IP header.
    pub const LAYER3: u32 = 1 << 3;
    /// XDP frames can be sent out here (XDP_TX on the same interface, XDP_REDIRECT to another).
    pub const XDP_TARGET: u32 = 1 << 4;
    /// A tunnel. What comes in by another device never leaves by it, nor the other way round, because of where it came from:
    /// which packets a tunnel takes is a matter of routes alone.
    pub const TUNNEL: u32 = 1 << 5;
    /// Has its other end in another network namespace, which packets can be handed to: a veth or netkit that is not a bridge's port.
    pub const PEER: u32 = 1 << 6;
}

/// Value of `NODE_ADDRESSES`: an address on which NodePorts answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct NodeAddress {
    pub reserved: u32,
}

//! Frontends: the addresses that clients use.

use crate::{Address, Port, Protocol};
use bytemuck::{Pod, Zeroable};

/// Key of the `FRONTENDS` map: where a client sends to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct FrontendKey {
    /// The Service's address, or [`Address::unspecified`] of its family for a NodePort on every address in
    /// `NODE_ADDRESSES`.
    pub address: Address,
    pub port: Port,
    /// An IP protocol number ([`Protocol`]).
    pub protocol: u8,
    pub reserved: u8,
}

impl FrontendKey {
    #[inline(always)]
    pub const fn new(address: Address, port: Port, protocol: Protocol) -> Self {
        Self {
            address,
            port,
            protocol: protocol as u8,
            reserved: 0,
        }
    }

    /// The key for an address as such: [`FrontendKind::Address`], [`FrontendKind::Vip`] or [`FrontendKind::Foreign`].
    #[inline(always)]
    pub const fn address_alone(address: Address) -> Self {
        Self {
            address,
            port: Port::ZERO,
            protocol: 0,
            reserved: 0,
        }
    }
}

/// Value of the `FRONTENDS` map. Never changes while the frontend lives: what changes about a service is in `SERVICES`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Frontend {
    /// Index into `SERVICES`.
    pub service: u32,
    /// A [`FrontendKind`].
    pub kind: u8,
    pub reserved: [u8; 3],
}

impl Frontend {
    pub const fn new(service: u32, kind: FrontendKind) -> Self {
        Self {
            service,
            kind: kind as u8,
            reserved: [0; 3],
        }
    }

    /// Whether the frontend is of this kind.
    #[inline(always)]
    pub const fn is(&self, kind: FrontendKind) -> bool {
        self.kind == kind as u8
    }

    /// Whether the frontend is one that only clients inside the cluster may use.
    #[inline(always)]
    pub const fn is_cluster_ip(&self) -> bool {
        self.kind == FrontendKind::ClusterIp as u8
    }
}

/// Which of a Service's addresses a frontend is; decides the traffic policy that governs it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum FrontendKind {
    /// `spec.clusterIPs`: inside the cluster only, governed by internalTrafficPolicy.
    ClusterIp = 0,
    /// `spec.ports[].nodePort` on the node's addresses, governed by externalTrafficPolicy.
    NodePort = 1,
    /// `status.loadBalancer.ingress[].ip`, governed by externalTrafficPolicy.
    LoadBalancer = 2,
    /// `spec.externalIPs`, governed by externalTrafficPolicy.
    ExternalIp = 3,
    /// A ClusterIP as such, its key with port 0 and protocol 0: ports that the Service does not have are refused.
    Address = 4,
    /// A load balancer's or external address as such, its key with port 0 and protocol 0: a ping is answered; ports that no
    /// Service has there are not ours.
    Vip = 5,
    /// A ClusterIP that is an address of this node itself (node-local DNS), its key with port 0 and protocol 0: left alone.
    Foreign = 6,
}

impl FrontendKind {
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::ClusterIp),
            1 => Some(Self::NodePort),
            2 => Some(Self::LoadBalancer),
            3 => Some(Self::ExternalIp),
            4 => Some(Self::Address),
            5 => Some(Self::Vip),
            6 => Some(Self::Foreign),
            _ => None,
        }
    }

    /// Whether keys of this kind have a port; those of the others are [`FrontendKey::address_alone`].
    pub const fn has_port(self) -> bool {
        !matches!(self, Self::Address | Self::Vip | Self::Foreign)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalIp => "ExternalIP",
            Self::Address => "address",
            Self::Vip => "VIP",
            Self::Foreign => "foreign",
        }
    }
}

//! Which address everything in a rig has. Two rigs use the same ones: all of them live inside namespaces.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// An address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Pair {
    pub fn get(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    pub fn contains(self, address: IpAddr) -> bool {
        self.both().contains(&address)
    }
}

/// The address on the LAN: 172.31.0.`host`/24 and fd00:31::`host`/64.
pub fn lan(host: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(172, 31, 0, host),
        v6: Ipv6Addr::new(0xfd00, 0x31, 0, 0, 0, 0, 0, host.into()),
    }
}

/// The LAN's router: everybody's default route. It forwards nothing.
pub const ROUTER: u8 = 1;
/// The control plane's host.
pub const CONTROL_PLANE: u8 = 2;
/// Node N, counted from 1, is host 10 + N.
pub const NODE_BASE: u8 = 10;
/// A load balancer in front of the nodes, where a rig has one.
pub const LOAD_BALANCER: u8 = 90;
/// The outside client.
pub const OUTSIDE: u8 = 100;

/// The address that a node's own side of the pod network has: `.1` of its pod range.
pub fn gateway(node: u8) -> Pair {
    pod(node, 1)
}

/// The address of a node's vxlan device: the first of its pod range, as flannel has it.
pub fn tunnel(node: u8) -> Pair {
    pod(node, 0)
}

/// Pod `index` of node `node`, counted from 1: 10.244.`node`.`index` and fd00:244:`node`::`index`.
pub fn pod(node: u8, index: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(10, 244, node, index),
        v6: Ipv6Addr::new(0xfd00, 0x244, node.into(), 0, 0, 0, 0, index.into()),
    }
}

/// The pod ranges of a node: a /24 and a /64.
pub fn pod_ranges(node: u8) -> (Ipv4Net, Ipv6Net) {
    (
        Ipv4Net::new_assert(tunnel(node).v4, 24),
        Ipv6Net::new_assert(tunnel(node).v6, 64),
    )
}

/// The pod ranges of the whole cluster.
pub fn cluster_ranges() -> [IpNet; 2] {
    [
        Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16).into(),
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 0), 32).into(),
    ]
}

/// ClusterIP number `index`: 10.96.x.y and fd00:96::i. Number 1 is the API's, 10 is the DNS service's.
pub fn cluster_ip(index: u16) -> Pair {
    let [high, low] = index.to_be_bytes();
    Pair {
        v4: Ipv4Addr::new(10, 96, high, low),
        v6: Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, index),
    }
}

/// The ranges of ClusterIPs.
pub fn service_ranges() -> [IpNet; 2] {
    [
        Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16).into(),
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0), 112).into(),
    ]
}

/// The number of the ClusterIP of the API server.
pub const API: u16 = 1;
/// The ClusterIP of the cluster's DNS service.
pub const DNS: u16 = 10;

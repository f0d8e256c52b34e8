//! The addresses that generated states and packets are made of: few, so that flows meet again.
use std::net::IpAddr;

use fastrand::Rng;
use ferrogate_common::{Address, V4_PREFIX};

use super::network::Place;

/// One IP address as text, for each family.
type Pair = [&'static str; 2];

/// Service addresses: ClusterIPs and load-balancer addresses.
const FRONTENDS: [Pair; 4] = [
    ["10.96.0.1", "2001:db8:96::1"],
    ["10.96.0.2", "2001:db8:96::2"],
    ["198.18.0.1", "2001:db8:18::1"],
    ["198.18.0.2", "2001:db8:18::2"],
];

/// The node's own addresses.
const NODE: [Pair; 2] = [["192.0.2.10", "2001:db8:0:1::10"], ["203.0.113.10", "2001:db8:0:2::10"]];

/// Clients outside; of both families some that look, from byte 12 on, as an Ethernet type of their own family: what a
/// test run takes for a packet's protocol where there is no Ethernet header.
const OUTSIDE: [Pair; 3] = [
    ["198.51.100.7", "2001:db8:aaaa::7"],
    ["8.0.0.7", "2001:db8:86dd::7"],
    ["8.0.0.8", "2001:db8:86dd::8"],
];

/// Networks with some of all these in them.
const NETWORKS: [[(&str, u8); 2]; 4] = [
    [("198.51.100.0", 24), ("2001:db8:aaaa::", 48)],
    [("8.0.0.6", 31), ("2001:db8:86dd::6", 127)],
    [("10.244.0.0", 16), ("2001:db8:244::", 44)],
    [("192.0.2.10", 32), ("2001:db8:0:1::10", 128)],
];

/// Networks with some frontends in them.
const SERVICE_CIDRS: [[(&str, u8); 2]; 3] = [
    [("10.96.0.0", 16), ("2001:db8:96::", 108)],
    [("198.18.0.2", 32), ("2001:db8:18::2", 128)],
    [("192.0.2.0", 24), ("2001:db8:0:1::", 64)],
];

/// Addresses that no honest packet comes from, or goes to: loopback, and ClusterIPs as sources.
const FORGED: [Pair; 3] = [
    ["127.0.0.1", "2001:db8:96::1"],
    ["127.255.9.8", "2001:db8:96::2"],
    ["10.96.0.1", "2001:db8:96::3"],
];

/// Backends on this node.
const LOCAL: [Pair; 4] = [
    ["10.244.1.2", "2001:db8:244:1::2"],
    ["10.244.9.2", "2001:db8:244:9::2"],
    ["10.244.9.3", "2001:db8:244:9::3"],
    ["192.0.2.10", "2001:db8:0:1::10"],
];

/// Backends elsewhere: behind a good way, a narrow one, an unresolved neighbour, and an unreachable one.
const REMOTE: [Pair; 5] = [
    ["10.244.2.2", "2001:db8:244:2::2"],
    ["10.244.2.3", "2001:db8:244:2::3"],
    ["10.244.3.2", "2001:db8:244:3::2"],
    ["10.244.4.2", "2001:db8:244:4::2"],
    ["10.244.5.2", "2001:db8:244:5::2"],
];

/// Other nodes: behind a good way, a narrow one, and as an unresolved neighbour.
const PEERS: [Pair; 3] = [
    ["192.0.2.2", "2001:db8:0:1::2"],
    ["203.0.113.1", "2001:db8:0:2::1"],
    ["192.0.2.77", "2001:db8:0:1::77"],
];

/// Draws from the lists.
pub struct Pool;

impl Pool {
    pub fn frontend(rng: &mut Rng, v4: bool) -> IpAddr {
        one(rng, &FRONTENDS, v4)
    }

    pub fn node(rng: &mut Rng, v4: bool) -> IpAddr {
        one(rng, &NODE, v4)
    }

    /// A network that clients may be in, and the length of its prefix in an [`Address`].
    pub fn network(rng: &mut Rng, v4: bool) -> (Address, u32) {
        network(rng, &NETWORKS, v4)
    }

    /// A network that frontends may be in.
    pub fn service_cidr(rng: &mut Rng, v4: bool) -> (Address, u32) {
        network(rng, &SERVICE_CIDRS, v4)
    }

    /// All addresses on which NodePorts answer.
    pub fn nodes() -> impl Iterator<Item = IpAddr> {
        NODE.iter().flatten().map(|text| parsed(text))
    }

    pub fn forged(rng: &mut Rng, v4: bool) -> IpAddr {
        one(rng, &FORGED, v4)
    }

    pub fn local(rng: &mut Rng, v4: bool) -> IpAddr {
        one(rng, &LOCAL, v4)
    }

    pub fn remote(rng: &mut Rng, v4: bool) -> IpAddr {
        one(rng, &REMOTE, v4)
    }

    pub fn peer(rng: &mut Rng, v4: bool) -> IpAddr {
        one(rng, &PEERS, v4)
    }

    /// All other nodes.
    pub fn peers(v4: bool) -> impl Iterator<Item = IpAddr> {
        all(&PEERS, v4)
    }

    /// All backends elsewhere.
    pub fn remotes(v4: bool) -> impl Iterator<Item = IpAddr> {
        all(&REMOTE, v4)
    }

    /// The address that this node's Node has.
    pub fn here(v4: bool) -> IpAddr {
        parsed(NODE[0][usize::from(!v4)])
    }

    /// Somebody behind a device.
    pub fn client(rng: &mut Rng, place: Place, v4: bool) -> IpAddr {
        match place {
            Place::Pod => one(rng, &LOCAL[..1], v4),
            Place::Port | Place::Bridge => one(rng, &LOCAL[1..3], v4),
            Place::Uplink | Place::Narrow => one(rng, &OUTSIDE, v4),
            Place::Loopback => one(rng, &NODE, v4),
        }
    }
}

fn all(list: &'static [Pair], v4: bool) -> impl Iterator<Item = IpAddr> {
    list.iter().map(move |pair| parsed(pair[usize::from(!v4)]))
}

fn one(rng: &mut Rng, list: &[Pair], v4: bool) -> IpAddr {
    parsed(list[rng.usize(..list.len())][usize::from(!v4)])
}

fn parsed(text: &str) -> IpAddr {
    text.parse().expect("a constant of this file")
}

fn network(rng: &mut Rng, list: &[[(&str, u8); 2]], v4: bool) -> (Address, u32) {
    let (address, length) = list[rng.usize(..list.len())][usize::from(!v4)];
    let ip: IpAddr = address.parse().expect("an address");
    (ip.into(), u32::from(length) + if v4 { V4_PREFIX } else { 0 })
}

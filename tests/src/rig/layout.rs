//! How pods are wired: three layouts that stand for the network plugins found in clusters.
use std::fmt::Write as _;

use anyhow::{Result, bail};

use super::addresses::{self, NODE_BASE, lan};
use super::netns::Netns;

/// The wiring of pods to their node and of nodes to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Each pod on a veth of its own, routed: the ptp plugin, Calico, cloud plugins. Pod ranges are routed over the LAN.
    Routed,
    /// Each pod on a port of its node's bridge `cni0`: the bridge plugin, kubenet. Pod ranges are routed over the LAN.
    /// `netfilter` is `net.bridge.bridge-nf-call-{ip,ip6}tables`.
    Bridge { netfilter: bool },
    /// A bridge on each node, and pod ranges tunnelled over `flannel.1` and `flannel-v6.1`: flannel.
    Vxlan,
}

impl Layout {
    pub const ALL: [Layout; 4] = [
        Layout::Routed,
        Layout::Bridge { netfilter: true },
        Layout::Bridge { netfilter: false },
        Layout::Vxlan,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Layout::Routed => "routed",
            Layout::Bridge { netfilter: true } => "bridge",
            Layout::Bridge { netfilter: false } => "bridge-nonf",
            Layout::Vxlan => "vxlan",
        }
    }

    pub fn parse(name: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|layout| layout.name() == name) {
            Some(layout) => Ok(layout),
            None => bail!("no layout {name}; there are {:?}", Self::ALL.map(Self::name)),
        }
    }

    /// The largest packet of a pod: what fits the smaller of the tunnels, over IPv6.
    fn mtu(self) -> u32 {
        if self == Layout::Vxlan { 1430 } else { 1500 }
    }

    /// Addresses that a node has because of its layout, beside the one on the LAN.
    pub(crate) fn node_addresses(self, node: u8) -> Vec<addresses::Pair> {
        match self {
            Layout::Vxlan => vec![addresses::gateway(node), addresses::tunnel(node)],
            Layout::Routed | Layout::Bridge { .. } => vec![addresses::gateway(node)],
        }
    }
}

/// Prepares node `index` of `count` for pods.
pub(crate) fn prepare_node(layout: Layout, netns: &Netns, index: u8, count: u8) -> Result<()> {
    netns.sysctl("net/ipv4/ip_forward", "1")?;
    netns.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    if let Layout::Bridge { netfilter } = layout {
        for family in ["iptables", "ip6tables"] {
            netns.sysctl(
                &format!("net/bridge/bridge-nf-call-{family}"),
                if netfilter { "1" } else { "0" },
            )?;
        }
    }
    let mut lines = String::new();
    if layout != Layout::Routed {
        let (gateway, mtu) = (addresses::gateway(index), layout.mtu());
        writeln!(
            lines,
            "link add cni0 mtu {mtu} address 0a:58:0a:f4:{index:02x}:01 type bridge"
        )?;
        writeln!(lines, "link set cni0 up")?;
        writeln!(lines, "addr add {}/24 dev cni0", gateway.v4)?;
        writeln!(lines, "addr add {}/64 dev cni0 nodad", gateway.v6)?;
    }
    if layout == Layout::Vxlan {
        vxlan_devices(&mut lines, index)?;
    }
    let mut forwarding = String::new();
    for other in (1..=count).filter(|other| *other != index) {
        match layout {
            Layout::Vxlan => vxlan_peer(&mut lines, &mut forwarding, other)?,
            Layout::Routed | Layout::Bridge { .. } => pod_routes(&mut lines, other)?,
        }
    }
    netns.ip_batch(&lines)?;
    netns.bridge_batch(&forwarding)
}

/// Routes to the pods of `node` by way of that node's address on the LAN.
pub(crate) fn pod_routes(lines: &mut String, node: u8) -> Result<()> {
    let ((v4, v6), via) = (addresses::pod_ranges(node), lan(NODE_BASE + node));
    writeln!(lines, "route add {v4} via {}", via.v4)?;
    writeln!(lines, "route add {v6} via {}", via.v6)?;
    Ok(())
}

fn vxlan_devices(lines: &mut String, node: u8) -> Result<()> {
    let (local, tunnel) = (lan(NODE_BASE + node), addresses::tunnel(node));
    for (device, local, mtu, mac) in [
        ("flannel.1", local.v4.to_string(), 1450, mac(node, 4)),
        ("flannel-v6.1", local.v6.to_string(), 1430, mac(node, 6)),
    ] {
        writeln!(
            lines,
            "link add {device} mtu {mtu} address {mac} type vxlan id 1 dev eth0 local {local} dstport 8472 nolearning"
        )?;
        writeln!(lines, "link set {device} up")?;
    }
    writeln!(lines, "addr add {}/32 dev flannel.1", tunnel.v4)?;
    writeln!(lines, "addr add {}/128 dev flannel-v6.1 nodad", tunnel.v6)?;
    Ok(())
}

/// What flannel programs on a node for each other node: a neighbour, where its MAC is, and the route.
fn vxlan_peer(lines: &mut String, forwarding: &mut String, other: u8) -> Result<()> {
    let (lan, tunnel, (v4, v6)) = (
        lan(NODE_BASE + other),
        addresses::tunnel(other),
        addresses::pod_ranges(other),
    );
    for (device, range, tunnel, lan, mac) in [
        (
            "flannel.1",
            v4.to_string(),
            tunnel.v4.to_string(),
            lan.v4.to_string(),
            mac(other, 4),
        ),
        (
            "flannel-v6.1",
            v6.to_string(),
            tunnel.v6.to_string(),
            lan.v6.to_string(),
            mac(other, 6),
        ),
    ] {
        writeln!(lines, "neigh add {tunnel} dev {device} lladdr {mac} nud permanent")?;
        writeln!(lines, "route add {range} via {tunnel} dev {device} onlink")?;
        writeln!(forwarding, "fdb add {mac} dev {device} dst {lan} self permanent")?;
    }
    Ok(())
}

/// The MAC of a vxlan device.
fn mac(node: u8, family: u8) -> String {
    format!("0e:00:00:00:{family:02x}:{node:02x}")
}

/// The node's side of a pod's link.
pub(crate) fn host_link(pod: &str) -> String {
    format!("veth{pod}")
}

/// Wires a pod's namespace to its node's.
pub(crate) fn attach_pod(layout: Layout, node: &Netns, pod: &Netns, index: (u8, u8), name: &str) -> Result<()> {
    let (address, gateway, mtu) = (
        addresses::pod(index.0, index.1),
        addresses::gateway(index.0),
        layout.mtu(),
    );
    let host = host_link(name);
    let mut lines = format!(
        "link add {host} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n",
        pod.name()
    );
    let mut inside = String::from("link set eth0 up\n");
    match layout {
        Layout::Routed => {
            writeln!(lines, "link set {host} up")?;
            writeln!(lines, "addr add {}/32 dev {host}", gateway.v4)?;
            writeln!(lines, "addr add {}/128 dev {host} nodad", gateway.v6)?;
            writeln!(lines, "route add {}/32 dev {host}", address.v4)?;
            writeln!(lines, "route add {}/128 dev {host}", address.v6)?;
            writeln!(inside, "addr add {}/32 dev eth0", address.v4)?;
            writeln!(inside, "addr add {}/128 dev eth0 nodad", address.v6)?;
            writeln!(inside, "route add {}/32 dev eth0 scope link", gateway.v4)?;
            writeln!(inside, "route add {}/128 dev eth0", gateway.v6)?;
        }
        Layout::Bridge { .. } | Layout::Vxlan => {
            writeln!(lines, "link set {host} master cni0 up")?;
            writeln!(inside, "addr add {}/24 dev eth0", address.v4)?;
            writeln!(inside, "addr add {}/64 dev eth0 nodad", address.v6)?;
        }
    }
    writeln!(inside, "route add default via {}", gateway.v4)?;
    writeln!(inside, "route add default via {}", gateway.v6)?;
    node.ip_batch(&lines)?;
    pod.ip_batch(&inside)
}

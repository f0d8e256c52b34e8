//! The node's network as the kernel tells it through rtnetlink: links, their addresses, and what each is to us.

mod classify;
mod devices;
mod dump;
mod glob;
mod watcher;

pub use classify::classify;
pub use devices::{Device, devices};
pub use glob::Glob;
pub use watcher::{Watcher, Ways};

use ipnet::IpNet;
use std::net::IpAddr;

/// An error of talking to rtnetlink.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    /// A dump failed.
    #[error("cannot list {what}: {source}")]
    Dump {
        what: &'static str,
        source: Box<rtnetlink::Error>,
    },
}

/// Result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the classification is told beside what it finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetOptions {
    /// `--uplink`: where not empty, the uplinks are those that match, and no others.
    pub uplinks: Vec<Glob>,
    /// `--pod-interfaces`: where not empty, the pod-facing interfaces are those that match, and no others.
    pub pods: Vec<Glob>,
    /// The node's InternalIP addresses, preferred first: their device is an uplink, and they are the first choice as a
    /// source. May be empty.
    pub node_addresses: Vec<IpAddr>,
    /// `nodePortAddresses`: where not empty, NodePorts answer on these of the node's addresses only.
    pub node_port_addresses: Vec<NodePortAddresses>,
}

/// Which of the node's addresses answer NodePorts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodePortAddresses {
    /// The node's own address in each family.
    Primary,
    /// Those in a network.
    In(IpNet),
}

/// What an interface is to the datapath.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// The host's end of a pod's link, or a pod bridge's port: the pod edge.
    Pod,
    /// A layer-3 device with something outside of the node behind it: the uplink edge and the node edge.
    Uplink,
    /// Neither: no program is attached.
    Ignored,
}

impl Role {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Uplink => "uplink",
            Self::Ignored => "ignored",
        }
    }
}

/// One interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    pub ifindex: u32,
    pub name: String,
    /// `IFLA_INFO_KIND` (veth, bridge, vxlan, ...); None for a NIC.
    pub kind: Option<String>,
    pub role: Role,
    /// ifindex of the device it is enslaved to.
    pub master: Option<u32>,
    /// Packets begin with the IP header: no Ethernet on this device.
    pub layer3: bool,
    pub loopback: bool,
    /// Preferred ones first; without those that failed duplicate address detection.
    pub addresses: Vec<IpNet>,
    pub mac: Option<[u8; 6]>,
    /// The kernel's id, in this namespace, of the network namespace that a veth's other end is in; None for this one.
    pub peer_netns: Option<i32>,
    /// Metric of the best default route that leaves by it, either family.
    pub default_route: Option<u32>,
}

impl Link {
    /// Whether a veth's (or netkit's) other end is elsewhere, as a pod's is.
    pub fn is_pair(&self) -> bool {
        matches!(self.kind.as_deref(), Some("veth" | "netkit"))
    }

    /// A device that a program on this node is behind: a tap of a virtual machine.
    pub fn is_tap(&self) -> bool {
        self.kind.as_deref() == Some("tun") && !self.layer3
    }

    /// Its packets leave the node inside of others.
    pub fn is_tunnel(&self) -> bool {
        const KINDS: [&str; 13] = [
            "vxlan",
            "geneve",
            "wireguard",
            "gre",
            "gretap",
            "ip6gre",
            "ip6gretap",
            "erspan",
            "ipip",
            "sit",
            "ip6tnl",
            "xfrm",
            "vti",
        ];
        let kind = self.kind.as_deref();
        kind.is_some_and(|kind| KINDS.contains(&kind)) || (kind == Some("tun") && self.layer3)
    }

    pub fn is_bridge(&self) -> bool {
        self.kind.as_deref() == Some("bridge")
    }

    /// Its addresses that others can reach: not link-local, loopback, or multicast.
    pub fn global_addresses(&self) -> impl Iterator<Item = &IpNet> {
        self.addresses.iter().filter(|net| is_global(net.addr()))
    }
}

/// The node's network at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Network {
    /// By ifindex.
    pub interfaces: Vec<Link>,
    /// Addresses on which NodePorts answer.
    pub node_port_addresses: Vec<IpAddr>,
    /// The node's own address in each family: the source for flows that leave by a device without one.
    pub primary4: Option<IpAddr>,
    pub primary6: Option<IpAddr>,
    /// Where a packet goes may depend on its source: by a rule, by a route, or by the choice among several next hops.
    pub ways_by_source: bool,
}

impl Network {
    /// Classifies the links and derives the rest. Pure.
    pub fn new(mut links: Vec<Link>, options: &NetOptions) -> Self {
        links.sort_by_key(|link| link.ifindex);
        let roles = classify(&links, options);
        for (link, role) in links.iter_mut().zip(roles) {
            link.role = role;
        }
        let primary4 = primary(&links, options, IpAddr::is_ipv4);
        let primary6 = primary(&links, options, IpAddr::is_ipv6);
        Self {
            node_port_addresses: node_port_addresses(&links, options, [primary4, primary6]),
            primary4,
            primary6,
            interfaces: links,
            ways_by_source: false,
        }
    }

    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        let position = self
            .interfaces
            .binary_search_by_key(&ifindex, |link| link.ifindex)
            .ok()?;
        self.interfaces.get(position)
    }
}

/// Whether an address means the same on every link.
pub fn is_global(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    !local && !address.is_loopback() && !address.is_multicast() && !address.is_unspecified()
}

/// The devices whose addresses are the node's: uplinks, and bridges, whose pods take the bridge's address for the node's.
fn is_node_device(link: &Link) -> bool {
    link.role == Role::Uplink || (link.is_bridge() && link.master.is_none())
}

fn node_port_addresses(links: &[Link], options: &NetOptions, primary: [Option<IpAddr>; 2]) -> Vec<IpAddr> {
    let wanted = |address: &IpAddr| {
        let those = &options.node_port_addresses;
        let matches = |those: &NodePortAddresses| match those {
            NodePortAddresses::Primary => primary.contains(&Some(*address)),
            NodePortAddresses::In(network) => network.contains(address),
        };
        those.is_empty() || those.iter().any(matches)
    };
    let devices = links.iter().filter(|link| is_node_device(link));
    let mut addresses: Vec<IpAddr> = devices
        .flat_map(Link::global_addresses)
        .map(IpNet::addr)
        .filter(wanted)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// The node's own address: its InternalIP where a device has it, else the address of the uplink with the best default
/// route, else that of the first uplink.
fn primary(links: &[Link], options: &NetOptions, family: fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let owned = |address: &&IpAddr| {
        links
            .iter()
            .any(|link| link.addresses.iter().any(|net| net.addr() == **address))
    };
    if let Some(address) = options
        .node_addresses
        .iter()
        .filter(|address| family(address))
        .find(owned)
    {
        return Some(*address);
    }
    let candidates = links
        .iter()
        .filter(|link| link.role == Role::Uplink)
        .filter_map(|link| {
            let address = link.global_addresses().map(IpNet::addr).find(family)?;
            Some((
                link.default_route.unwrap_or(u32::MAX),
                link.kind.is_some(),
                link.ifindex,
                address,
            ))
        });
    candidates.min().map(|(_, _, _, address)| address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::classify::tests::link;

    fn network(options: &NetOptions) -> Network {
        let mut eth0 = link(2, "eth0", None, &["172.18.0.2/16", "fc00::2/64", "fe80::2/64"]);
        eth0.default_route = Some(100);
        let flannel = link(3, "flannel.1", Some("vxlan"), &["10.244.1.0/32"]);
        let bridge = link(4, "cni0", Some("bridge"), &["10.244.1.1/24"]);
        let mut pod = link(5, "veth1", Some("veth"), &["fe80::1/64"]);
        pod.master = Some(4);
        pod.peer_netns = Some(0);
        let other = link(6, "eth1", None, &["192.168.7.9/24"]);
        Network::new(vec![other, pod, bridge, flannel, eth0], options)
    }

    #[test]
    fn node_ports_answer_on_uplinks_and_pod_bridges_but_not_on_link_local_addresses() {
        let addresses: Vec<String> = network(&NetOptions::default())
            .node_port_addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            addresses,
            ["10.244.1.0", "10.244.1.1", "172.18.0.2", "192.168.7.9", "fc00::2"]
        );
        let options = NetOptions {
            node_port_addresses: vec![NodePortAddresses::In("172.16.0.0/12".parse().expect("network"))],
            ..NetOptions::default()
        };
        assert_eq!(
            network(&options).node_port_addresses,
            ["172.18.0.2".parse::<IpAddr>().expect("address")]
        );
    }

    #[test]
    fn node_ports_can_be_kept_to_the_primary_addresses() {
        let options = NetOptions {
            node_port_addresses: vec![NodePortAddresses::Primary],
            ..NetOptions::default()
        };
        let addresses: Vec<String> = network(&options)
            .node_port_addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(addresses, ["172.18.0.2", "fc00::2"]);
    }

    #[test]
    fn the_primary_address_is_the_internal_ip_or_the_default_routes() {
        let found = network(&NetOptions::default());
        assert_eq!(found.primary4, "172.18.0.2".parse().ok());
        assert_eq!(found.primary6, "fc00::2".parse().ok());
        let options = NetOptions {
            node_addresses: ["203.0.113.1", "192.168.7.9"]
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            ..NetOptions::default()
        };
        assert_eq!(
            network(&options).primary4,
            "192.168.7.9".parse().ok(),
            "the first is on no device"
        );
    }

    #[test]
    fn links_are_found_by_index() {
        let found = network(&NetOptions::default());
        assert_eq!(found.link(4).map(|link| link.name.as_str()), Some("cni0"));
        assert_eq!(found.link(40), None);
    }
}

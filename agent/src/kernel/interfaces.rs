//! INTERFACES, SOURCES and NODE_ADDRESSES: from the network to the tables.

use super::error::{During as _, Error, Result};
use super::tables::{Tables, put_what_fits, reading, writing};
use crate::net::{Link, Network, Role, is_global};
use ferrogate_common::{Address, Interface, NodeAddress, address_roles, config_flags, interface_flags, maps};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Gives out indexes into `SOURCES`: one for each address that SNAT uses.
///
/// Flows keep the index, not the address, so an index stays with its address for good, over restarts too; only when the
/// table is full is an index whose address is not in use any more given to another.
#[derive(Debug)]
pub(super) struct Sources {
    /// 0 is nobody's.
    indexes: BTreeMap<Address, u16>,
    entries: u32,
}

impl Sources {
    /// With what the table holds.
    pub(super) fn restore(held: impl IntoIterator<Item = (u32, Address)>, entries: u32) -> Self {
        let mut indexes = BTreeMap::new();
        for (index, address) in held {
            if let Ok(index) = u16::try_from(index)
                && index != 0
                && address != Address::UNSPECIFIED
            {
                indexes.entry(address).or_insert(index);
            }
        }
        Self { indexes, entries }
    }

    /// The index of an address; 0 when there is no room. `in_use` are the addresses that must keep theirs.
    fn index(&mut self, address: Address, in_use: &BTreeSet<Address>) -> u16 {
        if let Some(index) = self.indexes.get(&address) {
            return *index;
        }
        let taken: BTreeSet<u16> = self.indexes.values().copied().collect();
        let last = u16::try_from(self.entries.saturating_sub(1)).unwrap_or(u16::MAX);
        let highest = taken.last().copied().unwrap_or(0);
        let free = if highest < last {
            Some(highest + 1)
        } else {
            (1..=last).find(|index| !taken.contains(index))
        };
        let index = match free {
            Some(index) => index,
            None => {
                let idle = self.indexes.keys().find(|held| !in_use.contains(held)).copied();
                match idle.and_then(|address| self.indexes.remove(&address)) {
                    Some(index) => index,
                    None => return 0,
                }
            }
        };
        self.indexes.insert(address, index);
        index
    }
}

/// What the three tables should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkTables {
    pub(super) interfaces: BTreeMap<u32, Interface>,
    /// Those that are in use now, by index.
    pub(super) sources: BTreeMap<u32, Address>,
    pub(super) node_addresses: BTreeSet<Address>,
    /// Indexes of the node's own address, IPv4 and IPv6; 0 where there is none.
    node: [u16; 2],
    /// Addresses that `SOURCES` has no room for.
    without_source: usize,
}

/// Derives the tables' contents; `xdp` are the interfaces with our XDP program. Pure but for the indexes given out.
pub(super) fn desired(network: &Network, xdp: &BTreeSet<u32>, sources: &mut Sources) -> NetworkTables {
    // An uplink without an address, or a bridge of a foreign network, needs no entry: nothing of ours runs or leaves there.
    let relevant = |link: &&Link| {
        !link.loopback
            && (link.role != Role::Ignored || (link.master.is_none() && link.global_addresses().next().is_some()))
    };
    let links: Vec<&Link> = network.interfaces.iter().filter(relevant).collect();
    let facing: Vec<[Option<Address>; 2]> = links.iter().map(|link| facing_addresses(link, network)).collect();
    let own = [network.primary4, network.primary6].map(|address| address.map(Address::from));
    let in_use: BTreeSet<Address> = facing.iter().flatten().chain(&own).flatten().copied().collect();
    let mut desired = NetworkTables {
        node_addresses: network.node_port_addresses.iter().copied().map(Address::from).collect(),
        ..NetworkTables::default()
    };
    let mut index = |address: Option<Address>, desired: &mut NetworkTables| {
        let Some(address) = address else { return 0 };
        let index = sources.index(address, &in_use);
        if index == 0 {
            desired.without_source += 1;
        } else {
            desired.sources.insert(u32::from(index), address);
        }
        index
    };
    desired.node = own.map(|address| index(address, &mut desired));
    for (link, facing) in links.iter().zip(&facing) {
        let (source4, source6) = (index(facing[0], &mut desired), index(facing[1], &mut desired));
        let interface = Interface {
            layer3: layer3_device(link, network).ifindex,
            source4,
            source6,
            flags: flags(link, network, xdp.contains(&link.ifindex)),
            reserved: 0,
        };
        desired.interfaces.insert(link.ifindex, interface);
    }
    desired
}

/// The bridge of a bridge's port, else the link itself.
fn layer3_device<'a>(link: &'a Link, network: &'a Network) -> &'a Link {
    let master = link.master.and_then(|master| network.link(master));
    master.filter(|master| master.is_bridge()).unwrap_or(link)
}

fn flags(link: &Link, network: &Network, xdp: bool) -> u32 {
    let role = match link.role {
        Role::Pod => interface_flags::POD,
        Role::Uplink => interface_flags::UPLINK,
        Role::Ignored => 0,
    };
    let port = layer3_device(link, network).ifindex != link.ifindex;
    let has_peer = link.role == Role::Pod && !port && link.is_pair() && link.peer_netns.is_some();
    role | if port { interface_flags::BRIDGE_PORT } else { 0 }
        | if link.layer3 { interface_flags::LAYER3 } else { 0 }
        | if xdp { interface_flags::XDP_TARGET } else { 0 }
        | if link.is_tunnel() { interface_flags::TUNNEL } else { 0 }
        | if has_peer { interface_flags::PEER } else { 0 }
}

/// The addresses of the node that flows leaving by this link get as their source, IPv4 and IPv6: the layer-3 device's own,
/// else the node's.
///
/// Towards a pod an IPv4 link-local address will do: it is the pod's gateway. An IPv6 one will not, since it needs a scope.
fn facing_addresses(link: &Link, network: &Network) -> [Option<Address>; 2] {
    let pod = link.role == Role::Pod;
    let usable = |address: &IpAddr| match address {
        IpAddr::V4(v4) if pod && v4.is_link_local() => true,
        _ => is_global(*address),
    };
    let own = layer3_device(link, network)
        .addresses
        .iter()
        .map(IpNet::addr)
        .filter(usable);
    let own: Vec<IpAddr> = own.collect();
    let pick = |family: fn(&IpAddr) -> bool, primary: Option<IpAddr>| {
        own.iter().copied().find(family).or(primary).map(Address::from)
    };
    [
        pick(IpAddr::is_ipv4, network.primary4),
        pick(IpAddr::is_ipv6, network.primary6),
    ]
}

/// Makes the tables hold what is desired: sources before the interfaces that name them.
///
/// # Errors
/// [`Error::Full`] when something was left out; all else is written.
pub(super) fn write(tables: &Tables, desired: &NetworkTables) -> Result<()> {
    for (index, address) in &desired.sources {
        let held = tables.sources.get(index).during(|| reading(maps::SOURCES))?;
        if held.as_deref() != Some(&[*address]) {
            tables.sources.put(index, address).during(|| writing(maps::SOURCES))?;
        }
    }
    let is_port = |interface: &Interface| interface.flags & interface_flags::BRIDGE_PORT != 0;
    let with_ports = desired.interfaces.values().any(is_port);
    tables.update_config(|config| {
        [config.node_source4, config.node_source6] = desired.node;
        config.flags &= !config_flags::BRIDGE_PORTS;
        config.flags |= if with_ports { config_flags::BRIDGE_PORTS } else { 0 };
    })?;
    // What goes makes room: an entry whose interface or address is gone is used by nobody.
    let held = tables.interfaces()?;
    for ifindex in held.keys().filter(|ifindex| !desired.interfaces.contains_key(ifindex)) {
        tables.interfaces.delete(ifindex).during(|| writing(maps::INTERFACES))?;
    }
    let new = desired
        .interfaces
        .iter()
        .filter(|(ifindex, one)| held.get(ifindex) != Some(one));
    let interfaces = put_what_fits(&tables.interfaces, maps::INTERFACES, new);
    let held = tables.node_addresses()?;
    for address in held.difference(&desired.node_addresses) {
        tables
            .node_addresses
            .delete(address)
            .during(|| writing(maps::NODE_ADDRESSES))?;
    }
    let value = NodeAddress { reserved: 0 };
    let new = desired.node_addresses.difference(&held);
    let new = new.inspect(|address| tables.add_role(address, address_roles::DESTINATION));
    let addresses = put_what_fits(
        &tables.node_addresses,
        maps::NODE_ADDRESSES,
        new.map(|address| (address, &value)),
    );
    interfaces.and(addresses).and_then(|()| match desired.without_source {
        0 => Ok(()),
        left_out => Err(Error::Full {
            map: maps::SOURCES.name,
            entries: tables.sources.entries(),
            left_out,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::NetOptions;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().expect("an address").into()
    }

    fn link(ifindex: u32, name: &str, kind: Option<&str>, master: Option<u32>, addresses: &[&str]) -> Link {
        Link {
            ifindex,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            role: Role::Ignored,
            master,
            layer3: kind == Some("wireguard"),
            loopback: name == "lo",
            addresses: addresses.iter().map(|text| text.parse().expect("a network")).collect(),
            mac: None,
            peer_netns: (kind == Some("veth")).then_some(0),
            default_route: (name == "eth0").then_some(0),
        }
    }

    fn network() -> Network {
        let links = vec![
            link(1, "lo", None, None, &["127.0.0.1/8"]),
            link(2, "eth0", None, None, &["192.0.2.10/24", "2001:db8::10/64"]),
            link(3, "wg0", Some("wireguard"), None, &["10.9.0.1/32"]),
            link(4, "cni0", Some("bridge"), None, &["10.244.1.1/24"]),
            link(5, "veth1", Some("veth"), Some(4), &["fe80::1/64"]),
            link(6, "cali1", Some("veth"), None, &["169.254.1.1/32", "fe80::2/64"]),
            link(7, "eth7", None, None, &[]),
        ];
        Network::new(links, &NetOptions::default())
    }

    #[test]
    fn every_edge_gets_the_address_that_its_neighbours_know_the_node_by() {
        let mut sources = Sources::restore([], 16);
        let desired = desired(&network(), &BTreeSet::from([2]), &mut sources);
        let source = |ifindex: u32| {
            let interface = desired.interfaces.get(&ifindex).expect("an entry");
            let of = |index: u16| {
                desired
                    .sources
                    .get(&u32::from(index))
                    .map(ToString::to_string)
                    .unwrap_or_default()
            };
            (
                interface.layer3,
                of(interface.source4),
                of(interface.source6),
                interface.flags,
            )
        };
        use interface_flags::{BRIDGE_PORT, LAYER3, PEER, POD, TUNNEL, UPLINK, XDP_TARGET};
        let v6 = "2001:db8::10".to_owned();
        assert_eq!(source(2), (2, "192.0.2.10".into(), v6.clone(), UPLINK | XDP_TARGET));
        assert_eq!(source(3), (3, "10.9.0.1".into(), v6.clone(), UPLINK | LAYER3 | TUNNEL));
        assert_eq!(
            source(4),
            (4, "10.244.1.1".into(), v6.clone(), 0),
            "a FIB look-up names the bridge"
        );
        assert_eq!(source(5), (4, "10.244.1.1".into(), v6.clone(), POD | BRIDGE_PORT));
        assert_eq!(source(6), (6, "169.254.1.1".into(), v6, POD | PEER));
        assert_eq!(
            desired.interfaces.len(),
            5,
            "neither loopback nor a NIC without addresses"
        );
        assert!(desired.node_addresses.contains(&address("10.244.1.1")));
        assert!(!desired.node_addresses.contains(&address("169.254.1.1")));
    }

    #[test]
    fn an_index_stays_with_its_address() {
        let mut sources = Sources::restore([(0, Address::UNSPECIFIED), (7, address("192.0.2.10"))], 16);
        let none = BTreeSet::new();
        assert_eq!(sources.index(address("192.0.2.10"), &none), 7);
        assert_eq!(sources.index(address("10.9.0.1"), &none), 8);
        assert_eq!(sources.index(address("10.9.0.1"), &none), 8);
    }

    #[test]
    fn a_full_table_gives_up_addresses_that_are_not_in_use_and_else_none() {
        let mut sources = Sources::restore([(3, address("10.0.0.3"))], 4);
        let in_use = BTreeSet::from([address("10.0.0.1"), address("10.0.0.2"), address("10.0.0.4")]);
        assert_eq!(sources.index(address("10.0.0.1"), &in_use), 1, "gaps come before reuse");
        assert_eq!(sources.index(address("10.0.0.2"), &in_use), 2);
        assert_eq!(sources.index(address("10.0.0.4"), &in_use), 3, "10.0.0.3 is not in use");
        assert_eq!(sources.index(address("10.0.0.5"), &in_use), 0);
    }
}

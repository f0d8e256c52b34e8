//! Which interfaces are pods' and which are uplinks.

use super::{Link, NetOptions, Role, is_global};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// The role of each link, in their order; what stands in [`Link::role`] is not looked at.
///
/// Options decide where they are given. Else:
/// - Loopback, dummy devices (kube-ipvs0, node-local DNS) and VRF devices are nobody's edge.
/// - A bridge's port is a pod's if it is a veth or a tap, else part of the bridge (a NIC below br-ex). Slaves of bonds and
///   the like are part of their master.
/// - A bridge is an uplink if it has the default route, the node's address, or a port that is not a pod's; a bridge with
///   pods alone is not an edge, since its ports are.
/// - A veth is hard to tell: it may be a pod's or, in a node that is a container itself, the node's NIC. It is the node's
///   if it has the default route, the node's address, or an address of its own with a network behind it. Pods' veths
///   have no address, a link-local one, the pods' gateway as a host address (the ptp plugin: /32, /128), or the
///   gateway's address on each of them.
/// - Any other device with an address that is not link-local is an uplink.
pub fn classify(links: &[Link], options: &NetOptions) -> Vec<Role> {
    let seen = Seen::new(links, options);
    links
        .iter()
        .map(|link| {
            if link.loopback {
                return Role::Ignored;
            }
            if options.uplinks.iter().any(|glob| glob.matches(&link.name)) {
                return Role::Uplink;
            }
            if options.pods.iter().any(|glob| glob.matches(&link.name)) {
                return Role::Pod;
            }
            match seen.role(link) {
                Role::Uplink if !options.uplinks.is_empty() => Role::Ignored,
                Role::Pod if !options.pods.is_empty() => Role::Ignored,
                role => role,
            }
        })
        .collect()
}

/// What is known of all links together.
struct Seen<'a> {
    by_index: BTreeMap<u32, &'a Link>,
    /// Bridges with a port that is neither a veth nor a tap.
    outward_bridges: BTreeSet<u32>,
    /// How many veths have this address.
    veths_with: BTreeMap<IpNet, usize>,
    options: &'a NetOptions,
}

impl<'a> Seen<'a> {
    fn new(links: &'a [Link], options: &'a NetOptions) -> Self {
        let mut veths_with = BTreeMap::new();
        for net in links
            .iter()
            .filter(|link| link.is_pair())
            .flat_map(|link| &link.addresses)
        {
            *veths_with.entry(*net).or_default() += 1;
        }
        let ports = links.iter().filter(|link| !link.is_pair() && !link.is_tap());
        Self {
            by_index: links.iter().map(|link| (link.ifindex, link)).collect(),
            outward_bridges: ports.filter_map(|link| link.master).collect(),
            veths_with,
            options,
        }
    }

    fn role(&self, link: &Link) -> Role {
        if let Some("dummy" | "ifb" | "nlmon" | "vrf") = link.kind.as_deref() {
            return Role::Ignored;
        }
        let master = link.master.and_then(|master| self.by_index.get(&master));
        match master.map(|master| master.kind.as_deref()) {
            // A VRF's slaves keep their own addresses.
            None | Some(Some("vrf")) => self.role_of_free(link),
            Some(Some("bridge")) if (link.is_pair() && link.peer_netns.is_some()) || link.is_tap() => Role::Pod,
            Some(_) => Role::Ignored,
        }
    }

    /// The role of a link that is not enslaved.
    fn role_of_free(&self, link: &Link) -> Role {
        let addressed = link.global_addresses().next().is_some();
        if addressed && (link.default_route.is_some() || self.has_node_address(link)) {
            return Role::Uplink;
        }
        if link.is_bridge() {
            let outward = addressed && self.outward_bridges.contains(&link.ifindex);
            return if outward { Role::Uplink } else { Role::Ignored };
        }
        if link.is_pair() {
            return match (
                link.global_addresses().any(|net| self.is_own_network(net)),
                link.peer_netns,
            ) {
                (true, _) => Role::Uplink,
                (false, Some(_)) => Role::Pod,
                (false, None) => Role::Ignored,
            };
        }
        if addressed { Role::Uplink } else { Role::Ignored }
    }

    fn has_node_address(&self, link: &Link) -> bool {
        link.addresses
            .iter()
            .any(|net| self.options.node_addresses.contains(&net.addr()))
    }

    /// A veth's address with a network behind it, which no other veth has.
    fn is_own_network(&self, net: &IpNet) -> bool {
        is_global(net.addr()) && net.prefix_len() < net.max_prefix_len() && self.veths_with.get(net) == Some(&1)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A link without a master and a default route, its peer (if it is a veth) in another namespace.
    pub(in crate::net) fn link(ifindex: u32, name: &str, kind: Option<&str>, addresses: &[&str]) -> Link {
        Link {
            ifindex,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            role: Role::Ignored,
            master: None,
            layer3: matches!(kind, Some("wireguard" | "ipip")),
            loopback: name == "lo",
            addresses: addresses.iter().map(|text| text.parse().expect("a network")).collect(),
            mac: None,
            peer_netns: (kind == Some("veth")).then_some(0),
            default_route: None,
        }
    }

    /// One node: its interfaces as (name, kind, master's name, addresses, has the default route, expected role).
    type Row<'a> = (&'a str, Option<&'a str>, Option<&'a str>, &'a [&'a str], bool, Role);

    fn check(node: &str, options: &NetOptions, rows: &[Row<'_>]) {
        let index = |name: &str| {
            rows.iter()
                .position(|row| row.0 == name)
                .map(|position| position as u32 + 1)
        };
        let links: Vec<Link> = rows
            .iter()
            .map(|&(name, kind, master, addresses, default_route, _)| Link {
                master: master.and_then(index),
                default_route: default_route.then_some(0),
                ..link(index(name).unwrap_or_default(), name, kind, addresses)
            })
            .collect();
        for (row, role) in rows.iter().zip(classify(&links, options)) {
            assert_eq!(role, row.5, "{node}: {} of {links:#?}", row.0);
        }
    }

    const LO: Row<'_> = ("lo", None, None, &["127.0.0.1/8", "::1/128"], false, Role::Ignored);
    const ETH0: Row<'_> = (
        "eth0",
        None,
        None,
        &["192.0.2.10/24", "2001:db8::10/64"],
        true,
        Role::Uplink,
    );

    #[test]
    fn pod_networks_are_recognised_by_how_each_plugin_builds_them() {
        let none = NetOptions::default();
        let veth = Some("veth");
        check(
            "flannel: bridge and vxlan",
            &none,
            &[
                LO,
                ETH0,
                (
                    "flannel.1",
                    Some("vxlan"),
                    None,
                    &["10.244.1.0/32"],
                    false,
                    Role::Uplink,
                ),
                ("cni0", Some("bridge"), None, &["10.244.1.1/24"], false, Role::Ignored),
                ("veth0a", veth, Some("cni0"), &["fe80::1/64"], false, Role::Pod),
                ("veth0b", veth, Some("cni0"), &[], false, Role::Pod),
            ],
        );
        check(
            "calico: routed veths without addresses, and IPIP",
            &none,
            &[
                LO,
                ETH0,
                ("tunl0", Some("ipip"), None, &["10.244.7.1/32"], false, Role::Uplink),
                (
                    "cali123",
                    veth,
                    None,
                    &["fe80::ecee:eeff:feee:eeee/64"],
                    false,
                    Role::Pod,
                ),
            ],
        );
    }

    #[test]
    fn routed_pods_are_told_from_uplinks_where_both_are_veths() {
        let none = NetOptions::default();
        let veth = Some("veth");
        check(
            "ptp in a node that is a container, as kind has it",
            &none,
            &[
                LO,
                (
                    "eth0",
                    veth,
                    None,
                    &["172.18.0.3/16", "fc00:f853::3/64"],
                    true,
                    Role::Uplink,
                ),
                (
                    "vethaaaa",
                    veth,
                    None,
                    &["10.244.0.1/32", "fd00:10:244::1/128"],
                    false,
                    Role::Pod,
                ),
                (
                    "vethbbbb",
                    veth,
                    None,
                    &["10.244.0.1/32", "fd00:10:244::1/128"],
                    false,
                    Role::Pod,
                ),
            ],
        );
        check(
            "the gateway's whole network on each veth, and 169.254.1.1",
            &none,
            &[
                ("eth0", veth, None, &["172.18.0.3/16"], true, Role::Uplink),
                ("pod1", veth, None, &["10.245.1.1/24"], false, Role::Pod),
                ("pod2", veth, None, &["10.245.1.1/24"], false, Role::Pod),
                ("pod3", veth, None, &["169.254.1.1/32"], false, Role::Pod),
            ],
        );
    }

    #[test]
    fn uplinks_are_the_devices_that_own_addresses() {
        let none = NetOptions::default();
        check(
            "a bond with a VLAN, WireGuard, and a second network in a container",
            &none,
            &[
                ("eth0", None, Some("bond0"), &[], false, Role::Ignored),
                ("eth1", None, Some("bond0"), &[], false, Role::Ignored),
                ("bond0", Some("bond"), None, &["192.0.2.10/24"], true, Role::Uplink),
                (
                    "bond0.7",
                    Some("vlan"),
                    None,
                    &["198.51.100.10/24"],
                    false,
                    Role::Uplink,
                ),
                ("wg0", Some("wireguard"), None, &["10.9.0.1/32"], false, Role::Uplink),
                ("net1", Some("veth"), None, &["203.0.113.9/24"], false, Role::Uplink),
                ("eth2", None, None, &["fe80::2/64"], false, Role::Ignored),
            ],
        );
        check(
            "br-ex over a NIC; docker0 without containers; a VM's tap; a VRF's NIC",
            &none,
            &[
                ("eth0", None, Some("br-ex"), &[], false, Role::Ignored),
                ("br-ex", Some("bridge"), None, &["192.0.2.10/24"], false, Role::Uplink),
                (
                    "docker0",
                    Some("bridge"),
                    None,
                    &["172.17.0.1/16"],
                    false,
                    Role::Ignored,
                ),
                ("tap0", Some("tun"), Some("docker0"), &[], false, Role::Pod),
                ("blue", Some("vrf"), None, &["10.99.0.1/24"], false, Role::Ignored),
                ("eth1", None, Some("blue"), &["198.51.100.1/24"], false, Role::Uplink),
                (
                    "kube-ipvs0",
                    Some("dummy"),
                    None,
                    &["10.96.0.1/32"],
                    false,
                    Role::Ignored,
                ),
            ],
        );
        check(
            "host addresses: a cloud's NIC, and a container's whose only sign is the node's address",
            &NetOptions {
                node_addresses: vec!["10.128.0.3".parse().expect("address")],
                ..NetOptions::default()
            },
            &[
                ("ens4", None, None, &["10.128.0.2/32"], true, Role::Uplink),
                ("eth0", Some("veth"), None, &["10.128.0.3/32"], false, Role::Uplink),
            ],
        );
    }

    #[test]
    fn a_veth_whose_other_end_is_here_too_is_nobodys() {
        let mut patch = link(3, "patch0", Some("veth"), &[]);
        patch.peer_netns = None;
        assert_eq!(classify(&[patch], &NetOptions::default()), [Role::Ignored]);
    }

    #[test]
    fn options_decide_before_any_rule() {
        let options = NetOptions {
            uplinks: vec!["eth0".parse().expect("glob")],
            pods: vec!["gw*".parse().expect("glob")],
            ..NetOptions::default()
        };
        check(
            "named",
            &options,
            &[
                ETH0,
                ("eth1", None, None, &["198.51.100.10/24"], false, Role::Ignored),
                ("gw7", Some("veth"), None, &["10.245.1.1/24"], false, Role::Pod),
                ("cali1", Some("veth"), None, &[], false, Role::Ignored),
            ],
        );
    }
}

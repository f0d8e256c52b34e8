//! The machines on the LAN: nodes, the control plane's host, the outside client.
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use ferrogate_common::{ABI_VERSION, Reason};

use super::addresses::{NODE_BASE, Pair, ROUTER, lan};
use super::cluster::Options;
use super::layout;
use super::lease::Lease;
use super::netns::Netns;
use super::process::Place;
use crate::binaries;

/// A node of the cluster.
#[derive(Debug)]
pub struct Node {
    /// Counted from 1.
    pub index: u8,
    pub name: String,
    pub place: Place,
    /// Its address on the LAN, which its NodePorts answer at.
    pub address: Pair,
    /// All its addresses: what a backend may see when the node masquerades.
    pub addresses: Vec<Pair>,
    /// Its run folder: logs, sockets, configuration.
    pub directory: PathBuf,
    /// Its bpffs directory.
    pub bpffs: PathBuf,
}

impl Node {
    /// Where its agent pins something: `maps/NAME` or `links/NAME`.
    pub fn pin(&self, what: &str) -> PathBuf {
        self.bpffs.join(format!("v{ABI_VERSION}")).join(what)
    }

    /// Packets and calls that its agent's metrics have for a reason.
    pub fn counted(&self, reason: Reason) -> Result<u64> {
        let metrics = self.place.run("curl", ["-sSf", "http://127.0.0.1:10249/metrics"])?;
        let label = format!("\"{reason}\"");
        let line = metrics
            .lines()
            .find(|line| line.starts_with("ferrogate_packets_total") && line.contains(&label));
        Ok(line
            .and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or_default())
    }
}

/// What a node's `eth0` is. Not every kernel has each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Uplink {
    /// One end of a veth pair.
    #[default]
    Plain,
    /// A bond over one.
    Bond,
    /// A VLAN on one; its frames are tagged on the way to the LAN.
    Vlan,
    /// One that belongs to a VRF, with its network and nothing else in the VRF's table; the node's processes and pods are in none.
    Vrf,
}

/// The VLAN of [`Uplink::Vlan`].
const VLAN: u16 = 7;

/// The table of [`Uplink::Vrf`]. What it does not have is looked for where everybody looks.
const VRF_TABLE: u8 = 10;

/// A namespace with `eth0` on the LAN, one end of a veth pair.
pub(crate) fn machine(lease: &Lease, lan_netns: &Netns, name: &str, host: u8, xdp: bool) -> Result<Place> {
    machine_on(lease, lan_netns, name, host, Uplink::Plain, xdp)
}

/// A namespace with `eth0` on the LAN.
///
/// With `xdp` no sender leaves checksums half computed, which no XDP program could mend.
fn machine_on(lease: &Lease, lan_netns: &Netns, name: &str, host: u8, uplink: Uplink, xdp: bool) -> Result<Place> {
    let netns = Netns::create(lease.name(name))?;
    let (address, router) = (lan(host), lan(ROUTER));
    let (below, outside, inside) = match uplink {
        Uplink::Plain => ("eth0", String::new(), String::new()),
        Uplink::Bond => (
            "port0",
            String::new(),
            "link add eth0 type bond mode active-backup\nlink set port0 master eth0\nlink set port0 up\n".to_owned(),
        ),
        Uplink::Vlan => (
            "trunk0",
            format!(
                "link set v{host} nomaster\nlink add t{host} link v{host} type vlan id {VLAN}\nlink set t{host} master lan up\n"
            ),
            format!("link set trunk0 up\nlink add eth0 link trunk0 type vlan id {VLAN}\n"),
        ),
        Uplink::Vrf => (
            "eth0",
            String::new(),
            format!("link add blue type vrf table {VRF_TABLE}\nlink set blue up\nlink set eth0 master blue\n"),
        ),
    };
    lan_netns.ip_batch(&format!(
        "link add v{host} type veth peer name {below} netns {}\nlink set v{host} master lan up\n{outside}",
        netns.name()
    ))?;
    netns.ip_batch(&format!(
        "{inside}link set eth0 up\naddr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n",
        address.v4, address.v6
    ))?;
    if uplink == Uplink::Vrf {
        // What is outside of the VRF has its network, and its address as one of the node's own.
        let (network, own) = (lan(0), address);
        netns.ip_batch(&format!(
            "route add {}/24 dev eth0\nroute add {}/64 dev eth0\n\
             route add local {} dev eth0 table local\nroute add local {} dev eth0 table local\n",
            network.v4, network.v6, own.v4, own.v6
        ))?;
    }
    netns.ip_batch(&format!(
        "route add default via {} dev eth0\nroute add default via {} dev eth0\n",
        router.v4, router.v6
    ))?;
    // A node that has no use for a packet sends it on to the router, and tells its sender to do the same from then on.
    for scope in ["all", "eth0"] {
        for family in ["ipv4", "ipv6"] {
            netns.sysctl(&format!("net/{family}/conf/{scope}/accept_redirects"), "0")?;
        }
    }
    if uplink == Uplink::Vrf {
        // Else only processes of the VRF have its addresses, and hear what comes in by it.
        for accept in [
            "ipv4/tcp_l3mdev_accept",
            "ipv4/udp_l3mdev_accept",
            "ipv6/ip_nonlocal_bind",
        ] {
            netns.sysctl(&format!("net/{accept}"), "1")?;
        }
    }
    if xdp {
        netns.ethtool("eth0", "tx", "off")?;
    }
    Ok(Place::new(netns, lease.cgroup(name)?, binaries::workspace("testpod")?))
}

/// A node, ready for pods.
pub(crate) fn node(lease: &Lease, lan_netns: &Netns, options: &Options, index: u8) -> Result<Node> {
    let name = format!("n{index}");
    let place = machine_on(
        lease,
        lan_netns,
        &name,
        NODE_BASE + index,
        options.uplink,
        options.proxy.uses_xdp(),
    )?;
    layout::prepare_node(options.layout, &place.netns, index, options.nodes)?;
    if options.firewall {
        raise_firewall(&place)?;
    }
    let directory = lease.directory().join(&name);
    let bpffs = lease.bpffs().join(&name);
    fs::create_dir_all(&directory)?;
    fs::create_dir_all(&bpffs)?;
    let address = lan(NODE_BASE + index);
    let addresses = [address]
        .into_iter()
        .chain(options.layout.node_addresses(index))
        .collect();
    Ok(Node {
        index,
        name,
        place,
        address,
        addresses,
        directory,
        bpffs,
    })
}

/// A host's own firewall: what connection tracking cannot place is dropped, on every way.
pub(crate) fn raise_firewall(place: &Place) -> Result<()> {
    let hooks = ["prerouting", "input", "forward", "output", "postrouting"].map(|hook| {
        format!("chain {hook} {{ type filter hook {hook} priority filter; ct state invalid counter drop; }}")
    });
    place
        .run(
            "nft",
            [format!("table inet hostfirewall {{\n{}\n}}\n", hooks.join("\n"))],
        )
        .map(drop)
}

/// Takes away what [`raise_firewall`] put there.
pub(crate) fn take_down_firewall(place: &Place) -> Result<()> {
    place.run("nft", ["delete table inet hostfirewall"]).map(drop)
}

/// A pod for which its node has no device: its only link is a macvlan on the node's own `eth0`, with host number `host` on
/// the LAN. Pods of the other nodes are reached by way of those; what is on its own node is not.
pub(crate) fn macvlan_pod(lease: &Lease, node: &Node, others: &[&Node], name: &str, host: u8) -> Result<Netns> {
    let netns = Netns::create(lease.name(&format!("p-{name}")))?;
    let address = lan(host);
    node.place.netns.ip_batch(&format!(
        "link add {name}0 link eth0 netns {} type macvlan mode bridge\n",
        netns.name()
    ))?;
    let mut lines = format!(
        "link set {name}0 up\naddr add {}/24 dev {name}0\naddr add {}/64 dev {name}0 nodad\n",
        address.v4, address.v6
    );
    for other in others {
        layout::pod_routes(&mut lines, other.index)?;
    }
    netns.ip_batch(&lines)?;
    Ok(netns)
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

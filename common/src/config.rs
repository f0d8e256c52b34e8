//! What the agent tells the datapath about the node.

use bytemuck::{Pod, Zeroable};

/// The one element of the `CONFIG` array.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Config {
    /// Cookie of the node's own network namespace (`SO_NETNS_COOKIE`): tells its processes from those in pods. XDP writes it in
    /// front of packets that it is done with, for the tcx program behind it: [`DONE_MARK`].
    pub netns_cookie: u64,
    /// Bits of [`config_flags`].
    pub flags: u32,
    /// Lowest and highest NodePort in use, host order; 0 and 0 when there is none: cuts look-ups for all other packets.
    pub node_port_min: u16,
    pub node_port_max: u16,
    /// First port of the SNAT range and number of its ports, host order.
    pub snat_port_base: u16,
    pub snat_port_count: u16,
    /// Always 0, which the verifier does not know: added to constants that it would otherwise follow one by one.
    pub zero: u32,
    /// Indexes into `SOURCES` of the node's own address in each family, 0 where it has none: by it affinity and hashing know
    /// this node's processes at the socket edge.
    pub node_source4: u16,
    pub node_source6: u16,
    /// Bit n, from 1 on: `CGROUPS` has a cgroup that may be at level n of the hierarchy (the root is at 0). Bit 0: of the
    /// processes that are not in the node's own network namespace, the socket edge serves only those below a cgroup that
    /// `CGROUPS` lists as served.
    pub cgroup_levels: u32,
    /// After how many ticks ([`crate::TICK_SHIFT`]) without a packet a UDP flow is over: one without a reply so far, and one
    /// with replies. 0: never. Time stamps are up to a tick old.
    pub udp_timeout: u16,
    pub udp_stream_timeout: u16,
    /// The same as the SNAT range, of ports that are given to no new flow but may be an older one's: the range was another once. A
    /// number of 0: it was not.
    pub known_port_base: u16,
    pub known_port_count: u16,
}

/// Bytes of metadata in front of a packet that XDP has passed on: [`Config::netns_cookie`] where nothing is left to do, or 0.
pub const DONE_MARK: usize = size_of::<u64>();

/// Levels of the cgroup hierarchy that [`Config::cgroup_levels`] can speak of: 1 to this - 1.
pub const CGROUP_LEVELS: u32 = 9;

/// Bits of [`Config::flags`].
pub mod config_flags {
    /// `--external-cluster-ip`: ClusterIPs answer clients outside the cluster too.
    pub const EXTERNAL_CLUSTER_IP: u32 = 1;
    /// `--snat always`: every outside client of policy Cluster is masqueraded, as kube-proxy does.
    pub const SNAT_ALWAYS: u32 = 1 << 1;
    /// `--node-edge off`: requests of this node's own processes are not translated on their way out.
    pub const NODE_EDGE_OFF: u32 = 1 << 2;
    /// The pod edge is on: every pod's packets pass it.
    pub const POD_EDGE: u32 = 1 << 3;
    /// `--socket-edge node`: the socket edge serves the processes of the node's own network namespace only.
    pub const SOCKETS_OF_NODE: u32 = 1 << 4;
    /// `INTERFACES` has ports of bridges: packets between two of one bridge are sent to their backend's MAC.
    pub const BRIDGE_PORTS: u32 = 1 << 5;
    /// `ADDRESSES` is complete: what it does not have is no Service's.
    pub const FILTER: u32 = 1 << 6;
    /// `--cluster-cidr`: the set [`crate::NetworkKey::CLUSTER`] has networks in it.
    pub const CLUSTER_CIDRS: u32 = 1 << 8;
    /// `--dsr on`: new flows of outside clients to backends on other nodes go to those nodes wrapped up ([`crate::Dsr`]).
    pub const DSR: u32 = 1 << 9;
    /// `--forwarding redirect`: for those who explain; the programs have a constant of their own ([`crate::Redirect`]).
    pub const REDIRECT: u32 = 1 << 10;
    /// Another proxy's rules are in place: a connection without a flow that does not begin may be one of theirs, and is left to
    /// the kernel's connection tracking.
    pub const TAKE_OVER: u32 = 1 << 12;
    /// `ferrogate drain`: what has no flow is left to the kernel, flows go on.
    pub const HAND_OVER: u32 = 1 << 13;
}

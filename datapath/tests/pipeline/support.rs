//! A node with two services' worth of tables, and packets that are checked by another implementation as they come out.

use crate::wire::Seen;
use ferrogate_common::{
    Address, Backend, Flow, Frontend, FrontendKey, FrontendKind, Interface, LOOPBACK, Port, Protocol, Reason, Service,
    SlotRange, Tuple, backend_flags, config_flags, flow_flags, interface_flags,
};
use ferrogate_datapath::Verdict;
use ferrogate_datapath::host::{
    HostDevice, HostPacket, HostRoute, HostTables, Program, Segment, Simulator, Target, sctp, tcp,
};
use std::net::{IpAddr, SocketAddr};

/// The devices' ifindexes.
pub(crate) const POD: u32 = 2;
pub(crate) const NARROW: u32 = 3;
pub(crate) const UPLINK: u32 = 4;
/// A pod's own, whose other end packets can be handed to.
pub(crate) const PAIR: u32 = 5;

/// Cookies of network namespaces: the node's own, and a pod's.
pub(crate) const NODE_NETNS: u64 = 1;
pub(crate) const POD_NETNS: u64 = 2;

/// MTU of [`NARROW`].
pub(crate) const NARROW_MTU: u16 = 1300;

/// First and last port of the SNAT range.
pub(crate) const SNAT_PORTS: std::ops::RangeInclusive<u16> = 24_000..=28_095;

/// Who is who, in both families.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Who {
    /// A pod on this node, behind [`POD`]: a client, and a backend of hairpins.
    Pod,
    /// Another pod on this node.
    LocalPod,
    /// A third one, behind [`PAIR`].
    PairPod,
    /// A pod on another node.
    RemotePod,
    /// A pod behind [`NARROW`].
    NarrowPod,
    /// Somebody outside the cluster.
    Outside,
    /// The node's address on the uplink.
    Node,
    /// The node's address that faces pods.
    PodGateway,
    Gateway,
    Vip,
    OtherVip,
}

/// The two families.
pub(crate) const FAMILIES: [bool; 2] = [true, false];

/// Somebody's address.
pub(crate) fn ip(who: Who, v4: bool) -> IpAddr {
    let (a, b) = match who {
        Who::Pod => ("10.244.1.2", "fd00:1::2"),
        Who::LocalPod => ("10.244.1.3", "fd00:1::3"),
        Who::PairPod => ("10.244.4.2", "fd00:4::2"),
        Who::RemotePod => ("10.244.2.2", "fd00:2::2"),
        Who::NarrowPod => ("10.244.3.2", "fd00:3::2"),
        Who::Outside => ("198.51.100.7", "2001:db8:51::7"),
        Who::Node => ("192.0.2.10", "2001:db8::10"),
        Who::PodGateway => ("10.244.1.1", "fd00:1::1"),
        Who::Gateway => ("192.0.2.1", "2001:db8::1"),
        Who::Vip => ("10.96.0.10", "fd00:96::10"),
        Who::OtherVip => ("10.96.0.11", "fd00:96::11"),
    };
    if v4 { a } else { b }.parse().unwrap()
}

/// Somebody's port.
pub(crate) fn at(who: Who, v4: bool, port: u16) -> SocketAddr {
    SocketAddr::new(ip(who, v4), port)
}

/// A node without services.
pub(crate) fn node() -> Simulator {
    let mut node = Simulator::default();
    node.tables.config.netns_cookie = NODE_NETNS;
    node.tables.config.node_source4 = 1;
    node.tables.config.node_source6 = 2;
    node.tables.config.node_port_min = 30_000;
    node.tables.config.node_port_max = 32_767;
    node.tables.config.snat_port_base = *SNAT_PORTS.start();
    node.tables.config.snat_port_count = 4096;
    let flags = [
        (UPLINK, interface_flags::UPLINK | interface_flags::XDP_TARGET, 1, 1500),
        (POD, interface_flags::POD, 3, 1500),
        (NARROW, interface_flags::UPLINK, 1, NARROW_MTU),
        (PAIR, interface_flags::POD | interface_flags::PEER, 3, 1500),
    ];
    for (ifindex, flags, source, mtu) in flags {
        let interface = Interface {
            layer3: ifindex,
            source4: source,
            source6: source + 1,
            flags,
            reserved: 0,
        };
        node.tables.interfaces.insert(ifindex, interface);
        let mac = [2, 0, 0, 0, 1, ifindex as u8];
        node.fib.devices.insert(ifindex, HostDevice { mac, mtu });
    }
    let loopback = HostDevice {
        mac: [0; 6],
        mtu: u16::MAX,
    };
    node.fib.devices.insert(LOOPBACK, loopback);
    for v4 in FAMILIES {
        let source = if v4 { 1 } else { 2 };
        node.tables.sources[source] = ip(Who::Node, v4).into();
        node.tables.sources[source + 2] = ip(Who::PodGateway, v4).into();
        node.tables.node_addresses.insert(ip(Who::Node, v4).into());
        let gateway = ip(Who::Gateway, v4);
        let unspecified = if v4 {
            Address::UNSPECIFIED_V4
        } else {
            Address::UNSPECIFIED
        };
        let way = Target::Gateway(UPLINK, gateway.into());
        let narrow = Target::Link(NARROW);
        let whole = if v4 { 32 } else { 128 };
        node.fib.routes.push(HostRoute::new(unspecified.ip(), 0, way));
        let own = Target::Own(UPLINK);
        node.fib.routes.push(HostRoute::new(ip(Who::Node, v4), whole, own));
        node.fib
            .routes
            .push(HostRoute::new(ip(Who::NarrowPod, v4), whole, narrow));
        let pair = Target::Link(PAIR);
        node.fib.routes.push(HostRoute::new(ip(Who::PairPod, v4), whole, pair));
        let neighbours = [
            (UPLINK, gateway),
            (NARROW, ip(Who::NarrowPod, v4)),
            (PAIR, ip(Who::PairPod, v4)),
        ];
        for (ifindex, neighbour) in neighbours {
            node.fib
                .neighbours
                .insert((ifindex, neighbour.into()), [2, 0, 0, 0, 2, ifindex as u8]);
        }
    }
    node
}

/// A service to add to a node. Backends on this node are those of [`Who::Pod`], [`Who::LocalPod`] and [`Who::PairPod`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer<'a> {
    pub(crate) id: u32,
    pub(crate) protocol: Protocol,
    pub(crate) kind: FrontendKind,
    /// For a NodePort: [`Who::Node`].
    pub(crate) frontend: SocketAddr,
    pub(crate) cluster: &'a [SocketAddr],
    pub(crate) local: &'a [SocketAddr],
    pub(crate) flags: u32,
}

impl Offer<'_> {
    /// Writes the service's tables; slots and backends of service n are 16 n and up.
    pub(crate) fn put(&self, node: &mut Simulator) {
        let base = self.id * 16;
        for (index, address) in self.cluster.iter().chain(self.local).enumerate() {
            let id = base as usize + index;
            let on_this_node = [Who::Pod, Who::LocalPod, Who::PairPod]
                .iter()
                .any(|who| ip(*who, address.is_ipv4()) == address.ip());
            node.tables.slots[id] = id as u32;
            node.tables.backends[id] = Backend {
                address: address.ip().into(),
                port: Port::new(address.port()),
                flags: if on_this_node { backend_flags::LOCAL } else { 0 },
                generation: 1,
                service: self.id,
                last_generation: 1,
            };
        }
        let range = SlotRange {
            base,
            cluster: self.cluster.len() as u16,
            local: self.local.len() as u16,
        };
        node.tables.services[self.id as usize] = Service {
            range: range.pack(),
            flags: self.flags,
            reserved: 0,
        };
        let mut address = Address::from(self.frontend.ip());
        if self.kind == FrontendKind::NodePort {
            address = address.unspecified();
        }
        let key = FrontendKey::new(address, Port::new(self.frontend.port()), self.protocol);
        node.tables.frontends.insert(key, Frontend::new(self.id, self.kind));
    }
}

/// A ClusterIP service with these backends, at port 80 of `vip`.
pub(crate) fn cluster_ip<'a>(
    id: u32,
    protocol: Protocol,
    frontend: SocketAddr,
    cluster: &'a [SocketAddr],
) -> Offer<'a> {
    Offer {
        id,
        protocol,
        kind: FrontendKind::ClusterIp,
        frontend,
        cluster,
        local: &[],
        flags: 0,
    }
}

/// What became of a packet.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) verdict: Verdict,
    pub(crate) bytes: Vec<u8>,
    pub(crate) link: usize,
    /// What a device's sum over the packet was mended by.
    pub(crate) mended: u32,
}

impl Sent {
    /// What another implementation reads in the packet; panics where it finds a wrong length or checksum.
    #[track_caller]
    pub(crate) fn seen(&self) -> Seen {
        Seen::read(&self.bytes, self.link)
    }
}

/// All protocols of Services; those with connections; those that XDP translates.
pub(crate) const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
pub(crate) const WITH_CONNECTIONS: [Protocol; 2] = [Protocol::Tcp, Protocol::Sctp];
pub(crate) const OF_XDP: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// A segment of `protocol`; of TCP one with these flags, of SCTP with the chunk that stands for them there.
pub(crate) fn segment(protocol: Protocol, source: SocketAddr, destination: SocketAddr, flags: u8) -> Segment {
    let mut segment = match protocol {
        Protocol::Tcp => Segment::tcp(source, destination, flags),
        Protocol::Udp => Segment::udp(source, destination, &[]),
        Protocol::Sctp => Segment::sctp(source, destination, chunk(flags)),
    };
    segment.payload = b"what is carried, of odd length.".to_vec();
    segment
}

/// The chunk that opens, accepts, ends, or carries.
fn chunk(flags: u8) -> u8 {
    if flags & tcp::RST != 0 {
        sctp::ABORT
    } else if flags & tcp::FIN != 0 {
        sctp::SHUTDOWN
    } else if flags & (tcp::SYN | tcp::ACK) == tcp::SYN {
        sctp::INIT
    } else if flags & tcp::SYN != 0 {
        sctp::INIT_ACK
    } else {
        sctp::DATA
    }
}

/// Runs a segment through a program; a packet on an egress hook is one of this node's own processes. SCTP that XDP meets goes
/// on to tcx, as it must.
#[track_caller]
pub(crate) fn send(node: &mut Simulator, mut program: Program, ifindex: u32, segment: &Segment) -> Sent {
    if program == Program::UplinkXdp && segment.protocol == Protocol::Sctp {
        let left = run(node, program, HostPacket::ethernet(segment.ethernet(), ifindex));
        assert_eq!(left.verdict, Verdict::Pass(Reason::LeftToTcx));
        assert_eq!(left.bytes, segment.ethernet());
        program = Program::UplinkIngress;
    }
    let packet = if program.is_layer3() {
        HostPacket::layer3(segment.ip(), ifindex)
    } else {
        HostPacket::ethernet(segment.ethernet(), ifindex)
    };
    let packet = HostPacket {
        from_this_node: program.is_egress(),
        partial: segment.partial,
        ..packet
    };
    run(node, program, packet)
}

/// Runs a packet through a program.
pub(crate) fn run(node: &mut Simulator, program: Program, packet: HostPacket) -> Sent {
    let link = packet.link;
    // As the agent has it as soon as all is written.
    node.tables.config.flags |= config_flags::FILTER;
    node.tables.fill_filter();
    let outcome = node.run(program, packet);
    let framed = matches!(outcome.verdict, Verdict::Forward(_) | Verdict::Loopback(_));
    Sent {
        verdict: outcome.verdict,
        bytes: outcome.bytes,
        mended: outcome.mended,
        link: if framed { 14 } else { link },
    }
}

/// What a backend sees of a flow's client: source, backend, protocol.
pub(crate) fn as_backends_see(tables: &HostTables, key: &Tuple, flow: &Flow) -> (SocketAddr, SocketAddr, u8) {
    let mut source = SocketAddr::new(key.source.ip(), key.source_port.get());
    if flow.flags & flow_flags::SNAT != 0 {
        source.set_port(flow.source_port.get());
        if flow.flags & flow_flags::PORT_ONLY == 0 {
            source.set_ip(tables.sources[flow.source as usize].ip());
        }
    }
    (
        source,
        SocketAddr::new(flow.address.ip(), flow.port.get()),
        key.protocol,
    )
}

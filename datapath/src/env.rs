//! What the pipeline needs from its surroundings: the kernel's maps and helpers, or a host's stand-ins.

use crate::{select, snat};
use bytemuck::{Pod, Zeroable};
use ferrogate_common::{
    Address, Affinity, AffinityKey, Backend, Config, Direction, Flow, FragmentKey, FragmentPorts, Frontend,
    FrontendKey, Interface, Port, Reason, RefusalKey, Service, SnatFlow, TICK_SHIFT, Tuple, UdpSocket,
};

/// A packet, from its link-layer header on. Offsets count from there.
pub trait Packet {
    /// Reads a `T`; `None` where the packet is too short.
    fn load<T: Pod>(&self, at: usize) -> Option<T>;

    /// Writes a `T` over what is there; `None` where the packet is too short or can't be written.
    fn store<T: Pod>(&mut self, at: usize, value: T) -> Option<()>;

    /// Length in bytes, link-layer header included.
    fn len(&self) -> usize;

    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Not 0 where the field at `at` certainly holds a transport checksum, and not what a device is yet to complete: that is the pseudo
    /// header's sum, `pseudo`, or what comes of it would be wrong.
    #[inline(always)]
    fn holds_checksum(&self, _at: usize, _pseudo: u16) -> u32 {
        0
    }

    /// Mends the transport checksum at `at` after the packet was changed.
    fn update_transport_checksum(&mut self, at: usize, change: ChecksumChange) -> Option<()>;

    /// The packet's bytes have changed by this difference: mends the sum over all of them that a device may have made on receipt. Where a
    /// checksum in the packet makes up for the change, there is nothing to mend.
    fn mend_sum(&mut self, difference: u32);

    /// Writes a new transport checksum at `at`: `full` is its value, `pseudo` the sum of the pseudo header alone, for
    /// packets whose checksum the device completes.
    fn set_transport_checksum(&mut self, at: usize, full: u16, pseudo: u16) -> Option<()>;

    /// Makes the packet `length` bytes long. What is new holds zeros.
    fn resize(&mut self, length: usize) -> Option<()>;

    /// Makes room for `bytes` more between link-layer and IP header. Of TCP, what is yet to be cut into segments may get shorter ones.
    fn grow(&mut self, bytes: usize, tcp: bool) -> Option<()>;

    /// Removes the first `bytes` behind the link-layer header.
    fn shrink(&mut self, bytes: usize) -> Option<()>;

    /// Bytes of link-layer header in front of the IP header: 14 or 0.
    fn link_header(&self) -> usize;

    /// ifindex of the interface the packet came in by or goes out of.
    fn ifindex(&self) -> u32;

    /// Whether a process of this node sent it (and it was not forwarded).
    fn is_from_this_node(&self) -> bool;

    /// The backend that its sender's socket was connected to, if that is a UDP socket that the socket edge had translated.
    fn sender(&self) -> Option<UdpSocket>;

    /// How many packets it is on the wire: more than one before a device splits it, or after it has merged them.
    #[inline(always)]
    fn segments(&self) -> u32 {
        1
    }

    /// Whether the programs behind this one can be told that there is nothing left to do. Of the hooks only XDP has any that would
    /// otherwise translate the packet once more, and not every driver lets it.
    #[inline(always)]
    fn can_be_done(&self) -> bool {
        true
    }
}

/// A connection that begins.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// One of [`ferrogate_common::trace_edge`].
    pub edge: u8,
    pub ifindex: u32,
    /// As the packet came.
    pub tuple: &'a Tuple,
    /// What its packets are translated by.
    pub flow: &'a Flow,
    pub reason: Reason,
}

/// One's complement differences ("new minus old", RFC 1624) to fold into a transport checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChecksumChange {
    /// What changed in the pseudo header. A sender that leaves the checksum to its device has summed only that so far.
    pub addresses: u32,
    /// What changed in the segment itself.
    pub rest: u32,
    /// Not 0: it certainly is a checksum that changes, and not such a sum ([`Packet::holds_checksum`]).
    pub full: u32,
    /// 0 means "no checksum" (UDP).
    pub optional: bool,
    pub v6: bool,
}

/// Which of the two flow tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowTable {
    /// `FLOWS`.
    Established,
    /// `HALF_OPEN`.
    HalfOpen,
}

/// Outcome of an insertion that must not replace anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Insert {
    Done,
    /// The key was there already.
    Exists,
    /// No room, or the table was busy.
    Failed,
}

/// The maps. Look-ups return copies: an entry of an LRU map can change while it is looked at.
pub trait Tables {
    fn config(&self) -> Config;
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend>;
    fn is_node_address(&self, address: &Address) -> bool;
    /// What an address may be, as bits of [`ferrogate_common::address_roles`]; one that is not set certainly is not so.
    fn roles(&self, address: &Address) -> u32;
    /// Packets to this address may be a flow's from now on.
    fn add_destination(&mut self, address: &Address);
    /// Whether an address is in one of `SERVICE_CIDRS`.
    fn is_in_service_cidrs(&self, address: &Address) -> bool;
    /// Whether an address is in a set of `NETWORKS` ([`ferrogate_common::NetworkKey::set`]).
    fn is_in_networks(&self, set: u32, address: &Address) -> bool;
    fn service(&self, id: u32) -> Option<Service>;
    /// Connections that a backend has, as far as the flows tell.
    fn active(&self, backend: u32) -> u32;
    /// One more.
    fn begin(&mut self, backend: u32);
    /// The service's cursor, and moves it on.
    fn next_cursor(&mut self, service: u32) -> u32;
    /// The backend id in a slot.
    fn slot(&self, index: u32) -> Option<u32>;
    fn backend(&self, id: u32) -> Option<Backend>;
    /// The generation of a backend alone: read on every packet.
    fn generation(&self, id: u32) -> u32;
    fn source(&self, index: u16) -> Option<Address>;
    /// The address of the node that an endpoint's or node's address belongs to ([`ferrogate_common::Dsr`]).
    fn node_of(&self, address: &Address) -> Option<Address>;
    /// Whether packets can be wrapped and unwrapped.
    fn is_dsr(&self) -> bool;
    /// Whether packets between clients and backends on this node go past the host's stack.
    fn is_redirect(&self) -> bool;
    fn interface(&self, ifindex: u32) -> Option<Interface>;

    fn flow(&self, table: FlowTable, key: &Tuple) -> Option<Flow>;
    /// Inserts or replaces; false where it could not.
    fn put_flow(&mut self, table: FlowTable, key: &Tuple, flow: &Flow) -> bool;
    fn insert_flow(&mut self, table: FlowTable, key: &Tuple, flow: &Flow) -> Insert;
    fn remove_flow(&mut self, table: FlowTable, key: &Tuple);
    /// Sets an entry's time stamp and adds flags, in place; false where there is no such entry. The end mark, where it is new
    /// on a forward entry, ends a connection of the flow's backend, if that is still current.
    fn mark_flow(&mut self, table: FlowTable, key: &Tuple, seen: u32, flags: u16) -> bool;

    fn snat_flow(&self, key: &Tuple) -> Option<SnatFlow>;
    fn insert_snat_flow(&mut self, key: &Tuple, flow: &SnatFlow) -> Insert;
    fn remove_snat_flow(&mut self, key: &Tuple);
    /// As [`Tables::mark_flow`], but for connections' ends, which the forward entry tells.
    fn mark_snat_flow(&mut self, key: &Tuple, seen: u32, flags: u16) -> bool;

    /// What the first fragment of a packet had.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts>;
    /// Inserts or replaces. A failure is no error: the packet's other fragments are not translated.
    fn put_fragment(&mut self, key: &FragmentKey, ports: &FragmentPorts);

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;
    /// Inserts or replaces. A failure is no error: the client's next connection is balanced anew.
    fn put_affinity(&mut self, key: &AffinityKey, affinity: &Affinity);

    /// Counts a packet or call by its outcome.
    fn count(&mut self, reason: Reason);
    /// Counts a new connection of a service through a packet edge.
    fn count_connection(&mut self, service: u32);
    /// The same through the socket edge.
    fn count_socket_connection(&mut self, service: u32);
    /// Counts what a service refused. What does not fit is not counted.
    fn count_refusal(&mut self, key: &RefusalKey);

    /// Whether packets and bytes are counted by service.
    fn counts_traffic(&self) -> bool;
    /// Counts them. What does not fit is not counted.
    fn count_traffic(&mut self, service: u32, direction: Direction, packets: u32, bytes: u32);

    /// Tells those who trace of what begins. A known flow's packets are not asked, and of what gets no further [`Stages::refuse`] tells.
    #[inline(always)]
    fn tell(&mut self, _event: &Event<'_>) {}
}

/// The boot clock.
pub trait Clock {
    /// Nanoseconds.
    fn nanos(&self) -> u64;

    /// Ticks of 2^[`TICK_SHIFT`] ns.
    #[inline(always)]
    fn ticks(&self) -> u32 {
        (self.nanos() >> TICK_SHIFT) as u32
    }
}

/// Random numbers.
pub trait Random {
    fn random(&mut self) -> u32;
}

/// Where a packet that we send on ourselves goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Route {
    /// The neighbour: a gateway or the destination itself.
    pub next_hop: Address,
    pub ifindex: u32,
    /// Link-layer addresses, all zero where the neighbour isn't resolved yet.
    pub destination_mac: [u16; 3],
    pub source_mac: [u16; 3],
    /// [`Routed::TooBig`]: bytes of IP packet that fit, [`Transport::overhead`] not among them.
    pub mtu: u16,
    /// [`Routed::To`], [`Routed::NotFromHere`]: bits of [`ferrogate_common::interface_flags`] of the device, where
    /// [`Tables::is_redirect`].
    pub flags: u16,
}

impl Route {
    /// Nowhere yet.
    pub const NONE: Self = Self {
        next_hop: Address::UNSPECIFIED,
        ifindex: 0,
        destination_mac: [0; 3],
        source_mac: [0; 3],
        mtu: 0,
        flags: 0,
    };
}

/// Outcome of a route look-up; the rest is in [`Fib::hop`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Routed {
    /// Along the hop.
    To,
    /// The packet is larger than the way out allows.
    TooBig,
    /// Nowhere, or to this node itself.
    Nowhere,
    /// There is a way, but this hook can't take it (XDP: no frames can be sent out there, or the neighbour isn't resolved).
    NotFromHere,
}

/// The routing table.
pub trait Fib {
    /// Looks up where a packet that came in by `ifindex` goes.
    fn route(&mut self, ifindex: u32, source: &Address, destination: &Address, transport: Transport) -> Routed;

    /// What the last look-up found.
    fn hop(&self) -> &Route;
}

/// What a route look-up may depend on besides addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transport {
    /// IP protocol number.
    pub protocol: u8,
    /// Length of the IP packet, or [`Transport::SHORT`].
    pub length: u16,
    /// Bytes of another header that it gets in front ([`ferrogate_common::Dsr::overhead`]), or 0.
    pub overhead: u16,
    /// ifindex of the only device that the packet may leave by; 0: any.
    pub out: u32,
}

impl Transport {
    /// A length that no way is too narrow for. Not 0, with which the kernel tells no MTU: then the answer could not be remembered.
    pub const SHORT: u16 = 1;

    /// Of a packet that fits whatever the way, by whichever device.
    #[inline(always)]
    pub(crate) const fn short(protocol: u8) -> Self {
        Self {
            protocol,
            length: Self::SHORT,
            overhead: 0,
            out: 0,
        }
    }
}

/// A way to keep the verifier's work small.
pub trait Opaque {
    /// `value`, in a form that the verifier takes for any number. It follows every known value of a variable apart, through
    /// all that comes after; where IPv4 and IPv6 or TCP and UDP are told apart, that multiplies. A host returns `value`.
    fn opaque(&self, value: u32) -> u32;
}

/// Stages that need nothing but tables and the clock. The programs have each in a function that the verifier looks at once.
pub trait Stages: Tables + Clock + Opaque + Sized {
    /// [`snat::allocate`].
    fn allocate(&mut self, request: &Tuple, flow: &mut Flow) -> Reason {
        snat::allocate(self, request, flow)
    }

    /// [`select::carry`]. The frontend's protocol and the direction as they are in a [`Tuple`].
    fn carry(&mut self, address: &Address, port: Port, (protocol, direction): (u8, u8), packets: u32, bytes: u32) {
        select::carry(self, address, port, (protocol, direction), packets, bytes);
    }

    /// [`select::refuse`]; and tells those who trace.
    fn refuse(&mut self, request: &Tuple, _ifindex: u32, edge: u8, reason: u8) {
        select::refuse(self, request, edge, reason);
    }
}

/// All of it.
pub trait Env: Packet + Stages + Random + Fib {}

impl<T: Packet + Stages + Random + Fib> Env for T {}

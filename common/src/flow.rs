//! Flows: which connection goes to which backend, and how its replies are translated back.

use crate::{Address, Port};
use bytemuck::{Pod, Zeroable};

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Direction {
    /// From the client, as it enters: `{client -> frontend}`.
    Forward = 0,
    /// Towards the client, as it leaves: `{backend -> client}`.
    Reply = 1,
}

/// Key of `FLOWS`, `HALF_OPEN` and `SNAT_FLOWS`: a packet's addresses before translation, and its direction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Tuple {
    pub source: Address,
    pub destination: Address,
    pub source_port: Port,
    pub destination_port: Port,
    /// An IP protocol number.
    pub protocol: u8,
    /// A [`Direction`]; part of the key, so that a hook that looks for requests never meets a reply's entry.
    pub direction: u8,
    pub reserved: u16,
}

impl Tuple {
    /// `{source:port -> destination:port}` of a protocol, in a direction.
    #[inline(always)]
    pub const fn new(
        (source, source_port): (Address, Port),
        (destination, destination_port): (Address, Port),
        protocol: u8,
        direction: Direction,
    ) -> Self {
        Self {
            source,
            destination,
            source_port,
            destination_port,
            protocol,
            direction: direction as u8,
            reserved: 0,
        }
    }
}

/// Value of `FLOWS` and `HALF_OPEN`, for either direction.
///
/// It carries addresses itself and not only a backend's index, so that TCP connections stay with a terminating or removed
/// backend until they end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Flow {
    /// Forward: the backend, the new destination. Reply: the frontend, the new source.
    pub address: Address,
    /// The port that goes with `address`.
    pub port: Port,
    /// Forward, with [`flow_flags::SNAT`]: the new source port. Else 0.
    pub source_port: Port,
    /// Index into `BACKENDS`.
    pub backend: u32,
    /// The backend's generation when the flow was made.
    pub generation: u32,
    /// Last packet, in ticks ([`crate::TICK_SHIFT`]); at most one tick late.
    pub seen: u32,
    /// Index into `SOURCES` of the new source address, with [`flow_flags::SNAT`].
    pub source: u16,
    /// Bits of [`flow_flags`].
    pub flags: u16,
    /// ifindex of the layer-3 device that the client's packets come in by, of a client outside of the node; else 0.
    pub uplink: u32,
}

impl Flow {
    /// No flow: backend 0, generation 0, which no backend ever has.
    pub const NONE: Self = Self {
        address: Address::UNSPECIFIED,
        port: Port::ZERO,
        source_port: Port::ZERO,
        backend: 0,
        generation: 0,
        seen: 0,
        source: 0,
        flags: 0,
        uplink: 0,
    };
}

/// Value of `SNAT_FLOWS`: a reply to a flow whose source was changed too. Its key's destination port is in the SNAT range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct SnatFlow {
    /// The client: the new destination.
    pub client: Address,
    /// The frontend: the new source.
    pub frontend: Address,
    pub client_port: Port,
    pub frontend_port: Port,
    /// Last packet, in ticks ([`crate::TICK_SHIFT`]); at most one tick late.
    pub seen: u32,
    /// As [`Flow::uplink`].
    pub uplink: u32,
    /// Bits of [`flow_flags`].
    pub flags: u16,
    pub reserved: u16,
}

/// Bits of [`Flow::flags`] and [`SnatFlow::flags`].
pub mod flow_flags {
    /// The source is changed as well as the destination.
    pub const SNAT: u16 = 1;
    /// Transit: client and backend are both off this node; the packet is sent on by us, not by the host's stack. With [`NODE`]: the
    /// frontend has an address of this node, so that the client's packets pass the loopback device.
    pub const TRANSIT: u16 = 1 << 1;
    /// Hairpin: client and backend are one pod; the packet goes back out of the interface it came in by. With [`NODE`]: both are this
    /// node, and the packet comes back in by the interface that it was to leave by.
    pub const HAIRPIN: u16 = 1 << 2;
    /// The client is a process of this node whose packets the node edge translates.
    pub const NODE: u16 = 1 << 3;
    /// Client and backend of a flow are both of this node. Its packets come back into the node by the uplink that they were
    /// to leave by, as from the frontend's address: the stack takes none from an address of its own there.
    pub const TO_ITSELF: u16 = NODE | HAIRPIN;
    /// Only the client's port was changed (two flows would have been one tuple): replies are restored at the client's edge.
    pub const PORT_ONLY: u16 = 1 << 4;
    /// A TCP FIN or RST was seen, or what says so in SCTP: the next SYN of the same tuple is a new connection.
    pub const CLOSING: u16 = 1 << 5;
    /// A packet came back from the backend.
    pub const REPLIED: u16 = 1 << 6;
    /// Of a [`super::SnatFlow`]: both sides have confirmed the flow. The port of one that is not confirmed can be taken away.
    pub const CONFIRMED: u16 = 1 << 7;
    /// Of those the client's. A RST is both sides'.
    pub const CLIENT_ENDED: u16 = 1 << 8;
    /// And the backend's.
    pub const BACKEND_ENDED: u16 = CLIENT_ENDED << 1;
    /// Nothing more is to come but what was lost and is sent again.
    pub const ENDED: u16 = CLIENT_ENDED | BACKEND_ENDED;
    /// Of a TCP flow whose opening nobody has answered: its endpoint sends what belongs to a connection that is open already, so its client is
    /// connected straight to that endpoint from the same port. The next SYN gets another port.
    pub const TAKEN: u16 = 1 << 10;
    /// Direct server return, of a transit flow: its packets go to the backend's node as they came, wrapped up, and that node's answers
    /// do not come by here. [`super::Flow::address`] is the node's, the port 0, and there is no reply's entry.
    pub const DSR: u16 = 1 << 11;
    /// Packets of both directions go past the host's stack ([`crate::Redirect`]).
    pub const REDIRECT: u16 = 1 << 12;
    /// What packets add to a flow after it was made.
    pub const MARKS: u16 = CLOSING | REPLIED | CONFIRMED | ENDED | TAKEN;
}

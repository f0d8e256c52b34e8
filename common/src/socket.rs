//! What the socket edge remembers of a socket.

use crate::{Address, Port};
use bytemuck::{Pod, Zeroable};

/// One frontend that a socket uses and the backend it was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct SocketPair {
    pub frontend: Address,
    pub backend: Address,
    pub frontend_port: Port,
    pub backend_port: Port,
    /// Index into `BACKENDS`.
    pub id: u32,
    /// The backend's generation when the pair was made; 0: the pair is empty.
    pub generation: u32,
}

impl SocketPair {
    /// None.
    pub const EMPTY: Self = Self {
        frontend: Address::UNSPECIFIED,
        backend: Address::UNSPECIFIED,
        frontend_port: Port::ZERO,
        backend_port: Port::ZERO,
        id: 0,
        generation: 0,
    };
}

/// Socket-local storage: the last two pairs of a socket. A connected socket has one, most unconnected ones as well
/// (a resolver's name servers); what is more goes to `SOCKET_PAIRS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct SocketState {
    pub pairs: [SocketPair; 2],
}

/// Key of `SOCKET_PAIRS`, for sockets with more pairs than fit [`SocketState`]: by frontend on the way out, by backend on
/// the way back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct SocketPairKey {
    /// The socket's cookie (`bpf_get_socket_cookie`).
    pub cookie: u64,
    pub address: Address,
    pub port: Port,
    /// A [`crate::Direction`].
    pub direction: u8,
    pub protocol: u8,
    pub reserved: u32,
}

/// Value of `UDP_SOCKETS`, whose key is a socket's cookie: which backend a UDP socket was connected to. Once the backend's
/// generation is another one, the socket is stuck.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct UdpSocket {
    /// Cookie of the socket's network namespace.
    pub netns: u64,
    /// Index into `BACKENDS`.
    pub backend: u32,
    /// The backend's generation then.
    pub generation: u32,
    /// Where the socket sends: `BACKENDS` may have another backend by now.
    pub address: Address,
    pub port: Port,
    pub reserved: [u16; 3],
}

impl UdpSocket {
    /// A socket of this network namespace that was given this backend.
    pub const fn new(netns: u64, pair: &SocketPair) -> Self {
        Self {
            netns,
            backend: pair.id,
            generation: pair.generation,
            address: pair.backend,
            port: pair.backend_port,
            reserved: [0; 3],
        }
    }
}

/// Values of `CGROUPS`, whose key is a cgroup's id: what holds for all processes below it.
pub mod cgroup_scope {
    /// The socket edge serves them.
    pub const SERVED: u32 = 1;
    /// It leaves them to the other edges.
    pub const OFF: u32 = 2;
    /// It leaves nothing of theirs to the pod edge, which never sees their packets.
    pub const ONLY: u32 = 3;
}

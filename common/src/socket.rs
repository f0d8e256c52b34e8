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

//! Sockets and their calls.

use super::HostTables;
use super::delegate::delegate_tables;
use crate::env::{Clock, FlowTable, Insert};
use crate::socket::{SocketCall, SocketMemory, SocketVerdict};
use crate::{connect, restore_peer, sendmsg};
use bytemuck::Zeroable;
use core::net::SocketAddr;
use ferrogate_common::{
    Address, Backend, Config, Direction, Flow, Frontend, FrontendKey, Interface, Port, Protocol, Reason, Service,
    SnatFlow, SocketPair, SocketPairKey, SocketState, Tuple, UdpSocket,
};

/// A process's socket.
#[derive(Clone, Copy, Debug)]
pub struct HostSocket {
    pub cookie: u64,
    pub protocol: Protocol,
    /// It has a local port already.
    pub bound: bool,
    /// Cookie of its network namespace.
    pub netns: u64,
    /// What `CGROUPS` says of its process's cgroups, by their level.
    pub scopes: [u32; 4],
    /// Its storage, once there is one.
    pub state: Option<SocketState>,
    /// What `UDP_SOCKETS` has for it.
    pub connected: Option<UdpSocket>,
}

impl HostSocket {
    /// A new socket in the network namespace with this cookie.
    pub fn new(cookie: u64, protocol: Protocol, netns: u64) -> Self {
        Self {
            cookie,
            protocol,
            bound: false,
            netns,
            scopes: [0; 4],
            state: None,
            connected: None,
        }
    }
}

/// A socket on a node: runs calls through the socket edge.
#[derive(Debug)]
pub struct SocketSimulator<'a> {
    pub tables: &'a mut HostTables,
    pub socket: &'a mut HostSocket,
    /// Nanoseconds of the boot clock.
    pub now: u64,
    address: Address,
    port: Port,
}

impl<'a> SocketSimulator<'a> {
    pub fn new(tables: &'a mut HostTables, socket: &'a mut HostSocket) -> Self {
        Self {
            tables,
            socket,
            now: 0,
            address: Address::UNSPECIFIED,
            port: Port::ZERO,
        }
    }

    /// `connect()`: the outcome and the peer that the socket gets.
    pub fn connect(&mut self, peer: SocketAddr) -> (SocketVerdict, SocketAddr) {
        self.point_at(peer);
        (connect(self), self.peer())
    }

    /// `sendmsg()` with an address: the outcome and where the datagram goes.
    pub fn sendmsg(&mut self, peer: SocketAddr) -> (SocketVerdict, SocketAddr) {
        self.point_at(peer);
        (sendmsg(self), self.peer())
    }

    /// `recvmsg()` or `getpeername()`: the peer that the process is told of.
    pub fn peer_of(&mut self, peer: SocketAddr) -> SocketAddr {
        self.point_at(peer);
        restore_peer(self);
        self.peer()
    }

    fn point_at(&mut self, peer: SocketAddr) {
        self.address = peer.ip().into();
        self.port = Port::new(peer.port());
    }

    fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip(), self.port.get())
    }

    fn key(&self, address: &Address, port: Port, direction: Direction) -> SocketPairKey {
        SocketPairKey {
            cookie: self.socket.cookie,
            address: *address,
            port,
            direction: direction as u8,
            protocol: self.socket.protocol as u8,
            reserved: 0,
        }
    }
}

delegate_tables!(SocketSimulator<'_>);

impl Clock for SocketSimulator<'_> {
    fn nanos(&self) -> u64 {
        self.now
    }
}

impl SocketCall for SocketSimulator<'_> {
    fn address(&self) -> Address {
        self.address
    }

    fn port(&self) -> Port {
        self.port
    }

    fn set(&mut self, address: &Address, port: Port) {
        self.address = *address;
        self.port = port;
    }

    fn protocol(&self) -> u8 {
        self.socket.protocol as u8
    }

    fn netns(&self) -> u64 {
        self.socket.netns
    }

    fn is_bound(&self) -> bool {
        self.socket.bound
    }

    fn cgroup_scope(&self, level: u32) -> u32 {
        self.socket.scopes.get(level as usize).copied().unwrap_or(0)
    }
}

impl SocketMemory for SocketSimulator<'_> {
    fn pair(&self, index: usize) -> Option<SocketPair> {
        self.socket.state.map(|state| state.pairs[index])
    }

    fn set_pair(&mut self, index: usize, pair: &SocketPair) -> bool {
        self.socket.state.get_or_insert_with(SocketState::zeroed).pairs[index] = *pair;
        true
    }

    fn more_by_frontend(&self, address: &Address, port: Port) -> Option<SocketPair> {
        let key = self.key(address, port, Direction::Forward);
        self.tables.socket_pairs.get(&key).copied()
    }

    fn more_by_backend(&self, address: &Address, port: Port) -> Option<SocketPair> {
        let key = self.key(address, port, Direction::Reply);
        self.tables.socket_pairs.get(&key).copied()
    }

    fn put_more(&mut self, pair: &SocketPair) -> bool {
        let forward = self.key(&pair.frontend, pair.frontend_port, Direction::Forward);
        let reply = self.key(&pair.backend, pair.backend_port, Direction::Reply);
        self.tables.socket_pairs.insert(reply, *pair);
        self.tables.socket_pairs.insert(forward, *pair);
        true
    }

    fn remove_more(&mut self, pair: &SocketPair) {
        let forward = self.key(&pair.frontend, pair.frontend_port, Direction::Forward);
        let reply = self.key(&pair.backend, pair.backend_port, Direction::Reply);
        self.tables.socket_pairs.remove(&forward);
        self.tables.socket_pairs.remove(&reply);
    }

    fn note_connected(&mut self, pair: &SocketPair) {
        self.socket.connected = Some(UdpSocket::new(self.socket.netns, pair));
    }

    fn forget_connected(&mut self) {
        self.socket.connected = None;
    }
}

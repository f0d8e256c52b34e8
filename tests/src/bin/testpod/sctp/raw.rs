//! Raw sockets of IP protocol 132. Each sees every SCTP packet to its address: whose port it is, its owner says.
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::packet::Packet;

const SCTP: i32 = 132;

/// The smallest time that a socket can be told to wait.
const SHORTEST: Duration = Duration::from_millis(1);

pub(super) struct RawSocket {
    /// The standard library's datagram calls do for raw sockets too.
    socket: UdpSocket,
    v4: bool,
}

impl RawSocket {
    /// One that receives what is sent to `local`.
    pub(super) fn bind(local: IpAddr) -> io::Result<Self> {
        let at = SocketAddr::new(local, 0);
        let socket = Socket::new(Domain::for_address(at), Type::RAW, Some(Protocol::from(SCTP)))?;
        socket.bind(&at.into())?;
        Ok(Self {
            socket: socket.into(),
            v4: local.is_ipv4(),
        })
    }

    /// One that receives what `peer` sends to us, and learns of ICMP errors: "port unreachable" is ECONNREFUSED.
    pub(super) fn connect(local: Option<IpAddr>, peer: IpAddr) -> io::Result<Self> {
        let at = SocketAddr::new(peer, 0);
        let socket = Socket::new(Domain::for_address(at), Type::RAW, Some(Protocol::from(SCTP)))?;
        if let Some(local) = local {
            socket.bind(&SocketAddr::new(local, 0).into())?;
        }
        socket.connect(&at.into())?;
        Ok(Self {
            socket: socket.into(),
            v4: peer.is_ipv4(),
        })
    }

    pub(super) fn local(&self) -> io::Result<IpAddr> {
        Ok(self.socket.local_addr()?.ip())
    }

    /// How long [`RawSocket::receive`] waits; then it is an error of kind `WouldBlock`.
    pub(super) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.socket.set_read_timeout(Some(patience.max(SHORTEST)))
    }

    /// The next SCTP packet and its sender; without its IP header.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<(IpAddr, &'a [u8])> {
        let (length, from) = self.socket.recv_from(buffer)?;
        // Of IPv4 the header comes along.
        let header = if self.v4 { usize::from(buffer[0] & 15) * 4 } else { 0 };
        Ok((from.ip(), buffer[..length].get(header..).unwrap_or_default()))
    }

    pub(super) fn send(&self, to: IpAddr, packet: &Packet) -> io::Result<()> {
        self.socket.send_to(&packet.encode(), SocketAddr::new(to, 0)).map(drop)
    }
}

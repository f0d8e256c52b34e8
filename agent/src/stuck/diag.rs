//! Listing and destroying UDP sockets of this thread's network namespace: sock_diag(7).

use bytemuck::{Pod, Zeroable};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with, sockopt,
};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Message types and flags of include/uapi/linux/{netlink,sock_diag}.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// A connected UDP socket is in TCP_ESTABLISHED (include/net/tcp_states.h).
const CONNECTED: u32 = 1 << 1;
const IPPROTO_UDP: u8 = 17;
/// AF_INET and AF_INET6.
const FAMILIES: [u8; 2] = [2, 10];

/// `struct nlmsghdr`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// `struct inet_diag_sockid`: ports and addresses in network order.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SocketId {
    source_port: [u8; 2],
    destination_port: [u8; 2],
    source: [u8; 16],
    destination: [u8; 16],
    interface: u32,
    /// Low half first.
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2` behind its header.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Query {
    header: Header,
    family: u8,
    protocol: u8,
    extensions: u8,
    padding: u8,
    states: u32,
    id: SocketId,
}

/// The beginning of `struct inet_diag_msg`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Found {
    family: u8,
    state: u8,
    timer: u8,
    retransmissions: u8,
    id: SocketId,
}

/// A netlink socket of the namespace it was opened in.
pub(super) struct Diag {
    socket: OwnedFd,
}

impl Diag {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        // The kernel answers before send() returns; nothing is waited for long.
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_secs(2)))?;
        Ok(Self { socket })
    }

    /// Destroys the connected UDP sockets with these cookies; returns the cookies of those that were there.
    ///
    /// # Errors
    /// EOPNOTSUPP: a kernel without CONFIG_INET_DIAG_DESTROY. EPERM: no CAP_NET_ADMIN in this namespace.
    pub(super) fn destroy(&self, cookies: &BTreeSet<u64>) -> io::Result<Vec<u64>> {
        let mut destroyed = Vec::new();
        for family in FAMILIES {
            for id in self.connected(family)? {
                let cookie = u64::from(id.cookie[0]) | u64::from(id.cookie[1]) << 32;
                if !cookies.contains(&cookie) {
                    continue;
                }
                match self.destroy_one(family, id) {
                    Ok(()) => destroyed.push(cookie),
                    // Closed, or connected elsewhere, meanwhile.
                    Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(destroyed)
    }

    /// The connected UDP sockets of one family.
    fn connected(&self, family: u8) -> io::Result<Vec<SocketId>> {
        self.ask(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, SocketId::zeroed())?;
        let mut found = Vec::new();
        while self.read(&mut found)? {}
        Ok(found)
    }

    fn destroy_one(&self, family: u8, id: SocketId) -> io::Result<()> {
        self.ask(SOCK_DESTROY, NLM_F_ACK, family, id)?;
        self.read(&mut Vec::new()).map(drop)
    }

    fn ask(&self, kind: u16, flags: u16, family: u8, id: SocketId) -> io::Result<()> {
        let query = Query {
            header: Header {
                length: size_of::<Query>() as u32,
                kind,
                flags: NLM_F_REQUEST | flags,
                sequence: 1,
                port: 0,
            },
            family,
            protocol: IPPROTO_UDP,
            extensions: 0,
            padding: 0,
            states: CONNECTED,
            id,
        };
        send(&self.socket, bytemuck::bytes_of(&query), SendFlags::empty())?;
        Ok(())
    }

    /// Reads one datagram of answers; whether more follow.
    fn read(&self, found: &mut Vec<SocketId>) -> io::Result<bool> {
        let mut buffer = vec![0; 64 * 1024];
        let (_, length) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some(header) = prefix::<Header>(rest) {
            let length = header.length as usize;
            let message = rest.get(size_of::<Header>()..length).unwrap_or_default();
            match header.kind {
                NLMSG_DONE => return Ok(false),
                NLMSG_ERROR => {
                    return match prefix::<i32>(message) {
                        Some(0) => Ok(false),
                        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                        None => Err(io::ErrorKind::InvalidData.into()),
                    };
                }
                SOCK_DIAG_BY_FAMILY => found.extend(prefix::<Found>(message).map(|one| one.id)),
                _ => {}
            }
            // Messages are aligned to 4 bytes; one without a length ends the datagram.
            let next = length.next_multiple_of(4);
            if next < size_of::<Header>() {
                break;
            }
            rest = rest.get(next..).unwrap_or_default();
        }
        Ok(true)
    }
}

fn prefix<T: Pod>(bytes: &[u8]) -> Option<T> {
    bytes.get(..size_of::<T>()).map(bytemuck::pod_read_unaligned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn the_layouts_are_those_of_the_kernel() {
        assert_eq!(
            (size_of::<SocketId>(), size_of::<Query>(), size_of::<Found>()),
            (48, 72, 52)
        );
    }

    #[test]
    fn connected_sockets_are_listed_and_others_are_not() {
        for (any, family) in [("127.0.0.1:0", FAMILIES[0]), ("[::1]:0", FAMILIES[1])] {
            let [server, client] = [any, any].map(|address| UdpSocket::bind(address).expect("bind"));
            client.connect(server.local_addr().expect("address")).expect("connect");
            let port = |socket: &UdpSocket| socket.local_addr().expect("address").port().to_be_bytes();
            let listed = Diag::open().expect("sock_diag").connected(family).expect("list");
            let of_client = listed.iter().find(|id| id.source_port == port(&client));
            assert_eq!(of_client.expect("listed").destination_port, port(&server));
            assert!(listed.iter().all(|id| id.source_port != port(&server)));
        }
    }

    #[test]
    fn nothing_is_destroyed_but_the_sockets_that_are_named() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let to = server.local_addr().expect("address");
        let [one, other] = ["127.0.0.1:0"; 2].map(|any| {
            let socket = UdpSocket::bind(any).expect("bind");
            socket.connect(to).expect("connect");
            socket
        });
        let diag = Diag::open().expect("sock_diag");
        let port = one.local_addr().expect("address").port().to_be_bytes();
        let listed = diag.connected(FAMILIES[0]).expect("list");
        let id = listed.iter().find(|id| id.source_port == port).expect("listed");
        let cookie = u64::from(id.cookie[0]) | u64::from(id.cookie[1]) << 32;
        match diag.destroy(&BTreeSet::from([cookie])) {
            Ok(destroyed) => assert_eq!(destroyed, [cookie]),
            Err(error) => {
                assert_eq!(
                    error.raw_os_error(),
                    Some(libc::EPERM),
                    "only a missing privilege excuses this"
                );
                eprintln!("skipped: destroying a socket needs CAP_NET_ADMIN");
                return;
            }
        }
        let error = one.recv(&mut [0; 8]).expect_err("destroyed");
        assert_eq!(error.raw_os_error(), Some(libc::ECONNABORTED));
        assert_eq!(other.send(b"still there").expect("send"), 11);
    }
}

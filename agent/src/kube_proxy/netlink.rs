//! Questions to nf_tables and to connection tracking: netlink(7), NETLINK_NETFILTER.

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

/// include/uapi/linux/netfilter/nfnetlink.h and nf_tables.h.
const NFTABLES: u16 = 10 << 8;
const GET_TABLE: u16 = NFTABLES | 1;
const DELETE_TABLE: u16 = NFTABLES | 2;
const GET_CHAIN: u16 = NFTABLES | 4;
const NEW_CHAIN: u16 = NFTABLES | 3;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// Of tables and chains: name of the table; name of the chain.
const TABLE: u16 = 1;
const CHAIN: u16 = 3;

/// Of base chains: the hook, in it its number; the policy.
const CHAIN_HOOK: u16 = 4;
const HOOK_NUMBER: u16 = 1;
const CHAIN_POLICY: u16 = 5;
/// NF_INET_FORWARD and NF_DROP.
const FORWARD: u32 = 2;
const DROP: u32 = 0;

/// include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const CT_GET: u16 = 1 << 8 | 1;
pub(super) const CT_TUPLE_REPLY: u16 = 2;
pub(super) const CT_STATUS: u16 = 3;
pub(super) const CT_PROTOINFO: u16 = 4;
/// Of a tuple: its addresses, and in them each by its family; its protocol, and in it number and ports.
pub(super) const CT_TUPLE_IP: u16 = 1;
pub(super) const CT_TUPLE_PROTO: u16 = 2;
pub(super) const CT_SOURCE: [u16; 2] = [1, 3];
pub(super) const CT_DESTINATION: [u16; 2] = [2, 4];
pub(super) const CT_NUMBER: u16 = 1;
pub(super) const CT_SOURCE_PORT: u16 = 2;
pub(super) const CT_DESTINATION_PORT: u16 = 3;
/// IPS_SRC_NAT.
const SOURCE_CHANGED: u32 = 1 << 4;
/// IPS_DST_NAT.
const DESTINATION_CHANGED: u32 = 1 << 5;
/// TCP_CONNTRACK_ESTABLISHED.
pub(super) const ESTABLISHED: u8 = 3;

pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Bytes of `struct nlmsghdr` and of `struct nfgenmsg`.
pub(super) const HEADER: usize = 16;
pub(super) const GENERIC: usize = 4;

/// A family of nf_tables, with the number it has in messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Family {
    V4 = 2,
    V6 = 10,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

/// How the replies of a connection come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replies {
    /// An IP protocol number.
    pub protocol: u8,
    pub from: SocketAddr,
    pub to: SocketAddr,
}

/// A socket of the network namespace it was opened in.
pub(super) struct Netfilter {
    socket: OwnedFd,
}

impl Netfilter {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::NETFILTER),
        )?;
        Ok(Self { socket })
    }

    /// `None`: the kernel has neither nf_tables nor questions to connection tracking (no `nfnetlink`), so nobody has rules there.
    pub(super) fn open_if_there() -> io::Result<Option<Self>> {
        match Self::open() {
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Whether there is a table of this name.
    pub(super) fn has_table(&self, family: Family, table: &str) -> io::Result<bool> {
        self.exists(&message(GET_TABLE, REQUEST | ACK, family as u8, 0, &[(TABLE, table)]))
    }

    /// Whether a table has a chain of this name.
    pub(super) fn has_chain(&self, family: Family, table: &str, chain: &str) -> io::Result<bool> {
        let names = [(TABLE, table), (CHAIN, chain)];
        self.exists(&message(GET_CHAIN, REQUEST | ACK, family as u8, 0, &names))
    }

    /// Deletes a table with all that is in it, at once; whether it was there.
    pub(super) fn delete_table(&self, family: Family, table: &str) -> io::Result<bool> {
        let mut batch = message(BATCH_BEGIN, REQUEST, 0, NFTABLES >> 8, &[]);
        batch.extend(message(DELETE_TABLE, REQUEST | ACK, family as u8, 0, &[(TABLE, table)]));
        batch.extend(message(BATCH_END, REQUEST, 0, NFTABLES >> 8, &[]));
        self.exists(&batch)
    }

    /// Sends and waits for the answer to it; false where it is ENOENT.
    fn exists(&self, bytes: &[u8]) -> io::Result<bool> {
        match self.ask(bytes)? {
            0 => Ok(true),
            // A kernel without nf_tables knows no such subsystem.
            libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL => Ok(false),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }

    /// Sends and waits for the answer to it, an errno or 0.
    pub(super) fn ask(&self, bytes: &[u8]) -> io::Result<i32> {
        send(&self.socket, bytes, SendFlags::empty())?;
        loop {
            let mut answer = None;
            self.read(|kind, body| {
                if kind == ERROR {
                    answer = error_code(body);
                }
            })?;
            if let Some(code) = answer {
                return Ok(code);
            }
        }
    }

    /// Base chains at the hook for forwarding whose policy is to drop: family and `table chain`.
    pub(super) fn forward_drops(&self) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        self.dump(GET_CHAIN, NEW_CHAIN, |body| found.extend(forward_drop(body)))?;
        Ok(found)
    }

    /// TCP connections that conntrack holds for established and whose destination it changes.
    pub(super) fn translated_connections(&self) -> io::Result<u64> {
        let mut count = 0;
        self.dump(CT_GET, CT_GET_REPLY, |body| {
            count += u64::from(body.get(GENERIC..).is_some_and(is_translated));
        })?;
        Ok(count)
    }

    /// The replies of connections whose source connection tracking has changed.
    pub(super) fn masqueraded(&self) -> io::Result<Vec<Replies>> {
        let mut found = Vec::new();
        self.dump(CT_GET, CT_GET_REPLY, |body| {
            found.extend(body.get(GENERIC..).and_then(masqueraded));
        })?;
        Ok(found)
    }

    /// Asks for all objects of a kind and shows the body of each; nothing where the kernel has no such subsystem.
    fn dump(&self, request: u16, reply: u16, mut visit: impl FnMut(&[u8])) -> io::Result<()> {
        let question = message(request, REQUEST | DUMP, 0, 0, &[]);
        send(&self.socket, &question, SendFlags::empty())?;
        let mut end = None;
        while end.is_none() {
            self.read(|kind, body| match kind {
                DONE => end = Some(0),
                ERROR => end = Some(error_code(body).unwrap_or_default()),
                _ if kind == reply => visit(body),
                _ => {}
            })?;
        }
        match end.unwrap_or_default() {
            0 | libc::EOPNOTSUPP | libc::EINVAL => Ok(()),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }

    /// Reads one datagram, message by message: type and body.
    fn read(&self, mut visit: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        let (_, length) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let (Some(length), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
            let length = length as usize;
            if length < HEADER {
                break;
            }
            visit(kind, rest.get(HEADER..length).unwrap_or_default());
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }
}

/// What an error message says, as errno; 0: it is an acknowledgement.
fn error_code(body: &[u8]) -> Option<i32> {
    let code = body.get(..4)?.try_into().ok()?;
    Some(i32::from_ne_bytes(code).saturating_neg())
}

/// IPCTNL_MSG_CT_NEW, which answers to CT_GET are.
const CT_GET_REPLY: u16 = 1 << 8;

/// Whether the attributes are those of an established TCP connection whose destination is changed.
fn is_translated(attributes: &[u8]) -> bool {
    let status = attribute(attributes, CT_STATUS).and_then(|value| value.get(..4)?.try_into().ok());
    let changed = status.is_some_and(|bytes| u32::from_be_bytes(bytes) & DESTINATION_CHANGED != 0);
    // CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE.
    let state =
        attribute(attributes, CT_PROTOINFO).and_then(|info| attribute(attribute(info, 1)?, 1)?.first().copied());
    changed && state == Some(ESTABLISHED)
}

/// The replies of a connection, if its source is changed.
fn masqueraded(attributes: &[u8]) -> Option<Replies> {
    let status = attribute(attributes, CT_STATUS)?.get(..4)?.try_into().ok()?;
    if u32::from_be_bytes(status) & SOURCE_CHANGED == 0 {
        return None;
    }
    replies(attributes)
}

/// The replies of a connection.
pub(super) fn replies(attributes: &[u8]) -> Option<Replies> {
    let tuple = attribute(attributes, CT_TUPLE_REPLY)?;
    let (addresses, transport) = (attribute(tuple, CT_TUPLE_IP)?, attribute(tuple, CT_TUPLE_PROTO)?);
    let address = |kinds: [u16; 2]| -> Option<IpAddr> {
        if let Some(v4) = attribute(addresses, kinds[0]) {
            return Some(IpAddr::from(<[u8; 4]>::try_from(v4.get(..4)?).ok()?));
        }
        let v6 = attribute(addresses, kinds[1])?.get(..16)?;
        Some(IpAddr::from(<[u8; 16]>::try_from(v6).ok()?))
    };
    let port = |kind| {
        Some(u16::from_be_bytes(
            attribute(transport, kind)?.get(..2)?.try_into().ok()?,
        ))
    };
    Some(Replies {
        protocol: *attribute(transport, CT_NUMBER)?.first()?,
        from: SocketAddr::new(address(CT_SOURCE)?, port(CT_SOURCE_PORT)?),
        to: SocketAddr::new(address(CT_DESTINATION)?, port(CT_DESTINATION_PORT)?),
    })
}

/// What a chain is called, if it is one that drops what is forwarded.
fn forward_drop(body: &[u8]) -> Option<String> {
    let family = match body.first()? {
        1 => "inet",
        2 => "ip",
        10 => "ip6",
        // Bridges and devices forward frames.
        _ => return None,
    };
    let attributes = body.get(GENERIC..)?;
    let number = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?));
    let hook = number(attribute(attribute(attributes, CHAIN_HOOK)?, HOOK_NUMBER)?)?;
    let policy = number(attribute(attributes, CHAIN_POLICY)?)?;
    let text = |kind: u16| {
        let bytes = attribute(attributes, kind)?;
        Some(String::from_utf8_lossy(bytes.strip_suffix(b"\0").unwrap_or(bytes)).into_owned())
    };
    if hook != FORWARD || policy != DROP {
        return None;
    }
    Some(format!("chain {} of table {family} {}", text(CHAIN)?, text(TABLE)?))
}

/// The value of the first attribute of this type.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let length = usize::from(length);
        // The two highest bits say how the value is to be read.
        if kind & 0x3fff == wanted {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A message with attributes of text.
fn message(kind: u16, flags: u16, family: u8, resource: u16, texts: &[(u16, &str)]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    for (kind, text) in texts {
        let length = 4 + text.len() + 1;
        bytes.extend((length as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len() + 1 + (length.next_multiple_of(4) - length), 0);
    }
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((4 + value.len() as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn connection(status: u32, state: u8) -> Vec<u8> {
        let tcp = with_attribute(1 | 0x8000, &with_attribute(1, &[state]));
        [
            with_attribute(1 | 0x8000, &[0; 8]),
            with_attribute(CT_STATUS, &status.to_be_bytes()),
            with_attribute(CT_PROTOINFO | 0x8000, &tcp),
        ]
        .concat()
    }

    #[test]
    fn only_established_connections_whose_destination_is_changed_count() {
        assert!(is_translated(&connection(DESTINATION_CHANGED | 4, ESTABLISHED)));
        assert!(!is_translated(&connection(4, ESTABLISHED)), "not translated");
        assert!(!is_translated(&connection(DESTINATION_CHANGED, 7)), "in TIME_WAIT");
        let whole = connection(DESTINATION_CHANGED, ESTABLISHED);
        for end in 0..whole.len() {
            is_translated(&whole[..end]);
        }
    }

    #[test]
    fn the_replies_of_a_masqueraded_connection_are_read() {
        let addresses = [with_attribute(1, &[10, 0, 0, 9]), with_attribute(2, &[192, 0, 2, 1])].concat();
        let transport = [
            with_attribute(1, &[6]),
            with_attribute(2, &8080_u16.to_be_bytes()),
            with_attribute(3, &24_001_u16.to_be_bytes()),
        ]
        .concat();
        let tuple = [
            with_attribute(1 | 0x8000, &addresses),
            with_attribute(2 | 0x8000, &transport),
        ]
        .concat();
        let connection = |status: u32| {
            [
                with_attribute(CT_TUPLE_REPLY | 0x8000, &tuple),
                with_attribute(CT_STATUS, &status.to_be_bytes()),
            ]
            .concat()
        };
        let expected = Replies {
            protocol: 6,
            from: "10.0.0.9:8080".parse().expect("an address"),
            to: "192.0.2.1:24001".parse().expect("an address"),
        };
        let whole = connection(SOURCE_CHANGED | DESTINATION_CHANGED);
        assert_eq!(masqueraded(&whole), Some(expected));
        assert_eq!(masqueraded(&connection(DESTINATION_CHANGED)), None);
        for end in 0..whole.len() {
            masqueraded(&whole[..end]);
        }
    }

    #[test]
    fn a_message_has_the_kernel_s_layout() {
        let bytes = message(GET_TABLE, REQUEST | ACK, 2, 0, &[(TABLE, "nat")]);
        assert_eq!(bytes.len(), HEADER + GENERIC + 8);
        assert_eq!(u32_at(&bytes, 0), Some(bytes.len() as u32));
        assert_eq!(attribute(&bytes[HEADER + GENERIC..], TABLE), Some(&b"nat\0"[..]));
    }

    #[test]
    fn what_nobody_has_made_is_not_there() {
        let netfilter = Netfilter::open().expect("a socket");
        for family in Family::BOTH {
            match netfilter.has_table(family, "fg-nobody-makes-this") {
                Ok(found) => assert!(!found),
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM)),
            }
        }
    }
}

//! Connections that connection tracking shall know of, though it never sees a packet of theirs.

use super::netlink::{
    ACK, CT_DESTINATION, CT_DESTINATION_PORT, CT_NUMBER, CT_PROTOINFO, CT_SOURCE, CT_SOURCE_PORT, CT_STATUS,
    CT_TUPLE_IP, CT_TUPLE_PROTO, CT_TUPLE_REPLY, ESTABLISHED, GENERIC, HEADER, Netfilter, REQUEST, Replies,
};
use ferrogate_common::Protocol;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// IPCTNL_MSG_CT_NEW, CTA_TUPLE_ORIG and CTA_TIMEOUT (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const CT_NEW: u16 = 1 << 8;
const CT_TUPLE_ORIGINAL: u16 = 1;
const CT_TIMEOUT: u16 = 7;
/// IPS_SEEN_REPLY and IPS_ASSURED: no table that is full throws it out before others. And IPS_CONFIRMED, which all have that are made
/// by this way, and may not be changed by it.
const ASSURED: u32 = 1 << 1 | 1 << 2 | 1 << 3;
/// NLM_F_CREATE and NLM_F_EXCL, NLA_F_NESTED.
const CREATE: u16 = 0x400 | 0x200;
const NESTED: u16 = 1 << 15;

/// Seconds after which connection tracking forgets it: most connections have ended by then, and no port is lost for good.
const LIFETIME: u32 = 24 * 60 * 60;

impl Netfilter {
    /// Enters a connection with these replies, unless there is one.
    pub(super) fn reserve(&self, replies: &Replies) -> io::Result<()> {
        match self.ask(&entry(replies))? {
            0 | libc::EEXIST => Ok(()),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// The message.
fn entry(replies: &Replies) -> Vec<u8> {
    let mut body = vec![
        if replies.to.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        } as u8,
        0,
        0,
        0,
    ];
    debug_assert_eq!(body.len(), GENERIC);
    body.extend(tuple(CT_TUPLE_ORIGINAL, replies.protocol, replies.to, replies.from));
    body.extend(tuple(CT_TUPLE_REPLY, replies.protocol, replies.from, replies.to));
    body.extend(attribute(CT_STATUS, &ASSURED.to_be_bytes()));
    if replies.protocol == Protocol::Tcp as u8 {
        // CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE.
        let state = attribute(1 | NESTED, &attribute(1, &[ESTABLISHED]));
        body.extend(attribute(CT_PROTOINFO | NESTED, &state));
    }
    body.extend(attribute(CT_TIMEOUT, &LIFETIME.to_be_bytes()));
    let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(CT_NEW.to_ne_bytes());
    message.extend((REQUEST | ACK | CREATE).to_ne_bytes());
    message.resize(HEADER, 0);
    message.extend(body);
    message
}

fn tuple(kind: u16, protocol: u8, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let address = |kinds: [u16; 2], ip: IpAddr| match ip {
        IpAddr::V4(v4) => attribute(kinds[0], &v4.octets()),
        IpAddr::V6(v6) => attribute(kinds[1], &v6.octets()),
    };
    let addresses = [address(CT_SOURCE, from.ip()), address(CT_DESTINATION, to.ip())].concat();
    let transport = [
        attribute(CT_NUMBER, &[protocol]),
        attribute(CT_SOURCE_PORT, &from.port().to_be_bytes()),
        attribute(CT_DESTINATION_PORT, &to.port().to_be_bytes()),
    ];
    let both = [
        attribute(CT_TUPLE_IP | NESTED, &addresses),
        attribute(CT_TUPLE_PROTO | NESTED, &transport.concat()),
    ];
    attribute(kind | NESTED, &both.concat())
}

/// One attribute, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::netlink::replies;
    use super::*;

    #[test]
    fn an_entry_is_read_as_what_it_was_made_of() {
        for (protocol, from, to) in [
            (6, "10.244.1.5:8080", "192.0.2.1:24001"),
            (17, "[fd00:244::5]:53", "[fd00::1]:28095"),
        ] {
            let made = Replies {
                protocol,
                from: from.parse().expect("an address"),
                to: to.parse().expect("an address"),
            };
            let message = entry(&made);
            assert_eq!(message[..4], (message.len() as u32).to_ne_bytes());
            assert_eq!(replies(&message[HEADER + GENERIC..]), Some(made));
        }
    }
}

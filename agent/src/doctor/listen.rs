//! Sockets of this network namespace that listen: /proc/net.

use std::collections::BTreeSet;
use std::fs;

/// A port that a process listens on: `TCP` or `UDP`, and the number.
pub(super) type Listener = (&'static str, u16);

const FILES: [(&str, &str, &str); 4] = [
    // TCP_LISTEN; a UDP socket that is not connected is in TCP_CLOSE.
    ("/proc/net/tcp", "TCP", "0A"),
    ("/proc/net/tcp6", "TCP", "0A"),
    ("/proc/net/udp", "UDP", "07"),
    ("/proc/net/udp6", "UDP", "07"),
];

/// Those that can be read.
pub(super) fn listeners() -> BTreeSet<Listener> {
    let mut found = BTreeSet::new();
    for (file, protocol, state) in FILES {
        let text = fs::read_to_string(file).unwrap_or_default();
        found.extend(
            text.lines()
                .skip(1)
                .filter_map(|line| port(line, state))
                .map(|port| (protocol, port)),
        );
    }
    found
}

/// `  0: 0100007F:1F90 00000000:0000 0A ...`: the local port of a socket in this state, on an address that others reach.
fn port(line: &str, state: &str) -> Option<u16> {
    let mut fields = line.split_whitespace();
    let local = fields.nth(1)?;
    if fields.nth(1)? != state {
        return None;
    }
    let (address, port) = local.rsplit_once(':')?;
    // 127.0.0.0/8 and ::1, as the kernel writes them: words of the machine's order.
    let loopback = (address.len() == 8 && address.ends_with("7F")) || address == "00000000000000000000000001000000";
    if loopback {
        return None;
    }
    u16::from_str_radix(port, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_told_from_others() {
        for (line, state, found) in [
            (
                "   0: 00000000:7594 00000000:0000 0A 00000000:00000000",
                "0A",
                Some(30_100),
            ),
            ("   0: 0100007F:7594 00000000:0000 0A 00000000:00000000", "0A", None),
            ("   1: 0A00000A:7594 0A00000B:C000 01 00000000:00000000", "0A", None),
            (
                "   2: 00000000000000000000000000000000:7594 00000000000000000000000000000000:0000 0A 0",
                "0A",
                Some(30_100),
            ),
            (
                "   3: 00000000000000000000000001000000:7594 00000000000000000000000000000000:0000 0A 0",
                "0A",
                None,
            ),
            ("garbage", "0A", None),
            ("", "0A", None),
        ] {
            assert_eq!(port(line, state), found, "{line}");
        }
    }

    #[test]
    fn a_socket_that_listens_is_found() {
        let socket = std::net::TcpListener::bind("0.0.0.0:0").expect("a socket");
        let port = socket.local_addr().expect("its address").port();
        assert!(listeners().contains(&("TCP", port)));
    }
}

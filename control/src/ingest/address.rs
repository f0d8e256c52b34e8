//! Which texts are addresses that a table may hold.

use ipnet::IpNet;
use std::net::IpAddr;

/// The address a field names. An IPv6 address that is a v4-mapped one is none: in the tables it would be an IPv4
/// address.
pub(super) fn parse(text: &str) -> Option<IpAddr> {
    match text.parse().ok()? {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => None,
        ip => Some(ip),
    }
}

/// The network that a field names, host bits cut off. As for addresses, an IPv6 one of v4-mapped addresses is none.
pub(super) fn parse_network(text: &str) -> Option<IpNet> {
    let net: IpNet = text.parse().ok()?;
    parse(&net.addr().to_string()).map(|_| net.trunc())
}

/// Why an address can be nobody's endpoint and nobody's external address; none for ordinary ones.
pub(super) fn special(ip: &IpAddr) -> Option<&'static str> {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if link_local { Some("link-local") } else { unusable(ip) }
}

/// Why an address cannot be a frontend at all. The unspecified ones stand for NodePorts in the tables.
pub(super) fn unusable(ip: &IpAddr) -> Option<&'static str> {
    if ip.is_unspecified() {
        Some("unspecified")
    } else if ip.is_loopback() {
        Some("loopback")
    } else if ip.is_multicast() {
        Some("multicast")
    } else if matches!(ip, IpAddr::V4(v4) if v4.is_broadcast()) {
        Some("broadcast")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_only_in_its_plain_form() {
        assert!(parse("10.0.0.1").is_some());
        assert!(parse("fd00::1").is_some());
        for text in [
            "",
            "None",
            "10.0.0",
            "010.0.0.1",
            "10.0.0.1/32",
            " 10.0.0.1",
            "::ffff:10.0.0.1",
            "fe80::1%eth0",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_network_loses_its_host_bits_and_is_of_one_family() {
        let read = |text| parse_network(text).map(|net| net.to_string());
        assert_eq!(read("10.1.2.3/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(read("fd00::1/64").as_deref(), Some("fd00::/64"));
        for text in ["10.0.0.1", "10.0.0.0/33", "", "::ffff:10.0.0.0/104", "all"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn special_addresses_have_a_class() {
        for (text, class) in [
            ("0.0.0.0", "unspecified"),
            ("::", "unspecified"),
            ("127.0.0.1", "loopback"),
            ("::1", "loopback"),
            ("169.254.169.254", "link-local"),
            ("fe80::1", "link-local"),
            ("224.0.0.1", "multicast"),
            ("ff02::1", "multicast"),
            ("255.255.255.255", "broadcast"),
        ] {
            assert_eq!(special(&text.parse().unwrap()), Some(class), "{text}");
        }
        assert_eq!(special(&"10.0.0.1".parse().unwrap()), None);
        assert_eq!(unusable(&"169.254.1.1".parse().unwrap()), None);
    }
}

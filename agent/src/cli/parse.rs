//! Values of options: each parser's error says what is wrong and what is accepted.

use ferrogate_common::maps;
use ipnet::IpNet;
use std::net::IpAddr;

/// A range of ports, both ends included, host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    pub base: u16,
    pub end: u16,
}

impl PortRange {
    /// Number of ports.
    pub fn count(self) -> u16 {
        self.end - self.base + 1
    }
}

/// Fewest ports that SNAT can reasonably work with.
const MIN_SNAT_PORTS: u16 = 64;

/// `24000-28095`.
pub fn port_range(text: &str) -> Result<PortRange, String> {
    let parsed = text
        .split_once('-')
        .and_then(|(base, end)| Some((base.trim().parse::<u16>().ok()?, end.trim().parse::<u16>().ok()?)));
    let Some((base, end)) = parsed else {
        return Err("not a port range; write it as BASE-END, for example 24000-28095".to_owned());
    };
    if base < 1024 {
        return Err(format!("the range begins at {base}; choose ports from 1024 up"));
    }
    if end < base || end - base < MIN_SNAT_PORTS - 1 {
        return Err(format!(
            "the range must hold at least {MIN_SNAT_PORTS} ports, BASE first"
        ));
    }
    Ok(PortRange { base, end })
}

/// `10.0.0.0/8`, `fd00::/8`, or a single address. Host bits are cut off.
pub fn cidr(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    if let Ok(net) = text.parse::<IpNet>() {
        return Ok(net.trunc());
    }
    text.parse::<IpAddr>()
        .map(IpNet::from)
        .map_err(|_| "not an address or CIDR; write for example 203.0.113.0/24 or fd00::/64".to_owned())
}

/// Maps of up to this many entries are sized by the ABI.
const FIXED_MAP_ENTRIES: u32 = 64;

/// `FLOWS=500000`: a map of the datapath and its size.
pub fn map_entries(text: &str) -> Result<(String, u32), String> {
    let Some((name, entries)) = text.split_once('=') else {
        return Err("write it as NAME=N, for example FLOWS=500000".to_owned());
    };
    let name = name.trim().to_ascii_uppercase();
    let sizable: Vec<&str> = maps::ALL
        .iter()
        .filter(|map| map.entries > FIXED_MAP_ENTRIES)
        .map(|map| map.name)
        .collect();
    if !sizable.contains(&name.as_str()) {
        return Err(format!(
            "no map {name:?} whose size can be chosen; these are: {}",
            sizable.join(", ")
        ));
    }
    match entries.trim().parse::<u32>() {
        Ok(entries) if entries > 1 => Ok((name, entries)),
        _ => Err(format!(
            "{entries:?} is no number of entries; give a whole number above 1"
        )),
    }
}

/// `https://10.0.0.1:6443`: where the API server answers.
pub fn api_server(text: &str) -> Result<String, String> {
    let text = text.trim().trim_end_matches('/');
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match host {
        Some(host) if !host.is_empty() && !host.contains(char::is_whitespace) => Ok(text.to_owned()),
        _ => Err("not a URL; write for example https://10.0.0.1:6443".to_owned()),
    }
}

/// A Node's name: RFC 1123 subdomain.
pub fn node_name(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    if text.is_empty() || text.len() > 253 || !text.bytes().all(good) {
        return Err(
            "not a Node's name: lower-case letters, digits, '-' and '.', 253 at most; see `kubectl get nodes`"
                .to_owned(),
        );
    }
    Ok(text.to_owned())
}

/// `order-service` or `default/order-service`.
pub fn service_filter(text: &str) -> Result<String, String> {
    match text.matches('/').count() {
        0 | 1 if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        _ => Err("write NAME or NAMESPACE/NAME".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges_are_read_and_bad_ones_say_why() {
        assert_eq!(port_range("24000-28095").map(PortRange::count), Ok(4096));
        assert!(port_range("24000").unwrap_err().contains("BASE-END"));
        assert!(port_range("80-9000").unwrap_err().contains("1024"));
        assert!(port_range("28095-24000").unwrap_err().contains("at least 64"));
        assert!(port_range("24000-70000").unwrap_err().contains("BASE-END"));
    }

    #[test]
    fn cidrs_may_be_single_addresses_and_lose_their_host_bits() {
        assert_eq!(
            cidr("10.1.2.3/8").map(|net| net.to_string()),
            Ok("10.0.0.0/8".to_owned())
        );
        assert_eq!(
            cidr("192.0.2.7").map(|net| net.to_string()),
            Ok("192.0.2.7/32".to_owned())
        );
        assert_eq!(cidr("fd00::1").map(|net| net.to_string()), Ok("fd00::1/128".to_owned()));
        assert!(cidr("10.0.0.0/33").unwrap_err().contains("CIDR"));
    }

    #[test]
    fn map_sizes_name_a_known_map() {
        assert_eq!(map_entries("flows=1000"), Ok(("FLOWS".to_owned(), 1000)));
        assert!(map_entries("FLOW=1000").unwrap_err().contains("FLOWS"));
        assert!(map_entries("CONFIG=2").unwrap_err().contains("no map"));
        assert!(map_entries("FLOWS=many").unwrap_err().contains("whole number"));
        assert!(map_entries("FLOWS").unwrap_err().contains("NAME=N"));
    }

    #[test]
    fn an_api_server_is_a_url_and_a_node_name_is_a_dns_name() {
        assert_eq!(
            api_server("https://10.0.0.1:6443/"),
            Ok("https://10.0.0.1:6443".to_owned())
        );
        assert!(api_server("10.0.0.1:6443").unwrap_err().contains("https://"));
        assert!(node_name("node-1.example.org").is_ok());
        assert!(node_name("Node_1").is_err());
        assert!(service_filter("a/b/c").is_err());
    }
}

//! Values of options: each parser's error says what is wrong and what is accepted.

use crate::kernel::MapMemory;
use crate::net::NodePortAddresses;
use ferrogate_common::maps;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

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

/// A network as in [`cidr`], or `primary`.
pub fn node_port_addresses(text: &str) -> Result<NodePortAddresses, String> {
    if text.trim() == "primary" {
        return Ok(NodePortAddresses::Primary);
    }
    cidr(text)
        .map(NodePortAddresses::In)
        .map_err(|why| format!("{why}, or primary"))
}

/// Fewest slots that spread a few endpoints evenly.
const MIN_TABLE: u16 = 101;

/// A prime from 101 to 65521.
pub fn table_size(text: &str) -> Result<u16, String> {
    let size = text.trim().parse::<u16>().ok().filter(|size| *size >= MIN_TABLE);
    let is_prime = |size: u16| (2..=255.min(size - 1)).all(|divisor| !size.is_multiple_of(divisor));
    size.filter(|size| is_prime(*size))
        .ok_or_else(|| "not a prime number from 101 to 65521, for example 1009, 4093, 16381 or 65521".to_owned())
}

/// `FLOWS=500000`: a map of the datapath and its size.
pub fn map_entries(text: &str) -> Result<(String, u32), String> {
    let Some((name, entries)) = text.split_once('=') else {
        return Err("write it as NAME=N, for example FLOWS=500000".to_owned());
    };
    let name = name.trim().to_ascii_uppercase();
    let sizable: Vec<&str> = maps::ALL
        .iter()
        .filter(|map| map.is_sizable())
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

/// `0.5%` of the node's memory, or bytes: `200Mi`.
pub fn map_memory(text: &str) -> Result<MapMemory, String> {
    let text = text.trim();
    let no = || "write a share of the node's memory, for example 0.5%, or an amount, for example 200Mi".to_owned();
    if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent.trim().parse().map_err(|_| no())?;
        return match percent > 0.0 && percent <= 50.0 {
            true => Ok(MapMemory::Percent(percent)),
            false => Err("give a share above 0% and up to 50%".to_owned()),
        };
    }
    let end = text.find(|character: char| !character.is_ascii_digit());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let shift = match unit {
        "" => 0,
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        _ => return Err(no()),
    };
    let number: u64 = number.parse().map_err(|_| no())?;
    number.checked_mul(1 << shift).map(MapMemory::Bytes).ok_or_else(no)
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

/// Where a server listens; `None`: nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bind(pub Option<SocketAddr>);

/// kube-proxy's ports (`pkg/cluster/ports`).
const HEALTHZ_PORT: u16 = 10_256;
const METRICS_PORT: u16 = 10_249;
/// Beside them; nothing of Kubernetes listens there.
const UI_PORT: u16 = 10_261;

/// `0.0.0.0:10256`, `[::]`, or `off`.
pub fn healthz_bind(text: &str) -> Result<Bind, String> {
    bind(text, HEALTHZ_PORT)
}

/// `127.0.0.1:10249`, `[::1]`, or `off`.
pub fn metrics_bind(text: &str) -> Result<Bind, String> {
    bind(text, METRICS_PORT)
}

/// `127.0.0.1:10261`, `[::1]`, or `off`.
pub fn ui_bind(text: &str) -> Result<Bind, String> {
    bind(text, UI_PORT)
}

/// The port may be left out.
fn bind(text: &str, port: u16) -> Result<Bind, String> {
    let text = text.trim();
    if text.is_empty() || text == "off" {
        return Ok(Bind(None));
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    let address = text
        .parse()
        .or_else(|_| bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port)));
    match address {
        Ok(address) if address.port() != 0 => Ok(Bind(Some(address))),
        _ => Err(format!(
            "not an address to listen on; write IP or IP:PORT, for example 0.0.0.0:{port} or [::]:{port}, or off"
        )),
    }
}

/// `60s`, `2m`, `1500ms`, `1h`; at least a second.
pub fn duration(text: &str) -> Result<Duration, String> {
    match milliseconds(text.trim()) {
        Some(milliseconds) if milliseconds >= 1000 => Ok(Duration::from_millis(milliseconds)),
        Some(_) => Err("give at least 1s".to_owned()),
        None => Err("not a time; write a whole number and its unit, for example 60s, 2m or 1500ms".to_owned()),
    }
}

/// A time as Go writes it, without fractions: `90s`, `1h30m`, `2h0m0s`.
fn milliseconds(mut text: &str) -> Option<u64> {
    let mut sum = 0u64;
    loop {
        let (number, rest) = text.split_at(text.find(|character: char| !character.is_ascii_digit())?);
        let unit = rest.split_at(
            rest.find(|character: char| character.is_ascii_digit())
                .unwrap_or(rest.len()),
        );
        let milliseconds = match unit.0 {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        sum = sum.checked_add(number.parse::<u64>().ok()?.checked_mul(milliseconds)?)?;
        text = unit.1;
        if text.is_empty() {
            return Some(sum);
        }
    }
}

/// A [`duration`] that the datapath can hold.
pub fn udp_timeout(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    match u16::try_from(crate::kernel::ticks(time)) {
        Ok(_) => Ok(time),
        Err(_) => Err("give 19h at most".to_owned()),
    }
}

/// How many at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit(pub usize);

/// `1000`, or `off` for none.
pub fn limit(text: &str) -> Result<Limit, String> {
    match text.trim() {
        "off" => Ok(Limit(0)),
        number => number
            .parse()
            .map(Limit)
            .map_err(|_| "neither a whole number nor off".to_owned()),
    }
}

/// `order-service` or `default/order-service`.
pub fn service_filter(text: &str) -> Result<String, String> {
    match text.matches('/').count() {
        0 | 1 if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        _ => Err("write NAME or NAMESPACE/NAME".to_owned()),
    }
}

/// `[NAMESPACE/]NAME[:PORT]`.
pub fn service_and_port(text: &str) -> Result<String, String> {
    let (service, port) = match text.trim().split_once(':') {
        Some((service, port)) => (service, Some(port)),
        None => (text.trim(), None),
    };
    let well_formed = !service.split('/').any(str::is_empty)
        && service.matches('/').count() < 2
        && port.is_none_or(|port| !port.is_empty() && !port.contains([':', '/']));
    if well_formed {
        Ok(text.trim().to_owned())
    } else {
        Err("write NAME, NAMESPACE/NAME or NAMESPACE/NAME:PORT".to_owned())
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
    fn a_server_listens_on_an_address_with_or_without_its_port_or_not_at_all() {
        let at = |text: &str| healthz_bind(text).map(|bind| bind.0.map(|address| address.to_string()));
        assert_eq!(at("0.0.0.0"), Ok(Some("0.0.0.0:10256".to_owned())));
        assert_eq!(at("::"), Ok(Some("[::]:10256".to_owned())));
        assert_eq!(at("[::1]:99"), Ok(Some("[::1]:99".to_owned())));
        assert_eq!(
            metrics_bind("[::1]").map(|bind| bind.0.map(|address| address.port())),
            Ok(Some(10_249))
        );
        assert_eq!((at("off"), at("")), (Ok(None), Ok(None)));
        for wrong in ["10256", "host:10256", "1.2.3.4:0", "1.2.3.4:99999"] {
            assert!(at(wrong).unwrap_err().contains("IP:PORT"), "{wrong}");
        }
    }

    #[test]
    fn node_ports_answer_in_networks_or_on_primary_addresses() {
        assert_eq!(node_port_addresses(" primary"), Ok(NodePortAddresses::Primary));
        let network = cidr("192.0.2.0/24").map(NodePortAddresses::In);
        assert_eq!(node_port_addresses("192.0.2.0/24"), network);
        assert!(node_port_addresses("secondary").unwrap_err().ends_with("or primary"));
    }

    #[test]
    fn a_table_s_size_is_a_prime() {
        for good in [101, 251, 1009, 16_381, 65_521] {
            assert_eq!(table_size(&good.to_string()), Ok(good));
        }
        for bad in ["97", "16384", "65536", "-7", "63001"] {
            assert!(table_size(bad).unwrap_err().contains("16381"), "{bad}");
        }
    }

    #[test]
    fn times_have_a_unit_and_limits_can_be_off() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2h0m5s"), Ok(Duration::from_secs(7205)));
        assert!(udp_timeout("20h").unwrap_err().contains("19h"));
        assert_eq!(udp_timeout("19h"), Ok(Duration::from_secs(68_400)));
        for wrong in ["60", "s", "-1s", "1.5s", "99999999999999999h"] {
            assert!(duration(wrong).unwrap_err().contains("60s"), "{wrong}");
        }
        assert!(duration("10ms").unwrap_err().contains("1s"));
        assert_eq!((limit("off"), limit("50")), (Ok(Limit(0)), Ok(Limit(50))));
        assert!(limit("many").unwrap_err().contains("off"));
    }

    #[test]
    fn map_sizes_name_a_known_map() {
        assert_eq!(map_entries("flows=1000"), Ok(("FLOWS".to_owned(), 1000)));
        assert!(map_entries("FLOW=1000").unwrap_err().contains("FLOWS"));
        for fixed in ["CONFIG=2", "ADDRESSES=100", "CURSORS=100", "ACTIVE=100"] {
            assert!(map_entries(fixed).unwrap_err().contains("no map"), "{fixed}");
        }
        assert!(map_entries("FLOWS=many").unwrap_err().contains("whole number"));
        assert!(map_entries("FLOWS").unwrap_err().contains("NAME=N"));
    }

    #[test]
    fn the_memory_of_maps_is_a_share_or_an_amount() {
        assert_eq!(map_memory("0.25%"), Ok(MapMemory::Percent(0.25)));
        assert_eq!(map_memory("200Mi"), Ok(MapMemory::Bytes(200 << 20)));
        assert_eq!(map_memory("1000000"), Ok(MapMemory::Bytes(1_000_000)));
        for text in [
            "",
            "%",
            "0%",
            "51%",
            "-1%",
            "NaN%",
            "Mi",
            "1.5Gi",
            "2GB",
            "99999999999Gi",
        ] {
            assert!(map_memory(text).is_err(), "{text:?}");
        }
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
        for text in ["web", "shop/web", "shop/web:80", "web:http"] {
            assert_eq!(service_and_port(text).as_deref(), Ok(text));
        }
        for text in ["", "/web", "shop/", "a/b/c", "web:", "web:80/TCP", "web:80:90"] {
            assert!(service_and_port(text).is_err(), "{text:?}");
        }
    }
}

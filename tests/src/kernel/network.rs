//! A network namespace whose routes and neighbours are known.
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ferrogate_common::{Address, Interface, LOOPBACK, interface_flags};
use ferrogate_datapath::host::{HostDevice, HostFib, HostRoute, Target};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// The devices, by what they stand for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// The way to clients and to other nodes.
    Uplink,
    /// Another one, with a small MTU.
    Narrow,
    /// A pod's interface, routed.
    Pod,
    /// A bridge of pods.
    Bridge,
    /// A port of the bridge.
    Port,
    /// Where the node speaks to itself.
    Loopback,
}

impl Place {
    /// Those that are made here.
    const MADE: [Self; 5] = [Self::Uplink, Self::Narrow, Self::Pod, Self::Bridge, Self::Port];

    /// The device's name.
    pub const fn device(self) -> &'static str {
        match self {
            Self::Uplink => "fgup0",
            Self::Narrow => "fgup1",
            Self::Pod => "fgpod0",
            Self::Bridge => "fgbr0",
            Self::Port => "fgbp0",
            Self::Loopback => "lo",
        }
    }

    /// The device's MTU.
    const fn mtu(self) -> u16 {
        match self {
            Self::Narrow => 1400,
            // One more, in fact.
            Self::Loopback => u16::MAX,
            _ => 1500,
        }
    }

    /// Its link-layer address.
    const fn mac(self) -> [u8; 6] {
        match self {
            Self::Loopback => [0; 6],
            _ => [2, 0xfe, 0, 0, 0, self as u8 + 1],
        }
    }
}

/// Addresses of the node, by place.
const ADDRESSES: &[(Place, &str, u8)] = &[
    (Place::Uplink, "192.0.2.10", 24),
    (Place::Uplink, "2001:db8:0:1::10", 64),
    (Place::Narrow, "203.0.113.10", 24),
    (Place::Narrow, "2001:db8:0:2::10", 64),
    (Place::Pod, "10.244.1.1", 32),
    (Place::Pod, "2001:db8:244:1::1", 128),
    (Place::Bridge, "10.244.9.1", 24),
    (Place::Bridge, "2001:db8:244:9::1", 64),
];

/// Neighbours that are resolved.
const NEIGHBOURS: &[(Place, &str)] = &[
    (Place::Uplink, "192.0.2.1"),
    (Place::Uplink, "192.0.2.2"),
    (Place::Uplink, "2001:db8:0:1::1"),
    (Place::Uplink, "2001:db8:0:1::2"),
    (Place::Narrow, "203.0.113.1"),
    (Place::Narrow, "2001:db8:0:2::1"),
    (Place::Pod, "10.244.1.2"),
    (Place::Pod, "2001:db8:244:1::2"),
    (Place::Bridge, "10.244.9.2"),
    (Place::Bridge, "10.244.9.3"),
    (Place::Bridge, "2001:db8:244:9::2"),
    (Place::Bridge, "2001:db8:244:9::3"),
];

/// Routes beside those that come with the addresses: network, prefix, place and gateway; no place: unreachable.
const ROUTES: &[(&str, u8, Option<Place>, Option<&str>)] = &[
    ("0.0.0.0", 0, Some(Place::Uplink), Some("192.0.2.1")),
    ("10.244.1.2", 32, Some(Place::Pod), None),
    ("10.244.2.0", 24, Some(Place::Uplink), Some("192.0.2.2")),
    ("10.244.3.0", 24, Some(Place::Narrow), Some("203.0.113.1")),
    // No neighbour of this address is known.
    ("10.244.4.0", 24, Some(Place::Uplink), Some("192.0.2.77")),
    ("10.244.5.0", 24, None, None),
    ("::", 0, Some(Place::Uplink), Some("2001:db8:0:1::1")),
    ("2001:db8:244:1::2", 128, Some(Place::Pod), None),
    ("2001:db8:244:2::", 64, Some(Place::Uplink), Some("2001:db8:0:1::2")),
    ("2001:db8:244:3::", 64, Some(Place::Narrow), Some("2001:db8:0:2::1")),
    ("2001:db8:244:4::", 64, Some(Place::Uplink), Some("2001:db8:0:1::77")),
    ("2001:db8:244:5::", 64, None, None),
];

/// The namespace that this thread is in from now on, to its end.
#[derive(Clone, Debug)]
pub struct Network {
    /// Devices' ifindexes.
    pub ifindexes: BTreeMap<Place, u32>,
    /// The kernel's routing table as a host has it.
    pub fib: HostFib,
    /// Addresses for SNAT: what `SOURCES` shall hold, by index.
    pub sources: Vec<Address>,
}

impl Network {
    /// Moves this thread into a network namespace of its own and builds everything. The namespace ends with the thread.
    pub fn enter() -> Result<Self> {
        // SAFETY: only the network namespace changes, which no other thread's memory or descriptors depend on.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("a network namespace: is this root?")?;
        for setting in ["ipv4/conf/all/forwarding", "ipv4/conf/default/forwarding"] {
            fs::write(format!("/proc/sys/net/{setting}"), "1").context(setting)?;
        }
        for setting in ["ipv6/conf/all/forwarding", "ipv6/conf/default/forwarding"] {
            fs::write(format!("/proc/sys/net/{setting}"), "1").context(setting)?;
        }
        ip(&commands())?;
        let mut ifindexes = BTreeMap::from([(Place::Loopback, LOOPBACK)]);
        for place in Place::MADE {
            let index = rustix::net::netdevice::name_to_index(
                rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?,
                place.device(),
            )?;
            ifindexes.insert(place, index);
        }
        let fib = fib(&ifindexes);
        let mut sources = vec![Address::UNSPECIFIED];
        sources.extend(ADDRESSES.iter().map(|(_, address, _)| parsed(address)));
        Ok(Self {
            ifindexes,
            fib,
            sources,
        })
    }

    /// Runs lines of `ip` in the namespace; the host's routing table stays as it is.
    pub fn change(&self, lines: &str) -> Result<()> {
        ip(lines)
    }

    /// A device's ifindex.
    pub fn ifindex(&self, place: Place) -> u32 {
        self.ifindexes[&place]
    }

    /// What `INTERFACES` says of a device, if anything.
    pub fn interface(&self, place: Place) -> Interface {
        let layer3 = if place == Place::Port { Place::Bridge } else { place };
        let source = |v4: bool| {
            let own = |(at, address, _): &(Place, &str, u8)| *at == layer3 && parsed(address).is_v4() == v4;
            ADDRESSES.iter().position(own).map_or(0, |index| index as u16 + 1)
        };
        Interface {
            layer3: self.ifindex(layer3),
            source4: source(true),
            source6: source(false),
            flags: match place {
                Place::Uplink => interface_flags::UPLINK | interface_flags::XDP_TARGET,
                Place::Narrow => interface_flags::UPLINK,
                Place::Pod => interface_flags::POD | interface_flags::PEER,
                Place::Bridge => interface_flags::POD,
                Place::Port => interface_flags::POD | interface_flags::BRIDGE_PORT,
                Place::Loopback => 0,
            },
            reserved: 0,
        }
    }
}

/// An address of the constants above.
fn parsed(text: &str) -> Address {
    address(text).into()
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("a constant of this file")
}

/// The link-layer address of a neighbour.
fn neighbour_mac(index: usize) -> [u8; 6] {
    [2, 0xfd, 0, 0, 0, index as u8 + 1]
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// What `ip` builds the namespace from.
fn commands() -> String {
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("link add {} type bridge", Place::Bridge.device()),
    ];
    for place in [Place::Uplink, Place::Narrow, Place::Pod, Place::Port] {
        let device = place.device();
        lines.push(format!("link add {device} type veth peer name {device}p"));
        lines.push(format!("link set {device}p addrgenmode none up"));
    }
    lines.push(format!(
        "link set {} master {}",
        Place::Port.device(),
        Place::Bridge.device()
    ));
    for place in Place::MADE {
        let (device, mac, mtu) = (place.device(), text(place.mac()), place.mtu());
        lines.push(format!("link set {device} address {mac} mtu {mtu} addrgenmode none up"));
    }
    for (place, address, prefix) in ADDRESSES {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        lines.push(format!("address add {address}/{prefix} dev {}{nodad}", place.device()));
    }
    for (index, (place, address)) in NEIGHBOURS.iter().enumerate() {
        let mac = text(neighbour_mac(index));
        lines.push(format!(
            "neighbour add {address} lladdr {mac} dev {} nud permanent",
            place.device()
        ));
    }
    for (network, prefix, place, gateway) in ROUTES {
        let Some(place) = place else {
            lines.push(format!("route add unreachable {network}/{prefix}"));
            continue;
        };
        let via = gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
        lines.push(format!("route add {network}/{prefix}{via} dev {}", place.device()));
    }
    lines.join("\n") + "\n"
}

/// Runs `ip` over lines of commands.
fn ip(lines: &str) -> Result<()> {
    let mut child = Command::new(crate::binaries::system("ip")?)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    child
        .stdin
        .take()
        .context("ip without standard input")?
        .write_all(lines.as_bytes())?;
    ensure!(child.wait()?.success(), "ip refused one of:\n{lines}");
    Ok(())
}

/// The same as a host's routing table.
fn fib(ifindexes: &BTreeMap<Place, u32>) -> HostFib {
    let mut fib = HostFib::default();
    for (place, ifindex) in ifindexes {
        let device = HostDevice {
            mac: place.mac(),
            mtu: place.mtu(),
        };
        fib.devices.insert(*ifindex, device);
    }
    for (place, text, prefix) in ADDRESSES {
        let own = address(text);
        let whole = if own.is_ipv4() { 32 } else { 128 };
        // An IPv6 look-up that is held to a device finds an address of the node on another one all the same.
        let here = if own.is_ipv4() {
            Target::Own(ifindexes[place])
        } else {
            Target::Nowhere
        };
        fib.routes.push(HostRoute::new(own, whole, here));
        if *prefix != whole {
            fib.routes
                .push(HostRoute::new(own, *prefix, Target::Link(ifindexes[place])));
        }
    }
    for (network, prefix, place, gateway) in ROUTES {
        let target = match (place, gateway) {
            (None, _) => Target::Nowhere,
            (Some(place), None) => Target::Link(ifindexes[place]),
            (Some(place), Some(gateway)) => Target::Gateway(ifindexes[place], parsed(gateway)),
        };
        fib.routes.push(HostRoute::new(address(network), *prefix, target));
    }
    for (index, (place, address)) in NEIGHBOURS.iter().enumerate() {
        fib.neighbours
            .insert((ifindexes[place], parsed(address)), neighbour_mac(index));
    }
    fib
}

//! Uplinks of every kind that this kernel has: they get addresses, come, go, and become something else.
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrogate_tests::rig::addresses::{NODE_BASE, ROUTER, lan, pod_ranges};
use ferrogate_tests::rig::{Family, Layout, Pair, Place, Rig, SocketEdge};
use ferrogate_tests::traffic::Ticking;
use ferrogate_tests::walks::cell::Target;
use ferrogate_tests::walks::fixture::{self, CLIENT_PODS};
use ferrogate_tests::wire::{ProbeRequest, Protocol};

use crate::ground::{PATIENCE, Traffic, boot, eventually, holdings};

/// Host `host` of a network behind a second uplink: 172.`net`.0.0/24 and fd00:`net`::/64, the latter in hexadecimal digits.
fn second(net: u8, host: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(172, net, 0, host),
        v6: Ipv6Addr::new(0xfd00, u16::from(net), 0, 0, 0, 0, 0, host.into()),
    }
}

fn assign(lines: &mut String, device: &str, pair: Pair) -> Result<()> {
    writeln!(lines, "addr add {}/24 dev {device}", pair.v4)?;
    writeln!(lines, "addr add {}/64 dev {device} nodad", pair.v6)?;
    Ok(())
}

/// Services by the NodePort at these addresses: pods on this node and another, and this node's own network.
fn served(rig: &Rig, place: &Place, node: Pair, from: Option<Pair>, services: &[&str]) -> Result<()> {
    for service in services {
        for family in Family::BOTH {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let port = fixture::address(rig, service, Target::NodePort(1), family).port();
                let to = SocketAddr::new(node.get(family), port);
                let request = ProbeRequest {
                    source: from.map(|from| from.get(family)),
                    ..ProbeRequest::new(protocol, to).timeout_ms(400)
                };
                let mut report = place.probe(&request)?;
                eventually("the NodePort answers there", || {
                    report = place.probe(&request)?;
                    Ok(report.complete())
                })
                .with_context(|| format!("{service} at {to} over {protocol:?} from {from:?}: {report:?}"))?;
                let report = place.probe(&request.count(5).questions(3))?;
                ensure!(report.complete(), "{service} at {to} over {protocol:?}: {report:?}");
            }
        }
    }
    Ok(())
}

/// Nobody answers at a NodePort of these addresses any more.
fn gone(rig: &Rig, place: &Place, node: Pair) -> Result<()> {
    for family in Family::BOTH {
        let to = SocketAddr::new(
            node.get(family),
            fixture::address(rig, "local", Target::NodePort(1), family).port(),
        );
        let request = ProbeRequest::new(Protocol::Tcp, to).timeout_ms(200);
        eventually("the NodePort is gone there", || Ok(!place.probe(&request)?.complete()))?;
    }
    Ok(())
}

const EVERYWHERE: [&str; 4] = ["local", "remote", "host-local", "host-remote"];

/// The uplink gets more addresses, and loses them.
fn more_addresses(rig: &Rig) -> Result<()> {
    let (netns, more) = (&rig.node(1).place.netns, lan(201));
    let traffic = Traffic::start(rig, true)?;
    let mut lines = String::new();
    assign(&mut lines, "eth0", more)?;
    netns.ip_batch(&lines)?;
    served(rig, &rig.outside, more, None, &EVERYWHERE)?;
    netns.ip_batch(&lines.replace("addr add", "addr del").replace(" nodad", ""))?;
    gone(rig, &rig.outside, more)?;
    traffic.end()
}

/// A second uplink with a network of its own behind it; a client further away by a rule for the uplink's address.
fn second_uplink(rig: &Rig) -> Result<()> {
    let far = rig.add_machine("far", 72)?;
    let node = &rig.node(1).place.netns;
    let (here, there) = (second(32, 11), second(32, 100));
    let traffic = Traffic::start(rig, true)?;
    node.ip_batch(&format!(
        "link add eth1 type veth peer name eth1 netns {}\n",
        far.netns.name()
    ))?;
    let (mut lines, mut their) = ("link set eth1 up\n".to_owned(), "link set eth1 up\n".to_owned());
    assign(&mut lines, "eth1", here)?;
    assign(&mut their, "eth1", there)?;
    let away = second(33, 7);
    writeln!(
        their,
        "addr add {}/32 dev lo\naddr add {}/128 dev lo nodad",
        away.v4, away.v6
    )?;
    node.ip_batch(&lines)?;
    far.netns.ip_batch(&their)?;
    served(rig, &far, here, None, &EVERYWHERE)?;
    // What this address sends leaves by its own uplink, but for the cluster.
    let mut lines = String::new();
    for line in routes("eth0")?.lines().filter(|line| !line.contains("default")) {
        writeln!(lines, "{line} table 20")?;
    }
    for (network, via) in [
        ("172.31.0.0/24", IpAddr::from(there.v4)),
        ("fd00:31::/64", there.v6.into()),
    ] {
        writeln!(
            lines,
            "route add {network} dev eth0 table 20\nroute add default via {via} table 20"
        )?;
    }
    node.ip_batch(&lines)?;
    for (flag, address) in ["-4", "-6"].into_iter().zip(here.both()) {
        let arguments = [flag, "rule", "add", "from", &address.to_string(), "lookup", "20"];
        rig.node(1).place.run("ip", arguments)?;
    }
    served(rig, &far, here, Some(away), &EVERYWHERE)?;
    node.ip_batch("link del eth1\n")?;
    gone(rig, &far, here)?;
    traffic.end()
}

/// The routes that node 1 has by way of its uplink.
fn routes(device: &str) -> Result<String> {
    let (router, other) = (lan(ROUTER), lan(NODE_BASE + 2));
    let (v4, v6) = pod_ranges(2);
    let mut lines = String::new();
    for (range, via) in [
        ("default".to_owned(), IpAddr::from(router.v4)),
        ("default".to_owned(), router.v6.into()),
        (v4.to_string(), other.v4.into()),
        (v6.to_string(), other.v6.into()),
    ] {
        writeln!(lines, "route replace {range} via {via} dev {device}")?;
    }
    Ok(lines)
}

/// The uplink is down for a while: what does not need it goes on, and what does goes on afterwards.
fn down_and_up(rig: &Rig) -> Result<()> {
    let netns = &rig.node(1).place.netns;
    netns.sysctl("net/ipv6/conf/eth0/keep_addr_on_down", "1")?;
    let inside = Traffic::start(rig, false)?;
    let mut through = Vec::new();
    for (place, service, target) in [
        (&rig.outside, "local", Target::NodePort(1)),
        (&rig.outside, "remote", Target::NodePort(1)),
        (&rig.pod(CLIENT_PODS[0]).place, "remote", Target::ClusterIp),
    ] {
        for family in Family::BOTH {
            let to = fixture::address(rig, service, target, family);
            through.push(Ticking::start(place, service, to)?);
        }
    }
    for _ in 0..2 {
        netns.ip_batch("link set eth0 down\n")?;
        thread::sleep(Duration::from_millis(400));
        netns.ip_batch(&format!("link set eth0 up\n{}", routes("eth0")?))?;
        served(rig, &rig.outside, lan(NODE_BASE + 1), None, &["local", "remote"])?;
    }
    inside.end()?;
    through
        .into_iter()
        .try_for_each(|connection| connection.end(Duration::from_secs(4)).map(drop))
}

/// The NIC becomes a port of a bridge, which takes its addresses over (br-ex); a passthru macvlan stands for the NIC, since a veth
/// below a bridge is a pod's.
fn bridge_over_the_nic(rig: &mut Rig) -> Result<()> {
    let place = &rig.node(1).place;
    let inside = Traffic::start(rig, false)?;
    let address = lan(NODE_BASE + 1);
    let mac = place.run("cat", ["/sys/class/net/eth0/address"])?;
    let mut lines = format!(
        "link add link eth0 name nic type macvlan mode passthru\nlink set nic up\n\
         link add br-ex address {} type bridge mcast_snooping 0\naddr flush dev eth0\nlink set br-ex up\nlink set nic master br-ex\n",
        mac.trim()
    );
    assign(&mut lines, "br-ex", address)?;
    place.netns.ip_batch(&(lines + &routes("br-ex")?))?;
    served(rig, &rig.outside, address, None, &EVERYWHERE)?;
    inside.end()?;
    let roles: BTreeSet<_> = holdings(rig)?
        .interfaces
        .into_iter()
        .filter(|(_, (role, _))| role == "uplink")
        .collect();
    ensure!(roles.iter().map(|(name, _)| name.as_str()).eq(["br-ex"]), "{roles:?}");
    fixture::wait_ready(rig, PATIENCE)?;
    Traffic::start(rig, true)?.end()
}

fn uplinked() -> Result<Rig> {
    // A veth without an address is a pod's; here it may be the NIC below a bridge.
    boot(Layout::Routed, SocketEdge::All, &["--pod-interfaces=veth*"])
}

#[test]
fn an_uplink_s_new_addresses_serve_and_removed_ones_do_not() -> Result<()> {
    more_addresses(&uplinked()?)
}

#[test]
fn a_second_uplink_serves_its_network_and_clients_beyond_it() -> Result<()> {
    second_uplink(&uplinked()?)
}

#[test]
fn an_uplink_goes_down_and_up_and_connections_through_it_live_on() -> Result<()> {
    down_and_up(&uplinked()?)
}

#[test]
fn a_bridge_takes_the_uplink_s_place() -> Result<()> {
    bridge_over_the_nic(&mut uplinked()?)
}

//! Packets that claim to come from where they cannot, at a node that would take them.
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrogate_common::Reason;
use ferrogate_tests::binaries;
use ferrogate_tests::conformance::case::Side;
use ferrogate_tests::conformance::cluster::Cluster;
use ferrogate_tests::rig::addresses::{NODE_BASE, lan, pod_ranges};
use ferrogate_tests::rig::{Family, Layout, Place, SocketEdge, addresses};
use ferrogate_tests::wire::{ProbeRequest, Protocol};

use crate::common::eventually;

/// What servers listen on.
const PORT: u16 = 8080;

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// Packets that node 1 has counted as forged.
fn counted(cluster: &Cluster) -> Result<u64> {
    cluster.rig.node(1).counted(Reason::Martian)
}

/// Datagrams that sockets of node 1 have got.
fn datagrams(cluster: &Cluster) -> Result<u64> {
    let counters = cluster.rig.node(1).place.run("cat", ["/proc/net/snmp"])?;
    let mut rows = counters.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let number = rows.nth(1).and_then(|row| row.split(' ').next()?.parse().ok());
    number.with_context(|| format!("/proc/net/snmp: {counters}"))
}

/// Takes the node's programs away.
fn clean_up(cluster: &mut Cluster) -> Result<()> {
    let mut agent = cluster.rig.take_proxy(1)?;
    agent.terminate(Duration::from_secs(10))?;
    let node = cluster.rig.node(1);
    let program = binaries::workspace("ferrogate")?;
    node.place
        .run(
            &program.to_string_lossy(),
            ["cleanup", "--state-dir", &node.bpffs.to_string_lossy()],
        )
        .map(drop)
}

fn answers(from: &Place, request: &ProbeRequest) -> Result<bool> {
    Ok(from.probe(&request.clone().timeout_ms(400))?.complete())
}

/// CVE-2020-8558. kube-proxy's iptables mode sets `route_localnet`, and leaves it behind.
#[test]
fn a_neighbour_does_not_reach_a_nodes_loopback_address_whatever_sysctls_say() -> Result<()> {
    let mut cluster = Cluster::boot(Side::Ours, Layout::Routed, SocketEdge::All)?;
    let loopback = Ipv4Addr::LOCALHOST;
    let node = lan(NODE_BASE + 1).v4;
    for netns in [&cluster.rig.node(1).place.netns, &cluster.rig.outside.netns] {
        netns.sysctl("net/ipv4/conf/all/route_localnet", "1")?;
    }
    // A sender for whom loopback addresses are somewhere else.
    cluster.rig.outside.netns.ip_batch(&format!(
        "route del local {loopback} dev lo table local\nroute del local 127.0.0.0/8 dev lo table local\n\
         route add {loopback} via {node}\n"
    ))?;
    let place = &cluster.rig.node(1).place;
    let mut server = place.testpod_command()?;
    server.args([
        "serve",
        "--name=own",
        &format!("--listen={loopback}"),
        &format!("--port={PORT}"),
    ]);
    let _server = place.spawn("own", server, &cluster.rig.node(1).directory.join("own.log"))?;
    let request = |protocol| ProbeRequest::new(protocol, SocketAddr::new(loopback.into(), PORT));
    for protocol in BOTH {
        eventually("the node's own processes reach it", || {
            answers(place, &request(protocol))
        })?;
    }
    let before = counted(&cluster)?;
    for protocol in BOTH {
        ensure!(
            !answers(&cluster.rig.outside, &request(protocol))?,
            "{protocol:?}: the node's loopback address answers outside"
        );
        ensure!(
            answers(&cluster.rig.node(1).place, &request(protocol))?,
            "its own processes reach it"
        );
    }
    let dropped = counted(&cluster)? - before;
    ensure!(dropped >= 2, "{dropped} packets were counted");
    let before = datagrams(&cluster)?;
    answers(&cluster.rig.outside, &request(Protocol::Udp))?;
    let with_ours = datagrams(&cluster)? - before;
    clean_up(&mut cluster)?;
    let before = datagrams(&cluster)?;
    answers(&cluster.rig.outside, &request(Protocol::Udp))?;
    let without = datagrams(&cluster)? - before;
    ensure!(
        (with_ours, without) == (0, 1),
        "{with_ours} datagrams got to the server, and without our programs {without}"
    );
    Ok(())
}

/// An endpoint that is asked from a ClusterIP answers that ClusterIP: it would ask the Service, in the name of whoever forged the address.
#[test]
fn nobody_outside_asks_in_the_name_of_a_cluster_ip() -> Result<()> {
    let mut cluster = Cluster::boot(Side::Ours, Layout::Routed, SocketEdge::All)?;
    let forged = addresses::cluster_ip(addresses::DNS);
    let outside = &cluster.rig.outside;
    outside.netns.ip_batch(&format!(
        "addr add {}/32 dev eth0\naddr add {}/128 dev eth0 nodad\n",
        forged.v4, forged.v6
    ))?;
    let (node, (v4, v6)) = (lan(NODE_BASE + 1), pod_ranges(1));
    outside.netns.ip_batch(&format!(
        "route add {v4} via {}\nroute add {v6} via {}\n",
        node.v4, node.v6
    ))?;
    let before = counted(&cluster)?;
    for family in Family::BOTH {
        let pod = SocketAddr::new(cluster.rig.pod("a1").addresses.get(family), PORT);
        for protocol in BOTH {
            let own = cluster
                .own_addresses("out")
                .into_iter()
                .find(|own| own.is_ipv4() == pod.is_ipv4());
            let honest = ProbeRequest {
                source: own,
                ..ProbeRequest::new(protocol, pod)
            };
            ensure!(
                answers(outside, &honest)?,
                "{protocol:?} {pod}: nobody answers an honest client"
            );
            let forged = ProbeRequest {
                source: Some(forged.get(family)),
                ..honest
            };
            ensure!(!answers(outside, &forged)?, "{protocol:?} {pod}: answers {forged:?}");
        }
    }
    let dropped = counted(&cluster)? - before;
    ensure!(dropped >= 4, "{dropped} packets were counted");
    cluster.rig.check_proxies().context("an agent has ended")
}

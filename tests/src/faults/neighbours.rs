//! What others put beside our programs, and what they take away below them.
use std::fs::{self, File};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::life::{exchange, with_mounts};
use super::{Aftermath, Fault, Ground, TERMINATION, harmless};
use crate::kernel::Bystander;
use crate::pktgen::ifindex;
use crate::rig::{Family, Layout, raise_firewall, take_down_firewall};
use crate::walks::cell::{Client, Target};
use crate::walks::fixture;
use crate::wire::{ProbeRequest, Protocol};

pub(super) const FAULTS: &[Fault] = &[
    harmless("tcx and cgroup programs of others come and go", false, foreign_programs),
    harmless("a host firewall that drops INVALID comes and goes", true, firewall),
    harmless("started where no BPF file system is", false, no_bpffs),
    harmless("started with other map sizes", false, other_sizes),
    harmless(
        "started with other SNAT ports, and again with these",
        false,
        other_ports,
    ),
    harmless(
        "handed over to the backends' nodes (--dsr), and masqueraded again",
        false,
        direct,
    ),
    harmless(
        "past the host's stack (--forwarding redirect), and through it again",
        false,
        past_the_stack,
    ),
];

/// The devices of a node, by their names in its namespace.
fn devices(ground: &Ground, node: u8) -> Result<Vec<u32>> {
    ground.rig.node(node).place.netns.enter(|| {
        // This thread's own namespace is what /proc shows of it.
        let names = fs::read_to_string("/proc/thread-self/net/dev")?;
        let names = names
            .lines()
            .skip(2)
            .filter_map(|line| Some(line.split_once(':')?.0.trim()));
        names.filter(|name| *name != "lo").map(ifindex).collect()
    })
}

/// Before all programs and behind them, at every device and in the cgroup: packets and calls go through all of them. A new agent
/// starts among them.
fn foreign_programs(ground: &mut Ground) -> Result<Aftermath> {
    let mut others = Vec::new();
    for node in ground.nodes() {
        let devices = devices(ground, node)?;
        let place = &ground.rig.node(node).place;
        others.extend(place.netns.enter(|| {
            let mut attached = Vec::new();
            for device in devices {
                attached.push(Bystander::at_ingress(device, true)?);
                attached.push(Bystander::at_ingress(device, false)?);
            }
            Ok(attached)
        })?);
        let cgroup = File::open(&place.cgroup).with_context(|| place.cgroup.display().to_string())?;
        others.push(Bystander::at_connect(&cgroup)?);
    }
    let count = others.len();
    for node in ground.nodes() {
        ground.rig.take_proxy(node)?.terminate(TERMINATION)?;
        ground.start(node)?;
    }
    let marker = ground.marker()?;
    let converged = ground.await_marker(&marker)?;
    drop(others);
    let marker = ground.marker()?;
    ground.await_marker(&marker)?;
    Ok(Aftermath {
        converged: Some(converged),
        note: format!("{count} programs of others"),
    })
}

/// Connections that nobody has tracked so far are in the middle of their lives for conntrack.
fn firewall(ground: &mut Ground) -> Result<Aftermath> {
    for node in ground.nodes() {
        raise_firewall(&ground.rig.node(node).place)?;
    }
    let marker = ground.marker()?;
    let converged = ground.await_marker(&marker)?;
    for node in ground.nodes() {
        take_down_firewall(&ground.rig.node(node).place)?;
    }
    Ok(Aftermath {
        converged: Some(converged),
        note: "translated packets are valid to conntrack".to_owned(),
    })
}

/// Something else is mounted over the state directory, for the agent alone: it says so, and what was attached goes on.
fn no_bpffs(ground: &mut Ground) -> Result<Aftermath> {
    for node in ground.nodes() {
        ground.rig.take_proxy(node)?.terminate(TERMINATION)?;
    }
    let before = ground.links()?;
    for node in ground.nodes() {
        let bpffs = ground.rig.node(node).bpffs.display().to_string();
        let script = format!("mount -t tmpfs tmpfs {bpffs} && exec \"$@\"");
        ground.set_launcher(&with_mounts(&script));
        let said = ground.start_in_vain(node)?;
        ground.set_launcher(&[]);
        ensure!(
            said.contains("is not on a BPF file system") && said.contains("mount -t bpf"),
            "the agent did not say what is wrong: {said}"
        );
    }
    ensure!(before == ground.links()?, "a failed start has changed links");
    let marker = ground.marker()?;
    for node in ground.nodes() {
        ground.start(node)?;
    }
    Ok(Aftermath {
        converged: Some(ground.await_marker(&marker)?),
        note: "refused before anything was changed".to_owned(),
    })
}

/// Flows keep the ports that they have, whatever new ones get; the node's own sockets are given neither.
fn other_ports(ground: &mut Ground) -> Result<Aftermath> {
    let converged = exchange(ground, &["--snat-ports=10000-13999".to_owned()])?;
    for node in ground.nodes() {
        let sysctl = "/proc/sys/net/ipv4/ip_local_reserved_ports";
        let reserved = ground.rig.node(node).place.run("cat", [sysctl])?;
        ensure!(reserved.trim() == "10000-29999", "reserved on node {node}: {reserved}");
    }
    exchange(ground, &[])?;
    Ok(Aftermath {
        converged: Some(converged),
        note: "no port in common".to_owned(),
    })
}

/// In steps: what a node hands over, the others take already; and it hands nothing over any more before they stop.
fn direct(ground: &mut Ground) -> Result<Aftermath> {
    let step = |ground: &mut Ground, mode: &str| exchange(ground, &[format!("--dsr={mode}")]);
    step(ground, "accept")?;
    let converged = step(ground, "on")?;
    for family in Family::BOTH {
        let to = fixture::address(&ground.rig, "remote", Target::NodePort(1), family);
        let request = ProbeRequest::new(Protocol::Tcp, to);
        let seen = || -> Result<bool> {
            let report = ground.rig.outside.probe(&request)?;
            let attempt = report.attempts.first().context("no attempt")?;
            let answer = attempt.answers.first().context("no answer")?;
            Ok(Some(answer.peer) == attempt.local)
        };
        // Nodes are written behind Services.
        let deadline = Instant::now() + TERMINATION;
        while !seen()? {
            ensure!(
                Instant::now() < deadline,
                "{family:?}: the backend never sees the client's own address"
            );
        }
    }
    step(ground, "accept")?;
    step(ground, "off")?;
    Ok(Aftermath {
        converged: Some(converged),
        note: "the backend saw the client's own address meanwhile".to_owned(),
    })
}

/// A wall in the node's netfilter, between clients outside and a pod that nothing else of the load leads to from there, shows which way
/// packets go.
fn past_the_stack(ground: &mut Ground) -> Result<Aftermath> {
    let walled = ground.rig.options.layout == Layout::Routed;
    if walled {
        raise_wall(ground)?;
        ensure!(
            !reaches_behind_wall(ground)?,
            "the wall lets packets of the stack through"
        );
    }
    let converged = exchange(ground, &["--forwarding=redirect".to_owned()])?;
    if walled {
        ensure!(reaches_behind_wall(ground)?, "packets do not go past the stack");
    }
    exchange(ground, &[])?;
    if walled {
        ensure!(!reaches_behind_wall(ground)?, "packets still go past the stack");
        ground.rig.node(1).place.run("nft", ["delete table inet wall"])?;
    }
    Ok(Aftermath {
        converged: Some(converged),
        note: "what netfilter drops arrived meanwhile".to_owned(),
    })
}

/// The Service whose only endpoint is the first client pod.
const BEHIND_WALL: &str = "itself";

fn raise_wall(ground: &Ground) -> Result<()> {
    let outside = fixture::client_addresses(&ground.rig, Client::Outside);
    let pod = fixture::client_addresses(&ground.rig, Client::Pod);
    let rules: String = outside
        .iter()
        .zip(&pod)
        .map(|(outside, pod)| {
            let ip = if outside.is_ipv4() { "ip" } else { "ip6" };
            format!("{ip} saddr {outside} {ip} daddr {pod} drop\n{ip} saddr {pod} {ip} daddr {outside} drop\n")
        })
        .collect();
    let table = format!("table inet wall {{\nchain forward {{\ntype filter hook forward priority 0;\n{rules}}}\n}}\n");
    ground.rig.node(1).place.run("nft", [table]).map(drop)
}

/// Whether clients outside are answered in both families; false: in none.
fn reaches_behind_wall(ground: &Ground) -> Result<bool> {
    let mut answered = Vec::new();
    for family in Family::BOTH {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let to = fixture::address(&ground.rig, BEHIND_WALL, Target::NodePort(1), family);
            let report = ground.rig.outside.probe(&ProbeRequest::new(protocol, to))?;
            let attempt = report.attempts.first().context("no attempt")?;
            answered.push(!attempt.answers.is_empty());
        }
    }
    let all = answered[0];
    ensure!(
        answered.iter().all(|one| *one == all),
        "answers by family and protocol: {answered:?}"
    );
    Ok(all)
}

/// A map that is pinned holds what goes on working, so it stays as it is, and the agent says so.
fn other_sizes(ground: &mut Ground) -> Result<Aftermath> {
    let sizes = ["FLOWS=5000", "SERVICES=100", "FRONTENDS=1000000", "SNAT_FLOWS=300"];
    let options: Vec<String> = sizes.iter().map(|size| format!("--map-entries={size}")).collect();
    let converged = exchange(ground, &options)?;
    for node in ground.nodes() {
        let said = ground.command(node, &["status"])?;
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        for size in sizes {
            let (map, wanted) = size.split_once('=').context("a size")?;
            let kept = said.contains(&format!("the map {map} keeps its "))
                && said.contains(&format!("though --map-entries asks for {wanted}"));
            ensure!(kept, "{map}: {said}");
        }
    }
    exchange(ground, &[])?;
    Ok(Aftermath {
        converged: Some(converged),
        note: "maps keep their sizes, and the agent says so".to_owned(),
    })
}

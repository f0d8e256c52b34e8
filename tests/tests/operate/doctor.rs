//! `ferrogate doctor` and `ferrogate diff`: what is broken is found, and a node where nothing is broken is well.
use std::fs;
use std::net::TcpListener;

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use ferrogate_tests::kernel::Bystander;
use ferrogate_tests::rig::{Family, NAMESPACE, Netns, Rig, addresses};
use serde_json::{Value, json};

use crate::common::{Is, NODE_PORT, apply, boot, eventually, ferrogate, ferrogate_json};

const NODE: u8 = 1;

/// Findings as `severity check: what`.
fn findings(rig: &Rig) -> Result<Vec<String>> {
    let checkup = ferrogate_json(rig, NODE, &["doctor"])?;
    let findings = checkup["findings"].as_array().context("findings")?;
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    let line = |one: &Value| {
        format!(
            "{} {}: {}",
            text(one, "severity"),
            text(one, "check"),
            text(one, "what")
        )
    };
    ensure!(
        findings.iter().all(|one| !text(one, "remedy").is_empty()),
        "each has its remedy: {findings:#?}"
    );
    Ok(findings.iter().map(line).collect())
}

/// The exit code, which scripts see.
fn code(rig: &Rig, command: &str) -> Result<i32> {
    ferrogate(rig, NODE, &[command])?.status.code().context("an exit code")
}

/// Waits until the doctor has this one finding, which begins and goes on so, and nothing else.
fn finds(rig: &Rig, begin: &str, within: &str) -> Result<()> {
    let mut last = Vec::new();
    let found = eventually("the one finding", || {
        last = findings(rig)?;
        Ok(matches!(last.as_slice(), [one] if one.starts_with(begin) && one.contains(within)))
    });
    found.with_context(|| format!("{begin} ... {within}: {last:#?}"))?;
    let wanted = i32::from(!begin.starts_with("note"));
    let found = code(rig, "doctor")?;
    ensure!(found == wanted, "{begin}: exit code {found}");
    Ok(())
}

fn is_well(rig: &Rig) -> Result<()> {
    let mut last = Vec::new();
    let well = eventually("nothing to find", || {
        last = findings(rig)?;
        Ok(last.is_empty() && code(rig, "diff")? == 0)
    });
    well.with_context(|| format!("{last:#?}"))?;
    ensure!(code(rig, "doctor")? == 0, "no finding, exit code 0");
    Ok(())
}

fn well() -> Result<Rig> {
    let rig = boot(&[])?;
    apply(&rig, &json!({}), &[("a1", Is::Ready), ("b1", Is::Ready)])?;
    eventually("the Service is written", || {
        let output = ferrogate(&rig, NODE, &["explain", "shop", "--output", "json"])?;
        let page = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(page.contains("\"outcome\": \"2 endpoints\"") && !page.contains("(yet)"))
    })?;
    is_well(&rig)?;
    Ok(rig)
}

/// A hash map of a node, past its agent.
fn map<const K: usize, const V: usize>(rig: &Rig, name: &str) -> Result<HashMap<MapData, [u8; K], [u8; V]>> {
    let path = rig.node(NODE).pin("maps").join(name);
    let data = MapData::from_pin(&path).with_context(|| path.display().to_string())?;
    Ok(HashMap::try_from(Map::HashMap(data))?)
}

fn netns(rig: &Rig) -> &Netns {
    &rig.node(NODE).place.netns
}

fn ifindex(rig: &Rig, name: &str) -> Result<u32> {
    let output = rig.node(NODE).place.run("ip", ["-json", "link", "show", "dev", name])?;
    let links: Value = serde_json::from_str(&output)?;
    let index = links[0]["ifindex"].as_u64().context("an ifindex")?;
    Ok(u32::try_from(index)?)
}

#[test]
fn entries_that_are_changed_behind_the_agent_s_back_are_listed() -> Result<()> {
    let mut rig = well()?;
    let mut frontends = map::<20, 8>(&rig, "FRONTENDS")?;
    let entries: Vec<([u8; 20], [u8; 8])> = frontends.iter().collect::<Result<_, _>>()?;
    ensure!(entries.len() >= 5, "ClusterIP, load balancer, NodePort: {entries:?}");
    for (key, value) in entries {
        frontends.remove(&key)?;
        let diff = ferrogate_json(&rig, NODE, &["diff"])?;
        let differences = diff["differences"].as_array().context("differences")?;
        assert_eq!(differences.len(), 1, "{diff:#}");
        assert_eq!(
            (&differences[0]["map"], &differences[0]["kernel"]),
            (&json!("FRONTENDS"), &Value::Null)
        );
        assert!(
            differences[0]["service"]
                .to_string()
                .contains("default/shop:80/TCP IPv4"),
            "{diff:#}"
        );
        assert_eq!(code(&rig, "diff")?, 1);
        // Another kind: another policy would govern it.
        let mut other = value;
        other[4] ^= 1;
        frontends.insert(key, other, 0)?;
        let diff = ferrogate_json(&rig, NODE, &["diff"])?;
        assert_ne!(
            diff["differences"][0]["kernel"], diff["differences"][0]["desired"],
            "{diff:#}"
        );
        frontends.insert(key, value, 0)?;
    }
    let (mut key, value) = frontends.iter().next().context("an entry")??;
    key[15] ^= 0x40;
    frontends.insert(key, value, 0)?;
    finds(&rig, "error tables: entries", "not as desired: 1")?;
    let diff = ferrogate_json(&rig, NODE, &["diff"])?;
    assert_eq!(
        diff["differences"][0]["desired"],
        Value::Null,
        "nobody asked for it: {diff:#}"
    );
    frontends.remove(&key)?;
    let mut addresses = map::<16, 4>(&rig, "NODE_ADDRESSES")?;
    let (address, value) = addresses.iter().next().context("an address")??;
    addresses.remove(&address)?;
    finds(&rig, "error tables: entries", "not as desired: 1")?;
    addresses.insert(address, value, 0)?;
    is_well(&rig)?;

    // An agent that starts reads the tables back and mends them.
    let (key, _) = frontends.iter().next().context("an entry")??;
    frontends.remove(&key)?;
    rig.take_proxy(NODE)?.kill()?;
    rig.start_proxy(NODE)?;
    // The socket is there before the programs are loaded: a question waits up to 10 s for its answer.
    for _ in 0..6 {
        if code(&rig, "diff")? != 2 {
            break;
        }
    }
    is_well(&rig)
}

#[test]
fn settings_firewalls_and_ports_are_looked_at() -> Result<()> {
    let rig = well()?;
    let node = &rig.node(NODE).place;
    node.netns.sysctl("net/ipv4/ip_forward", "0")?;
    finds(&rig, "error sysctl: net.ipv4.ip_forward", "")?;
    node.netns.sysctl("net/ipv4/ip_forward", "1")?;
    node.netns.sysctl("net/ipv4/conf/all/rp_filter", "1")?;
    finds(&rig, "warning sysctl: rp_filter is 1", "eth0")?;
    node.netns.sysctl("net/ipv4/conf/all/rp_filter", "0")?;
    node.netns.sysctl("net/ipv4/ip_local_reserved_ports", "9")?;
    finds(&rig, "warning sysctl: net.ipv4.ip_local_reserved_ports", "14000-29999")?;
    node.netns.sysctl("net/ipv4/ip_local_reserved_ports", "14000-29999")?;
    let nft = |rules: &str| node.run("nft", [rules]);
    nft("add table inet fgdoctor; add chain inet fgdoctor hold { type filter hook forward priority 0; policy drop; }")?;
    finds(&rig, "warning firewall: chain hold of table inet fgdoctor", "drops")?;
    nft("add chain inet fgdoctor hold { policy accept; }")?;
    is_well(&rig)?;
    nft("add table ip kube-proxy")?;
    finds(
        &rig,
        "warning kube-proxy: rules of kube-proxy are in place (nftables)",
        "",
    )?;
    nft("delete table ip kube-proxy")?;
    let listener = node.netns.enter(|| Ok(TcpListener::bind(("0.0.0.0", NODE_PORT))?))?;
    finds(
        &rig,
        "warning ports: a process of this node listens on TCP port 31700",
        "default/shop",
    )?;
    drop(listener);
    node.netns.ip_batch("link set vetha1 mtu 9000\n")?;
    finds(&rig, "warning mtu: 1 of 3 pod interfaces", "eth0")?;
    node.netns.ip_batch("link set vetha1 mtu 1500\n")?;
    is_well(&rig)?;
    // No socket hook sees SCTP: from the first such Service on, this node's processes reach its NodePorts by the loopback device.
    let address = addresses::cluster_ip(902).get(Family::V4);
    rig.apply(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": "chorus"},
        "spec": {"type": "NodePort", "clusterIP": address, "clusterIPs": [address],
            "ports": [{"protocol": "SCTP", "port": 90, "nodePort": NODE_PORT + 1}]},
    }))?;
    eventually("the loopback device is attended", || {
        let status = ferrogate(&rig, NODE, &["status"])?.stdout;
        Ok(String::from_utf8_lossy(&status).contains("the loopback device"))
    })?;
    node.netns.sysctl("net/ipv4/conf/lo/accept_local", "0")?;
    finds(&rig, "error sysctl: net.ipv4.conf.lo.accept_local is 0", "")?;
    node.netns.sysctl("net/ipv4/conf/lo/accept_local", "1")?;
    is_well(&rig)
}

#[test]
fn hooks_are_compared_with_what_is_attached() -> Result<()> {
    let mut rig = well()?;
    let uplink = ifindex(&rig, "eth0")?;
    let others = |first: bool| netns(&rig).enter(|| Bystander::at_ingress(uplink, first));
    let other = others(true)?;
    finds(
        &rig,
        "warning hooks: a program with id",
        "runs before uplink_ingress at tcx ingress of eth0",
    )?;
    drop(other);
    let other = others(false)?;
    finds(&rig, "note hooks: a program with id", "runs after uplink_ingress")?;
    drop(other);
    let other = netns(&rig).enter(|| Bystander::in_driver(uplink))?;
    finds(&rig, "warning hooks: an XDP program of others", "is on eth0")?;
    drop(other);
    is_well(&rig)?;

    let pin = rig.node(NODE).pin(&format!("links/uplink_egress-{uplink}"));
    fs::remove_file(&pin).with_context(|| pin.display().to_string())?;
    finds(
        &rig,
        "error hooks: uplink_egress is not attached at tcx egress of eth0",
        "gone",
    )?;
    // A change of an interface has the agent look.
    netns(&rig).ip_batch("addr add 192.0.2.77/32 dev lo\n")?;
    is_well(&rig)?;

    rig.take_proxy(NODE)?.kill()?;
    finds(&rig, "error agent: no agent answers", "")?;
    assert_eq!(code(&rig, "diff")?, 2, "nobody can tell");
    Ok(())
}

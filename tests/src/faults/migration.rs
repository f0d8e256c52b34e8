//! From kube-proxy to Ferrogate and back, with connections that live through it.
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::ground::Ground;
use super::report::Row;
use super::siege::Load;
use super::{Aftermath, Fault, Harm, TERMINATION};
use crate::rig::{FerrogateOptions, KubeProxyOptions, Layout, Options, Proxy, Source};

/// Both proxies at once, and one with the other's rules, for this long each.
const TOGETHER: Duration = Duration::from_millis(1500);

/// A change of the proxy under load.
pub(super) struct Migration {
    pub(super) fault: Fault,
    /// kube-proxy's mode.
    mode: &'static str,
    /// From Ferrogate to kube-proxy.
    back: bool,
    /// What is to be done once the load has ended.
    finish: fn(&mut Ground) -> Result<()>,
}

const fn migration(
    name: &'static str,
    mode: &'static str,
    back: bool,
    inflict: fn(&mut Ground) -> Result<Aftermath>,
    finish: fn(&mut Ground) -> Result<()>,
) -> Migration {
    Migration {
        fault: Fault {
            name,
            rival: false,
            // A UDP flow begins anew with the other proxy.
            harm: Harm::Delay,
            inflict,
        },
        mode,
        back,
        finish,
    }
}

pub(super) const ALL: &[Migration] = &[
    migration(
        "taken over from kube-proxy (nftables)",
        "nftables",
        false,
        take_over,
        forget_kube_proxy,
    ),
    migration(
        "taken over from kube-proxy (iptables)",
        "iptables",
        false,
        take_over,
        forget_kube_proxy,
    ),
    migration(
        "handed back to kube-proxy (nftables)",
        "nftables",
        true,
        hand_back,
        clean_up,
    ),
    migration(
        "handed back to kube-proxy (iptables)",
        "iptables",
        true,
        hand_back_to_iptables,
        clean_up,
    ),
];

fn rival(mode: &'static str) -> Proxy {
    Proxy::KubeProxyWith(KubeProxyOptions {
        mode,
        ..KubeProxyOptions::default()
    })
}

impl Migration {
    pub(super) fn run(&self, layout: Layout, seed: u64, load: Load) -> Result<Row> {
        let options = Options {
            layout,
            source: Source::ControlPlane,
            proxy: if self.back {
                Proxy::Ferrogate(FerrogateOptions::default())
            } else {
                rival(self.mode)
            },
            // Nodes track connections, as nearly all do: else kube-proxy's first rules would meet connections in their middle that
            // nobody has tracked, take them for new ones, and send those of the node edge elsewhere.
            firewall: self.back,
            ..Options::default()
        };
        let mut ground = Ground::boot(options, seed)?;
        let mut row = ground.suffer(&self.fault, load)?;
        row.proxy = "both".to_owned();
        if row.harmless {
            (self.finish)(&mut ground)?;
            ground.check_services()?;
        }
        Ok(row)
    }
}

fn take_over(ground: &mut Ground) -> Result<Aftermath> {
    let mut old = Vec::new();
    for node in ground.nodes() {
        old.push(ground.rig.take_proxy(node)?);
    }
    ground.become_ours();
    for node in ground.nodes() {
        ground.start(node)?;
        ground.eventually("the agent sees kube-proxy's rules", |ground| {
            Ok(ground
                .command(node, &["status"])?
                .contains("kube-proxy's rules are in place"))
        })?;
    }
    thread::sleep(TOGETHER);
    for mut process in old {
        process.terminate(TERMINATION)?;
    }
    thread::sleep(TOGETHER);
    let marker = ground.marker()?;
    let converged = ground.await_marker(&marker)?;
    let refused = ground.command(1, &["cleanup", "--kube-proxy"]);
    let said = refused.unwrap_or_else(|error| format!("{error:#}"));
    ensure!(
        said.contains("connections go through kube-proxy's rules still"),
        "rules in use were not kept: {said}"
    );
    Ok(Aftermath {
        converged: Some(converged),
        note: "kube-proxy's rules stay while connections use them".to_owned(),
    })
}

/// The load has ended: kube-proxy's rules can go.
fn forget_kube_proxy(ground: &mut Ground) -> Result<()> {
    for node in ground.nodes() {
        let said = ground.command(node, &["cleanup", "--kube-proxy"])?;
        ensure!(said.contains("Removed "), "{said}");
        let rules = ground.rig.node(node).place.run("nft", ["list", "ruleset"])?;
        let left =
            rules.contains("KUBE-SVC") || rules.contains("KUBE-SERVICES") || rules.contains("table ip kube-proxy");
        ensure!(!left, "rules of kube-proxy are left: {rules}");
        ground.eventually("the agent sees that the rules are gone", |ground| {
            Ok(!ground.command(node, &["status"])?.contains("kube-proxy's rules"))
        })?;
    }
    Ok(())
}

fn hand_back(ground: &mut Ground) -> Result<Aftermath> {
    hand_back_to(ground, "nftables")
}

fn hand_back_to_iptables(ground: &mut Ground) -> Result<Aftermath> {
    hand_back_to(ground, "iptables")
}

fn hand_back_to(ground: &mut Ground, mode: &'static str) -> Result<Aftermath> {
    let mut agents = Vec::new();
    for node in ground.nodes() {
        agents.push(ground.rig.take_proxy(node)?);
    }
    ground.rig.set_proxy(rival(mode));
    let known = ground.marker()?;
    let address = ground.address(&known);
    for node in ground.nodes() {
        ground.start(node)?;
        ground.eventually("kube-proxy has its rules", |ground| {
            let rules = ground.rig.node(node).place.run("nft", ["list", "ruleset"])?;
            Ok(rules.contains(&address))
        })?;
    }
    thread::sleep(TOGETHER);
    for mut agent in agents {
        agent.terminate(TERMINATION)?;
    }
    for node in ground.nodes() {
        let said = ground.command(node, &["drain"])?;
        ensure!(said.contains("left to the kernel"), "{said}");
    }
    // Nobody but kube-proxy hears of this one.
    let marker = ground.marker()?;
    let converged = ground.await_marker(&marker)?;
    thread::sleep(TOGETHER);
    Ok(Aftermath {
        converged: Some(converged),
        note: "new connections by kube-proxy, old ones by what is pinned".to_owned(),
    })
}

fn clean_up(ground: &mut Ground) -> Result<()> {
    for node in ground.nodes() {
        ground.command(node, &["drain", "--wait=60"])?;
        let said = ground.command(node, &["cleanup"])?;
        ensure!(said.contains("Detached "), "{said}");
    }
    Ok(())
}

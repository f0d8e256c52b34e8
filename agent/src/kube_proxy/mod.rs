//! kube-proxy on this node: whether its rules are in place, and taking them away.
//!
//! While they are, the connections that they translate are in the kernel's connection tracking and not in our tables: the
//! programs leave them to it (`config_flags::TAKE_OVER`).

mod iptables;
mod netlink;
mod reserve;

use self::iptables::Tables;
pub use self::netlink::Replies;
use self::netlink::{Family, Netfilter};
use anyhow::{Context, Result, bail};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

/// Its table in mode nftables.
const TABLE: &str = "kube-proxy";
/// A chain that it always has in mode iptables, in the table `nat`.
const CHAIN: (&str, &str) = ("nat", "KUBE-SERVICES");
/// Which tables iptables-legacy has in this network namespace.
const LEGACY: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];

/// Where rules of kube-proxy are in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    pub nftables: bool,
    /// By iptables-nft.
    pub iptables: bool,
    /// By iptables-legacy.
    pub legacy: bool,
}

impl Rules {
    pub fn any(self) -> bool {
        self.nftables || self.iptables || self.legacy
    }

    /// Looks, in this network namespace. iptables-legacy is asked only with `thorough`, for that costs a process that reads whole
    /// tables; without its programs nothing is seen of it.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN.
    pub fn find(thorough: bool) -> io::Result<Self> {
        let mut found = Self::default();
        if let Some(netfilter) = Netfilter::open_if_there()? {
            for family in Family::BOTH {
                found.nftables |= netfilter.has_table(family, TABLE)?;
                found.iptables |= netfilter.has_chain(family, CHAIN.0, CHAIN.1)?;
            }
        }
        found.legacy = thorough && legacy().any(|tables| tables.has_rules().unwrap_or(false));
        Ok(found)
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            (self.nftables, "nftables"),
            (self.iptables, "iptables"),
            (self.legacy, "iptables-legacy"),
        ];
        let kinds: Vec<_> = kinds
            .into_iter()
            .filter(|(there, _)| *there)
            .map(|(_, kind)| kind)
            .collect();
        f.write_str(&kinds.join(", "))
    }
}

/// Base chains of nf_tables, those of iptables-nft among them, that drop what is forwarded unless a rule accepts it.
///
/// # Errors
/// Without CAP_NET_ADMIN.
pub fn forward_drops() -> io::Result<Vec<String>> {
    Netfilter::open_if_there()?.map_or(Ok(Vec::new()), |netfilter| netfilter.forward_drops())
}

/// Whether iptables-legacy has tables in this network namespace, which only its own programs can read.
pub fn has_legacy_tables() -> bool {
    legacy().next().is_some()
}

/// The families in which iptables-legacy has a table `nat`.
fn legacy() -> impl Iterator<Item = Tables> {
    let names = LEGACY.map(|file| fs::read_to_string(file).unwrap_or_default());
    let there = |names: &String| names.lines().any(|name| name == CHAIN.0);
    Tables::LEGACY
        .into_iter()
        .zip(names)
        .filter_map(move |(tables, names)| there(&names).then_some(tables))
}

/// TCP connections that kube-proxy's rules translate still, as connection tracking has them. Those of hostPorts count too: it
/// cannot tell them.
///
/// # Errors
/// Without CAP_NET_ADMIN.
pub fn connections() -> io::Result<u64> {
    Netfilter::open_if_there()?.map_or(Ok(0), |netfilter| netfilter.translated_connections())
}

/// The replies of connections whose source connection tracking has changed. It takes any port, those of our SNAT range too.
///
/// # Errors
/// Without CAP_NET_ADMIN.
pub fn masqueraded() -> io::Result<Vec<Replies>> {
    Netfilter::open_if_there()?.map_or(Ok(Vec::new()), |netfilter| netfilter.masqueraded())
}

/// Has connection tracking take the ports that such replies come to for used, so that kube-proxy's masquerading gives them to no new
/// connection with the same peer.
///
/// # Errors
/// Without CAP_NET_ADMIN, or where the kernel has no `nf_conntrack_netlink`.
pub fn reserve(mut all: impl Iterator<Item = Replies>) -> io::Result<()> {
    let netfilter = Netfilter::open()?;
    all.try_for_each(|replies| netfilter.reserve(&replies))
}

/// The process id of a kube-proxy in this network namespace.
pub fn running() -> Option<u32> {
    let own = fs::metadata("/proc/self/ns/net").ok()?.ino();
    let mut processes = fs::read_dir("/proc").ok()?.flatten();
    processes.find_map(|process| {
        let id = process.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(process.path().join("comm")).ok()?;
        let netns = fs::metadata(process.path().join("ns/net")).ok()?.ino();
        (name.trim() == "kube-proxy" && netns == own).then_some(id)
    })
}

/// Removes its rules; what was removed, a line each.
///
/// # Errors
/// Without `force`, when a kube-proxy is running, which would write them again, or when connections go through them still.
pub fn remove_rules(force: bool) -> Result<Vec<String>> {
    if !force {
        if let Some(pid) = running() {
            bail!(
                "kube-proxy is running here (pid {pid}) and would write its rules again; stop it first, or give --force"
            );
        }
        let left = connections().context("cannot read the kernel's connection tracking")?;
        if left > 0 && Rules::find(true)?.any() {
            bail!(
                "{left} connections go through kube-proxy's rules still; wait for their end, or give --force to break them"
            );
        }
    }
    let mut removed = Vec::new();
    let mut kinds: Vec<Tables> = legacy().collect();
    if let Some(netfilter) = Netfilter::open_if_there()? {
        for ((family, name), tables) in Family::BOTH.into_iter().zip(["ip", "ip6"]).zip(Tables::NFT) {
            if netfilter
                .delete_table(family, TABLE)
                .with_context(|| format!("cannot delete the table {name} {TABLE}"))?
            {
                removed.push(format!("the table {name} {TABLE}"));
            }
            if netfilter.has_chain(family, CHAIN.0, CHAIN.1)? {
                kinds.push(tables);
            }
        }
    }
    for tables in kinds {
        let chains = tables.remove_rules()?;
        if chains > 0 {
            removed.push(format!("{chains} chains of {}", tables.program));
        }
    }
    Ok(removed)
}

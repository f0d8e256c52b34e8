//! What the agent may do: as little as its work needs.
//!
//! Capabilities belong to threads, and a new thread has those of the one that starts it. So they are dropped before there is a
//! second thread; what needs more than the rest of the agent's life is done before, or by the helper (`stuck`), a process of its own.

use crate::kube_proxy;
use anyhow::{Context, Result, bail};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};
use std::fs;
use std::net::SocketAddr;

/// Maps, programs and links; network devices and their programs; programs that may compute with pointers.
const NEEDED: [(&str, CapabilitySet); 3] = [
    ("CAP_BPF", CapabilitySet::BPF),
    ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
    ("CAP_PERFMON", CapabilitySet::PERFMON),
];

/// Drops, for this thread and all that it starts, every capability but those that are needed, and the means to get any.
/// `binds` are addresses that will be listened at: a port that only the privileged may have needs one capability more, and so
/// does `iptables-legacy-save`, where kube-proxy's rules may be in its tables.
///
/// # Errors
/// One that is needed is missing, or the kernel refuses.
pub(crate) fn drop_all_but_needed(binds: &[SocketAddr]) -> Result<()> {
    let held = capabilities(None)
        .context("cannot read this process's capabilities")?
        .permitted;
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(_, capability)| !held.contains(*capability) && !held.contains(CapabilitySet::SYS_ADMIN))
        .map(|(name, _)| *name)
        .collect();
    if !missing.is_empty() {
        bail!("the agent lacks {}: run it as root, or grant these", missing.join(", "));
    }
    let mut kept = NEEDED.iter().fold(CapabilitySet::empty(), |all, (_, one)| all | *one) & held;
    if binds
        .iter()
        .any(|bind| bind.port() != 0 && bind.port() < first_common_port())
    {
        kept |= CapabilitySet::NET_BIND_SERVICE & held;
    }
    if kube_proxy::has_legacy_tables() {
        kept |= CapabilitySet::NET_RAW & held;
    }
    set_no_new_privs(true).context("cannot renounce new privileges")?;
    clear_ambient_capability_set().context("cannot clear the ambient capabilities")?;
    // Without CAP_SETPCAP the bounding set stays; nothing can be gained by it any more.
    if held.contains(CapabilitySet::SETPCAP) {
        for capability in (0..64).filter(|bit| !kept.contains(CapabilitySet::from_bits_retain(1 << bit))) {
            match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << capability)) {
                // The kernel knows fewer.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error).context("cannot narrow the bounding set of capabilities"),
            }
        }
    }
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).context("cannot drop capabilities")
}

/// The lowest port that needs no privilege in this network namespace.
fn first_common_port() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

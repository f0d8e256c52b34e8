//! The loopback device, where a node's processes meet frontends that are addresses of the node itself: NodePorts above all.
//!
//! Answers of backends elsewhere come back to such a process in by this device, from an address of the node. In IPv4 the stack takes
//! that for forged, unless `net.ipv4.conf.lo.accept_local` says otherwise. What the device gets is sent on this node, so the setting
//! lets nobody else in.

use super::error::{During as _, Result};
use super::state::StateDir;
use std::fs;

const SYSCTL: &str = "/proc/sys/net/ipv4/conf/lo/accept_local";

/// Has the stack accept packets from the node's own addresses at the loopback device, and notes in the state directory if it did not.
pub(super) fn accept(state: &StateDir) -> Result<()> {
    let held = fs::read_to_string(SYSCTL).during(|| format!("cannot read {SYSCTL}"))?;
    if held.trim() != "0" {
        return Ok(());
    }
    // The note first: to switch off what was never switched on harms nobody.
    state.loopback_note().write("accept_local")?;
    fs::write(SYSCTL, "1").during(|| format!("cannot write {SYSCTL}"))
}

/// Takes back what [`accept`] has changed; whether it had.
pub(super) fn release(state: &StateDir) -> Result<bool> {
    if !state.loopback_note().remove()? {
        return Ok(false);
    }
    fs::write(SYSCTL, "0").during(|| format!("cannot write {SYSCTL}"))?;
    Ok(true)
}

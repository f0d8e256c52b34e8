//! The switch's side of links with XDP on the machine's side.
//!
//! A veth takes frames that its peer sends by XDP_TX only while it runs an XDP program itself (`veth_xdp_flush` in the
//! kernel's drivers/net/veth.c). Ours passes everything as long as its tables are empty.
use anyhow::{Context, Result};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use ferrogate_common::maps;

use super::netns::Netns;
use crate::kernel::Object;

/// Entries of the tables, which stay empty.
const ENTRIES: u32 = 64;

/// Puts a program that passes everything on devices of `lan`; it goes when what is returned is dropped.
pub(crate) fn receive_frames(lan: &Netns, devices: &[String]) -> Result<Ebpf> {
    let path = Object::path();
    let bytes = std::fs::read(&path).with_context(|| format!("{}: `cargo xtask build` makes it", path.display()))?;
    let mut loader = EbpfLoader::new();
    for spec in maps::ALL.iter().filter(|spec| spec.entries > ENTRIES) {
        loader.map_max_entries(spec.name, ENTRIES);
    }
    loader.override_global("AYA_LOG_LEVEL", &0u8, false);
    let mut ebpf = loader.load(&bytes).context("loading the object")?;
    let program: &mut Xdp = ebpf.program_mut("uplink_xdp").context("no uplink_xdp")?.try_into()?;
    program.load().context("loading uplink_xdp")?;
    lan.enter(|| {
        for device in devices {
            program
                .attach(device, XdpMode::Driver)
                .with_context(|| format!("XDP on {device}"))?;
        }
        Ok(())
    })?;
    Ok(ebpf)
}

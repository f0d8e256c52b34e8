//! The switch's side of links with XDP on the machine's side.
use anyhow::Result;
use aya::Ebpf;

use super::netns::Netns;
use crate::kernel::pass_frames;

/// Puts a program that passes everything on devices of `lan`; it goes when what is returned is dropped.
pub(crate) fn receive_frames(lan: &Netns, devices: &[String]) -> Result<Ebpf> {
    lan.enter(|| pass_frames(devices))
}

//! `ferrogate trace --pcap`: packets as they come to a hook, and as they leave it. The maps and programs for it are of an object of their
//! own, which is loaded while somebody captures; nothing here is part of the ABI.

use crate::{Address, Port};
use bytemuck::{Pod, Zeroable};

/// Room for the beginning of a packet: less than this is kept. A power of two.
pub const CAPTURE_BYTES: usize = 256;

/// An entry of the ring buffer `CAPTURED`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct CapturedPacket {
    /// Nanoseconds of the boot clock.
    pub nanos: u64,
    /// Of the device that the hook is at.
    pub ifindex: u32,
    /// Bytes of the whole packet, from where the hook sees it.
    pub length: u32,
    /// How many of these are in `bytes`.
    pub captured: u32,
    /// What the program returned; of a packet that comes, 0.
    pub verdict: i32,
    /// [`CaptureSettings::hook`].
    pub hook: u32,
    /// 1: as it left the program; 0: as it came.
    pub left: u32,
    pub bytes: [u8; CAPTURE_BYTES],
}

/// A key of the map `WANTED`: packets from or to it are captured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct CaptureKey {
    /// [`Address::unspecified`]: any of that family, of a NodePort.
    pub address: Address,
    pub port: Port,
    /// An IP protocol number, or one of [`CaptureKey::ALL`] and [`CaptureKey::PORTLESS`], with port 0.
    pub protocol: u8,
    pub reserved: u8,
}

impl CaptureKey {
    /// Everything of the address.
    pub const ALL: u8 = 0;
    /// What has no ports: ICMP, and fragments but the first.
    pub const PORTLESS: u8 = 255;
}

/// The constant `CAPTURE` of the object. Offsets are of this kernel's structures, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct CaptureSettings {
    /// Goes into each record.
    pub hook: u32,
    /// Bytes of link-layer header: 14 or none.
    pub link: u32,
    /// Not 0: whatever comes is captured, whatever is in `WANTED`.
    pub all: u32,
    /// Not 0: the context is a `struct xdp_buff`, else a `struct sk_buff`.
    pub xdp: u32,
    /// Of the context: the pointer to the packet.
    pub data: u32,
    /// xdp: the pointer behind it.
    pub data_end: u32,
    /// skb: bytes of the packet, and those of them that are not at `data`.
    pub len: u32,
    pub data_len: u32,
    /// Of the context, or of the `struct xdp_rxq_info` that it points to: the pointer to the device.
    pub dev: u32,
    /// xdp: the pointer to that one.
    pub rxq: u32,
    /// Of `struct net_device`.
    pub ifindex: u32,
}

impl CaptureSettings {
    /// Name of the constant.
    pub const NAME: &'static str = "CAPTURE";
}

//! Packets: a socket buffer or an XDP frame.

use crate::checksum::{self, add, fold};
use crate::env::{ChecksumChange, Packet};
use bytemuck::Pod;
use ferrogate_common::UdpSocket;
use std::vec::Vec;

/// A packet and what its context says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPacket {
    /// From the link-layer header on.
    pub bytes: Vec<u8>,
    /// Bytes of link-layer header: 14 or 0.
    pub link: usize,
    pub ifindex: u32,
    /// Sent by a process of this node.
    pub from_this_node: bool,
    /// An XDP frame: can't be reshaped, and its checksums are always complete.
    pub frame: bool,
    /// A frame of a driver without room for metadata.
    pub unmarkable: bool,
    /// The device completes the transport checksum (CHECKSUM_PARTIAL): the field holds the pseudo header's sum so far.
    pub partial: bool,
    /// To be cut into two segments before it leaves.
    pub segmented: bool,
    /// Of the socket that sent it: what `UDP_SOCKETS` has.
    pub sender: Option<UdpSocket>,
    /// Differences that a device's sum over the packet was mended by.
    pub mended: u32,
}

impl HostPacket {
    /// An Ethernet packet on `ifindex`, forwarded or received.
    pub fn ethernet(bytes: Vec<u8>, ifindex: u32) -> Self {
        Self {
            bytes,
            link: 14,
            ifindex,
            from_this_node: false,
            frame: false,
            unmarkable: false,
            partial: false,
            segmented: false,
            sender: None,
            mended: 0,
        }
    }

    /// A packet of a device without link-layer header.
    pub fn layer3(bytes: Vec<u8>, ifindex: u32) -> Self {
        Self {
            link: 0,
            ..Self::ethernet(bytes, ifindex)
        }
    }
}

impl Packet for HostPacket {
    fn load<T: Pod>(&self, at: usize) -> Option<T> {
        let bytes = self.bytes.get(at..at.checked_add(size_of::<T>())?)?;
        Some(bytemuck::pod_read_unaligned(bytes))
    }

    fn store<T: Pod>(&mut self, at: usize, value: T) -> Option<()> {
        let bytes = self.bytes.get_mut(at..at.checked_add(size_of::<T>())?)?;
        bytes.copy_from_slice(bytemuck::bytes_of(&value));
        Some(())
    }

    fn segments(&self) -> u32 {
        1 + u32::from(self.segmented)
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }

    /// As `bpf_l4_csum_replace` does it for packets whose checksum is complete or partial.
    fn update_transport_checksum(&mut self, at: usize, change: ChecksumChange) -> Option<()> {
        let old: u16 = self.load(at)?;
        if !self.partial {
            return self.store(at, checksum::updated(old, &change));
        }
        if change.optional && old == 0 {
            return Some(());
        }
        let new = fold(add(change.addresses, old.into()));
        self.store(at, if change.optional && new == 0 { 0xffff } else { new })
    }

    fn mend_sum(&mut self, difference: u32) {
        self.mended = add(self.mended, difference);
    }

    fn set_transport_checksum(&mut self, at: usize, full: u16, pseudo: u16) -> Option<()> {
        self.store(at, if self.partial { pseudo } else { full })
    }

    fn resize(&mut self, length: usize) -> Option<()> {
        if self.frame {
            return None;
        }
        self.bytes.resize(length, 0);
        Some(())
    }

    /// What is to be cut into segments, the kernel resizes only where it knows how: here it is told nothing of that.
    fn grow(&mut self, bytes: usize, _tcp: bool) -> Option<()> {
        if self.segmented {
            return None;
        }
        self.bytes.splice(self.link..self.link, std::iter::repeat_n(0, bytes));
        Some(())
    }

    fn shrink(&mut self, bytes: usize) -> Option<()> {
        if self.frame || self.segmented || self.bytes.len() < self.link + bytes {
            return None;
        }
        self.bytes.drain(self.link..self.link + bytes);
        Some(())
    }

    fn link_header(&self) -> usize {
        self.link
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn is_from_this_node(&self) -> bool {
        self.from_this_node
    }

    fn sender(&self) -> Option<UdpSocket> {
        self.sender
    }

    fn can_be_done(&self) -> bool {
        !self.unmarkable
    }
}

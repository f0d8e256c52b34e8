//! The XDP hook of uplinks.

use crate::fib;
use crate::packet;
use crate::tables::{self, tables_are_maps};
use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_adjust_meta};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use bytemuck::Pod;
use ferrogate_common::{Address, DONE_MARK, Reason, UdpSocket};
use ferrogate_datapath::{ChecksumChange, Edge, Fib, Packet, Route, Routed, Transport, Verdict, checksum, enter};

/// Bytes of Ethernet header.
const ETHERNET: usize = 14;

struct Frame {
    xdp: *mut xdp_md,
    hop: Route,
    /// For `Opaque`.
    zero: u32,
}

impl Frame {
    /// Makes room for a mark: always as much, whatever a device below may have left there.
    #[inline(always)]
    fn make_room(&mut self) {
        let grow = (self.data() as i32)
            .wrapping_sub(self.metadata() as i32)
            .wrapping_sub(DONE_MARK as i32);
        // SAFETY: a live context; the helper checks the offset. Where it fails, `can_be_done` sees that there is no room.
        unsafe { bpf_xdp_adjust_meta(self.xdp, grow) };
    }

    /// Tells the tcx program behind this one whether it has anything left to do.
    #[inline(always)]
    fn mark(&self, reason: Reason) {
        let mark = if is_done(reason) {
            tables::config().netns_cookie
        } else {
            0
        };
        // Without room there is no mark either.
        let _ = packet::store(self.metadata(), self.data(), 0, mark);
    }

    #[inline(always)]
    fn metadata(&self) -> usize {
        // SAFETY: a live context.
        unsafe { (*self.xdp).data_meta as usize }
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: a live context.
        unsafe { (*self.xdp).data as usize }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: a live context.
        unsafe { (*self.xdp).data_end as usize }
    }
}

tables_are_maps!(Frame);

impl Packet for Frame {
    #[inline(always)]
    fn load<T: Pod>(&self, at: usize) -> Option<T> {
        packet::load(self.data(), self.data_end(), at)
    }

    #[inline(always)]
    fn store<T: Pod>(&mut self, at: usize, value: T) -> Option<()> {
        packet::store(self.data(), self.data_end(), at, value)
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.data_end() - self.data()
    }

    #[inline(always)]
    fn update_transport_checksum(&mut self, at: usize, change: ChecksumChange) -> Option<()> {
        let old: u16 = self.load(at)?;
        self.store(at, checksum::updated(old, &change))
    }

    #[inline(always)]
    fn mend_sum(&mut self, _difference: u32) {}

    #[inline(always)]
    fn set_transport_checksum(&mut self, at: usize, full: u16, _pseudo: u16) -> Option<()> {
        self.store(at, full)
    }

    #[inline(always)]
    fn resize(&mut self, _length: usize) -> Option<()> {
        None
    }

    /// The link-layer header goes with the packet's new beginning.
    #[inline(always)]
    fn grow(&mut self, bytes: usize, _tcp: bool) -> Option<()> {
        let header: [u16; ETHERNET / 2] = self.load(0)?;
        // SAFETY: a live context.
        if unsafe { bpf_xdp_adjust_head(self.xdp, -(bytes as i32)) } < 0 {
            return None;
        }
        self.store(0, header)
    }

    /// What is wrapped is left to tcx.
    #[inline(always)]
    fn shrink(&mut self, _bytes: usize) -> Option<()> {
        None
    }

    #[inline(always)]
    fn link_header(&self) -> usize {
        ETHERNET
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // Volatile: merged with a load from elsewhere it would be one through a pointer that may be the context's or not.
        // SAFETY: a live context.
        unsafe { (&raw const (*self.xdp).ingress_ifindex).read_volatile() }
    }

    #[inline(always)]
    fn is_from_this_node(&self) -> bool {
        false
    }

    /// Only pods' packets are asked for theirs.
    #[inline(always)]
    fn sender(&self) -> Option<UdpSocket> {
        None
    }

    #[inline(always)]
    fn can_be_done(&self) -> bool {
        packet::load::<u64>(self.metadata(), self.data(), 0).is_some()
    }
}

impl Fib for Frame {
    #[inline(always)]
    fn route(&mut self, ifindex: u32, source: &Address, destination: &Address, transport: Transport) -> Routed {
        fib::ask(&mut self.hop, ifindex, transport);
        let routed = fib::routed(find_frame_way(self.xdp, &raw mut self.hop, source, destination));
        fib::leave_room(&mut self.hop, transport);
        routed
    }

    #[inline(always)]
    fn hop(&self) -> &Route {
        &self.hop
    }
}

/// Where a frame goes: [`fib::answer`], with devices only that frames can be sent by.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn find_frame_way(
    xdp: *mut xdp_md,
    hop: *mut Route,
    source: *const Address,
    destination: *const Address,
) -> i32 {
    // SAFETY: the verifier sees to it that each is null or as large as its type.
    match unsafe { (hop.as_mut(), source.as_ref(), destination.as_ref()) } {
        (Some(hop), Some(source), Some(destination)) => fib::answer::<true>(xdp.cast(), hop, source, destination),
        _ => -1,
    }
}

/// Whether the tcx program would have nothing to add. It sees the packet as it is now: one that was translated looks to it like one
/// that its client has sent straight to the backend. What was not parsed here it may see without its VLAN tag.
#[inline(always)]
fn is_done(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NotService | Reason::Translated | Reason::NewFlow | Reason::Reply
    )
}

#[xdp]
pub fn uplink_xdp(context: XdpContext) -> u32 {
    let mut frame = Frame {
        xdp: context.ctx,
        hop: Route::NONE,
        zero: tables::config().zero,
    };
    frame.make_room();
    let Ok(verdict) = enter(&mut frame, Edge::Xdp) else {
        // The tcx program behind this one has a second.
        return xdp_action::XDP_PASS;
    };
    match verdict {
        Verdict::Pass(reason) => {
            frame.mark(reason);
            xdp_action::XDP_PASS
        }
        Verdict::Drop(_) => xdp_action::XDP_DROP,
        Verdict::Bounce(_) => xdp_action::XDP_TX,
        // Left to tcx.
        Verdict::Loopback(_) | Verdict::Peer(_) => xdp_action::XDP_PASS,
        Verdict::Forward(_) => {
            let route = frame.hop;
            let ([a, b, c], [d, e, f]) = (route.destination_mac, route.source_mac);
            if frame.store(0, [a, b, c, d, e, f]).is_none() {
                return xdp_action::XDP_ABORTED;
            }
            if route.ifindex == frame.ifindex() {
                return xdp_action::XDP_TX;
            }
            // SAFETY: no pointers.
            unsafe { bpf_redirect(route.ifindex, 0) as u32 }
        }
    }
}

//! The tcx hooks.

use crate::fib::{self, AF_INET, AF_INET6};
use crate::maps::{SECOND, UDP_SOCKETS};
use crate::packet;
use crate::tables::{config, tables_are_maps};
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_INGRESS,
    BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1,
};
use aya_ebpf::helpers::generated::{
    bpf_csum_update, bpf_get_socket_cookie, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer,
    bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_pull_data,
};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use aya_log_ebpf::macro_support::{Level, level_enabled};
use bytemuck::Pod;
use ferrogate_common::{Address, LOOPBACK, TcxHook, UdpSocket};
use ferrogate_datapath::{
    ChecksumChange, Edge, Fib, Ipv6Header, Left, Opaque, Packet, Route, Routed, Transport, Verdict, checksum, enter,
    enter_second, leave, leave_second,
};

/// Bytes of Ethernet header.
const ETHERNET: usize = 14;

/// Its protocol numbers (linux/if_ether.h).
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// The longest headers that the first programs look at: Ethernet, IPv4 with all options, TCP without any.
const HEADERS: u32 = (ETHERNET + 60 + 20) as u32;

/// The same for the second programs: an ICMP error and the packet that it quotes, with IPv6 extension headers.
const QUOTED_HEADERS: u32 = 576;

/// `BPF_F_IPV6` of kernels from 6.16 on: in IPv6 no header checksum makes up for changed addresses.
const BPF_F_IPV6: u64 = 1 << 7;

/// Where a packet begins. Volatile: a pointer that the compiler keeps in memory comes back through 32 bits, and one from before a
/// helper's call is none any more.
#[inline(always)]
fn data(skb: *mut __sk_buff) -> usize {
    // SAFETY: a live context.
    unsafe { (&raw const (*skb).data).read_volatile() as usize }
}

/// Where it ends.
#[inline(always)]
fn data_end(skb: *mut __sk_buff) -> usize {
    // SAFETY: a live context.
    unsafe { (&raw const (*skb).data_end).read_volatile() as usize }
}

/// A socket buffer whose packets begin with `LINK` bytes of link-layer header.
struct Skb<const LINK: usize> {
    skb: *mut __sk_buff,
    hop: Route,
    /// For `Opaque`.
    zero: u32,
}

impl<const LINK: usize> Skb<LINK> {
    #[inline(always)]
    fn new(context: &TcContext, headers: u32) -> Self {
        let skb = Self {
            skb: context.skb.skb,
            hop: Route::NONE,
            zero: config().zero,
        };
        // Headers that lie in fragments are pulled into reach once, here.
        let reach = skb.length().min(headers);
        if ((skb.data_end() - skb.data()) as u32) < reach {
            // SAFETY: a live context. Where it fails, parsing finds the packet too short.
            unsafe { bpf_skb_pull_data(skb.skb, reach) };
        }
        skb
    }

    #[inline(always)]
    fn data(&self) -> usize {
        data(self.skb)
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        data_end(self.skb)
    }

    /// Inserts or removes bytes behind the link-layer header.
    #[inline(always)]
    fn adjust_room(&mut self, difference: i32, flags: u32) -> Option<()> {
        // SAFETY: a live context.
        (unsafe { bpf_skb_adjust_room(self.skb, difference, BPF_ADJ_ROOM_MAC, flags.into()) } == 0).then_some(())
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: a live context.
        unsafe { (*self.skb).len }
    }
}

tables_are_maps!(Skb<LINK>, const LINK: usize);

impl<const LINK: usize> Packet for Skb<LINK> {
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
        self.length() as usize
    }

    /// Without branches, of which the verifier would follow each.
    #[inline(always)]
    fn holds_checksum(&self, at: usize, pseudo: u16) -> u32 {
        let Some(field) = self.load::<u16>(at) else { return 0 };
        // What is yet to be cut into segments may hold anything; 0 may stand for no checksum.
        // SAFETY: a live context.
        let whole = unsafe { (*self.skb).gso_size } == 0;
        let full = whole & (field != 0) & !checksum::same(field, pseudo);
        self.opaque(full.into())
    }

    #[inline(always)]
    fn update_transport_checksum(&mut self, at: usize, change: ChecksumChange) -> Option<()> {
        if change.full != 0 {
            let field: u16 = self.load(at)?;
            // In IPv4 field and header's checksum both make up for changed addresses: in the sum over the packet that a device may have
            // made on receipt that is once too often. Where there is no such sum, this fails.
            let twice = if change.v6 { 0 } else { !change.addresses };
            self.mend_sum(twice);
            return self.store(at, checksum::updated(field, &change));
        }
        // A function of its own to the verifier, which looks at it once, whoever calls it and with what.
        (mend_checksum(self.skb, at as u32, change.addresses, change.rest, how(&change)) >= 0).then_some(())
    }

    #[inline(always)]
    fn mend_sum(&mut self, difference: u32) {
        // SAFETY: a live context. It fails where there is no such sum.
        unsafe { bpf_csum_update(self.skb, difference) };
    }

    #[inline(always)]
    fn set_transport_checksum(&mut self, at: usize, full: u16, pseudo: u16) -> Option<()> {
        // Whether the device is to complete the checksum can't be read, but it shows: then the helper leaves the field alone.
        self.store(at, 0u16)?;
        // SAFETY: a live context; the helper checks the offset.
        if unsafe { bpf_l4_csum_replace(self.skb, at as u32, 0, 1, 0) } < 0 {
            return None;
        }
        let untouched = self.load::<u16>(at)? == 0;
        self.store(at, if untouched { pseudo } else { full })
    }

    #[inline(always)]
    fn resize(&mut self, length: usize) -> Option<()> {
        // SAFETY: a live context.
        if unsafe { bpf_skb_change_tail(self.skb, length as u32, 0) } < 0 {
            return None;
        }
        // SAFETY: a live context.
        unsafe { bpf_skb_pull_data(self.skb, length as u32) };
        Some(())
    }

    #[inline(always)]
    fn grow(&mut self, bytes: usize, tcp: bool) -> Option<()> {
        let family = if bytes == size_of::<Ipv6Header>() {
            BPF_F_ADJ_ROOM_ENCAP_L3_IPV6
        } else {
            BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
        };
        // Datagrams stay as long as they are.
        let fixed = if tcp { 0 } else { BPF_F_ADJ_ROOM_FIXED_GSO };
        self.adjust_room(bytes as i32, family | fixed)
    }

    #[inline(always)]
    fn shrink(&mut self, bytes: usize) -> Option<()> {
        self.adjust_room(-(bytes as i32), BPF_F_ADJ_ROOM_FIXED_GSO)
    }

    #[inline(always)]
    fn link_header(&self) -> usize {
        LINK
    }

    #[inline(always)]
    fn segments(&self) -> u32 {
        // SAFETY: a live context.
        let segments = unsafe { (*self.skb).gso_segs };
        segments.max(1)
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // Volatile: merged with a load from elsewhere it would be one through a pointer that may be the context's or not.
        // SAFETY: a live context.
        unsafe { (&raw const (*self.skb).ifindex).read_volatile() }
    }

    #[inline(always)]
    fn is_from_this_node(&self) -> bool {
        // SAFETY: a live context.
        unsafe { (*self.skb).ingress_ifindex == 0 }
    }

    #[inline(always)]
    fn sender(&self) -> Option<UdpSocket> {
        // SAFETY: a live context. A packet keeps its socket on its way from one network namespace into another.
        let cookie = unsafe { bpf_get_socket_cookie(self.skb.cast()) };
        // SAFETY: copied at once.
        unsafe { UDP_SOCKETS.get(cookie) }.copied()
    }
}

impl<const LINK: usize> Fib for Skb<LINK> {
    #[inline(always)]
    fn route(&mut self, ifindex: u32, source: &Address, destination: &Address, mut transport: Transport) -> Routed {
        // SAFETY: a live context.
        if unsafe { (*self.skb).gso_segs } > 1 {
            // Longer than any MTU, but it is cut into segments that fit before it leaves.
            transport.length = Transport::SHORT;
        }
        fib::ask(&mut self.hop, ifindex, transport);
        let routed = fib::routed(find_way(self.skb, &raw mut self.hop, source, destination));
        fib::leave_room(&mut self.hop, transport);
        routed
    }

    #[inline(always)]
    fn hop(&self) -> &Route {
        &self.hop
    }
}

/// Where a packet goes: [`fib::answer`].
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn find_way(
    skb: *mut __sk_buff,
    hop: *mut Route,
    source: *const Address,
    destination: *const Address,
) -> i32 {
    // SAFETY: the verifier sees to it that each is null or as large as its type.
    match unsafe { (hop.as_mut(), source.as_ref(), destination.as_ref()) } {
        (Some(hop), Some(source), Some(destination)) => fib::answer::<false>(skb.cast(), hop, source, destination),
        _ => -1,
    }
}

/// Bits of what [`mend_checksum`] is told: 0 means "no checksum"; IPv6.
const OPTIONAL: u32 = 1;
const V6: u32 = 1 << 1;

#[inline(always)]
fn how(change: &ChecksumChange) -> u32 {
    (if change.optional { OPTIONAL } else { 0 }) | if change.v6 { V6 } else { 0 }
}

/// Folds differences of the pseudo header and of the segment into the field at `at`, a checksum or what a device is yet to complete,
/// which takes only the first; negative where there is none.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn mend_checksum(skb: *mut __sk_buff, at: u32, addresses: u32, rest: u32, how: u32) -> i32 {
    let optional: u64 = if how & OPTIONAL != 0 {
        BPF_F_MARK_MANGLED_0.into()
    } else {
        0
    };
    // SAFETY: the helper checks the offset.
    let replace =
        |difference: u32, flags: u64| unsafe { bpf_l4_csum_replace(skb, at, 0, difference.into(), flags) as i32 };
    let pseudo: u64 = BPF_F_PSEUDO_HDR as u64 | optional;
    let mut result = -1;
    if how & V6 != 0 {
        result = replace(addresses, pseudo | BPF_F_IPV6);
    }
    if result < 0 {
        result = replace(addresses, pseudo);
    }
    if result < 0 {
        return result;
    }
    replace(rest, optional)
}

/// Which way a hook's packets go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hook {
    Ingress,
    Egress,
}

/// Turns a verdict into the hook's return value.
#[inline(always)]
fn finish<const LINK: usize>(context: &TcContext, hook: Hook, skb: &Skb<LINK>, verdict: Verdict) -> i32 {
    // The verifier knows whether it is on: where it is off, there is not even the call.
    if level_enabled(Level::Debug) {
        log(context, skb.ifindex(), verdict.reason() as u8);
    }
    match verdict {
        // TCX_NEXT: the next program, if there is one, has its say.
        Verdict::Pass(_) => TC_ACT_UNSPEC,
        Verdict::Drop(_) => TC_ACT_SHOT,
        Verdict::Bounce(_) => {
            let flags = if hook == Hook::Egress { BPF_F_INGRESS.into() } else { 0 };
            // SAFETY: no pointers.
            unsafe { bpf_redirect(skb.ifindex(), flags) as i32 }
        }
        Verdict::Forward(_) => forward(skb),
        Verdict::Peer(_) => to_peer(skb),
        Verdict::Loopback(_) => to_loopback(skb),
    }
}

/// Packet logging.
#[inline(never)]
fn log(context: &TcContext, ifindex: u32, reason: u8) {
    debug!(context, "ifindex {} reason {}", ifindex, reason);
}

/// In by the loopback device.
#[inline(always)]
fn to_loopback<const LINK: usize>(skb: &Skb<LINK>) -> i32 {
    if LINK == 0 {
        // The device reads the protocol from an Ethernet header.
        // SAFETY: a live context.
        if unsafe { bpf_skb_change_head(skb.skb, ETHERNET as u32, 0) } < 0 {
            return TC_ACT_SHOT;
        }
        let Some(version) = skb.load::<u8>(ETHERNET) else {
            return TC_ACT_SHOT;
        };
        let protocol: u16 = if version >> 4 == 4 { ETH_P_IP } else { ETH_P_IPV6 };
        if packet::store(skb.data(), skb.data_end(), 12, protocol.to_be()).is_none() {
            return TC_ACT_SHOT;
        }
    }
    // SAFETY: no pointers.
    unsafe { bpf_redirect(LOOPBACK, BPF_F_INGRESS.into()) as i32 }
}

/// Into the network namespace that the way out leads to, as if the packet had come out of the interface's other end.
#[inline(always)]
fn to_peer<const LINK: usize>(skb: &Skb<LINK>) -> i32 {
    let ([a, b, c], [d, e, f]) = (skb.hop.destination_mac, skb.hop.source_mac);
    if packet::store(skb.data(), skb.data_end(), 0, [a, b, c, d, e, f]).is_none() {
        return TC_ACT_SHOT;
    }
    // SAFETY: no pointers.
    unsafe { bpf_redirect_peer(skb.hop.ifindex, 0) as i32 }
}

#[inline(always)]
fn forward<const LINK: usize>(skb: &Skb<LINK>) -> i32 {
    // The helper replaces an Ethernet header, and wants one to replace.
    // SAFETY: a live context.
    if LINK == 0 && unsafe { bpf_skb_change_head(skb.skb, ETHERNET as u32, 0) } < 0 {
        return TC_ACT_SHOT;
    }
    if skb.hop.destination_mac == [0; 3] {
        // The neighbour has to be asked for first. The packet waits for the answer, and is then sent to whom its own route
        // names: that must be one to where it goes now, which the helper finds itself, not the one that it came with.
        // SAFETY: no pointers.
        return unsafe { bpf_redirect_neigh(skb.hop.ifindex, core::ptr::null_mut(), 0, 0) as i32 };
    }
    let hop = &skb.hop.next_hop;
    let (family, words) = if hop.is_v4() {
        (AF_INET, [hop.v4_word(), 0, 0, 0])
    } else {
        (AF_INET6, hop.words())
    };
    let mut next_hop = bpf_redir_neigh {
        nh_family: family.into(),
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: words },
    };
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: the structure outlives the call.
    unsafe { bpf_redirect_neigh(skb.hop.ifindex, &raw mut next_hop, size, 0) as i32 }
}

/// Whether the XDP program before this one has left nothing to do.
#[inline(always)]
fn is_done(context: &TcContext) -> bool {
    let skb = context.skb.skb;
    // SAFETY: a live context.
    let (metadata, data) = unsafe { ((*skb).data_meta as usize, (*skb).data as usize) };
    packet::load::<u64>(metadata, data, 0).is_some_and(|mark| mark == config().netns_cookie)
}

/// Whether a packet is of a VLAN: its tag is beside the packet, which looks like any other of the device. What there is to do is done
/// at the VLAN's own device.
#[inline(always)]
fn is_tagged(context: &TcContext) -> bool {
    // SAFETY: a live context.
    unsafe { (*context.skb.skb).vlan_present != 0 }
}

/// A hook's first program.
#[inline(always)]
fn first<const LINK: usize>(context: &TcContext, hook: Hook, edge: Edge, second: u32) -> i32 {
    if is_tagged(context) || (hook == Hook::Ingress && edge == Edge::Uplink && is_done(context)) {
        return TC_ACT_UNSPEC;
    }
    let mut skb = Skb::<LINK>::new(context, HEADERS);
    let verdict = match hook {
        Hook::Ingress => enter(&mut skb, edge),
        Hook::Egress => leave(&mut skb, edge),
    };
    let Left(reason) = match verdict {
        Ok(verdict) => return finish(context, hook, &skb, verdict),
        Err(left) => left,
    };
    // SAFETY: nothing here needs to be dropped; where there is no such program, the call returns.
    unsafe { SECOND.tail_call(context, second) };
    if reason.is_drop() { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

/// A hook's second program.
#[inline(always)]
fn second<const LINK: usize>(context: &TcContext, hook: Hook, edge: Edge) -> i32 {
    let mut skb = Skb::<LINK>::new(context, QUOTED_HEADERS);
    let verdict = match hook {
        Hook::Ingress => enter_second(&mut skb, edge),
        Hook::Egress => leave_second(&mut skb, edge),
    };
    finish(context, hook, &skb, verdict)
}

/// The programs of a hook: `name`, `name_second`, index of the second one in `SECOND`, link-layer header, direction, edge.
macro_rules! hooks {
    ($($first:ident, $second:ident = $index:expr, $link:expr, $hook:ident, $edge:ident;)*) => {$(
        #[classifier]
        pub fn $first(context: TcContext) -> i32 {
            first::<$link>(&context, Hook::$hook, Edge::$edge, $index as u32)
        }

        #[classifier]
        pub fn $second(context: TcContext) -> i32 {
            second::<$link>(&context, Hook::$hook, Edge::$edge)
        }
    )*};
}

hooks! {
    pod_ingress, pod_ingress_second = TcxHook::PodIngress, ETHERNET, Ingress, Pod;
    pod_egress, pod_egress_second = TcxHook::PodEgress, ETHERNET, Egress, Pod;
    uplink_ingress, uplink_ingress_second = TcxHook::UplinkIngress, ETHERNET, Ingress, Uplink;
    uplink_egress, uplink_egress_second = TcxHook::UplinkEgress, ETHERNET, Egress, Node;
    uplink_ingress_l3, uplink_ingress_l3_second = TcxHook::UplinkIngressL3, 0, Ingress, Uplink;
    uplink_egress_l3, uplink_egress_l3_second = TcxHook::UplinkEgressL3, 0, Egress, Node;
}

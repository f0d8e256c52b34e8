//! A packet in a socket buffer, as the tcx hooks meet it.

use crate::fib;
use crate::maps::UDP_SOCKETS;
use crate::packet;
use crate::tables::{config, tables_are_maps};
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO,
    BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::helpers::generated::{
    bpf_csum_update, bpf_get_socket_cookie, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_tail,
    bpf_skb_pull_data,
};
use aya_ebpf::programs::TcContext;
use bytemuck::Pod;
use ferrogate_common::{Address, UdpSocket};
use ferrogate_datapath::{ChecksumChange, Fib, Ipv6Header, Opaque, Packet, Route, Routed, Transport, checksum};

/// Bytes of Ethernet header.
pub(crate) const ETHERNET: usize = 14;

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
pub(crate) struct Skb<const LINK: usize> {
    pub(crate) skb: *mut __sk_buff,
    pub(crate) hop: Route,
    /// For `Opaque`.
    zero: u32,
}

impl<const LINK: usize> Skb<LINK> {
    #[inline(always)]
    fn of(context: &TcContext) -> Self {
        Self {
            skb: context.skb.skb,
            hop: Route::NONE,
            zero: config().zero,
        }
    }

    /// For a first program, with the headers that it looks at in reach.
    #[inline(always)]
    pub(crate) fn first(context: &TcContext) -> Self {
        let skb = Self::of(context);
        if skb.near() < skb.length().min(HEADERS) && skb.near() < skb.plain_headers() {
            skb.pull(HEADERS);
        }
        skb
    }

    /// For a second one.
    #[inline(always)]
    pub(crate) fn second(context: &TcContext) -> Self {
        let skb = Self::of(context);
        if skb.near() < skb.length().min(QUOTED_HEADERS) {
            skb.pull(QUOTED_HEADERS);
        }
        skb
    }

    /// Bytes in reach; the others lie in fragments.
    #[inline(always)]
    fn near(&self) -> u32 {
        (self.data_end() - self.data()) as u32
    }

    /// Brings as many bytes into reach, or all that there are.
    #[inline(always)]
    fn pull(&self, headers: u32) {
        // SAFETY: a live context. Where it fails, parsing finds the packet too short.
        unsafe { bpf_skb_pull_data(self.skb, self.length().min(headers)) };
    }

    /// What TCP's or UDP's headers take up at most where there are no options or extensions before them. What a process sends has its
    /// headers at hand and the rest elsewhere: to bring more of it here would cost a copy of all that they share.
    #[inline(always)]
    fn plain_headers(&self) -> u32 {
        let of_ip = match self.load::<[u8; 2]>(LINK) {
            Some([0x45, _]) => 20,
            Some([first, _]) if first >> 4 == 6 => 40,
            _ => return u32::MAX,
        };
        LINK as u32 + of_ip + 20
    }

    #[inline(always)]
    pub(crate) fn data(&self) -> usize {
        data(self.skb)
    }

    #[inline(always)]
    pub(crate) fn data_end(&self) -> usize {
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

//! Route look-ups through `bpf_fib_lookup`, and what they found a moment ago: one costs as much as all the rest of a known flow's packet.

use crate::clock;
use crate::maps::{NEXT_HOPS, ROUTES};
use crate::{redirect, tables};
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT,
    bpf_fib_lookup as Parameters, bpf_fib_lookup__bindgen_ty_1, bpf_fib_lookup__bindgen_ty_2,
    bpf_fib_lookup__bindgen_ty_3, bpf_fib_lookup__bindgen_ty_4, bpf_fib_lookup__bindgen_ty_5,
};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use core::ffi::c_void;
use ferrogate_common::{Address, NextHop, TICK_SHIFT, interface_flags, maps};
use ferrogate_datapath::{Route, Routed, Transport};

pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;

/// What a global function returns for a [`Routed`], and back.
const TO: i32 = 0;
const TOO_BIG: i32 = 1;
const NOWHERE: i32 = 2;
const NOT_FROM_HERE: i32 = 3;

#[inline(always)]
pub(crate) fn routed(number: i32) -> Routed {
    match number {
        TO => Routed::To,
        TOO_BIG => Routed::TooBig,
        NOT_FROM_HERE => Routed::NotFromHere,
        _ => Routed::Nowhere,
    }
}

/// Bit of [`Route::flags`] as it is asked: the device is the one to leave by.
const OUT: u16 = 1 << 8;

/// Puts what is asked, of a packet that came in by `ifindex`, where its answer will be: device, length, protocol and [`OUT`].
#[inline(always)]
pub(crate) fn ask(hop: &mut Route, ifindex: u32, transport: Transport) {
    (hop.ifindex, hop.flags) = match transport.out {
        0 => (ifindex, transport.protocol.into()),
        out => (out, OUT | u16::from(transport.protocol)),
    };
    hop.mtu = transport.length.saturating_add(transport.overhead);
}

/// What fits is meant without the header that the packet gets.
#[inline(always)]
pub(crate) fn leave_room(hop: &mut Route, transport: Transport) {
    hop.mtu = hop.mtu.saturating_sub(transport.overhead);
}

/// Answers what was [asked](ask). The body of one global function a type of program: the verifier looks at each once, with any
/// arguments, and at its callers without it.
///
/// With `FRAMES`, only devices that frames can be sent by will do.
#[inline(always)]
pub(crate) fn answer<const FRAMES: bool>(
    context: *mut c_void,
    hop: &mut Route,
    source: &Address,
    destination: &Address,
) -> i32 {
    let (from, length) = (hop.ifindex, hop.mtu);
    let kind = NextHop::kind(hop.flags, FRAMES);
    let generation = ROUTES.get(0).copied().unwrap_or(0);
    let tick = (clock::nanos() >> TICK_SHIFT) as u32;
    // Volatile, here and below: words that are loaded once for all their uses are kept on the stack.
    let counts = NextHop::source_that_counts(&read(source), generation);
    let place = NextHop::place(&counts, &read(destination), from, maps::NEXT_HOPS.entries);
    let Some(place) = NEXT_HOPS.get_ptr_mut(place) else {
        return NOWHERE;
    };
    // SAFETY: this CPU's own element, of an array, which stays.
    let place = unsafe { &mut *place };
    let known = place.answers(&read(&counts), destination, [from, kind, generation, tick]);
    if known && generation != 0 && length <= place.mtu {
        hop.next_hop = place.next_hop;
        hop.ifindex = place.ifindex;
        hop.destination_mac = place.destination_mac;
        hop.source_mac = place.source_mac;
        hop.flags = place.flags;
        return TO;
    }
    // The key first: what is not kept in registers would be on a stack that has no room.
    *place = NextHop {
        source: counts,
        destination: *destination,
        from,
        kind,
        tick,
        ..NextHop::NONE
    };
    let answer = look_up(context, hop, source, destination);
    if answer != TO {
        return answer;
    }
    let resolved = hop.destination_mac != [0; 3];
    hop.flags = if FRAMES || redirect::is_redirect() {
        tables::interface(hop.ifindex).map_or(0, |interface| interface.flags as u16)
    } else {
        0
    };
    if FRAMES && (hop.flags & interface_flags::XDP_TARGET as u16 == 0 || !resolved) {
        return NOT_FROM_HERE;
    }
    if resolved {
        place.next_hop = hop.next_hop;
        place.ifindex = hop.ifindex;
        place.destination_mac = hop.destination_mac;
        place.source_mac = hop.source_mac;
        place.mtu = hop.mtu;
        place.flags = hop.flags;
        place.generation = generation;
    }
    TO
}

/// Asks the kernel.
#[inline(always)]
fn look_up(context: *mut c_void, hop: &mut Route, source: &Address, destination: &Address) -> i32 {
    let (source, destination) = (read(source), read(destination));
    let (family, from, to) = if destination.is_v4() {
        (AF_INET, [source.v4_word(), 0, 0, 0], [destination.v4_word(), 0, 0, 0])
    } else {
        (AF_INET6, source.words(), destination.words())
    };
    let mut p = Parameters {
        family,
        l4_protocol: hop.flags as u8,
        sport: 0,
        dport: 0,
        __bindgen_anon_1: bpf_fib_lookup__bindgen_ty_1 { tot_len: hop.mtu },
        ifindex: hop.ifindex,
        __bindgen_anon_2: bpf_fib_lookup__bindgen_ty_2 { flowinfo: 0 },
        __bindgen_anon_3: bpf_fib_lookup__bindgen_ty_3 { ipv6_src: from },
        __bindgen_anon_4: bpf_fib_lookup__bindgen_ty_4 { ipv6_dst: to },
        __bindgen_anon_5: bpf_fib_lookup__bindgen_ty_5 { tbid: 0 },
        smac: [0; 6],
        dmac: [0; 6],
    };
    let flags = if hop.flags & OUT == 0 { 0 } else { BPF_FIB_LOOKUP_OUTPUT };
    // SAFETY: context and parameters are valid for the call.
    let result = unsafe { bpf_fib_lookup(context, &raw mut p, size_of::<Parameters>() as i32, flags) } as u32;
    if !matches!(
        result,
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH | BPF_FIB_LKUP_RET_FRAG_NEEDED
    ) {
        return NOWHERE;
    }
    // All that is told is taken over in each case. Of a packet that is too big, the device is the one it came in by.
    hop.ifindex = p.ifindex;
    // SAFETY: unions of integers; the helper has written the member that goes with the family it returns.
    hop.next_hop = unsafe {
        if p.family == AF_INET {
            Address::from_v4_word(p.__bindgen_anon_4.ipv4_dst)
        } else {
            Address::from_words(p.__bindgen_anon_4.ipv6_dst)
        }
    };
    // Zero without a neighbour.
    hop.destination_mac = words(p.dmac);
    hop.source_mac = words(p.smac);
    // SAFETY: an integer; the MTU where a length was given.
    hop.mtu = unsafe { p.__bindgen_anon_1.mtu_result };
    if result == BPF_FIB_LKUP_RET_FRAG_NEEDED {
        TOO_BIG
    } else {
        TO
    }
}

#[inline(always)]
fn read(address: &Address) -> Address {
    // SAFETY: a reference.
    unsafe { (&raw const *address).read_volatile() }
}

#[inline(always)]
fn words(mac: [u8; 6]) -> [u16; 3] {
    [
        u16::from_ne_bytes([mac[0], mac[1]]),
        u16::from_ne_bytes([mac[2], mac[3]]),
        u16::from_ne_bytes([mac[4], mac[5]]),
    ]
}

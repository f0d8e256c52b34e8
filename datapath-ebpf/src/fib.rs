//! Route look-ups through `bpf_fib_lookup`.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT,
    bpf_fib_lookup as Parameters, bpf_fib_lookup__bindgen_ty_1, bpf_fib_lookup__bindgen_ty_2,
    bpf_fib_lookup__bindgen_ty_3, bpf_fib_lookup__bindgen_ty_4, bpf_fib_lookup__bindgen_ty_5,
};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use core::ffi::c_void;
use ferrogate_common::Address;
use ferrogate_datapath::{Route, Routed, Transport};

pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;

/// Looks up where a packet that came in by `ifindex` goes; what is found is written to `hop`.
#[inline(always)]
pub(crate) fn route(
    context: *mut c_void,
    hop: &mut Route,
    ifindex: u32,
    source: &Address,
    destination: &Address,
    transport: Transport,
) -> Routed {
    let (ifindex, flags) = match transport.out {
        0 => (ifindex, 0),
        out => (out, BPF_FIB_LOOKUP_OUTPUT),
    };
    let (family, from, to) = if destination.is_v4() {
        (AF_INET, [source.v4_word(), 0, 0, 0], [destination.v4_word(), 0, 0, 0])
    } else {
        (AF_INET6, source.words(), destination.words())
    };
    let mut p = Parameters {
        family,
        l4_protocol: transport.protocol,
        sport: 0,
        dport: 0,
        __bindgen_anon_1: bpf_fib_lookup__bindgen_ty_1 {
            tot_len: transport.length,
        },
        ifindex,
        __bindgen_anon_2: bpf_fib_lookup__bindgen_ty_2 { flowinfo: 0 },
        __bindgen_anon_3: bpf_fib_lookup__bindgen_ty_3 { ipv6_src: from },
        __bindgen_anon_4: bpf_fib_lookup__bindgen_ty_4 { ipv6_dst: to },
        __bindgen_anon_5: bpf_fib_lookup__bindgen_ty_5 { tbid: 0 },
        smac: [0; 6],
        dmac: [0; 6],
    };
    // SAFETY: context and parameters are valid for the call.
    let result = unsafe { bpf_fib_lookup(context, &raw mut p, size_of::<Parameters>() as i32, flags) } as u32;
    match result {
        // All that is told is taken over in each case, so that the verifier sees one and the same hop behind them. Of a packet
        // that is too big, the device is the way out only where no length was given.
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH | BPF_FIB_LKUP_RET_FRAG_NEEDED => {
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
            // SAFETY: an integer; the MTU where the packet is too big.
            hop.mtu = unsafe { p.__bindgen_anon_1.mtu_result };
            if result == BPF_FIB_LKUP_RET_FRAG_NEEDED {
                Routed::TooBig
            } else {
                Routed::To
            }
        }
        _ => Routed::Nowhere,
    }
}

#[inline(always)]
fn words(mac: [u8; 6]) -> [u16; 3] {
    [
        u16::from_ne_bytes([mac[0], mac[1]]),
        u16::from_ne_bytes([mac[2], mac[3]]),
        u16::from_ne_bytes([mac[4], mac[5]]),
    ]
}

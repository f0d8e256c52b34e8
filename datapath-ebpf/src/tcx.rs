//! The tcx hooks.

use crate::fib::{AF_INET, AF_INET6};
use crate::maps::SECOND;
use crate::packet;
use crate::skb::{ETHERNET, Skb};
use crate::tables::config;
use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_head};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use aya_log_ebpf::macro_support::{Level, level_enabled};
use ferrogate_common::{LOOPBACK, TcxHook};
use ferrogate_datapath::{Edge, Left, Packet, Verdict, enter, enter_second, leave, leave_second};

/// Protocol numbers of Ethernet (linux/if_ether.h).
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

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
    let mut skb = Skb::<LINK>::first(context);
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
    let mut skb = Skb::<LINK>::second(context);
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

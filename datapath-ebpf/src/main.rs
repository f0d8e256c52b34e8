//! The eBPF programs: each hook wraps the kernel's context as the pipeline's `Env`, runs the pipeline, and turns its verdict
//! into the hook's return value. All logic is in `ferrogate-datapath`.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(unreachable_pub, reason = "programs are public for the linker, not for a crate")]
#![expect(
    internal_features,
    reason = "fetch-and-add: the atomic types' methods are missing in the BPF target's core"
)]

mod clock;
mod counters;
mod fib;
mod filter;
mod maps;
mod nodes;
mod packet;
mod redirect;
mod skb;
mod sock_addr;
mod stages;
mod tables;
mod tcx;
mod trace;
mod xdp;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// `bpf_skb_change_tail` and others are for programs under a GPL-compatible licence.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

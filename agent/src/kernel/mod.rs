//! The kernel side: eBPF maps, programs and links.

//! What is told to `ferrogate trace`: of connections that begin, and of what is refused or dropped. Nothing is asked of packets of
//! a flow that is known.

use crate::clock::nanos;
use crate::maps::{BACKENDS, TRACE, TRACE_EVENTS, TRACE_LOST};
use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::{bpf_get_current_comm, bpf_get_current_pid_tgid};
use ferrogate_common::{Address, Flow, TraceEvent, Tuple, trace_edge};

/// Whether anybody may want to know: all that is paid while nobody does.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    TRACE.get(0).is_some_and(|settings| settings.until != 0)
}

/// Edge and reason as one argument.
#[inline(always)]
pub(crate) fn pack(edge: u8, reason: u8) -> u32 {
    u32::from(edge) << 8 | u32::from(reason)
}

/// Tells of a packet, if anybody wants to know. `flow` is null for what gets no further, `what` from [`pack`].
#[inline(always)]
pub(crate) fn tell(tuple: *const Tuple, flow: *const Flow, ifindex: u32, what: u32) {
    if is_on() {
        trace_packet(tuple, flow, ifindex, what);
    }
}

/// Whether this reason is wanted, and now.
#[inline(always)]
fn is_wanted(now: u64, reason: u32) -> bool {
    TRACE
        .get(0)
        .is_some_and(|settings| settings.until > now && settings.reasons >> (reason & 63) & 1 != 0)
}

#[inline(always)]
fn lost() {
    if let Some(counter) = TRACE_LOST.get_ptr_mut(0) {
        // SAFETY: this CPU's own element.
        unsafe { *counter += 1 };
    }
}

/// Functions of their own to the verifier, which looks at them once, whoever calls them and with what; and with a stack frame that
/// only counts where they are called.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn trace_packet(tuple: *const Tuple, flow: *const Flow, ifindex: u32, what: u32) -> i32 {
    let now = nanos();
    if tuple.is_null() || !is_wanted(now, what & 0xff) {
        return 0;
    }
    let Some(mut entry) = TRACE_EVENTS.reserve::<TraceEvent>(0) else {
        lost();
        return 0;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: memory of the ring buffer's own, of this size; the sources as above.
    unsafe {
        (*event).nanos = now;
        (*event).netns = 0;
        (*event).process = 0;
        (*event).name = [0; 16];
        (*event).tuple = *tuple;
        if flow.is_null() {
            (*event).flow = Flow::NONE;
        } else {
            (*event).flow = *flow;
        }
        (*event).ifindex = ifindex;
        (*event).edge = (what >> 8) as u8;
        (*event).reason = what as u8;
        (*event).reserved = [0; 6];
    }
    // Who reads looks by itself: nobody is woken for an event.
    entry.submit(BPF_RB_NO_WAKEUP.into());
    0
}

/// The same of a socket call: the address that it asked for, and the backend that it got; a generation of 0 says none. `what`: port
/// in network order, protocol and reason, in 16, 8 and 8 bits. Arguments are few and small, for the sake of the callers' frames.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn trace_call(address: *const Address, netns: u64, what: u32, backend: u32, generation: u32) -> i32 {
    let now = nanos();
    if address.is_null() || !is_wanted(now, what & 0xff) {
        return 0;
    }
    let Some(mut entry) = TRACE_EVENTS.reserve::<TraceEvent>(0) else {
        lost();
        return 0;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: memory of the ring buffer's own, of this size; the address is not null, and the verifier holds callers to its size.
    unsafe {
        (*event).nanos = now;
        (*event).netns = netns;
        (*event).process = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*event).name = [0; 16];
        // Where it fails there is no name.
        bpf_get_current_comm((&raw mut (*event).name).cast(), 16);
        (*event).tuple.source = Address::UNSPECIFIED;
        (*event).tuple.destination = *address;
        (*event).tuple.source_port = ferrogate_common::Port::ZERO;
        (*event).tuple.destination_port = ferrogate_common::Port::from_be((what >> 16) as u16);
        (*event).tuple.protocol = (what >> 8) as u8;
        (*event).tuple.direction = 0;
        (*event).tuple.reserved = 0;
        (*event).flow = Flow::NONE;
        if generation != 0
            && let Some(found) = BACKENDS.get(backend)
        {
            (*event).flow.address = found.address;
            (*event).flow.port = found.port;
            (*event).flow.backend = backend;
            (*event).flow.generation = generation;
        }
        (*event).ifindex = 0;
        (*event).edge = trace_edge::SOCKET;
        (*event).reason = what as u8;
        (*event).reserved = [0; 6];
    }
    // Who reads looks by itself: nobody is woken for an event.
    entry.submit(BPF_RB_NO_WAKEUP.into());
    0
}

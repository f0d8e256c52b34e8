//! Stages in functions that the verifier looks at once, with any arguments: BPF's global functions.

use crate::tables::{config, tables_are_maps};
use crate::trace;
use ferrogate_common::{Flow, Reason, Tuple};

/// The tables and the clock alone.
struct Maps {
    /// For `Opaque`.
    zero: u32,
}

tables_are_maps!(Maps);

/// [`ferrogate_datapath::allocate`]; returns a [`Reason`]'s number.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn allocate_port(request: *const Tuple, flow: *mut Flow) -> i32 {
    // SAFETY: the verifier sees to it that each is null or as large as its type.
    let (Some(request), Some(flow)) = (unsafe { request.as_ref() }, unsafe { flow.as_mut() }) else {
        return Reason::Malformed as i32;
    };
    let mut maps = Maps { zero: config().zero };
    ferrogate_datapath::allocate(&mut maps, request, flow) as i32
}

/// [`ferrogate_datapath::refuse`], and tells those who trace. `what`: edge and reason, in 8 bits each.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn refuse_packet(request: *const Tuple, ifindex: u32, what: u32) -> i32 {
    // SAFETY: the verifier sees to it that it is null or as large as its type.
    let Some(request) = (unsafe { request.as_ref() }) else {
        return 0;
    };
    let mut maps = Maps { zero: config().zero };
    ferrogate_datapath::refuse(&mut maps, request, (what >> 8) as u8, what as u8);
    trace::tell(request, core::ptr::null(), ifindex, what);
    0
}

/// The outcome of [`allocate_port`].
#[inline(always)]
pub(crate) fn allocated(number: i32) -> Reason {
    const NEW_FLOW: i32 = Reason::NewFlow as i32;
    const NO_SOURCE: i32 = Reason::NoSource as i32;
    const FLOW_TABLE: i32 = Reason::FlowTable as i32;
    match number {
        NEW_FLOW => Reason::NewFlow,
        NO_SOURCE => Reason::NoSource,
        FLOW_TABLE => Reason::FlowTable,
        _ => Reason::NoSnatPort,
    }
}

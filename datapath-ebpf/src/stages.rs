//! Stages in functions that the verifier looks at once, with any arguments: BPF's global functions.

use crate::tables::{config, tables_are_maps};
use crate::trace;
use ferrogate_common::{Address, Flow, Port, Reason, Tuple};

/// The tables and the clock alone.
struct Maps {
    /// For `Opaque`.
    zero: u32,
}

tables_are_maps!(Maps);

/// An argument's own copy, which can be a map's key: for Linux 6.1 what it points to cannot.
#[inline(always)]
fn own<T>(argument: *const T) -> Option<T> {
    // SAFETY: the verifier sees to it that it is null or as large as its type. Volatile, or the copy would be left out.
    (!argument.is_null()).then(|| unsafe { argument.read_volatile() })
}

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

/// [`ferrogate_datapath::carry`]. `what`: port in network order, protocol and direction, in 16, 8 and 8 bits.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn carry_packet(address: *const Address, what: u32, packets: u32, bytes: u32) -> i32 {
    if let Some(address) = own(address) {
        let mut maps = Maps { zero: config().zero };
        let port = Port::from_be((what >> 16) as u16);
        ferrogate_datapath::carry(
            &mut maps,
            &address,
            port,
            ((what >> 8) as u8, what as u8),
            packets,
            bytes,
        );
    }
    0
}

/// Counts a packet that gets no further for its Service, and tells those who trace. Two calls, as one in the other would have a stack too
/// deep for Linux 6.1.
#[inline(always)]
pub(crate) fn refuse(request: &Tuple, ifindex: u32, edge: u8, reason: u8) {
    let what = trace::pack(edge, reason);
    refuse_packet(request, what);
    trace::tell(request, core::ptr::null(), ifindex, what);
}

/// [`ferrogate_datapath::refuse`]. `what`: edge and reason, in 8 bits each.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn refuse_packet(request: *const Tuple, what: u32) -> i32 {
    if let Some(request) = own(request) {
        let mut maps = Maps { zero: config().zero };
        ferrogate_datapath::refuse(&mut maps, &request, (what >> 8) as u8, what as u8);
    }
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

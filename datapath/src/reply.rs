//! The reply's half of a flow that keeps its source: what it is found by, and what it is translated by.

use ferrogate_common::{Direction, Flow, Port, Tuple};

/// Key of the replies to a flow that keeps its source: as they come from the backend.
#[inline(always)]
pub(crate) fn reply_key(request: &Tuple, flow: &Flow) -> Tuple {
    Tuple::new(
        (flow.address, flow.port),
        (request.source, request.source_port),
        request.protocol,
        Direction::Reply,
    )
}

/// The reply's entry: back to the frontend's address.
#[inline(always)]
pub(crate) fn reply_entry(request: &Tuple, flow: &Flow, seen: u32) -> Flow {
    Flow {
        address: request.destination,
        port: request.destination_port,
        source_port: Port::ZERO,
        backend: flow.backend,
        generation: flow.generation,
        seen,
        source: 0,
        flags: flow.flags,
        uplink: flow.uplink,
    }
}

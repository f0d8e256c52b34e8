//! Direct server return: whether it is on, and which node an address belongs to.

use crate::maps::NODES;
use ferrogate_common::Address;

#[inline(always)]
pub(crate) fn node_of(address: &Address) -> Option<Address> {
    // SAFETY: copied at once; a value is the key's alone, and a torn one would be an address of no node.
    unsafe { NODES.get(address) }.copied()
}

/// [`Dsr::WANTED`]; written by the agent before the programs are loaded, a constant to the verifier.
#[unsafe(no_mangle)]
static DSR: u32 = 0;

#[inline(always)]
pub(crate) fn is_dsr() -> bool {
    // SAFETY: read-only data of this object; volatile, since what is loaded is not what was compiled.
    unsafe { core::ptr::read_volatile(&raw const DSR) != 0 }
}

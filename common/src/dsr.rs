//! Direct server return: packets for a backend on another node go to that node wrapped up in another IP header, and it answers clients
//! itself.

use crate::Address;

/// What agent, programs and map `NODES` agree on.
///
/// Keys of `NODES` are addresses of endpoints on other nodes, and of nodes; values are the node's address in the same family. A node's
/// own address has itself as its value, an address of this node [`Dsr::HERE`].
pub struct Dsr;

impl Dsr {
    /// Name of the constant in the programs' read-only data, a `u32`: not 0 where packets can be wrapped and unwrapped.
    pub const WANTED: &'static str = "DSR";

    /// Value of `NODES` for the addresses of this node itself.
    pub const HERE: Address = Address::UNSPECIFIED;

    /// Bytes of header that a wrapped packet has in front of its own: IPv4 in IPv4 (RFC 2003), IPv6 in IPv6 (RFC 2473).
    #[inline(always)]
    pub const fn overhead(v6: bool) -> u16 {
        if v6 { 40 } else { 20 }
    }
}

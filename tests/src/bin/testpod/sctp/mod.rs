//! SCTP in user space over raw sockets (RFC 9260), for kernels that have no SCTP sockets: one stream, one message at a time.
//!
//! Raw sockets compute no CRC32c and check none: both are done here, by a crate that has nothing to do with the datapath.
pub(crate) mod client;
mod packet;
mod raw;
pub(crate) mod server;

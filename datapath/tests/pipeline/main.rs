//! The packet pipeline over the host's tables: ways through a node, the lives of flows, refusals, the socket edge, and
//! properties that hold for every packet. What comes out is read by another implementation (`etherparse`).

mod affinity;
mod algorithms;
mod dsr;
mod flows;
mod fragments;
mod handover;
mod networks;
mod paths;
mod policies;
mod ports;
mod properties;
mod redirect;
mod refusals;
mod sctp;
mod second;
mod sockets;
mod support;
mod uplinks;
mod wire;

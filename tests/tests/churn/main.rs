//! A node's interfaces come and go while traffic flows: pods' by the hundred, and uplinks of every kind that this kernel has.
mod ground;
mod pods;
mod uplinks;

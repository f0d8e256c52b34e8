//! Scenes from the life of a cluster: a real API server, traffic that does not stop, and something that changes meanwhile.
//! What holds while nothing changes is shown by the walks and the conformance cases.
mod balancer;
mod changes;
mod common;
mod forged;
mod names;
mod pressure;
mod selection;
mod traffic_tables;

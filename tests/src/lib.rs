//! The cluster rig, and the packet walks that run in it.
//!
//! * [`rig`] boots a small cluster of network namespaces on this machine: nodes, pods, an outside client, and (where asked
//!   for) a real control plane, with Ferrogate, kube-proxy or nothing as the service proxy of every node.
//! * [`wire`] is what the `testpod` program and its callers say to each other; [`rig::Place::probe`] is how a test asks.
//! * [`batch`] is the same for many questions at once.
//! * [`faults`] does things to the proxy while connections are held, and counts what is lost.
//! * [`mod@bench`] measures.
//! * [`kernel`] runs packets through the loaded programs and through the host's pipeline, and compares.
//! * [`pktgen`] sends packets by the million, and counts what comes back.
//! * [`random`] makes Services at random, changes them, and compares with kube-proxy.
//! * [`traffic`] goes on while something else happens.
//! * [`wait`] waits for what comes about by itself.
//! * [`walks`] is the matrix of clients, addresses, protocols and backends, as data, with what each walk must see.
pub mod batch;
pub mod bench;
pub mod binaries;
pub mod conformance;
pub mod faults;
pub mod kernel;
pub mod pktgen;
pub mod random;
pub mod rig;
pub mod traffic;
pub mod wait;
pub mod walks;
pub mod wire;

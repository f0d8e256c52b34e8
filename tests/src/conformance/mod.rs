//! Every case of what a Service can say, once with Ferrogate and once with the real kube-proxy.
//!
//! The cases are data: `cases/*.yaml`, whose form `cases/README.md` describes. Each has objects of its own in a namespace of
//! its own; [`run`] takes many of them through a [`cluster`] at the same time, on pods that all of them share.
pub mod addresses;
pub mod case;
pub mod cluster;
pub mod judge;
pub mod objects;
pub mod prober;
mod program;
pub mod question;
pub mod report;
pub mod run;
pub mod target;

pub use program::main;

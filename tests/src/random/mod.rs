//! Services at random, changed at random, compared with kube-proxy.
//!
//! Two rigs stand side by side, with the same addresses and the same API server: kube-proxy serves one, Ferrogate the other.
//! A sequence makes Services and EndpointSlices out of its seed and changes them, a step at a time. After each step both
//! proxies are waited for (`Ground::settle`), and walks are taken at the same time in both rigs: pods, node processes and
//! outside clients of both nodes ask addresses of the Services. What is to happen is worked out from the objects
//! (`expect.rs`, `select.rs`), once for each proxy; who is reached and whose address is seen must be so in both. Where the two
//! are meant to differ, a [`Rule`] says why, and is counted; any other difference fails the sequence.
//!
//! Several sequences run at once, each in a lane with addresses of its own, so that the proxies settle once for all of them.
mod batch_run;
mod change;
mod expect;
mod generate;
mod ground;
mod judge;
mod pool;
mod program;
mod report;
mod rules;
mod select;
mod spec;
mod walks;

pub use program::{Arguments, main};
pub use rules::Rule;

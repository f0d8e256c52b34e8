//! Faults: what happens to connections while something happens to the proxy.
//!
//! A `Ground`(ground::Ground) is a rig whose clients hold connections and flows, and open new ones all the time, over every
//! edge and in both families (`siege`). A `Fault` does something to the proxy meanwhile. Afterwards it is counted what
//! was lost, refused or answered by somebody else, and whether the programs' links are the same as before (`links`).
//! `cargo xtask test` runs each fault once; `cargo xtask chaos` runs them for as long as it is told to, in an order that a seed
//! decides, with more load, and beside kube-proxy.
mod api;
mod api_proxy;
mod churn;
mod flood;
mod ground;
mod life;
mod links;
mod migration;
mod neighbours;
mod objects;
mod program;
mod report;
mod siege;

use std::time::Duration;

use anyhow::Result;

pub use ground::Ground;
pub use program::{Arguments, main};

/// Something that happens to the proxies of a rig.
#[derive(Clone, Copy)]
pub struct Fault {
    /// What happens, in a sentence.
    pub name: &'static str,
    /// Whether the same can happen to kube-proxy.
    pub rival: bool,
    /// What connections and flows may suffer.
    pub harm: Harm,
    pub inflict: fn(&mut Ground) -> Result<Aftermath>,
}

/// What a fault may do to the load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Harm {
    /// Nothing at all.
    None,
    /// Packets may be lost, but no connection: TCP sends again.
    Delay,
}

/// What a fault has shown beside the load.
#[derive(Clone, Debug, Default)]
pub struct Aftermath {
    /// From the end of the fault to the first answer through something that was new meanwhile.
    pub converged: Option<Duration>,
    pub note: String,
}

/// How long a proxy may take to end after SIGTERM.
const TERMINATION: Duration = Duration::from_secs(15);

/// A fault under which nothing may be lost.
const fn harmless(name: &'static str, rival: bool, inflict: fn(&mut Ground) -> Result<Aftermath>) -> Fault {
    Fault {
        name,
        rival,
        harm: Harm::None,
        inflict,
    }
}

/// All faults, in the order of the report.
pub fn all() -> Vec<Fault> {
    [
        life::FAULTS,
        neighbours::FAULTS,
        api::FAULTS,
        churn::FAULTS,
        flood::FAULTS,
    ]
    .concat()
}

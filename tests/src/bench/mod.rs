//! The benchmarks: what Ferrogate costs, beside what it could cost at least and beside its peers, as ratios of one run.
//!
//! Each row group is a file. Its arms take turns (`rounds`); what they come to is a ratio with its spread, held against a goal
//! (`result`); `report` writes the page and `plot` its pictures. `run` is the program `bench` (`cargo xtask bench`).
//! Everything here needs root.
mod cluster;
mod collector;
mod command;
mod crowd;
mod facts;
mod forward;
mod memory;
mod packet;
mod plot;
mod processor;
mod report;
mod result;
mod rounds;
mod scale;
mod stage;
mod traffic;

use anyhow::Result;

use command::Settings;
pub use command::run;
use result::Measured;

/// Rows that are measured together.
struct Group {
    about: &'static str,
    rows: &'static [(u8, &'static str)],
    measure: fn(&Settings) -> Result<Vec<Measured>>,
}

const GROUPS: &[Group] = &[
    Group {
        about: "a packet in the programs",
        rows: packet::ROWS,
        measure: packet::measure,
    },
    Group {
        about: "real sockets beside kube-proxy",
        rows: traffic::ROWS,
        measure: traffic::measure,
    },
    Group {
        about: "packets forwarded, from the packet generator",
        rows: forward::ROWS,
        measure: forward::measure,
    },
    Group {
        about: "kernel memory",
        rows: memory::ROWS,
        measure: memory::measure,
    },
    Group {
        about: "the removal of flows that are over",
        rows: collector::ROWS,
        measure: collector::measure,
    },
    Group {
        about: "10,000 Services with 10 endpoints",
        rows: scale::ROWS,
        measure: scale::measure,
    },
];

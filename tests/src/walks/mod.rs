//! The packet walks: real sockets through real namespaces, as data.
//!
//! [`cell`] lists the cells of the matrix and what each must see for each proxy; [`matrix`] runs them; [`others`] and
//! `lives` hold the walks that are no cell; [`report`] prints proxies side by side. `cargo test -p ferrogate-tests --test
//! walks -- --help` lists the options of the program around them.
pub mod cell;
mod errors;
pub mod fixture;
mod lives;
pub mod matrix;
pub mod others;
mod program;
pub mod report;

pub use program::{Arguments, main};

//! The `ferrogate` command: the agent of a node, and the questions that can be asked of it.

use clap::Parser;
use ferrogate_agent::cli::{self, Cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ferrogate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

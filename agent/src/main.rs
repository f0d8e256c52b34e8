//! The `ferrogate` command: the agent of a node, and the questions that can be asked of it.

use ferrogate_agent::{cli, config};
use std::process::ExitCode;

fn main() -> ExitCode {
    match config::parse_command_line(std::env::args_os().collect()).and_then(cli::run) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ferrogate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

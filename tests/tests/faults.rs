//! The faults, as a test program of its own: it prints a table instead of one line a test.
use std::process::ExitCode;

fn main() -> ExitCode {
    ferrogate_tests::faults::main()
}

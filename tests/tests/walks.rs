//! The packet walks, as a test program of its own: it prints a matrix instead of one line a test.
use std::process::ExitCode;

fn main() -> ExitCode {
    ferrogate_tests::walks::main()
}

//! Random sequences of changes beside kube-proxy, as a test program of its own: it takes seeds.
use std::process::ExitCode;

fn main() -> ExitCode {
    ferrogate_tests::random::main()
}

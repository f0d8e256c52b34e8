//! The developer commands of ferrogate. `cargo xtask --help` lists them.

mod bench;
mod book;
mod bpf;
mod build;
mod chaos;
mod cmd;
mod conformance;
mod deb;
mod docs;
mod fuzz;
mod image;
mod lint;
mod paths;
mod pktgen;
mod run;
mod setup;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "The developer commands of ferrogate",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing: the compiler of the eBPF programs, its linker, programs of the system
    Setup(setup::Args),
    /// Build the eBPF object and all binaries
    Build(build::Args),
    /// Set up, build, and run the main job: the playground, or the agent against a cluster or manifests
    Run(run::Args),
    /// Set up, build, and run the tests
    Test(test::Args),
    /// Run every conformance case beside kube-proxy, and print the table
    Conformance(conformance::Args),
    /// Measure everything beside its limits and its peers; writes docs/benchmarks.md
    Bench(bench::Args),
    /// Send packets as fast as the kernel takes them, and count what comes back
    #[command(disable_help_flag = true)]
    Pktgen(pktgen::Args),
    /// Do things to the proxies of a small cluster under load, for minutes, and count what is lost
    Chaos(chaos::Args),
    /// Feed packets, socket calls, objects and files that nobody would think of to the code that takes them
    Fuzz(fuzz::Args),
    /// Run a part of the tests on other kernels, in an emulated machine
    VmTest(vm::Args),
    /// Check formatting, lints, documentation and house rules
    Lint(lint::Args),
    /// Make an OCI image with a static binary, without a container engine
    Image(image::Args),
    /// Make a Debian package: the program, its manual pages and completions, a unit for systemd
    Deb(deb::Args),
    /// Make the book, an HTML page for each document, and check that every link in it leads somewhere
    Book(book::Args),
    /// Write the lists of docs/reference.md from the code
    Docs(docs::Args),
}

fn main() -> ExitCode {
    let well = match Cli::parse().command {
        Command::Setup(args) => setup::command(&args).map(|()| true),
        Command::Build(args) => build::build(&args).map(|()| true),
        Command::Run(args) => run::run(&args).map(|()| true),
        Command::Test(args) => test::test(&args),
        Command::Conformance(args) => conformance::conformance(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Pktgen(args) => pktgen::pktgen(&args).map(|()| true),
        Command::Chaos(args) => chaos::chaos(&args),
        Command::Fuzz(args) => fuzz::fuzz(&args),
        Command::VmTest(args) => vm::vm_test(&args),
        Command::Lint(args) => lint::lint(&args).map(|()| true),
        Command::Image(args) => image::image(&args).map(|()| true),
        Command::Deb(args) => deb::deb(&args).map(|()| true),
        Command::Book(args) => book::book(&args).map(|()| true),
        Command::Docs(args) => docs::docs(&args).map(|()| true),
    };
    match well {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

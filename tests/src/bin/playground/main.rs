//! The playground: a small cluster of network namespaces on this machine, with the real agent and the real eBPF programs
//! carrying Service traffic, for people to look at.
//!
//! ```text
//!   payment (pod) ----------------------------------------> ClusterIP --.
//!   vm (pod whose sockets nobody hooks) ------------------> ClusterIP --|
//!   client --------------------------> nodes' NodePort ---> ClusterIP --+--> order-1 ... order-5 (pods)
//!   client --> cloud load balancer --> nodes' NodePort ---> ClusterIP --'
//! ```
//!
//! * [`cluster`] boots it from the manifests of `examples/` ([`examples`]), and scales the order pods.
//! * [`path`] says which ways lead to them; [`traffic`] sends clients along, [`stats`] counts what they met.
//! * [`live`] shows it (drawn by [`screen`], or by [`plain`] where there is no terminal); [`once`] checks all of it, once.
mod agent;
mod cluster;
mod examples;
mod live;
mod once;
mod page;
mod path;
mod plain;
mod report;
mod screen;
mod stats;
mod stop;
mod traffic;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;

/// A small cluster in network namespaces: see which pod answers, and along which path.
#[derive(Debug, Parser)]
#[command(
    name = "playground",
    version,
    after_help = "\
The cluster: nodes n1 and n2, five order pods, a client pod, a pod whose sockets are not hooked, an outside client and a \
cloud load balancer, each a network namespace. The Services are the manifests of examples/ as they are: clusterIP, \
nodePort and the load balancer's address stand in them. The machine's own network is not touched, and nothing is left \
when it ends.\n\n\
Keys of the live view: + and - scale the order pods, 1 to 5 choose the path that is drawn, f and s send faster and \
slower, r counts from zero, p pauses, q or Ctrl-C ends. Without a terminal the counts are printed as lines, every two \
seconds."
)]
struct Arguments {
    /// Run a fixed scenario once, print and check its report, exit 0 or 1
    #[arg(long, conflicts_with_all = ["rate", "seconds"])]
    once: bool,
    /// New connections a second along each path
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=live::FASTEST as i64))]
    rate: u32,
    /// End after this many seconds [default: run until told to end]
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Order pods behind the Services at the start
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=cluster::MOST_ORDERS as i64))]
    scale: u8,
    /// The examples [default: found beside this program or in the current directory]
    #[arg(long, value_name = "DIR")]
    examples: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let what = if stop::wanted() { "ended early" } else { "error" };
            // Standard error may be a terminal that is gone.
            let _ = writeln!(io::stderr(), "{what}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything was as it must be.
fn run(arguments: &Arguments) -> Result<bool> {
    if !rustix::process::geteuid().is_root() {
        bail!("the playground needs root, to make network namespaces and load eBPF programs: run it with sudo");
    }
    let examples = examples::find(arguments.examples.as_deref())?;
    stop::watch()?;
    if arguments.once {
        return once::run(&examples);
    }
    live::run(&examples, arguments)?;
    Ok(true)
}

//! `ferrogate explain`.

use super::query::Source;
use crate::admin::{Explained, Explanation, Request, Unknown};
use crate::output;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

/// How the explanation is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// A picture for people
    Text,
    /// For programs
    Json,
    /// A graph for Graphviz
    Dot,
}

/// Draws the way of a connection, from the client to the pods, as this node serves it: addresses, the edge and the programs that
/// translate, policies, every endpoint and why it is used or not; and where it cannot work, why.
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// The Service, and one of its ports by number or name [default: all ports]
    #[arg(value_name = "[NAMESPACE/]NAME[:PORT]", value_parser = super::parse::service_and_port)]
    service: String,

    /// Who asks: a pod of this node, a process of the node, somebody outside, or an address
    #[arg(long, value_name = "[NAMESPACE/]POD|node|outside|ADDRESS")]
    from: Option<String>,

    /// How to print the explanation
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    output: Format,

    #[command(flatten)]
    source: Source,
}

pub(super) fn run(args: &ExplainArgs) -> Result<()> {
    let request = Request::Explain {
        service: args.service.clone(),
        from: args.from.clone(),
    };
    match args.source.ask_agent(&request)? {
        Explained::Service(explanation) => print(&explanation, args.output),
        Explained::Unknown(Unknown { why, near }) if near.is_empty() => bail!("{why}"),
        Explained::Unknown(Unknown { why, near }) => bail!("{why}\n\nThere is:\n  {}", near.join("\n  ")),
    }
}

fn print(explanation: &Explanation, format: Format) -> Result<()> {
    match format {
        Format::Text => output::print(&output::explain(explanation)),
        Format::Json => {
            let text = serde_json::to_string_pretty(explanation).context("cannot write the result as JSON")?;
            output::print(&text)
        }
        Format::Dot => output::print(&output::dot(explanation)),
    }
}

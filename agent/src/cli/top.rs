//! `ferrogate top`.

use super::query::Source;
use super::{OutputFormat, parse};
use crate::admin::{self, Counters, Request};
use crate::output;
use crate::top::{self, Look, Rates, Sort};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::io::IsTerminal as _;
use std::thread::sleep;
use std::time::Duration;

/// Services by new connections, what is refused or dropped and why, how full the maps are: live, from counters that the
/// programs keep anyway. Needs a terminal of 80 columns and 24 lines, and no colours; the last line names the keys.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    /// What comes first; keys change it
    #[arg(long, short, value_name = "BY", default_value = "rate")]
    sort: Sort,

    /// The other way round
    #[arg(long, short)]
    reverse: bool,

    /// Between two samples
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse::duration)]
    interval: Duration,

    /// Print one page, of one interval, and end
    #[arg(long)]
    once: bool,

    /// How to print; json: an object for each interval, one a line, until it is stopped
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    output: OutputFormat,

    #[command(flatten)]
    source: Source,
}

pub(super) fn run(args: &TopArgs) -> Result<()> {
    let source = args.source.clone();
    let ask = move |backends_of| -> Result<Counters, admin::Error> { source.ask_agent(&Request::Top { backends_of }) };
    if args.output == OutputFormat::Table && !args.once {
        if !std::io::stdout().is_terminal() {
            bail!("standard output is no terminal; give --once, or --output json");
        }
        return top::live(ask, args.interval, args.sort, args.reverse);
    }
    let mut before = ask(None)?;
    loop {
        sleep(args.interval);
        let after = ask(None)?;
        let mut rates = Rates::between(&before, after.clone());
        rates.sort(args.sort, args.reverse);
        let text = match args.output {
            OutputFormat::Json => serde_json::to_string(&rates).context("cannot write the rates as JSON")?,
            OutputFormat::Table => top::page(&rates, &Look::whole(args.sort, args.reverse)).join("\n"),
        };
        if !output::write(&text)? || args.once {
            return Ok(());
        }
        before = after;
    }
}

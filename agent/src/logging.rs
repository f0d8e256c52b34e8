//! Logs: structured lines by `tracing` on standard error.

use anyhow::{Context, Result};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// How a log line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Format {
    /// One readable line.
    Text,
    /// One JSON object a line.
    Json,
}

/// Targets that log every retry or every request by themselves: what matters of it is logged once by our own code.
const CHATTY: &[&str] = &[
    "kube_client=off",
    "kube_runtime=off",
    "hyper_util=warn",
    "tower=warn",
    "rustls=warn",
    "netlink_packet_route=error",
    "aya=info",
    "aya_obj=info",
];

/// Reads `--log-level`: a level, or directives such as `info,ferrogate_agent::source=debug`.
fn filter(level: &str) -> Result<EnvFilter> {
    let directives = match level.contains(['=', ',']) {
        true => level.to_owned(),
        // A bare word that is no level would be taken for a target's name.
        false => {
            let level: LevelFilter = level.parse().with_context(|| explain(level))?;
            format!("{level},{}", CHATTY.join(","))
        }
    };
    EnvFilter::try_new(directives).with_context(|| explain(level))
}

fn explain(level: &str) -> String {
    format!("--log-level {level:?} is no level; give error, warn, info, debug, trace or target=level[,...]")
}

/// Sends all logs of this process to standard error.
///
/// Fails when `level` cannot be read, or when a logger is set already.
pub fn init(level: &str, format: Format) -> Result<()> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(level)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let set = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    set.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_and_directives_are_accepted_and_nonsense_is_refused() {
        assert!(filter("debug").is_ok());
        assert!(filter("info,ferrogate_agent::source=debug").is_ok());
        let error = filter("info,=x=y").unwrap_err();
        assert!(error.to_string().contains("--log-level"));
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        assert!(filter("loud").is_err());
        assert!(filter("warn").is_ok());
    }
}

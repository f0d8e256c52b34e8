//! `ferrogate metrics`.

use super::query::Source;
use crate::admin::Request;
use crate::health::METRICS;
use crate::output;
use anyhow::Result;
use clap::Args;

#[derive(Args, Clone, Debug)]
pub struct MetricsArgs {
    /// List every metric there is, with its type, labels and meaning, as a Markdown table; needs no agent
    #[arg(long)]
    list: bool,

    #[command(flatten)]
    source: Source,
}

pub(super) fn run(args: &MetricsArgs) -> Result<()> {
    if args.list {
        return output::print(&list());
    }
    let text: String = args.source.ask_agent(&Request::Metrics)?;
    output::print(text.trim_end())
}

fn list() -> String {
    let mut lines = vec![
        "| metric | type | labels | meaning |".to_owned(),
        "|---|---|---|---|".to_owned(),
    ];
    lines.extend(METRICS.iter().map(|metric| {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, help) = (metric.name, metric.kind.name(), metric.help);
        format!("| `{name}` | {kind} | {} | {help} |", labels.join(", "))
    }));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_a_line_for_each_metric() {
        let list = list();
        assert_eq!(list.lines().count(), METRICS.len() + 2);
        assert!(
            list.contains("| `kubeproxy_proxy_livez_total` | counter | `code` |"),
            "{list}"
        );
    }
}

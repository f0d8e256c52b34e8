//! `ferrogate metrics`.

use super::query;
use crate::admin::{self, Request};
use crate::health::METRICS;
use crate::output;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Clone, Debug)]
pub struct MetricsArgs {
    /// List every metric there is, with its type, labels and meaning, as a Markdown table; needs no agent
    #[arg(long)]
    list: bool,

    /// The agent's admin socket [default: RUN_DIR/admin.sock]
    #[arg(long, value_name = "PATH", env = "FERROGATE_ADMIN_SOCKET")]
    admin_socket: Option<PathBuf>,

    /// The agent's run directory
    #[arg(long, value_name = "DIR", env = "FERROGATE_RUN_DIR", default_value = query::RUN_DIR)]
    run_dir: PathBuf,
}

pub(super) fn run(args: &MetricsArgs) -> Result<()> {
    if args.list {
        return output::print(&list());
    }
    let socket = query::admin_socket(args.admin_socket.as_deref(), &args.run_dir);
    let text: String = admin::ask(&socket, &Request::Metrics)?;
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

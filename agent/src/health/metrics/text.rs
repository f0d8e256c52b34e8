//! The two text formats: OpenMetrics 1.0 for those that ask for it, else Prometheus' own 0.0.4, which kube-proxy serves.

use prometheus_client::registry::Registry;
use std::fmt;

/// How metrics are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::health) enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    /// What the header `Accept` asks for.
    pub(in crate::health) fn of(accept: &str) -> Self {
        let wanted = accept.split(',').any(|kind| {
            let mut words = kind.split(';').map(str::trim);
            words.next() == Some("application/openmetrics-text") && !words.any(|word| word == "q=0")
        });
        if wanted { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(in crate::health) const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// All metrics of the registry.
pub(in crate::health) fn encode(registry: &Registry, format: Format) -> Result<String, fmt::Error> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry)?;
    Ok(match format {
        Format::OpenMetrics => text,
        Format::Prometheus => prometheus(&text),
    })
}

/// OpenMetrics into 0.0.4: there a counter's comments have its full name, there is no end mark, and whole numbers have no
/// fraction where they are bounds of buckets.
fn prometheus(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            let kind = lines
                .next_if(|next| next.starts_with("# TYPE "))
                .and_then(|next| next.rsplit(' ').next());
            let kind = kind.unwrap_or("untyped");
            let suffix = if kind == "counter" { "_total" } else { "" };
            out.push_str(&format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n"));
            continue;
        }
        match bound(line) {
            Some((before, after)) => [before, after].into_iter().for_each(|part| out.push_str(part)),
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

/// The line around the fraction of a bucket's whole bound.
fn bound(line: &str) -> Option<(&str, &str)> {
    let begin = line.find("le=\"")? + 4;
    let length = line[begin..].find('"')?;
    let whole = line[begin..begin + length].strip_suffix(".0")?;
    Some((&line[..begin + whole.len()], &line[begin + length..]))
}

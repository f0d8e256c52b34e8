//! What faults came to, as a table.
use std::fmt::Write as _;
use std::time::Duration;

use crate::wire::siege::SiegeReport;

/// One fault, once or summed over many times.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub fault: String,
    pub proxy: String,
    /// New connections a second.
    pub rate: u32,
    /// Length of the fault in seconds.
    pub seconds: f32,
    pub load: SiegeReport,
    pub converged: Option<Duration>,
    pub note: String,
    /// Nothing was lost that may not be.
    pub harmless: bool,
    /// The first things that went wrong.
    pub wrong: Vec<String>,
}

impl Row {
    /// One line for whoever waits.
    pub(super) fn line(&self) -> String {
        let load = &self.load;
        format!(
            "{} | {:10} | {} | {:.1} s | held {} lost {} | new {} refused {} failed {} | datagrams {} unanswered {} moved {} | \
             misdirected {} | SYNs again {} segments again {} longest {} ms | {} | {}",
            if self.harmless { "+" } else { "X" },
            self.proxy,
            self.fault,
            self.seconds,
            load.held,
            load.lost,
            load.opened,
            load.refused,
            load.failed,
            load.datagrams,
            load.unanswered,
            load.moved,
            load.misdirected,
            load.syns_again,
            load.segments_again,
            load.longest_ms,
            converged(self.converged),
            self.note
        )
    }
}

fn converged(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{} ms", time.as_millis()))
}

/// The rows of one fault and one proxy as one: sums, and the slowest.
fn merge(rows: &[&Row]) -> (Row, usize) {
    let mut sum = rows[0].clone();
    for row in &rows[1..] {
        sum.load.add(row.load.clone());
        sum.converged = sum.converged.max(row.converged);
        sum.harmless &= row.harmless;
    }
    (sum, rows.len())
}

/// The table of docs/reliability.md.
pub(super) fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| fault | proxy | times | connections held | new, at a rate | datagrams | connections lost | refused or failed | \
         datagrams lost | misdirected | slowest to converge |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for row in rows {
        let key = (row.fault.as_str(), row.proxy.as_str());
        if seen.contains(&key) {
            continue;
        }
        seen.push(key);
        let same: Vec<_> = rows
            .iter()
            .filter(|other| (other.fault.as_str(), other.proxy.as_str()) == key)
            .collect();
        let (sum, times) = merge(&same);
        let load = &sum.load;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {times} | {} | {}, {}/s | {} | {} | {} | {} | {} | {} |",
            sum.fault,
            sum.proxy,
            load.held,
            load.opened,
            sum.rate,
            load.datagrams,
            load.lost,
            load.refused + load.failed,
            load.unanswered,
            load.misdirected,
            converged(sum.converged)
        );
    }
    text
}

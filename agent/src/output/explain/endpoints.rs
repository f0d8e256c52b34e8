//! The table of endpoints: one line each where it fits, and why it is not used on a second one.

use super::{WIDTH, item};
use crate::admin::EndpointExplanation;
use std::fmt::Write as _;

/// Narrowest columns of pod and node together; with less room they stand on the second line.
const NARROWEST: usize = 20;

/// Widths of the columns.
struct Columns {
    address: usize,
    /// None: on the second line.
    pod: Option<usize>,
    node: usize,
    /// On the second line where the pod is.
    weights: bool,
}

pub(super) fn table(text: &mut String, endpoints: &[EndpointExplanation]) {
    let columns = Columns::of(endpoints);
    let head = columns.line(
        ("  ", "ENDPOINT"),
        ("POD", "NODE"),
        ("STATE", "FLOWS", "WEIGHT"),
        "USED",
    );
    let _ = writeln!(text, "{head}");
    for one in endpoints {
        let (used, why) = one.verdict.split_once(": ").unwrap_or((&one.verdict, ""));
        let (used, why) = match used {
            "yes" | "no" => (used, why),
            // It depends: the second line says on what.
            _ => ("some", one.verdict.as_str()),
        };
        let mark = if one.local { "* " } else { "  " };
        let address = one.address.to_string();
        let (pod, node) = (one.pod.as_deref().unwrap_or("-"), node(one));
        let (flows, weight) = (one.flows.to_string(), one.weight.to_string());
        let line = columns.line((mark, &address), (pod, &node), (&one.state, &flows, &weight), used);
        let _ = writeln!(text, "{line}");
        if columns.pod.is_none() {
            item(text, "      ", &format!("pod {pod} on {node}, weight {weight}"));
        }
        if !why.is_empty() {
            item(text, "      ", why);
        }
    }
}

/// `n1/eu-1`.
fn node(one: &EndpointExplanation) -> String {
    match (&one.node, &one.zone) {
        (Some(node), Some(zone)) => format!("{node}/{zone}"),
        (Some(node), None) => node.clone(),
        (None, _) => "-".to_owned(),
    }
}

impl Columns {
    fn of(endpoints: &[EndpointExplanation]) -> Self {
        let widest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or_default();
        let address = widest(&mut endpoints.iter().map(|one| one.address.to_string().len())).max(8);
        let pod = widest(&mut endpoints.iter().map(|one| one.pod.as_ref().map_or(1, String::len))).max(3);
        let node = widest(&mut endpoints.iter().map(|one| node(one).chars().count())).max(4);
        let weights = endpoints.iter().any(|one| !one.gone && one.weight != 1);
        // Mark, gaps, state, flows, used; perhaps weight.
        let others = 2 + address + 2 + 2 + 2 + 11 + 1 + 5 + 2 + 4 + if weights { 8 } else { 0 };
        let room = WIDTH.saturating_sub(others);
        if room < NARROWEST.min(pod + node) {
            return Self {
                address,
                pod: None,
                node,
                weights: false,
            };
        }
        let node = node.min((room / 2).max(room.saturating_sub(pod)));
        Self {
            address,
            pod: Some(pod.min(room - node)),
            node,
            weights,
        }
    }

    fn line(
        &self,
        (mark, address): (&str, &str),
        (pod, node): (&str, &str),
        (state, flows, weight): (&str, &str, &str),
        used: &str,
    ) -> String {
        let mut line = format!("{mark}{address:<width$}  ", width = self.address);
        if let Some(width) = self.pod {
            let (pod, node) = (shortened(pod, width), shortened(node, self.node));
            let _ = write!(line, "{pod:<width$}  {node:<node_width$}  ", node_width = self.node);
        }
        let _ = write!(line, "{state:<11} {flows:>5}  ");
        if self.weights {
            let _ = write!(line, "{weight:>6}  ");
        }
        line + used
    }
}

/// The text with its middle left out where it is longer than `width`: names differ at both ends.
fn shortened(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let (front, back) = ((width - 1) / 2, width - 1 - (width - 1) / 2);
    let begin: String = text.chars().take(front).collect();
    let end: String = text.chars().skip(length - back).collect();
    format!("{begin}…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_loses_its_middle() {
        assert_eq!(shortened("order-7c9d6-x2x1v", 20), "order-7c9d6-x2x1v");
        assert_eq!(shortened("order-7c9d6-x2x1v", 9), "orde…2x1v");
    }

    #[test]
    fn long_names_and_addresses_fit_in_eighty_columns() {
        let endpoint = |address: &str| EndpointExplanation {
            address: address.parse().expect("an address"),
            pod: Some("order-service-with-a-long-name-7c9d6f5b48-x2x1v".to_owned()),
            node: Some("ip-10-20-30-40.eu-central-1.compute.internal".to_owned()),
            zone: Some("eu-central-1a".to_owned()),
            local: false,
            state: "terminating".to_owned(),
            weight: 9,
            cluster: false,
            local_set: None,
            verdict: "no: it is terminating, and others are ready".to_owned(),
            flows: 12_345,
            gone: false,
        };
        for address in ["10.244.1.10:8081", "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535"] {
            let mut text = String::new();
            table(&mut text, &[endpoint(address)]);
            assert!(text.contains(address) && text.contains("others are ready"), "{text}");
            for line in text.lines() {
                assert!(line.chars().count() <= WIDTH, "{line:?}");
            }
        }
    }
}

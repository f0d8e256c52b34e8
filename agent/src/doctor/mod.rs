//! `ferrogate doctor`: what of a node is not as it should be, and what to do about it.
//!
//! The checks of the host need no agent. Those of hooks and tables need to know what should be there, and so the agent.

mod host;
mod listen;

pub(crate) use host::Host;

use crate::admin::{Checkup, Finding, InterfaceStatus, MapStatus, Severity};
use crate::kernel::HookReport;
use std::collections::BTreeMap;

/// A table this full is pressed, percent.
const PRESSED: u64 = 80;

/// What was looked at so far.
#[derive(Default)]
pub(crate) struct Doctor {
    checkup: Checkup,
}

impl Doctor {
    pub(crate) fn new(node: &str) -> Self {
        Self {
            checkup: Checkup {
                node: node.to_owned(),
                ..Checkup::default()
            },
        }
    }

    /// The findings, the worst first.
    pub(crate) fn done(mut self) -> Checkup {
        self.checkup.findings.sort_by_key(|finding| finding.severity);
        self.checkup
    }

    pub(crate) fn looked_at(&mut self, what: impl Into<String>) {
        self.checkup.looked_at.push(what.into());
    }

    pub(crate) fn found(
        &mut self,
        severity: Severity,
        check: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.checkup.findings.push(Finding {
            severity,
            check: check.to_owned(),
            what: what.into(),
            remedy: remedy.into(),
        });
    }

    /// Hooks of interfaces and of the cgroup.
    pub(crate) fn hooks(&mut self, reports: &[HookReport], interfaces: &[InterfaceStatus]) {
        let names: BTreeMap<u32, &str> = interfaces.iter().map(|one| (one.ifindex, one.name.as_str())).collect();
        self.looked_at(format!(
            "hooks: our programs, and others beside them ({})",
            reports.len()
        ));
        for report in reports {
            let at = match names.get(&report.ifindex) {
                Some(interface) => format!("{} of {interface}", report.hook),
                None => report.hook.clone(),
            };
            let program = &report.program;
            if let Some(why) = &report.missing {
                self.found(
                    Severity::Error,
                    "hooks",
                    format!("{program} is not attached at {at}: {why}"),
                    "the agent attaches what is missing when an interface changes, and once a minute; if this stays, see its log",
                );
            }
            for other in &report.before {
                self.found(
                    Severity::Warning,
                    "hooks",
                    format!("{other} runs before {program} at {at}"),
                    "what it drops, accepts or redirects never reaches Ferrogate: see whose it is (bpftool prog show id N), and \
                     attach it behind",
                );
            }
            for other in &report.after {
                self.found(
                    Severity::Note,
                    "hooks",
                    format!("{other} runs after {program} at {at}"),
                    "it sees what Ferrogate has translated; no harm, unless it expects a Service's address",
                );
            }
        }
    }

    /// Interfaces of an edge that is on, with nothing attached.
    pub(crate) fn bare_interfaces(&mut self, interfaces: &[InterfaceStatus], edges: &[String]) {
        let bare = interfaces
            .iter()
            .filter(|one| one.hooks.is_empty() && edges.contains(&one.role));
        for one in bare {
            self.found(
                Severity::Error,
                "hooks",
                format!("{} ({}) has no program", one.name, one.role),
                "its clients are not translated: the agent's log says why nothing could be attached",
            );
        }
        for edge in ["pod", "uplink"] {
            if edges.iter().any(|on| on == edge) && interfaces.iter().all(|one| one.role != edge) && edge == "uplink" {
                self.found(
                    Severity::Error,
                    "hooks",
                    "no interface of this node was taken for an uplink",
                    "nobody outside reaches a Service here: name the interfaces with --uplink",
                );
            }
        }
    }

    /// How full the tables are.
    pub(crate) fn pressure(&mut self, maps: &[MapStatus]) {
        self.looked_at(format!("maps: how full they are ({})", maps.len()));
        for map in maps {
            let used = map.used.unwrap_or_default();
            let percent = used * 100 / map.limit.max(1);
            if percent < PRESSED {
                continue;
            }
            let comes = match map.name.as_str() {
                "FLOWS" | "HALF_OPEN" | "SNAT_FLOWS" => {
                    "the least recent flows are pushed out, and their connections may break"
                }
                "AFFINITY" => "clients that were seen least recently may get another backend",
                "FRAGMENTS" | "SOCKET_PAIRS" | "UDP_SOCKETS" => "the least recent entries are pushed out",
                _ => "what has no room is not programmed",
            };
            self.found(
                Severity::Warning,
                "maps",
                format!("{} is {percent} % full ({used} of {}): {comes}", map.name, map.limit),
                format!(
                    "start with --map-entries {}={} after `ferrogate cleanup`: a map keeps its size while it is pinned",
                    map.name,
                    map.limit * 2
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_ordered_by_how_much_they_matter() {
        let mut doctor = Doctor::new("n1");
        let hook = |before: &[&str], after: &[&str], missing: Option<&str>| HookReport {
            program: "uplink_ingress".to_owned(),
            hook: "tcx ingress".to_owned(),
            ifindex: 2,
            missing: missing.map(str::to_owned),
            xdp: None,
            before: before.iter().map(ToString::to_string).collect(),
            after: after.iter().map(ToString::to_string).collect(),
        };
        let interface = InterfaceStatus {
            name: "eth0".to_owned(),
            ifindex: 2,
            role: "uplink".to_owned(),
            hooks: vec![],
        };
        let reports = [
            hook(&[], &["mirror"], None),
            hook(&["cilium"], &[], None),
            hook(&[], &[], Some("it is gone")),
        ];
        doctor.hooks(&reports, &[interface]);
        let findings = doctor.done().findings;
        let severities: Vec<_> = findings.iter().map(|one| one.severity).collect();
        assert_eq!(severities, [Severity::Error, Severity::Warning, Severity::Note]);
        assert!(
            findings[1]
                .what
                .contains("cilium runs before uplink_ingress at tcx ingress of eth0"),
            "{findings:?}"
        );
    }

    #[test]
    fn a_full_table_is_told_with_the_option_that_widens_it() {
        let map = |used: u64| MapStatus {
            name: "FLOWS".to_owned(),
            purpose: String::new(),
            used: Some(used),
            limit: 100,
        };
        let mut doctor = Doctor::new("n1");
        doctor.pressure(&[map(79)]);
        assert!(doctor.checkup.findings.is_empty());
        doctor.pressure(&[map(80)]);
        assert!(doctor.done().findings[0].remedy.contains("--map-entries FLOWS=200"));
    }
}

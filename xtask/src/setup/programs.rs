//! The programs of the system that the playground and the tests start.

use std::path::Path;

use super::apt::Package;
use crate::cmd;

/// A program, the Debian package that has it, and what it is for.
struct Program {
    /// To be looked for where programs are; a file, by its path.
    name: &'static str,
    package: &'static str,
    why: &'static str,
    /// Only the tests start it; the playground does without.
    tests_only: bool,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "ip",
        package: "iproute2",
        why: "network namespaces, links, routes",
        tests_only: false,
    },
    Program {
        name: "nft",
        package: "nftables",
        why: "kube-proxy's rules, host firewalls",
        tests_only: true,
    },
    Program {
        name: "iptables",
        package: "iptables",
        why: "kube-proxy's rules in its older mode",
        tests_only: true,
    },
    Program {
        name: "/etc/protocols",
        package: "netbase",
        why: "names of protocols: without them kube-proxy takes its own rules for others' when it starts again",
        tests_only: true,
    },
    Program {
        name: "ethtool",
        package: "ethtool",
        why: "offloads of the test cluster's links",
        tests_only: true,
    },
    Program {
        name: "etcd",
        package: "etcd-server",
        why: "the API server's store",
        tests_only: true,
    },
    Program {
        name: "haproxy",
        package: "haproxy",
        why: "a cloud's load balancer in front of the nodes",
        tests_only: true,
    },
    Program {
        name: "trafgen",
        package: "netsniff-ng",
        why: "another packet generator, which has to find what ours finds",
        tests_only: true,
    },
    Program {
        name: "prometheus",
        package: "prometheus",
        why: "runs the alert rules on what an agent exports",
        tests_only: true,
    },
    Program {
        name: "chromium",
        package: "chromium",
        why: "opens the agent's page",
        tests_only: true,
    },
];

/// The packages of the programs that are not there.
pub(super) fn missing_packages(tests: bool) -> Vec<Package> {
    let wanted = PROGRAMS.iter().filter(|program| tests || !program.tests_only);
    wanted
        .filter(|program| !is_here(program.name))
        .map(|program| Package {
            name: program.package.to_owned(),
            why: program.why,
        })
        .collect()
}

fn is_here(name: &str) -> bool {
    match name.starts_with('/') {
        true => Path::new(name).exists(),
        false => cmd::which(name).is_some(),
    }
}

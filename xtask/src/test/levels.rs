//! Which test belongs to which level: the one table.

/// A level of testing, from the quickest to the most real.
pub(crate) struct Level {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Its test programs need root.
    pub(crate) root: bool,
    /// It needs what `setup --peers` installs.
    pub(crate) peers: bool,
    /// The unit tests of all user-space crates (lib and bins), and the integration tests of all but the tests crate.
    pub(crate) crate_tests: bool,
    pub(crate) doc_tests: bool,
    /// Integration tests of the tests crate, by the names of their targets.
    pub(crate) integration: &'static [&'static str],
    /// A test program that takes longer hangs, and is ended. In minutes.
    pub(crate) minutes: u32,
}

pub(crate) const LEVELS: &[Level] = &[
    Level {
        name: "unit",
        about: "pure logic: properties, goldens, the pipeline on the host",
        root: false,
        peers: false,
        crate_tests: true,
        doc_tests: true,
        integration: &[],
        minutes: 10,
    },
    Level {
        name: "kernel",
        about: "the eBPF programs in this kernel: verifier, differential runs",
        root: true,
        peers: false,
        crate_tests: false,
        doc_tests: false,
        integration: &["verifier", "differential"],
        minutes: 20,
    },
    Level {
        name: "packets",
        about: "real sockets through network namespaces, services from manifests",
        root: true,
        peers: true,
        crate_tests: false,
        doc_tests: false,
        integration: &["walks"],
        minutes: 45,
    },
    Level {
        name: "cluster",
        about: "etcd, kube-apiserver, CoreDNS and kube-proxy beside the agent",
        root: true,
        peers: true,
        crate_tests: false,
        doc_tests: false,
        integration: &["cluster"],
        minutes: 45,
    },
];

/// Skips that are right: a part of the line that reports the skip, and why. Any other skip fails the run.
pub(crate) const EXPECTED_SKIPS: &[(&str, &str)] = &[];

//! Which test belongs to which level: the one table.

/// A level of testing, from the quickest to the most real.
pub(crate) struct Level {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Its test programs need root.
    pub(crate) root: bool,
    /// It needs what `setup --peers` installs.
    pub(crate) peers: bool,
    /// It holds the tests of all user-space crates: unit tests, documentation tests, and the integration tests of all but
    /// the tests crate.
    pub(crate) crates: bool,
    /// The programs are shown to the verifier of the oldest kernel too.
    pub(crate) oldest_kernel: bool,
    /// Integration tests of the tests crate, in the order in which they run.
    pub(crate) runs: &'static [Run],
    /// A test program that takes longer hangs, and is ended. In minutes.
    pub(crate) minutes: u32,
}

/// One start of a test program.
pub(crate) struct Run {
    /// The name of the test target: `tests/tests/<target>.rs`.
    pub(crate) target: &'static str,
    pub(crate) arguments: &'static [&'static str],
    /// The option that takes a part of a test's name; libtest takes it without one.
    pub(crate) filter: Option<&'static str>,
}

impl Run {
    const fn libtest(target: &'static str) -> Self {
        Self {
            target,
            arguments: &[],
            filter: None,
        }
    }

    const fn walks(arguments: &'static [&'static str]) -> Self {
        Self {
            target: "walks",
            arguments,
            filter: Some("--filter"),
        }
    }

    const fn conformance(arguments: &'static [&'static str]) -> Self {
        Self {
            target: "conformance",
            arguments,
            filter: Some("--filter"),
        }
    }

    const fn faults(arguments: &'static [&'static str]) -> Self {
        Self {
            target: "faults",
            arguments,
            filter: Some("--filter"),
        }
    }

    const fn random(arguments: &'static [&'static str]) -> Self {
        Self {
            target: "random",
            arguments,
            filter: Some("--filter"),
        }
    }
}

pub(crate) const LEVELS: &[Level] = &[
    Level {
        name: "unit",
        about: "pure logic: properties, goldens, the pipeline on the host",
        root: false,
        peers: false,
        crates: true,
        oldest_kernel: false,
        runs: &[],
        minutes: 10,
    },
    Level {
        name: "kernel",
        about: "the eBPF programs in this kernel: verifier, differential runs, routes",
        root: true,
        peers: false,
        crates: false,
        oldest_kernel: true,
        runs: &[
            Run::libtest("verifier"),
            Run::libtest("differential"),
            Run::libtest("next_hops"),
        ],
        minutes: 20,
    },
    Level {
        name: "packets",
        about: "real sockets through network namespaces, Services from manifests",
        root: true,
        peers: true,
        crates: false,
        oldest_kernel: false,
        runs: &[
            Run::libtest("rig"),
            Run::libtest("sockets"),
            Run::libtest("churn"),
            Run::libtest("pktgen"),
            Run::walks(&["--source", "manifests"]),
            Run::walks(&["--firewall", "--layout", "routed,bridge"]),
            Run::walks(&["--xdp", "--layout", "routed,vxlan", "--socket-edge", "all"]),
            Run::walks(&[
                "--xdp",
                "--layout",
                "vxlan",
                "--socket-edge",
                "off",
                "--filter",
                "fragments",
            ]),
            Run::walks(&["--dsr", "--layout", "routed,vxlan", "--socket-edge", "all"]),
            Run::walks(&["--agent-option=--forwarding=redirect", "--layout", "routed"]),
            Run::walks(&[
                "--dsr",
                "--xdp",
                "--layout",
                "routed",
                "--socket-edge",
                "all",
                "--filter",
                "outside",
            ]),
            Run::walks(&["--socket-edge", "node", "--layout", "routed", "--filter", "ClusterIP"]),
            Run::walks(&["--external-cluster-ip", "--layout", "routed", "--filter", "outside"]),
        ],
        minutes: 45,
    },
    Level {
        name: "cluster",
        about: "etcd, kube-apiserver, CoreDNS and kube-proxy beside the agent",
        root: true,
        peers: true,
        crates: false,
        oldest_kernel: false,
        runs: &[
            Run::libtest("cluster"),
            Run::libtest("health"),
            Run::libtest("scenes"),
            Run::libtest("operate"),
            Run::walks(&["--source", "control-plane", "--proxy", "kube-proxy,ferrogate"]),
            Run::conformance(&["--quick"]),
            Run::conformance(&["--layout", "vxlan", "--socket-edge", "off", "--only", "ours"]),
            Run::faults(&[]),
            Run::random(&["--sequences", "64", "--steps", "8", "--seconds", "40"]),
        ],
        minutes: 45,
    },
];

/// Skips that are right, each by a part of the line that reports it. Any other skip fails the run.
pub(crate) const EXPECTED_SKIPS: &[&str] = &[
    // A limit of the socket edge's absence, which the documents name.
    "a NodePort is at 127.0.0.1 and ::1 through the socket edge only",
    // Limits of the rival.
    "kube-proxy needs hairpin mode on the bridge port of a pod that asks itself",
    "kube-proxy does not answer ping to a ClusterIP",
    "kube-proxy needs bridge-nf-call-iptables=1 for backends on the same bridge",
    // A limit that the documents name.
    "a node's process reaches its own address in a VRF through the socket edge only",
    // The same walk runs at the level `cluster`.
    "CoreDNS watches an API server; this rig's source is manifests",
];

//! The service proxy of a node: ours, the rival, or none.
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::addresses;
use super::machine::Node;
use super::process::Process;
use crate::binaries;

/// Which sockets Ferrogate translates at connect and sendmsg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SocketEdge {
    #[default]
    All,
    Node,
    Off,
}

impl SocketEdge {
    pub fn name(self) -> &'static str {
        match self {
            SocketEdge::All => "all",
            SocketEdge::Node => "node",
            SocketEdge::Off => "off",
        }
    }
}

/// Options of `ferrogate agent` beyond those that place it on its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FerrogateOptions {
    pub socket_edge: SocketEdge,
    /// `--external-cluster-ip`.
    pub external_cluster_ip: bool,
    /// `--dsr on`.
    pub dsr: bool,
    /// `--xdp native`, and links on which XDP can work: `machine.rs` and `far_end.rs`.
    pub xdp: bool,
    pub more: Vec<String>,
    /// What starts the agent: a program and its arguments, to which the agent's own command line is added.
    pub launcher: Vec<String>,
}

/// How kube-proxy works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeProxyOptions {
    /// `nftables` or `iptables`.
    pub mode: &'static str,
    /// Its own default is 1 s.
    pub min_sync_period: &'static str,
}

impl Default for KubeProxyOptions {
    /// As the tests want it: without a wait of its own.
    fn default() -> Self {
        Self {
            mode: "nftables",
            min_sync_period: "1ms",
        }
    }
}

/// What carries Service traffic in a rig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxy {
    None,
    Ferrogate(FerrogateOptions),
    /// kube-proxy in nftables mode; needs [`super::Source::ControlPlane`].
    KubeProxy,
    /// The same, in another mode or at another pace.
    KubeProxyWith(KubeProxyOptions),
}

impl Proxy {
    /// Whether there will be XDP programs on the nodes' uplinks.
    pub fn uses_xdp(&self) -> bool {
        matches!(self, Proxy::Ferrogate(options) if options.xdp)
    }

    pub fn name(&self) -> String {
        match self {
            Proxy::None => "none".to_owned(),
            Proxy::Ferrogate(options) => {
                let xdp = if options.xdp { " xdp" } else { "" };
                let dsr = if options.dsr { " dsr" } else { "" };
                format!("ferrogate socket-edge={}{xdp}{dsr}", options.socket_edge.name())
            }
            Proxy::KubeProxy => "kube-proxy".to_owned(),
            Proxy::KubeProxyWith(options) => format!("kube-proxy {}", options.mode),
        }
    }
}

/// Where a proxy learns about Services.
pub(crate) enum Feed<'a> {
    Manifests(&'a Path),
    Kubeconfig(&'a Path),
}

/// Starts the proxy of one node; `None` where there is none to start.
pub(crate) fn start(proxy: &Proxy, node: &Node, feed: &Feed<'_>) -> Result<Option<Process>> {
    match (proxy, feed) {
        (Proxy::None, _) => Ok(None),
        (Proxy::Ferrogate(options), feed) => ferrogate(options, node, feed).map(Some),
        (Proxy::KubeProxy, Feed::Kubeconfig(file)) => kube_proxy(&KubeProxyOptions::default(), node, file).map(Some),
        (Proxy::KubeProxyWith(options), Feed::Kubeconfig(file)) => kube_proxy(options, node, file).map(Some),
        (Proxy::KubeProxy | Proxy::KubeProxyWith(_), Feed::Manifests(_)) => bail!("kube-proxy needs a control plane"),
    }
}

fn ferrogate(options: &FerrogateOptions, node: &Node, feed: &Feed<'_>) -> Result<Process> {
    let program = binaries::workspace("ferrogate")?;
    let mut command = match options.launcher.split_first() {
        None => node.place.command(program)?,
        Some((launcher, arguments)) => {
            let mut command = node.place.command(launcher)?;
            command.args(arguments).arg(program);
            command
        }
    };
    command.arg("agent").arg("--node-name").arg(&node.name);
    command
        .arg("--state-dir")
        .arg(&node.bpffs)
        .arg("--run-dir")
        .arg(&node.directory);
    command.arg("--cgroup").arg(&node.place.cgroup);
    command.arg("--socket-edge").arg(options.socket_edge.name());
    match feed {
        Feed::Manifests(directory) => command.arg("--manifests").arg(directory),
        Feed::Kubeconfig(file) => command.arg("--kubeconfig").arg(file),
    };
    if options.dsr {
        command.arg("--dsr=on");
    }
    if options.external_cluster_ip {
        command.arg("--external-cluster-ip");
    }
    // By itself the agent never puts XDP on a veth.
    command.args(["--xdp", if options.xdp { "native" } else { "off" }]);
    command.args(&options.more);
    node.place
        .spawn("ferrogate", command, &node.directory.join("proxy.log"))
}

fn kube_proxy(options: &KubeProxyOptions, node: &Node, kubeconfig: &Path) -> Result<Process> {
    let [v4, v6] = addresses::cluster_ranges();
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": options.mode,
        "clusterCIDR": format!("{v4},{v6}"),
        "hostnameOverride": node.name,
        "clientConnection": {"kubeconfig": kubeconfig},
        options.mode: {"minSyncPeriod": options.min_sync_period, "syncPeriod": "30s"},
        // Machine-wide settings that a namespace may not write.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "healthzBindAddress": "0.0.0.0:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    });
    let file = node.directory.join("kube-proxy.yaml");
    fs::write(&file, serde_yaml_ng::to_string(&config)?).with_context(|| file.display().to_string())?;
    let mut command = node.place.command(binaries::peer("kube-proxy")?)?;
    command.arg("--config").arg(file);
    node.place
        .spawn("kube-proxy", command, &node.directory.join("proxy.log"))
}

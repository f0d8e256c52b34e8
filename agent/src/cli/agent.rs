//! `ferrogate agent` and its options.

mod page;
mod timeouts;
mod values;

use self::page::PageOptions;
use self::timeouts::FlowTimeouts;
pub use self::values::{DsrMode, Forwarding, SnatMode, SocketEdge, Switch, XdpMode};
use super::parse::{self, PortRange};
use crate::kernel::MapMemory;
use crate::logging;
use crate::net::NodePortAddresses;
use crate::privileges;
use crate::stuck::HelperSource;
use anyhow::{Context, Result};
use clap::Args;
use clap::builder::BoolishValueParser;
use ipnet::IpNet;
use std::path::PathBuf;
use std::time::Duration;
use tracing::warn;

/// Every option can also be given in the environment, under the name shown.
#[derive(Args, Clone, Debug)]
pub struct AgentArgs {
    /// A file of kind KubeProxyConfiguration, as kube-proxy has it; other options go before it
    #[arg(long, value_name = "FILE", env = "FERROGATE_CONFIG", help_heading = "Source")]
    pub config: Option<PathBuf>,

    /// Kubeconfig to reach the API server with [default: the pod's service account]
    #[arg(long, value_name = "FILE", env = "FERROGATE_KUBECONFIG", help_heading = "Source")]
    pub kubeconfig: Option<PathBuf>,

    /// Where the API server answers, instead of the kubeconfig's server; several are tried in turn
    ///
    /// A fresh node has no Services yet, so the ClusterIP of the API server leads nowhere: give addresses of the control
    /// plane here.
    #[arg(
        long,
        value_name = "URL[,URL]",
        env = "FERROGATE_API_SERVER",
        value_delimiter = ',',
        value_parser = parse::api_server,
        help_heading = "Source"
    )]
    pub api_server: Vec<String>,

    /// Read Services, EndpointSlices and the Node from the YAML and JSON files of this directory, not from a cluster
    #[arg(
        long,
        value_name = "DIR",
        env = "FERROGATE_MANIFESTS",
        conflicts_with_all = ["kubeconfig", "api_server"],
        help_heading = "Source"
    )]
    pub manifests: Option<PathBuf>,

    /// Name of this Node in the cluster [default: the host's name]
    #[arg(long, value_name = "NAME", env = "FERROGATE_NODE_NAME", value_parser = parse::node_name, help_heading = "Source")]
    pub node_name: Option<String>,

    /// Take the Services whose label service.kubernetes.io/service-proxy-name says this [default: those without the label]
    #[arg(
        long,
        value_name = "NAME",
        env = "FERROGATE_SERVICE_PROXY_NAME",
        help_heading = "Source"
    )]
    pub service_proxy_name: Option<String>,

    /// Networks that ClusterIPs are taken from, beside the cluster's ServiceCIDRs: what is sent to an address there that no
    /// Service has is dropped
    #[arg(
        long,
        value_name = "CIDR[,CIDR]",
        env = "FERROGATE_SERVICE_CIDR",
        value_delimiter = ',',
        value_parser = parse::cidr,
        help_heading = "Source"
    )]
    pub service_cidr: Vec<IpNet>,

    /// Slots of the table of a Service with the algorithm maglev or source-hash, a prime: more are more even and cost 4 bytes each
    #[arg(
        long,
        value_name = "N",
        env = "FERROGATE_MAGLEV_TABLE_SIZE",
        default_value = "16381",
        value_parser = parse::table_size,
        help_heading = "Translation"
    )]
    pub maglev_table_size: u16,

    /// Networks of the cluster's pods: clients with these addresses count as inside the cluster wherever they come from; 64 at
    /// most
    #[arg(
        long,
        value_name = "CIDR[,CIDR]",
        env = "FERROGATE_CLUSTER_CIDR",
        value_delimiter = ',',
        value_parser = parse::cidr,
        help_heading = "Translation"
    )]
    pub cluster_cidr: Vec<IpNet>,

    /// Interfaces that lead off the node, by name; '*' stands for any characters [default: found]
    #[arg(
        long,
        value_name = "NAME[,NAME]",
        env = "FERROGATE_UPLINK",
        value_delimiter = ',',
        help_heading = "Interfaces"
    )]
    pub uplink: Vec<String>,

    /// Interfaces that lead to pods, by name; '*' stands for any characters [default: found]
    #[arg(
        long,
        value_name = "NAME[,NAME]",
        env = "FERROGATE_POD_INTERFACES",
        value_delimiter = ',',
        help_heading = "Interfaces"
    )]
    pub pod_interfaces: Vec<String>,

    /// Whose connections are translated at the socket
    #[arg(
        long,
        value_name = "WHOSE",
        env = "FERROGATE_SOCKET_EDGE",
        default_value = "all",
        help_heading = "Edges"
    )]
    pub socket_edge: SocketEdge,

    /// Destroy connected UDP sockets whose backend has ended, so that their processes are told at once
    ///
    /// Only sockets that the socket edge had translated. A helper does it that the agent starts: it enters network namespaces,
    /// for which it needs CAP_SYS_ADMIN and the host's process namespace. Without these the agent goes on without it.
    #[arg(
        long,
        value_name = "on|off",
        env = "FERROGATE_SOCK_DESTROY",
        default_value = "on",
        hide_possible_values = true,
        help_heading = "Edges"
    )]
    pub sock_destroy: Switch,

    /// Unix socket of a helper that runs apart (`ferrogate sock-destroy-helper --socket PATH`) [default: the agent starts one]
    #[arg(
        long,
        value_name = "PATH",
        env = "FERROGATE_SOCK_DESTROY_HELPER",
        help_heading = "Edges"
    )]
    pub sock_destroy_helper: Option<PathBuf>,

    /// Translate at the interfaces of pods
    #[arg(
        long,
        value_name = "on|off",
        env = "FERROGATE_POD_EDGE",
        default_value = "on",
        hide_possible_values = true,
        help_heading = "Edges"
    )]
    pub pod_edge: Switch,

    /// Translate what comes from outside the node
    #[arg(
        long,
        value_name = "on|off",
        env = "FERROGATE_UPLINK_EDGE",
        default_value = "on",
        hide_possible_values = true,
        help_heading = "Edges"
    )]
    pub uplink_edge: Switch,

    /// Translate packets of this node's own processes that the socket edge does not hold
    #[arg(
        long,
        value_name = "on|off",
        env = "FERROGATE_NODE_EDGE",
        default_value = "on",
        hide_possible_values = true,
        help_heading = "Edges"
    )]
    pub node_edge: Switch,

    /// Where XDP carries the uplink edge
    #[arg(
        long,
        value_name = "WHERE",
        env = "FERROGATE_XDP",
        default_value = "auto",
        help_heading = "Edges"
    )]
    pub xdp: XdpMode,

    /// Whose source address is replaced by the node's
    #[arg(
        long,
        value_name = "WHOSE",
        env = "FERROGATE_SNAT",
        default_value = "remote",
        help_heading = "Translation"
    )]
    pub snat: SnatMode,

    /// Direct server return, by IP in IP: whether the node of the backend answers outside clients itself
    #[arg(
        long,
        value_name = "MODE",
        env = "FERROGATE_DSR",
        default_value = "off",
        help_heading = "Translation"
    )]
    pub dsr: DsrMode,

    /// How packets get from clients to backends on this node, and back
    #[arg(
        long,
        value_name = "HOW",
        env = "FERROGATE_FORWARDING",
        default_value = "stack",
        help_heading = "Translation"
    )]
    pub forwarding: Forwarding,

    /// Source ports that SNAT uses; the node's ephemeral ports are kept out of the range
    #[arg(
        long,
        value_name = "BASE-END",
        env = "FERROGATE_SNAT_PORTS",
        default_value = "14000-29999",
        value_parser = parse::port_range,
        help_heading = "Translation"
    )]
    pub snat_ports: PortRange,

    #[command(flatten)]
    pub timeouts: FlowTimeouts,

    /// Let ClusterIPs answer clients outside the cluster too
    #[arg(
        long,
        env = "FERROGATE_EXTERNAL_CLUSTER_IP",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        hide_possible_values = true,
        value_name = "true|false",
        help_heading = "Translation"
    )]
    pub external_cluster_ip: bool,

    /// Networks that `spec.externalIPs` may name; none by default (CVE-2020-8554)
    #[arg(
        long,
        value_name = "CIDR[,CIDR]",
        env = "FERROGATE_EXTERNAL_IPS",
        value_delimiter = ',',
        value_parser = parse::cidr,
        help_heading = "Translation"
    )]
    pub external_ips: Vec<IpNet>,

    /// Networks whose node addresses answer NodePorts, or primary: the Node's own address of each family [default: every
    /// address of the node]
    #[arg(
        long,
        value_name = "CIDR[,CIDR]|primary",
        env = "FERROGATE_NODE_PORT_ADDRESSES",
        value_delimiter = ',',
        value_parser = parse::node_port_addresses,
        help_heading = "Translation"
    )]
    pub node_port_addresses: Vec<NodePortAddresses>,

    /// Where /healthz and /livez are answered; 0.0.0.0 means all addresses of both families; off: nowhere
    #[arg(
        long,
        value_name = "IP[:PORT]|off",
        env = "FERROGATE_HEALTHZ_BIND_ADDRESS",
        default_value = "0.0.0.0:10256",
        value_parser = parse::healthz_bind,
        help_heading = "Health and metrics"
    )]
    pub healthz_bind_address: parse::Bind,

    /// Where /metrics and /proxyMode are answered; off: nowhere
    #[arg(
        long,
        value_name = "IP[:PORT]|off",
        env = "FERROGATE_METRICS_BIND_ADDRESS",
        default_value = "127.0.0.1:10249",
        value_parser = parse::metrics_bind,
        help_heading = "Health and metrics"
    )]
    pub metrics_bind_address: parse::Bind,

    /// A change that is not written for this long makes /healthz and /livez answer 503
    #[arg(
        long,
        value_name = "TIME",
        env = "FERROGATE_HEALTHZ_TIMEOUT",
        default_value = "60s",
        value_parser = parse::duration,
        help_heading = "Health and metrics"
    )]
    pub healthz_timeout: Duration,

    /// Service ports that have a metric of their own, the busiest ones; off: none
    #[arg(
        long,
        value_name = "N|off",
        env = "FERROGATE_METRICS_SERVICES",
        default_value = "1000",
        value_parser = parse::limit,
        help_heading = "Health and metrics"
    )]
    pub metrics_services: parse::Limit,

    /// Count packets and bytes by Service port, requests and replies, at the packet edges; some 80 ns a packet
    #[arg(
        long,
        env = "FERROGATE_SERVICE_TRAFFIC",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        hide_possible_values = true,
        value_name = "true|false",
        help_heading = "Health and metrics"
    )]
    pub service_traffic: bool,

    #[command(flatten)]
    pub page: PageOptions,

    /// Directory in a bpf file system for pinned maps and links; each agent of a kernel needs its own
    #[arg(long, value_name = "DIR", env = "FERROGATE_STATE_DIR", default_value = super::query::STATE_DIR, help_heading = "Paths")]
    pub state_dir: PathBuf,

    /// Directory for the admin socket and the lock; each agent of a kernel needs its own
    #[arg(long, value_name = "DIR", env = "FERROGATE_RUN_DIR", default_value = super::query::RUN_DIR, help_heading = "Paths")]
    pub run_dir: PathBuf,

    /// Unix socket that answers `ferrogate status` and its like [default: RUN_DIR/admin.sock]
    #[arg(long, value_name = "PATH", env = "FERROGATE_ADMIN_SOCKET", help_heading = "Paths")]
    pub admin_socket: Option<PathBuf>,

    /// The cgroup2 directory whose processes the socket edge serves [default: the host's root cgroup2]
    #[arg(long, value_name = "PATH", env = "FERROGATE_CGROUP", help_heading = "Paths")]
    pub cgroup: Option<PathBuf>,

    /// Memory that the maps' sizes follow: a share of the node's, or an amount (200Mi)
    ///
    /// Each map has bounds (see Maps in the reference): tables of Services never shrink below their defaults, and tables of traffic
    /// not below a quarter of theirs. A map that exists keeps its size until `ferrogate cleanup`.
    #[arg(
        long,
        value_name = "SHARE|SIZE",
        env = "FERROGATE_MAP_MEMORY",
        default_value = "0.5%",
        value_parser = parse::map_memory,
        help_heading = "Paths"
    )]
    pub map_memory: MapMemory,

    /// Number of entries of a map, instead of what --map-memory gives it; may be repeated. A map that exists keeps its size until
    /// `ferrogate cleanup`
    #[arg(
        long,
        value_name = "NAME=N",
        env = "FERROGATE_MAP_ENTRIES",
        value_delimiter = ',',
        value_parser = parse::map_entries,
        help_heading = "Paths"
    )]
    pub map_entries: Vec<(String, u32)>,

    /// What to log: error, warn, info, debug, trace, or target=level[,…]
    #[arg(
        long,
        value_name = "LEVEL",
        env = "FERROGATE_LOG_LEVEL",
        default_value = "info",
        help_heading = "Logs"
    )]
    pub log_level: String,

    /// How log lines look
    #[arg(
        long,
        value_name = "FORMAT",
        env = "FERROGATE_LOG_FORMAT",
        default_value = "text",
        help_heading = "Logs"
    )]
    pub log_format: logging::Format,

    /// Log what the programs do with each packet (slow; for debugging)
    #[arg(
        long,
        env = "FERROGATE_LOG_PACKETS",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        hide_possible_values = true,
        value_name = "true|false",
        help_heading = "Logs"
    )]
    pub log_packets: bool,

    /// Load the programs of this file instead of those that are built in; its maps must be of the same ABI
    #[arg(long, value_name = "FILE", env = "FERROGATE_OBJECT", help_heading = "Paths")]
    pub object: Option<PathBuf>,
}

impl AgentArgs {
    /// Where the admin socket is.
    pub fn admin_socket(&self) -> PathBuf {
        super::query::admin_socket(self.admin_socket.as_deref(), &self.run_dir)
    }

    /// The Node's name: the option, else the host's name in lower case, as kubelet does it.
    pub fn node_name(&self) -> Result<String> {
        if let Some(name) = &self.node_name {
            return Ok(name.clone());
        }
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .to_ascii_lowercase();
        parse::node_name(&host)
            .map_err(|why| anyhow::anyhow!("the host's name {host:?} is {why}; give the Node's name with --node-name"))
    }
}

/// Runs until SIGTERM or SIGINT.
pub(super) fn run(args: &AgentArgs) -> Result<()> {
    logging::init(&args.log_level, args.log_format)?;
    args.page.check()?;
    if let Some(file) = &args.config {
        let ignored = crate::config::read(file)?.ignored;
        if !ignored.is_empty() {
            warn!(
                file = %file.display(),
                fields = ignored.join(", "),
                "these fields of the configuration mean nothing to this agent"
            );
        }
    }
    crate::kernel::one_heap();
    let helper = renounce(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(crate::run::run(args, helper));
    // Nothing is left to be finished: watches and blocked reads end with the process.
    runtime.shutdown_background();
    outcome
}

/// Does what takes more privileges than the rest of the agent's life, and drops them. The helper, where there is to be one.
fn renounce(args: &AgentArgs) -> Result<Option<HelperSource>> {
    if let Err(error) = crate::kernel::StateDir::new(&args.state_dir).mount() {
        // Opening the directory says what to do, if it cannot be used.
        warn!(
            error = format!("{:#}", anyhow::Error::from(error)),
            "there is no BPF file system"
        );
    }
    let wanted = args.sock_destroy.is_on() && args.socket_edge != SocketEdge::Off;
    let helper = wanted.then(|| match &args.sock_destroy_helper {
        Some(path) => HelperSource::Apart(path.clone()),
        None => HelperSource::start_child(),
    });
    let binds = [args.healthz_bind_address.0, args.metrics_bind_address.0, args.page.ui.0];
    let binds: Vec<_> = binds.into_iter().flatten().collect();
    privileges::drop_all_but_needed(&binds)?;
    Ok(helper)
}

#[cfg(test)]
mod tests;

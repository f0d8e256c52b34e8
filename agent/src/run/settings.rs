//! Options into what the layers below are told.

use crate::cli::{AgentArgs, DsrMode, Forwarding, SnatMode, SocketEdge, XdpMode};
use crate::health::{Requests, Settings};
use crate::kernel::{self, DatapathOptions, EdgeOptions};
use crate::net::{Glob, NetOptions};
use crate::source::cluster::Endpoint;
use anyhow::{Context, Result, ensure};
use bytemuck::Zeroable as _;
use ferrogate_common::{Config, NetworkKey, config_flags};
use ferrogate_control::Options;
use std::time::Duration;

pub(super) fn datapath(args: &AgentArgs) -> DatapathOptions {
    DatapathOptions {
        state_dir: args.state_dir.clone(),
        map_memory: args.map_memory,
        map_entries: args.map_entries.iter().cloned().collect(),
        edges: EdgeOptions {
            pod: args.pod_edge.is_on(),
            uplink: args.uplink_edge.is_on(),
            xdp: match args.xdp {
                XdpMode::Auto => kernel::XdpMode::Auto,
                XdpMode::Native => kernel::XdpMode::Native,
                XdpMode::Off => kernel::XdpMode::Off,
            },
        },
        log_packets: args.log_packets,
        service_traffic: args.service_traffic,
        dsr: args.dsr != DsrMode::Off,
        redirect: args.forwarding == Forwarding::Redirect,
        object: args.object.clone(),
    }
}

/// The span of NodePorts is not set here: it belongs to the plans.
pub(super) fn config(args: &AgentArgs, take_over: bool) -> Result<Config> {
    let mut flags = 0;
    for (set, flag) in [
        (args.external_cluster_ip, config_flags::EXTERNAL_CLUSTER_IP),
        (args.snat == SnatMode::Always, config_flags::SNAT_ALWAYS),
        (args.dsr == DsrMode::On, config_flags::DSR),
        (args.forwarding == Forwarding::Redirect, config_flags::REDIRECT),
        (!args.node_edge.is_on(), config_flags::NODE_EDGE_OFF),
        (args.pod_edge.is_on(), config_flags::POD_EDGE),
        (args.socket_edge == SocketEdge::Node, config_flags::SOCKETS_OF_NODE),
        (take_over, config_flags::TAKE_OVER),
    ] {
        flags |= if set { flag } else { 0 };
    }
    ensure!(
        args.dsr != DsrMode::On || args.snat != SnatMode::Always,
        "--dsr on and --snat always contradict each other: what is handed over to another node is not masqueraded"
    );
    ensure!(
        args.forwarding != Forwarding::Redirect || args.pod_edge.is_on(),
        "--forwarding redirect and --pod-edge off contradict each other: replies go past the stack where they come out of the pod"
    );
    ensure!(
        args.cluster_cidr.len() <= NetworkKey::CLUSTER_ENTRIES as usize,
        "--cluster-cidr takes {} networks at most",
        NetworkKey::CLUSTER_ENTRIES
    );
    Ok(Config {
        netns_cookie: kernel::netns_cookie()
            .context("cannot tell this network namespace by its cookie (Linux 5.14)")?,
        flags,
        snat_port_base: args.snat_ports.base,
        snat_port_count: args.snat_ports.count(),
        udp_timeout: datapath_ticks(args.timeouts.udp_timeout),
        udp_stream_timeout: datapath_ticks(args.timeouts.udp_stream_timeout),
        ..Config::zeroed()
    })
}

/// Never shorter than the time, though a flow's time stamp is up to a tick old. The options hold the time to what fits.
fn datapath_ticks(time: Duration) -> u16 {
    u16::try_from(kernel::ticks(time) + 1).unwrap_or(u16::MAX)
}

pub(super) fn control(node: &str, args: &AgentArgs) -> Options {
    Options {
        node_name: node.to_owned(),
        external_ips: args.external_ips.clone(),
        proxy_name: args.service_proxy_name.clone(),
        maglev_table_size: args.maglev_table_size,
        dsr: args.dsr != DsrMode::Off,
    }
}

pub(super) fn network(args: &AgentArgs) -> NetOptions {
    let globs = |names: &[String]| -> Vec<Glob> { names.iter().filter_map(|name| name.trim().parse().ok()).collect() };
    NetOptions {
        uplinks: globs(&args.uplink),
        pods: globs(&args.pod_interfaces),
        node_addresses: vec![],
        node_port_addresses: args.node_port_addresses.clone(),
    }
}

pub(super) fn health(args: &AgentArgs) -> Settings {
    Settings {
        healthz: args.healthz_bind_address.0,
        metrics: args.metrics_bind_address.0,
        timeout: args.healthz_timeout,
        services: args.metrics_services.0,
    }
}

pub(super) fn endpoint(args: &AgentArgs, requests: Requests) -> Endpoint {
    Endpoint {
        requests,
        kubeconfig: args.kubeconfig.clone(),
        servers: args.api_server.clone(),
    }
}

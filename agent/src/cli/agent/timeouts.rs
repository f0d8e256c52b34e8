//! After how long without a packet flows are over.

use super::values::Switch;
use crate::cli::parse;
use crate::kernel::{ConntrackFloors, Timeouts};
use clap::Args;
use std::time::Duration;

/// Conntrack's timeouts and size, and kube-proxy's defaults for them (`conntrack` in KubeProxyConfiguration).
#[derive(Args, Clone, Debug)]
pub struct FlowTimeouts {
    /// A connection of TCP or SCTP without a packet for this long is forgotten
    #[arg(
        long,
        value_name = "TIME",
        env = "FERROGATE_TCP_ESTABLISHED_TIMEOUT",
        default_value = "24h",
        value_parser = parse::duration,
        help_heading = "Translation"
    )]
    pub tcp_established_timeout: Duration,

    /// The same, where one side has closed it
    #[arg(
        long,
        value_name = "TIME",
        env = "FERROGATE_TCP_CLOSE_WAIT_TIMEOUT",
        default_value = "1h",
        value_parser = parse::duration,
        help_heading = "Translation"
    )]
    pub tcp_close_wait_timeout: Duration,

    /// A client's next datagram is balanced anew after this long without one, where no answer came
    #[arg(
        long,
        value_name = "TIME",
        env = "FERROGATE_UDP_TIMEOUT",
        default_value = "30s",
        value_parser = parse::udp_timeout,
        help_heading = "Translation"
    )]
    pub udp_timeout: Duration,

    /// The same, where answers came
    #[arg(
        long,
        value_name = "TIME",
        env = "FERROGATE_UDP_STREAM_TIMEOUT",
        default_value = "2m",
        value_parser = parse::udp_timeout,
        help_heading = "Translation"
    )]
    pub udp_stream_timeout: Duration,

    /// Raise the timeouts of the node's own conntrack to those of connections here, and its size
    ///
    /// Conntrack knows the same connections where they pass the node's stack, and a firewall may ask it. What is as high already is
    /// left alone; `ferrogate cleanup` sets the rest back.
    #[arg(
        long,
        value_name = "on|off",
        env = "FERROGATE_RAISE_CONNTRACK",
        default_value = "on",
        hide_possible_values = true,
        help_heading = "Translation"
    )]
    pub raise_conntrack: Switch,

    /// Conntrack entries for each core, at least; 0 leaves their number as it is
    #[arg(
        long,
        value_name = "N",
        env = "FERROGATE_CONNTRACK_MAX_PER_CORE",
        default_value_t = 32_768,
        help_heading = "Translation"
    )]
    pub conntrack_max_per_core: u32,

    /// Conntrack entries, however few cores there are
    #[arg(
        long,
        value_name = "N",
        env = "FERROGATE_CONNTRACK_MIN",
        default_value_t = 131_072,
        help_heading = "Translation"
    )]
    pub conntrack_min: u32,
}

impl FlowTimeouts {
    /// What the node's conntrack is to have, if it is any business of this agent.
    pub fn conntrack_floors(&self) -> Option<ConntrackFloors> {
        self.raise_conntrack.is_on().then_some(ConntrackFloors {
            established: self.tcp_established_timeout,
            close_wait: self.tcp_close_wait_timeout,
            entries_a_core: self.conntrack_max_per_core,
            entries: self.conntrack_min,
        })
    }
}

impl From<&FlowTimeouts> for Timeouts {
    fn from(args: &FlowTimeouts) -> Self {
        Self {
            established: args.tcp_established_timeout,
            closing: args.tcp_close_wait_timeout,
            udp: args.udp_timeout,
            udp_stream: args.udp_stream_timeout,
        }
    }
}

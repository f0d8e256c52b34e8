//! After how long without a packet flows are over.

use crate::cli::parse;
use crate::kernel::Timeouts;
use clap::Args;
use std::time::Duration;

/// Conntrack's timeouts and kube-proxy's defaults for them (`conntrack` in KubeProxyConfiguration).
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

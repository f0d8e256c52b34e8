//! Why a packet got its verdict: one list for the programs' counters, metric labels and documents.

use core::fmt;

macro_rules! reasons {
    ($($name:ident = $number:literal, $label:literal, $drop:literal, $doc:literal;)*) => {
        /// Why the datapath did what it did with a packet or a socket call. The number is the index into `REASONS`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = $doc] $name = $number,)*
        }

        impl Reason {
            /// All reasons, in order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Name in metrics and output.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// One sentence for documents.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$name => $doc,)* }
            }

            /// Whether the packet (or the call) got no further.
            pub const fn is_drop(self) -> bool {
                match self { $(Self::$name => $drop,)* }
            }
        }
    };
}

reasons! {
    NotService = 0, "not_service", false, "Not to or from a Service: passed on unchanged.";
    NotIp = 1, "not_ip", false, "Neither IPv4 nor IPv6, or a protocol that no Service can have: passed on unchanged.";
    Malformed = 2, "malformed", false, "Headers cut short or contradicting each other: passed on unchanged, for the stack to judge.";
    Fragment = 3, "fragment", false, "A fragment of a packet whose first one was not seen, not to a Service's own address: passed on unchanged.";
    Translated = 4, "translated", false, "A packet of a known flow, translated towards its backend.";
    NewFlow = 5, "new_flow", false, "The first packet of a flow, translated towards the backend chosen for it.";
    Reply = 6, "reply", false, "A reply, translated back for its client.";
    NoEndpoints = 7, "no_endpoints", true, "The Service has no usable endpoint: refused (TCP RST, SCTP ABORT, ICMP port unreachable, ECONNREFUSED).";
    NoLocalEndpoints = 8, "no_local_endpoints", true, "Policy Local, and no usable endpoint on this node: dropped.";
    ExternalClusterIp = 9, "external_cluster_ip", true, "A ClusterIP used from outside the cluster: dropped.";
    NoFlow = 10, "no_flow", true, "TCP without SYN or SCTP without INIT, and without a flow, to a Service: refused (TCP RST, SCTP ABORT).";
    NoSnatPort = 11, "no_snat_port", true, "No free port in the SNAT range for this client and backend: dropped.";
    NoSource = 12, "no_source", true, "No source address known for the interface the flow would leave by: dropped.";
    NoRoute = 13, "no_route", true, "No route to the backend or client of a flow that we send on ourselves: dropped.";
    FlowTable = 14, "flow_table", true, "The flow could not be stored: dropped.";
    HopLimit = 15, "hop_limit", true, "TTL or hop limit used up where we route: answered with ICMP time exceeded.";
    TooBig = 16, "too_big", true, "Larger than the way out allows: answered with ICMP fragmentation needed or packet too big.";
    StaleService = 17, "stale_service", true, "The tables changed under the look-up (a frontend or backend that is gone): dropped, the sender tries again.";
    SocketTranslated = 18, "socket_translated", false, "A socket call, sent to a backend.";
    SocketReply = 19, "socket_reply", false, "A peer's address, translated back for the process.";
    LeftToTcx = 20, "left_to_tcx", false, "XDP left the packet to the tcx program behind it.";
    NoSuchPort = 21, "no_such_port", true, "A port that the Service of this ClusterIP does not have: refused like a Service without endpoints.";
    IcmpError = 22, "icmp_error", false, "An ICMP error about a packet of a flow: translated as that flow is, with the packet that it quotes.";
    IcmpRedirect = 23, "icmp_redirect", true, "An ICMP redirect about a packet of a flow, whose route is ours to choose: dropped.";
    Echo = 24, "echo", false, "An ICMP echo request to a Service's address: answered.";
    LostFragment = 25, "lost_fragment", true, "A fragment to a Service's own address that came before its first one, which alone has the ports, or of SCTP: dropped.";
    BackendGone = 26, "backend_gone", true, "A datagram of a pod's connected socket whose backend has ended: refused (ICMP port unreachable).";
    Martian = 27, "martian", true, "Forged: from or to a loopback address, or from outside and from a ClusterIP: dropped.";
    NotHere = 28, "not_here", true, "Handed over by another node (DSR), and to no Service that this node knows of: dropped, the sender tries again.";
    LeftToKernel = 29, "left_to_kernel", false, "Without a flow, while a node is taken over from another proxy, or handed to one: passed on unchanged.";
    SourceRange = 30, "source_range", true, "A load balancer's address used from outside its loadBalancerSourceRanges: dropped.";
    UnknownClusterIp = 31, "unknown_cluster_ip", true, "An address inside a ServiceCIDR that no Service has: dropped.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

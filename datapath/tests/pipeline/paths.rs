//! Each way through the node: what the backend sees of a request, and what the client sees of its reply.

use crate::support::{
    FAMILIES, NARROW, Offer, PAIR, POD, PROTOCOLS, SNAT_PORTS, Sent, UPLINK, Who, at, ip, node, run, segment, send,
};
use crate::wire::{Seen, What};
use ferrogate_common::{FrontendKind, LOOPBACK, Network, Protocol, Reason};
use ferrogate_datapath::Verdict;
use ferrogate_datapath::host::{HostPacket, Program, Segment, Simulator, tcp};

/// What the packet that leaves has as its source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    Kept,
    /// This address, a port of the SNAT range.
    Changed(Who),
}

/// How a packet leaves a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Pass,
    Bounce,
    Forward,
    Peer,
    Loopback,
}

/// One way through the node.
pub(crate) struct Path {
    pub(crate) name: &'static str,
    pub(crate) client: Who,
    pub(crate) kind: FrontendKind,
    pub(crate) frontend: Who,
    pub(crate) backend: Who,
    pub(crate) source: Source,
    /// Program, device, and how the packet leaves, for requests.
    pub(crate) request: (Program, u32, Way),
    /// The same for replies.
    pub(crate) reply: (Program, u32, Way),
}

use FrontendKind::{ClusterIp, LoadBalancer, NodePort};
use Program::{PodEgress, PodIngress, UplinkEgress, UplinkEgressL3, UplinkIngress, UplinkIngressL3, UplinkXdp};
use Source::{Changed, Kept};
use Way::{Bounce, Forward, Loopback, Pass, Peer};
use Who::{LocalPod, Node, Outside, PairPod, Pod, PodGateway, RemotePod, Vip};

#[rustfmt::skip]
pub(crate) const PATHS: &[Path] = &[
    Path { name: "pod to a pod of this node", client: Pod, kind: ClusterIp, frontend: Vip, backend: LocalPod, source: Kept,
           request: (PodIngress, POD, Pass), reply: (PodEgress, POD, Pass) },
    Path { name: "pod to a pod elsewhere", client: Pod, kind: ClusterIp, frontend: Vip, backend: RemotePod, source: Kept,
           request: (PodIngress, POD, Pass), reply: (PodEgress, POD, Pass) },
    Path { name: "pod to itself", client: Pod, kind: ClusterIp, frontend: Vip, backend: Pod, source: Changed(PodGateway),
           request: (PodIngress, POD, Bounce), reply: (PodIngress, POD, Bounce) },
    Path { name: "pod to a NodePort", client: Pod, kind: NodePort, frontend: Node, backend: RemotePod, source: Kept,
           request: (PodIngress, POD, Pass), reply: (PodEgress, POD, Pass) },
    Path { name: "outside to a NodePort, local", client: Outside, kind: NodePort, frontend: Node, backend: LocalPod, source: Kept,
           request: (UplinkIngress, UPLINK, Pass), reply: (UplinkEgress, UPLINK, Pass) },
    Path { name: "outside to a NodePort, local, by XDP", client: Outside, kind: NodePort, frontend: Node, backend: LocalPod, source: Kept,
           request: (UplinkXdp, UPLINK, Pass), reply: (UplinkEgress, UPLINK, Pass) },
    Path { name: "outside to a NodePort, local, layer 3", client: Outside, kind: NodePort, frontend: Node, backend: LocalPod, source: Kept,
           request: (UplinkIngressL3, UPLINK, Pass), reply: (UplinkEgressL3, UPLINK, Pass) },
    Path { name: "outside to a NodePort, local, past the stack", client: Outside, kind: NodePort, frontend: Node, backend: PairPod,
           source: Kept, request: (UplinkIngress, UPLINK, Peer), reply: (PodIngress, PAIR, Forward) },
    Path { name: "pod to a pod of this node, past the stack", client: Pod, kind: ClusterIp, frontend: Vip, backend: PairPod, source: Kept,
           request: (PodIngress, POD, Peer), reply: (PodIngress, PAIR, Forward) },
    Path { name: "transit", client: Outside, kind: NodePort, frontend: Node, backend: RemotePod, source: Changed(Node),
           request: (UplinkIngress, UPLINK, Forward), reply: (UplinkIngress, UPLINK, Forward) },
    Path { name: "transit by XDP", client: Outside, kind: LoadBalancer, frontend: Vip, backend: RemotePod, source: Changed(Node),
           request: (UplinkXdp, UPLINK, Forward), reply: (UplinkXdp, UPLINK, Forward) },
    Path { name: "transit, XDP one way and tcx the other", client: Outside, kind: LoadBalancer, frontend: Vip, backend: RemotePod,
           source: Changed(Node), request: (UplinkXdp, UPLINK, Forward), reply: (UplinkIngress, UPLINK, Forward) },
    Path { name: "transit, layer 3", client: Outside, kind: LoadBalancer, frontend: Vip, backend: RemotePod, source: Changed(Node),
           request: (UplinkIngressL3, UPLINK, Forward), reply: (UplinkIngressL3, UPLINK, Forward) },
    Path { name: "a process of the node", client: Node, kind: ClusterIp, frontend: Vip, backend: RemotePod, source: Changed(Node),
           request: (UplinkEgress, UPLINK, Forward), reply: (UplinkIngress, UPLINK, Pass) },
    Path { name: "a process of the node, layer 3", client: Node, kind: ClusterIp, frontend: Vip, backend: RemotePod, source: Changed(Node),
           request: (UplinkEgressL3, UPLINK, Forward), reply: (UplinkIngressL3, UPLINK, Pass) },
    Path { name: "a process of the node, its reply by XDP", client: Node, kind: ClusterIp, frontend: Vip, backend: RemotePod, source: Changed(Node),
           request: (UplinkEgress, UPLINK, Forward), reply: (UplinkXdp, UPLINK, Pass) },
    Path { name: "a process of the node to another", client: Node, kind: ClusterIp, frontend: Vip, backend: Node, source: Changed(Vip),
           request: (UplinkEgress, UPLINK, Bounce), reply: (UplinkEgress, UPLINK, Bounce) },
    Path { name: "a process of the node to another, layer 3", client: Node, kind: ClusterIp, frontend: Vip, backend: Node, source: Changed(Vip),
           request: (UplinkEgressL3, UPLINK, Bounce), reply: (UplinkEgressL3, UPLINK, Bounce) },
    Path { name: "a process of the node to its NodePort", client: Node, kind: NodePort, frontend: Node, backend: RemotePod, source: Changed(Node),
           request: (UplinkEgress, LOOPBACK, Forward), reply: (UplinkIngress, UPLINK, Loopback) },
    Path { name: "a process of the node to its NodePort, layer 3", client: Node, kind: NodePort, frontend: Node, backend: RemotePod,
           source: Changed(Node), request: (UplinkEgress, LOOPBACK, Forward), reply: (UplinkIngressL3, UPLINK, Loopback) },
    Path { name: "a process of the node to its NodePort, local", client: Node, kind: NodePort, frontend: Node, backend: LocalPod, source: Changed(Node),
           request: (UplinkEgress, LOOPBACK, Forward), reply: (PodIngress, POD, Loopback) },
    Path { name: "a process of the node to another, by a NodePort", client: Node, kind: NodePort, frontend: Node, backend: Node, source: Changed(Node),
           request: (UplinkEgress, LOOPBACK, Bounce), reply: (UplinkEgress, LOOPBACK, Bounce) },
];

/// A node with the path's service.
pub(crate) fn offering(path: &Path, protocol: Protocol, v4: bool) -> Simulator {
    let mut node = node();
    node.tables.is_redirect = path.request.2 == Peer;
    let backend = [at(path.backend, v4, 8080)];
    Offer {
        id: 1,
        protocol,
        kind: path.kind,
        frontend: at(path.frontend, v4, 30_080),
        cluster: &backend,
        local: &[],
        flags: 0,
    }
    .put(&mut node);
    node
}

#[track_caller]
pub(crate) fn assert_way(sent: &Sent, way: Way, about: &str) {
    let right = match sent.verdict {
        Verdict::Pass(_) => way == Pass,
        Verdict::Bounce(_) => way == Bounce,
        Verdict::Forward(_) => way == Forward,
        Verdict::Peer(_) => way == Peer,
        Verdict::Loopback(_) => way == Loopback,
        Verdict::Drop(_) => false,
    };
    assert!(right, "{about}: {:?} where {way:?} was due", sent.verdict);
}

/// Sends a request along a path and checks what comes out; what the backend sees.
#[track_caller]
fn request(node: &mut Simulator, path: &Path, sent: &Segment, v4: bool, about: &str) -> Seen {
    let (program, ifindex, way) = path.request;
    let out = send(node, program, ifindex, sent);
    assert_way(&out, way, about);
    let seen = out.seen();
    assert_eq!(seen.destination, at(path.backend, v4, 8080), "{about}\n{}", node.tables);
    match path.source {
        Kept => assert_eq!(seen.source, sent.source, "{about}"),
        Changed(who) => {
            assert_eq!(seen.source.ip(), ip(who, v4), "{about}");
            assert!(
                SNAT_PORTS.contains(&seen.source.port()),
                "{about}: port {}",
                seen.source.port()
            );
        }
    }
    assert_eq!(seen.payload(), sent.payload, "{about}");
    let routed = matches!(way, Forward | Peer) && program != UplinkEgress && program != UplinkEgressL3;
    assert_eq!(seen.hop_limit, if routed { 63 } else { 64 }, "{about}");
    seen
}

/// Sends the answer to what the backend saw and checks that it is one to what the client sent.
#[track_caller]
fn reply(node: &mut Simulator, path: &Path, at_backend: &Seen, sent: &Segment, flags: u8, about: &str) {
    let (program, ifindex, way) = path.reply;
    let answer = segment(sent.protocol, at_backend.destination, at_backend.source, flags);
    let out = send(node, program, ifindex, &answer);
    assert_way(&out, way, about);
    let seen = out.seen();
    assert_eq!(
        (seen.source, seen.destination),
        (sent.destination, sent.source),
        "{about}\n{}",
        node.tables
    );
    assert_eq!(seen.payload(), answer.payload, "{about}");
    assert_eq!(out.verdict.reason(), Reason::Reply, "{about}");
}

#[test]
fn what_a_node_has_turned_round_it_takes_where_it_comes_in_again() {
    for v4 in FAMILIES {
        for protocol in PROTOCOLS {
            let own = |path: &&Path| path.client == Node && path.backend == Node && path.kind == ClusterIp;
            let paths: Vec<_> = PATHS.iter().filter(own).collect();
            assert_eq!(paths.len(), 2);
            for path in paths {
                let node = &mut offering(path, protocol, v4);
                node.tables.service_cidrs.networks[0] = Network::new(ip(path.frontend, v4).into(), 112);
                let program = if path.request.0 == UplinkEgressL3 {
                    UplinkIngressL3
                } else {
                    UplinkIngress
                };
                let again = |node: &mut Simulator, seen: &Seen, flags: u8| {
                    let packet = segment(protocol, seen.source, seen.destination, flags);
                    let sent = send(node, program, path.request.1, &packet);
                    assert_eq!(sent.verdict, Verdict::Pass(Reason::NotService), "{protocol} {packet:?}");
                };
                let first = segment(
                    protocol,
                    at(path.client, v4, 40_000),
                    at(path.frontend, v4, 30_080),
                    tcp::SYN,
                );
                let at_backend = request(node, path, &first, v4, path.name);
                again(node, &at_backend, tcp::SYN);
                let answer = segment(protocol, at_backend.destination, at_backend.source, tcp::SYN | tcp::ACK);
                let at_client = send(node, path.reply.0, path.reply.1, &answer).seen();
                again(node, &at_client, tcp::SYN | tcp::ACK);
                let forged = Seen {
                    source: at(path.frontend, v4, 1),
                    ..at_client
                };
                let packet = segment(protocol, forged.source, forged.destination, tcp::SYN);
                let sent = send(node, program, path.request.1, &packet);
                assert_eq!(sent.verdict, Verdict::Drop(Reason::Martian));
            }
        }
    }
}

#[test]
fn on_every_path_the_reply_of_a_request_comes_from_where_the_client_sent_it() {
    for path in PATHS {
        for v4 in FAMILIES {
            for protocol in PROTOCOLS {
                let about = format!("{} {protocol} v4 {v4}", path.name);
                let node = &mut offering(path, protocol, v4);
                let client = at(path.client, v4, 40_000);
                let first = segment(protocol, client, at(path.frontend, v4, 30_080), tcp::SYN);
                let at_backend = request(node, path, &first, v4, &about);
                reply(node, path, &at_backend, &first, tcp::SYN | tcp::ACK, &about);
                let next = segment(protocol, client, first.destination, tcp::ACK);
                for _ in 0..3 {
                    let again = request(node, path, &next, v4, &about);
                    assert_eq!(again.source, at_backend.source, "{about}: a flow keeps its source");
                    reply(node, path, &again, &next, tcp::ACK, &about);
                    node.ticks += 1;
                }
                assert_eq!(node.tables.counted(Reason::NewFlow), 1, "{about}");
                assert_eq!(node.tables.connections[1], 1, "{about}");
            }
        }
    }
}

#[test]
fn a_packet_without_ports_to_spare_is_not_touched_by_other_programs() {
    // A request's packet at the programs that its path does not use.
    for path in PATHS.iter().filter(|path| path.client == Pod) {
        let node = &mut offering(path, Protocol::Udp, true);
        let packet = segment(
            Protocol::Udp,
            at(path.client, true, 40_000),
            at(path.frontend, true, 30_080),
            0,
        );
        let out = send(node, PodEgress, POD, &packet);
        assert_eq!(out.verdict, Verdict::Pass(Reason::NotService), "{}", path.name);
        assert_eq!(out.bytes, packet.ethernet());
    }
}

#[test]
fn udp_without_a_checksum_stays_without_one_on_every_path() {
    for path in PATHS {
        let node = &mut offering(path, Protocol::Udp, true);
        let mut packet = segment(
            Protocol::Udp,
            at(path.client, true, 40_000),
            at(path.frontend, true, 30_080),
            0,
        );
        packet.no_checksum = true;
        let seen = request(node, path, &packet, true, path.name);
        let What::Udp { has_checksum, .. } = seen.what else {
            panic!("not UDP any more");
        };
        assert!(!has_checksum, "{}", path.name);
    }
}

#[test]
fn a_checksum_that_the_device_completes_is_right_once_it_has() {
    for path in PATHS.iter().filter(|path| path.request.0 != UplinkXdp) {
        for v4 in FAMILIES {
            for protocol in PROTOCOLS {
                let node = &mut offering(path, protocol, v4);
                let mut packet = segment(
                    protocol,
                    at(path.client, v4, 40_000),
                    at(path.frontend, v4, 30_080),
                    tcp::SYN,
                );
                packet.partial = true;
                let (program, ifindex, _) = path.request;
                let mut out = send(node, program, ifindex, &packet);
                complete(&mut out, v4, protocol);
                assert_eq!(out.seen().destination, at(path.backend, v4, 8080), "{}", path.name);
            }
        }
    }
}

/// Does what a device does: sums from the transport header on, the pseudo header's sum in the checksum field.
fn complete(sent: &mut Sent, v4: bool, protocol: Protocol) {
    let l4 = sent.link + if v4 { 20 } else { 40 };
    if protocol == Protocol::Sctp {
        assert_eq!(sent.bytes[l4 + 8..l4 + 12], [0; 4], "left to the device");
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&sent.bytes[l4..]);
        sent.bytes[l4 + 8..l4 + 12].copy_from_slice(&crc.to_le_bytes());
        return;
    }
    let field = l4 + if protocol == Protocol::Tcp { 16 } else { 6 };
    let mut sum = 0u32;
    for word in sent.bytes[l4..].chunks(2) {
        sum += u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sent.bytes[field..field + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[test]
fn xdp_leaves_a_way_that_it_cannot_take_to_tcx_which_goes_on_with_the_same_flow() {
    let path = Path {
        name: "transit by a device that takes no frames",
        client: Outside,
        kind: NodePort,
        frontend: Node,
        backend: Who::NarrowPod,
        source: Changed(Node),
        request: (UplinkIngress, UPLINK, Forward),
        reply: (UplinkIngress, NARROW, Forward),
    };
    for v4 in FAMILIES {
        let node = &mut offering(&path, Protocol::Udp, v4);
        let packet = segment(Protocol::Udp, at(Outside, v4, 40_000), at(Node, v4, 30_080), 0);
        let left = send(node, UplinkXdp, UPLINK, &packet);
        assert_eq!(left.verdict, Verdict::Pass(Reason::LeftToTcx));
        assert_eq!(left.bytes, packet.ethernet());
        let at_backend = request(node, &path, &packet, v4, path.name);
        reply(node, &path, &at_backend, &packet, 0, path.name);
        assert_eq!(node.tables.connections[1], 1, "one connection, not two");
    }
}

#[test]
fn xdp_that_cannot_mark_what_it_has_translated_leaves_it_to_tcx() {
    let local = PATHS
        .iter()
        .find(|path| path.request == (UplinkXdp, UPLINK, Pass))
        .expect("a local backend");
    for v4 in FAMILIES {
        let node = &mut offering(local, Protocol::Udp, v4);
        let packet = segment(Protocol::Udp, at(Outside, v4, 40_000), at(Node, v4, 30_080), 0);
        let unmarkable = HostPacket {
            unmarkable: true,
            ..HostPacket::ethernet(packet.ethernet(), UPLINK)
        };
        let left = run(node, UplinkXdp, unmarkable);
        assert_eq!(left.verdict, Verdict::Pass(Reason::LeftToTcx));
        assert_eq!(left.bytes, packet.ethernet());
        let sent = send(node, UplinkIngress, UPLINK, &packet);
        assert_eq!(sent.verdict, Verdict::Pass(Reason::Translated));
        assert_eq!(node.tables.connections[1], 1, "one connection, not two");
    }
}

#[test]
fn a_reply_to_the_snat_range_that_belongs_to_no_flow_is_left_alone() {
    for v4 in FAMILIES {
        let node = &mut node();
        let packet = segment(Protocol::Tcp, at(RemotePod, v4, 8080), at(Node, v4, 24_001), tcp::ACK);
        for program in [UplinkIngress, UplinkXdp, UplinkEgress] {
            let sent = send(node, program, UPLINK, &packet);
            assert_eq!(sent.verdict, Verdict::Pass(Reason::NotService));
            assert_eq!(sent.bytes, packet.ethernet());
        }
    }
}

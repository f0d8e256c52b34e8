//! Stage 1: from bytes to a [`Headers`].

use crate::env::{Env, Packet};
use crate::headers::{
    DESTINATION_OPTIONS, ETHERTYPE_IPV4, ETHERTYPE_IPV6, FRAGMENT, HOP_BY_HOP, Ipv4Header, Ipv6Header, ROUTING,
    SctpHeader, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, chunk,
};
use ferrogate_common::{Address, Direction, Port, Protocol, Reason, Tuple, flow_flags};

/// What the later stages need of a packet.
pub(crate) struct Headers {
    /// As found in the packet; direction Forward. Of an ICMP error: that of a packet the other way of the one it quotes.
    pub(crate) tuple: Tuple,
    /// Offset of the transport header. That of the IP header is [`Packet::link_header`].
    pub(crate) l4: usize,
    /// Not 0: IPv6.
    pub(crate) v6: u8,
    /// TTL or hop limit.
    pub(crate) hop_limit: u8,
    /// TCP flags, of SCTP what its first chunk would be there; 0 for UDP.
    pub(crate) tcp_flags: u8,
    /// Length of the IP packet as its header says, host order.
    pub(crate) length: u16,
    /// Low half of the ifindex of the device that it is met at; 0 in the second programs, which do without.
    pub(crate) device: u16,
    /// One of [`kind`].
    pub(crate) kind: u8,
    /// Not 0: another node has handed it over wrapped up (DSR). The first programs leave such packets to the second ones.
    pub(crate) handed: u8,
}

/// What a packet is. The first programs know [`kind::PLAIN`] only.
pub(crate) mod kind {
    /// It has a transport header.
    pub(crate) const PLAIN: u8 = 0;
    /// A fragment behind the first: ports are known, but are not in it.
    pub(crate) const LATER_FRAGMENT: u8 = 1;
    /// An ICMP error.
    pub(crate) const ERROR: u8 = 2;
    /// An ICMP redirect.
    pub(crate) const REDIRECT: u8 = 3;
    /// An ICMP echo request; there are no ports.
    pub(crate) const ECHO: u8 = 4;
}

/// Why [`parse`] has no headers to give.
pub(crate) enum Unparsed {
    /// The packet is none of ours.
    Foreign(Reason),
    /// It is for the second program.
    Rest,
}

/// Of TCP and SCTP, not UDP: there is a first packet, and an end.
#[inline(always)]
pub(crate) const fn has_connections(protocol: u8) -> bool {
    protocol != Protocol::Udp as u8
}

impl Headers {
    /// To be filled in.
    pub(crate) const NONE: Self = Self {
        tuple: Tuple::new(
            (Address::UNSPECIFIED, Port::ZERO),
            (Address::UNSPECIFIED, Port::ZERO),
            0,
            Direction::Forward,
        ),
        l4: 0,
        v6: 0,
        hop_limit: 0,
        tcp_flags: 0,
        length: 0,
        device: 0,
        kind: kind::PLAIN,
        handed: 0,
    };

    #[inline(always)]
    pub(crate) fn is_v6(&self) -> bool {
        self.v6 != 0
    }

    /// Whether another node has chosen this one for the packet's connection.
    #[inline(always)]
    pub(crate) fn is_handed(&self) -> bool {
        self.handed != 0
    }

    #[inline(always)]
    pub(crate) fn is_tcp(&self) -> bool {
        self.tuple.protocol == Protocol::Tcp as u8
    }

    /// TCP or SCTP, not UDP: there is a first packet, and an end.
    #[inline(always)]
    pub(crate) fn has_connections(&self) -> bool {
        has_connections(self.tuple.protocol)
    }

    /// Whether it may be the first packet of a flow: of UDP each may.
    #[inline(always)]
    pub(crate) fn opens(&self) -> bool {
        !self.has_connections() || self.is_syn()
    }

    #[inline(always)]
    pub(crate) fn is_sctp(&self) -> bool {
        self.tuple.protocol == Protocol::Sctp as u8
    }

    /// Length of an IP header of the packet's family without options.
    #[inline(always)]
    pub(crate) fn plain_ip_length(&self) -> usize {
        if self.is_v6() { 40 } else { 20 }
    }

    /// Whether this is about a packet that it quotes, and not one of a flow's own.
    #[inline(always)]
    pub(crate) fn is_about_another(&self) -> bool {
        self.kind >= kind::ERROR
    }

    /// A packet that opens a connection.
    #[inline(always)]
    pub(crate) fn is_syn(&self) -> bool {
        self.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
    }

    /// The packet with which TCP takes a connection.
    #[inline(always)]
    pub(crate) fn answers_syn(&self) -> bool {
        self.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN | TCP_ACK
    }

    /// A packet with which TCP answers a SYN, or one itself.
    #[inline(always)]
    pub(crate) fn is_syn_or_reset(&self) -> bool {
        self.tcp_flags & (TCP_SYN | TCP_RST) != 0
    }

    /// A packet that ends one.
    #[inline(always)]
    pub(crate) fn is_closing(&self) -> bool {
        self.tcp_flags & (TCP_FIN | TCP_RST) != 0
    }

    /// What a flow's entries are marked with for this packet's FIN or RST, if it has one.
    #[inline(always)]
    pub(crate) fn end_mark(&self) -> u16 {
        // Without branches, of which the verifier would follow each. A direction is 0 or 1.
        let own = flow_flags::CLIENT_ENDED << (self.tuple.direction & 1);
        let both = u16::from(self.tcp_flags & TCP_RST != 0) * flow_flags::ENDED;
        u16::from(self.is_closing()) * (flow_flags::CLOSING | own | both)
    }

    /// Offset of the checksum of TCP or UDP.
    #[inline(always)]
    pub(crate) fn checksum_offset(&self) -> usize {
        self.l4 + if self.is_tcp() { 16 } else { 6 }
    }
}

/// No transport header begins behind this offset: Ethernet, IPv4 with all options.
const FARTHEST: u32 = 0x7f;

/// Parses a plain TCP or UDP packet: neither a fragment nor with IPv6 extension headers.
#[inline(always)]
pub(crate) fn parse<E: Env>(env: &E) -> Result<Headers, Unparsed> {
    let mut headers = parse_ip(env)?;
    // From here on one path serves both families and both protocols.
    headers.l4 = (env.opaque(headers.l4 as u32) & FARTHEST) as usize;
    headers.v6 = env.opaque(headers.v6.into()) as u8;
    headers.tuple.protocol = env.opaque(headers.tuple.protocol.into()) as u8;
    headers.tcp_flags = env.opaque(headers.tcp_flags.into()) as u8;
    Ok(headers)
}

#[inline(always)]
fn parse_ip<E: Env>(packet: &E) -> Result<Headers, Unparsed> {
    let l3 = packet.link_header();
    match version(packet) {
        Some(4) => parse_v4(packet, l3),
        Some(6) => parse_v6(packet, l3),
        Some(_) => Err(Unparsed::Foreign(Reason::NotIp)),
        None => Err(MALFORMED),
    }
}

const MALFORMED: Unparsed = Unparsed::Foreign(Reason::Malformed);

/// 4 or 6, or something else where it is not IP; `None` where the packet is too short to tell.
#[inline(always)]
pub(crate) fn version<P: Packet>(packet: &P) -> Option<u8> {
    if packet.link_header() == 0 {
        // Two bytes: of a check for one at offset 0 the verifier learns nothing.
        let [version, _]: [u8; 2] = packet.load(0)?;
        return Some(version >> 4);
    }
    let ethertype: u16 = packet.load(12)?;
    Some(match u16::from_be(ethertype) {
        ETHERTYPE_IPV4 => 4,
        ETHERTYPE_IPV6 => 6,
        _ => 0,
    })
}

#[inline(always)]
fn parse_v4<E: Env>(packet: &E, l3: usize) -> Result<Headers, Unparsed> {
    let ip: Ipv4Header = packet.load(l3).ok_or(MALFORMED)?;
    let ihl = (ip.version_ihl & 0x0f) as usize * 4;
    if ip.version_ihl >> 4 != 4 || ihl < 20 {
        return Err(MALFORMED);
    }
    // More fragments to come, or not the first.
    if u16::from_be(ip.fragment) & 0x3fff != 0 {
        return Err(Unparsed::Rest);
    }
    let source = Address::from_v4_word(ip.source);
    let destination = Address::from_v4_word(ip.destination);
    let l4 = l3 + ihl;
    let transport = parse_transport(packet, l4, ip.protocol)?;
    Ok(Headers {
        tuple: transport.tuple(source, destination),
        l4,
        v6: 0,
        hop_limit: ip.ttl,
        tcp_flags: transport.flags,
        length: u16::from_be(ip.total_length),
        device: packet.ifindex() as u16,
        kind: kind::PLAIN,
        handed: 0,
    })
}

#[inline(always)]
fn parse_v6<E: Env>(packet: &E, l3: usize) -> Result<Headers, Unparsed> {
    let ip: Ipv6Header = packet.load(l3).ok_or(MALFORMED)?;
    if ip.version_class >> 4 != 6 {
        return Err(MALFORMED);
    }
    let source = Address::from_words(ip.source);
    let destination = Address::from_words(ip.destination);
    // On the wire a v4-mapped address means nothing, and here it would alias an IPv4 frontend.
    if source.is_v4() || destination.is_v4() {
        return Err(Unparsed::Foreign(Reason::NotService));
    }
    let l4 = l3 + 40;
    let transport = parse_transport(packet, l4, ip.next_header)?;
    Ok(Headers {
        tuple: transport.tuple(source, destination),
        l4,
        v6: 1,
        hop_limit: ip.hop_limit,
        tcp_flags: transport.flags,
        length: u16::from_be(ip.payload_length).saturating_add(40),
        device: packet.ifindex() as u16,
        kind: kind::PLAIN,
        handed: 0,
    })
}

/// What is read from the transport header.
struct Transport {
    ports: [u16; 2],
    /// TCP flags, 0 for UDP.
    flags: u8,
    protocol: u8,
}

impl Transport {
    #[inline(always)]
    fn tuple(&self, source: Address, destination: Address) -> Tuple {
        let [from, to] = self.ports;
        Tuple::new(
            (source, Port::from_be(from)),
            (destination, Port::from_be(to)),
            self.protocol,
            Direction::Forward,
        )
    }
}

#[inline(always)]
fn parse_transport<E: Env>(packet: &E, l4: usize, protocol: u8) -> Result<Transport, Unparsed> {
    const SCTP: u8 = Protocol::Sctp as u8;
    if protocol != Protocol::Tcp as u8 && protocol != Protocol::Udp as u8 {
        return Err(match protocol {
            SCTP | HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS | Protocol::ICMP | Protocol::ICMPV6 => {
                Unparsed::Rest
            }
            Protocol::IPIP | Protocol::IPV6 if packet.is_dsr() => Unparsed::Rest,
            _ => Unparsed::Foreign(Reason::NotIp),
        });
    }
    let flags = transport_flags(packet, l4, protocol).ok_or(MALFORMED)?;
    let ports = packet.load(l4).ok_or(MALFORMED)?;
    Ok(Transport { ports, flags, protocol })
}

/// TCP flags, 0 for UDP. All headers are read up to the end of the checksum: what is found here can be translated.
#[inline(always)]
pub(crate) fn transport_flags<P: Packet>(packet: &P, l4: usize, protocol: u8) -> Option<u8> {
    if protocol == Protocol::Tcp as u8 {
        let [flags, ..] = packet.load::<[u8; 5]>(l4 + 13)?;
        return Some(flags);
    }
    if protocol == Protocol::Sctp as u8 {
        return Some(sctp_flags(packet.load::<SctpHeader>(l4)?.chunk));
    }
    let _: [u16; 4] = packet.load(l4)?;
    Some(0)
}

/// What TCP would say with a packet whose first chunk is this one. Those of interest here come first in a packet, and but for
/// the shutdown's alone.
#[inline(always)]
fn sctp_flags(first: u8) -> u8 {
    match first {
        chunk::INIT => TCP_SYN,
        chunk::INIT_ACK => TCP_SYN | TCP_ACK,
        chunk::SHUTDOWN | chunk::SHUTDOWN_ACK => TCP_FIN | TCP_ACK,
        chunk::ABORT | chunk::SHUTDOWN_COMPLETE => TCP_RST,
        _ => TCP_ACK,
    }
}

//! What a stream of packets is made of.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, ensure};
use ferrogate_common::Protocol;
use ferrogate_datapath::host::Segment;
use ipnet::IpNet;

use crate::kernel::{Frames, RandomSource};

const ETHERNET: usize = 14;

/// The lowest source port of a stream with numbered flows.
const FIRST_PORT: u16 = 1024;

/// Source ports of one address with numbered flows.
const PORTS: u32 = 1 << 15;

/// Packets from a network of clients to one address and port.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// TCP flags.
    pub flags: u8,
    /// Where the clients are.
    pub source: IpNet,
    pub destination: SocketAddr,
    pub flows: Flows,
    /// Bytes of the frame, without its check sequence; less than the headers: the headers alone.
    pub length: usize,
    /// Link-layer addresses of sender and next hop.
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
}

/// Which addresses and ports the clients use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flows {
    /// So many tuples, in turn.
    Numbered(u32),
    /// A random address and port in each packet.
    Random,
}

impl Traffic {
    /// The packets.
    pub fn frames(&self) -> Result<Frames> {
        ensure!(
            self.source.addr().is_ipv4() == self.destination.is_ipv4(),
            "clients in {} cannot send to {}: one of them is IPv4 and one IPv6",
            self.source,
            self.destination
        );
        match self.flows {
            Flows::Random => self.random(),
            Flows::Numbered(flows) => Frames::new(&self.numbered(flows)?, None),
        }
    }

    /// One packet of each flow.
    pub fn numbered(&self, flows: u32) -> Result<Vec<Vec<u8>>> {
        let bits = self.source.max_prefix_len() - self.source.prefix_len();
        let clients = flows.div_ceil(PORTS);
        ensure!(
            flows != 0 && (bits >= 32 || clients < 1 << bits),
            "{flows} flows need {clients} clients, which {} has not",
            self.source
        );
        let client = |flow| SocketAddr::new(host(self.source, 1 + flow / PORTS), FIRST_PORT + (flow % PORTS) as u16);
        Ok((0..flows).map(|flow| self.packet(client(flow))).collect())
    }

    /// A frame of one client.
    pub fn packet(&self, client: SocketAddr) -> Vec<u8> {
        let mut segment = match self.protocol {
            Protocol::Udp => Segment::udp(client, self.destination, &[]),
            Protocol::Tcp | Protocol::Sctp => Segment::tcp(client, self.destination, self.flags),
        };
        let headers = segment.ethernet().len();
        segment.payload = vec![0; self.length.saturating_sub(headers)];
        let mut bytes = segment.ethernet();
        bytes[..6].copy_from_slice(&self.destination_mac);
        bytes[6..12].copy_from_slice(&self.source_mac);
        bytes
    }

    fn random(&self) -> Result<Frames> {
        let v4 = self.source.addr().is_ipv4();
        let host_bits = u32::from(self.source.max_prefix_len() - self.source.prefix_len()).min(32);
        let mask = u32::MAX.checked_shr(32 - host_bits).unwrap_or(0);
        let (address, l4, header_checksum) = if v4 {
            (ETHERNET + 12, ETHERNET + 20, Some(ETHERNET + 10))
        } else {
            (ETHERNET + 8 + 12, ETHERNET + 40, None)
        };
        let udp = self.protocol == Protocol::Udp;
        let random = RandomSource {
            address,
            mask: mask.to_be(),
            port: l4,
            header_checksum,
            checksum: l4 + if udp { 6 } else { 16 },
            udp,
        };
        let mut packet = self.packet(SocketAddr::new(self.source.network(), 0));
        for at in header_checksum.into_iter().chain([random.checksum]) {
            packet[at] = !packet[at];
            packet[at + 1] = !packet[at + 1];
        }
        Frames::new(&[packet], Some(random))
    }
}

/// An address of a network, by its number.
fn host(network: IpNet, number: u32) -> IpAddr {
    match network.network() {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) | number).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) | u128::from(number)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(source: &str, flows: Flows) -> Traffic {
        Traffic {
            protocol: Protocol::Udp,
            flags: 0,
            source: source.parse().unwrap(),
            destination: "192.0.2.1:80".parse().unwrap(),
            flows,
            length: 60,
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
        }
    }

    #[test]
    fn every_flow_has_a_tuple_of_its_own_and_the_length_that_was_asked_for() {
        let packets = traffic("198.18.0.0/15", Flows::Numbered(0)).numbered(70_000).unwrap();
        let tuples: std::collections::BTreeSet<_> = packets.iter().map(|packet| packet[26..38].to_vec()).collect();
        assert_eq!(tuples.len(), 70_000);
        assert!(packets.iter().all(|packet| packet.len() == 60));
    }

    #[test]
    fn a_network_without_room_for_the_flows_is_refused() {
        let refused = traffic("198.18.0.0/31", Flows::Numbered(0))
            .numbered(70_000)
            .unwrap_err();
        assert!(refused.to_string().contains("198.18.0.0/31"), "{refused}");
    }

    #[test]
    fn clients_of_another_family_than_the_destination_are_refused() {
        assert!(traffic("fd00::/64", Flows::Random).frames().is_err());
    }
}

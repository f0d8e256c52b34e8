//! A node's datapath: tables, routes and clock, and programs to run packets through.

use super::delegate::delegate_tables;
use super::{HostFib, HostPacket, HostTables};
use crate::env::{ChecksumChange, Clock, Fib, FlowTable, Insert, Packet, Route, Routed, Tables, Transport};
use crate::{Edge, Verdict, enter, enter_second, leave, leave_second};
use bytemuck::{Pod, Zeroable};
use ferrogate_common::{
    Address, Backend, Config, Flow, Frontend, FrontendKey, Interface, Reason, Service, SnatFlow, TICK_SHIFT, Tuple,
    UdpSocket, interface_flags,
};
use std::vec;
use std::vec::Vec;

/// Bytes of Ethernet header.
const ETHERNET: usize = 14;

/// The loaded packet programs, by what they do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Program {
    PodIngress,
    PodEgress,
    UplinkIngress,
    UplinkEgress,
    UplinkIngressL3,
    UplinkEgressL3,
    UplinkXdp,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::PodIngress,
        Self::PodEgress,
        Self::UplinkIngress,
        Self::UplinkEgress,
        Self::UplinkIngressL3,
        Self::UplinkEgressL3,
        Self::UplinkXdp,
    ];

    /// Name in the object file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PodIngress => "pod_ingress",
            Self::PodEgress => "pod_egress",
            Self::UplinkIngress => "uplink_ingress",
            Self::UplinkEgress => "uplink_egress",
            Self::UplinkIngressL3 => "uplink_ingress_l3",
            Self::UplinkEgressL3 => "uplink_egress_l3",
            Self::UplinkXdp => "uplink_xdp",
        }
    }

    /// Whether its packets go towards a client.
    pub const fn is_egress(self) -> bool {
        matches!(self, Self::PodEgress | Self::UplinkEgress | Self::UplinkEgressL3)
    }

    /// Whether its packets begin with the IP header.
    pub const fn is_layer3(self) -> bool {
        matches!(self, Self::UplinkIngressL3 | Self::UplinkEgressL3)
    }

    const fn edge(self) -> Edge {
        match self {
            Self::PodIngress | Self::PodEgress => Edge::Pod,
            Self::UplinkIngress | Self::UplinkIngressL3 => Edge::Uplink,
            Self::UplinkEgress | Self::UplinkEgressL3 => Edge::Node,
            Self::UplinkXdp => Edge::Xdp,
        }
    }
}

/// What became of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    /// The packet when the program returns; the link-layer header of a forwarded socket buffer is filled in only later.
    pub bytes: Vec<u8>,
    /// Differences that a device's sum over the packet was mended by.
    pub mended: u32,
    /// Where a forwarded packet goes.
    pub hop: Route,
}

/// A node's datapath.
#[derive(Clone, Debug)]
pub struct Simulator {
    pub tables: HostTables,
    pub fib: HostFib,
    /// The clock.
    pub ticks: u32,
}

impl Default for Simulator {
    fn default() -> Self {
        Self {
            tables: HostTables::default(),
            fib: HostFib::default(),
            ticks: 1,
        }
    }
}

impl Simulator {
    /// Runs a packet through a program.
    pub fn run(&mut self, program: Program, packet: HostPacket) -> Outcome {
        let mut env = Surroundings {
            tables: &mut self.tables,
            fib: &self.fib,
            ticks: self.ticks,
            packet,
            hop: Route::zeroed(),
        };
        env.packet.frame = program == Program::UplinkXdp;
        let edge = program.edge();
        let verdict = if program.is_egress() {
            leave(&mut env, edge).unwrap_or_else(|_| leave_second(&mut env, edge))
        } else {
            enter(&mut env, edge).unwrap_or_else(|_| enter_second(&mut env, edge))
        };
        let hop = env.hop;
        match verdict {
            Verdict::Forward(_) => env.prepare_forward(program),
            Verdict::Peer(_) => env.address_neighbour(),
            Verdict::Loopback(_) => env.prepare_loopback(program),
            _ => {}
        }
        Outcome {
            verdict,
            mended: env.packet.mended,
            bytes: env.packet.bytes,
            hop,
        }
    }
}

/// One packet's `Env`.
struct Surroundings<'a> {
    tables: &'a mut HostTables,
    fib: &'a HostFib,
    ticks: u32,
    packet: HostPacket,
    hop: Route,
}

impl Surroundings<'_> {
    /// What a hook does with a packet that it sends on.
    fn prepare_forward(&mut self, program: Program) {
        if program == Program::UplinkXdp {
            self.address_neighbour();
        } else if program.is_layer3() {
            self.packet.bytes.splice(0..0, vec![0; ETHERNET]);
        }
    }

    /// Fills the hop's link-layer addresses in.
    fn address_neighbour(&mut self) {
        let macs = [self.hop.destination_mac, self.hop.source_mac];
        self.packet.bytes[..12].copy_from_slice(bytemuck::bytes_of(&macs));
    }

    /// The same for one that goes in by the loopback device.
    fn prepare_loopback(&mut self, program: Program) {
        if program.is_layer3() {
            let v4 = self.packet.bytes.first().is_some_and(|byte| byte >> 4 == 4);
            let mut header = [0; ETHERNET];
            header[12..].copy_from_slice(if v4 { &[0x08, 0x00] } else { &[0x86, 0xdd] });
            self.packet.bytes.splice(0..0, header);
        }
    }
}

delegate_tables!(Surroundings<'_>);

impl Packet for Surroundings<'_> {
    fn load<T: Pod>(&self, at: usize) -> Option<T> {
        self.packet.load(at)
    }

    fn store<T: Pod>(&mut self, at: usize, value: T) -> Option<()> {
        self.packet.store(at, value)
    }

    fn len(&self) -> usize {
        self.packet.len()
    }

    fn update_transport_checksum(&mut self, at: usize, change: ChecksumChange) -> Option<()> {
        self.packet.update_transport_checksum(at, change)
    }

    fn mend_sum(&mut self, difference: u32) {
        self.packet.mend_sum(difference);
    }

    fn set_transport_checksum(&mut self, at: usize, full: u16, pseudo: u16) -> Option<()> {
        self.packet.set_transport_checksum(at, full, pseudo)
    }

    fn resize(&mut self, length: usize) -> Option<()> {
        self.packet.resize(length)
    }

    fn grow(&mut self, bytes: usize, tcp: bool) -> Option<()> {
        self.packet.grow(bytes, tcp)
    }

    fn shrink(&mut self, bytes: usize) -> Option<()> {
        self.packet.shrink(bytes)
    }

    fn link_header(&self) -> usize {
        self.packet.link_header()
    }

    fn segments(&self) -> u32 {
        self.packet.segments()
    }

    fn ifindex(&self) -> u32 {
        self.packet.ifindex()
    }

    fn is_from_this_node(&self) -> bool {
        self.packet.is_from_this_node()
    }

    fn sender(&self) -> Option<UdpSocket> {
        self.packet.sender()
    }

    fn can_be_done(&self) -> bool {
        self.packet.can_be_done()
    }
}

impl Clock for Surroundings<'_> {
    fn nanos(&self) -> u64 {
        u64::from(self.ticks) << TICK_SHIFT
    }
}

impl Fib for Surroundings<'_> {
    fn route(&mut self, ifindex: u32, _source: &Address, destination: &Address, mut transport: Transport) -> Routed {
        if self.packet.segmented {
            transport.length = Transport::SHORT;
        }
        let routed = self.fib.route(&mut self.hop, ifindex, destination, transport);
        if routed != Routed::To {
            return routed;
        }
        let flags = self
            .tables
            .interface(self.hop.ifindex)
            .map_or(0, |interface| interface.flags);
        self.hop.flags = flags as u16;
        if !self.packet.frame {
            return routed;
        }
        let sends_frames = flags & interface_flags::XDP_TARGET != 0;
        if sends_frames && self.hop.destination_mac != [0; 3] {
            Routed::To
        } else {
            Routed::NotFromHere
        }
    }

    fn hop(&self) -> &Route {
        &self.hop
    }
}

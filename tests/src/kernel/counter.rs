//! An XDP program that counts what arrives for one network, and takes it away; everything else passes.
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use anyhow::Result;
use ipnet::IpNet;

use super::asm::{Assembler, Width, helper};
use super::bpf::{Kind, MapKind, RawMap, RawProgram};
use super::frames::Layout;

/// Attached to an interface while it lives.
pub struct Counter {
    counts: RawMap,
    _program: RawProgram,
    _link: OwnedFd,
}

impl Counter {
    /// Counts packets with a destination in `network`, on an interface of this thread's network namespace: as the driver has them, or as its
    /// stack gets them.
    pub fn attach(kind: Kind, ifindex: u32, network: IpNet) -> Result<Self> {
        let counts = RawMap::create(MapKind::PerCpuArray, 4, 8, 1)?;
        let program = RawProgram::load(kind, &instructions(kind, &counts, network))?;
        let link = match kind {
            Kind::Xdp => program.attach(ifindex)?,
            Kind::Tc => program.attach_ingress(ifindex, true)?,
        };
        Ok(Self {
            counts,
            _program: program,
            _link: link,
        })
    }

    /// Packets so far.
    pub fn count(&self) -> Result<u64> {
        self.counts.sum(0)
    }
}

fn instructions(kind: Kind, counts: &RawMap, network: IpNet) -> Vec<u64> {
    let layout = Layout::of(kind);
    let (ethertype, destination, header) = match network {
        IpNet::V4(_) => (0x0008, 30, 34),
        IpNet::V6(_) => (0xdd86, 38, 54),
    };
    let mut a = Assembler::default();
    let out = a.label();
    layout.reach(&mut a, header, out);
    a.load(Width::Half, 4, 2, 12);
    a.jump_if_not(4, ethertype, out);
    let (address, mask) = (words(network.network()), words(network.netmask()));
    for (index, (address, mask)) in address.into_iter().zip(mask).enumerate() {
        if mask == 0 {
            continue;
        }
        a.load(Width::Word, 4, 2, destination + 4 * index as i16);
        a.and32(4, mask);
        a.jump_if_not(4, address, out);
    }
    a.store_value(Width::Word, 10, -4, 0);
    a.map(1, counts.number());
    a.copy(2, 10);
    a.add(2, -4);
    a.call(helper::MAP_LOOKUP);
    a.jump_if_zero(0, out);
    a.load(Width::Double, 1, 0, 0);
    a.add(1, 1);
    a.store(Width::Double, 0, 0, 1);
    a.exit(layout.drop);
    a.place(out);
    a.exit(layout.pass);
    a.finish()
}

/// An address as a program loads it.
fn words(address: IpAddr) -> Vec<u32> {
    let bytes = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    bytes
        .chunks_exact(4)
        .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
        .collect()
}

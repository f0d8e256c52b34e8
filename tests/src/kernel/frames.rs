//! Programs that write a packet before anything else is done with it: one of a list, in turn, or one with a random source.
//! Frames that the kernel reuses hold what the last receiver left in them, so every byte is written.
use std::os::fd::BorrowedFd;

use anyhow::{Result, ensure};

use super::asm::{Assembler, Label, Width, helper};
use super::bpf::{Kind, MapKind, RawMap, RawProgram};

/// Where a context has the packet, and what lets it pass.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    data: i16,
    data_end: i16,
    pub(super) pass: i32,
    pub(super) drop: i32,
}

impl Layout {
    pub(super) const fn of(kind: Kind) -> Self {
        match kind {
            // struct xdp_md; XDP_PASS, XDP_DROP.
            Kind::Xdp => Self {
                data: 0,
                data_end: 4,
                pass: 2,
                drop: 1,
            },
            // struct __sk_buff; TC_ACT_UNSPEC, TC_ACT_SHOT.
            Kind::Tc => Self {
                data: 76,
                data_end: 80,
                pass: -1,
                drop: 2,
            },
        }
    }

    /// Loads the packet's begin into register 2, of a context in 1; jumps where it is shorter than `length`. Changes 3 and 4.
    pub(super) fn reach(&self, a: &mut Assembler, length: usize, out: Label) {
        a.load(Width::Word, 2, 1, self.data);
        a.load(Width::Word, 3, 1, self.data_end);
        a.copy(4, 2);
        a.add(4, length as i32);
        a.jump_if_greater(4, 3, out);
    }
}

/// Where what a random source changes is, and what may change. Offsets count from the packet's begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RandomSource {
    /// The last four bytes of the source address.
    pub address: usize,
    /// Which bits of them are random, as they are in memory.
    pub mask: u32,
    pub port: usize,
    /// IPv4's header checksum.
    pub header_checksum: Option<usize>,
    pub checksum: usize,
    /// 0 is sent as 0xffff.
    pub udp: bool,
}

/// Packets of one length.
///
/// With a random source there is one: the bits that change are zero in it, and its checksum fields hold the sums of all the
/// rest, not complemented.
pub struct Frames {
    list: RawMap,
    count: u32,
    length: usize,
    random: Option<RandomSource>,
}

/// What a [`Driver`] does with the packet that it has written.
pub enum Then<'a> {
    /// Sends it out of the interface it is said to have come in by (XDP).
    Transmit,
    /// Lets it pass.
    Nothing,
    /// Runs this program on it, of the same kind.
    Run(BorrowedFd<'a>),
}

impl Frames {
    pub fn new(packets: &[Vec<u8>], random: Option<RandomSource>) -> Result<Self> {
        let length = packets.first().map_or(0, Vec::len);
        ensure!(length >= 14, "no packets, or none with an Ethernet header");
        ensure!(
            packets.iter().all(|packet| packet.len() == length),
            "packets of different lengths"
        );
        let room = length.next_multiple_of(8);
        let list = RawMap::create(MapKind::Array, 4, room, packets.len() as u32)?;
        for (index, packet) in packets.iter().enumerate() {
            let mut value = packet.clone();
            value.resize(room, 0);
            list.put(&(index as u32).to_ne_bytes(), &value)?;
        }
        Ok(Self {
            list,
            count: packets.len() as u32,
            length,
            random,
        })
    }

    /// Bytes of each packet.
    pub fn length(&self) -> usize {
        self.length
    }
}

/// A program that writes packets.
pub struct Driver {
    pub program: RawProgram,
    /// Kept for the program.
    _maps: Vec<RawMap>,
}

impl Driver {
    /// The list is gone through from its begin, by each CPU on its own.
    pub fn new(kind: Kind, frames: &Frames, then: &Then<'_>) -> Result<Self> {
        const XDP_TX: i32 = 3;
        let layout = Layout::of(kind);
        let mut a = Assembler::default();
        let out = a.label();
        let mut maps = vec![RawMap::create(MapKind::PerCpuArray, 4, 8, 1)?];
        a.copy(6, 1);
        next_index(&mut a, maps[0].number(), frames.count, out);
        a.map(1, frames.list.number());
        a.copy(2, 10);
        a.add(2, -4);
        a.call(helper::MAP_LOOKUP);
        a.jump_if_zero(0, out);
        a.copy(1, 6);
        layout.reach(&mut a, frames.length, out);
        let mut at = 0;
        while at < frames.length {
            let width = Width::within(frames.length - at);
            a.load(width, 5, 0, at as i16);
            a.store(width, 2, at as i16, 5);
            at += width.bytes();
        }
        if let Some(random) = &frames.random {
            randomize(&mut a, random);
        }
        match then {
            Then::Transmit => a.exit(XDP_TX),
            Then::Nothing => a.exit(layout.pass),
            Then::Run(program) => {
                let map = RawMap::to(*program)?;
                a.copy(1, 6);
                a.map(2, map.number());
                a.set(3, 0);
                a.call(helper::TAIL_CALL);
                maps.push(map);
            }
        }
        a.place(out);
        a.exit(layout.drop);
        Ok(Self {
            program: RawProgram::load(kind, &a.finish())?,
            _maps: maps,
        })
    }
}

/// Leaves the index of the next packet at the stack's end.
fn next_index(a: &mut Assembler, counter: i32, count: u32, out: Label) {
    a.store_value(Width::Word, 10, -4, 0);
    if count == 1 {
        return;
    }
    a.map(1, counter);
    a.copy(2, 10);
    a.add(2, -4);
    a.call(helper::MAP_LOOKUP);
    a.jump_if_zero(0, out);
    a.load(Width::Double, 7, 0, 0);
    a.copy(1, 7);
    a.add(1, 1);
    a.store(Width::Double, 0, 0, 1);
    a.modulo(7, count as i32);
    a.store(Width::Word, 10, -4, 7);
}

/// Fills a random source into the packet at register 2, and completes its checksums (RFC 1071).
fn randomize(a: &mut Assembler, random: &RandomSource) {
    // The first byte of a port: none below 1024.
    const HIGH_PORT: u32 = 0x04;
    let address = random.address as i16;
    a.copy(9, 2);
    a.call(helper::RANDOM);
    a.copy(7, 0);
    a.and32(7, random.mask);
    a.load(Width::Word, 1, 9, address);
    a.or_register(1, 7);
    a.store(Width::Word, 9, address, 1);
    a.call(helper::RANDOM);
    a.copy(8, 0);
    a.and32(8, 0xffff);
    a.or32(8, HIGH_PORT);
    a.store(Width::Half, 9, random.port as i16, 8);
    // What was added.
    a.copy(1, 7);
    a.and32(1, 0xffff);
    a.shift_right(7, 16);
    a.add_register(1, 7);
    if let Some(at) = random.header_checksum {
        complete(a, at as i16);
        a.store(Width::Half, 9, at as i16, 2);
    }
    a.add_register(1, 8);
    complete(a, random.checksum as i16);
    if random.udp {
        let some = a.label();
        a.jump_if_not(2, 0, some);
        a.set(2, 0xffff);
        a.place(some);
    }
    a.store(Width::Half, 9, random.checksum as i16, 2);
}

/// Leaves the complement of the sum at `at` and of register 1 in 2.
fn complete(a: &mut Assembler, at: i16) {
    a.load(Width::Half, 2, 9, at);
    a.add_register(2, 1);
    for _ in 0..2 {
        a.copy(3, 2);
        a.shift_right(3, 16);
        a.and32(2, 0xffff);
        a.add_register(2, 3);
    }
    a.xor32(2, 0xffff);
}

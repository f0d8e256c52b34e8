//! What no program can be cheaper than, put together by hand so that nothing else is measured: one that does nothing, one
//! that parses a packet and looks its tuple up once, and such as insert into LRU maps.
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use anyhow::Result;
use ferrogate_common::{Direction, Flow, FrontendKey, Tuple};

use super::asm::{Assembler, Label, Width, helper};
use super::bpf::{Kind, MapKind, RawMap, RawProgram};
use super::frames::Layout;

const KEY: i16 = size_of::<Tuple>() as i16;

const VALUE: i16 = size_of::<Flow>().next_multiple_of(8) as i16;

fn entry_maps(count: usize, entries: u32) -> Result<Vec<RawMap>> {
    (0..count)
        .map(|_| RawMap::create(MapKind::LruHash, size_of::<Tuple>(), size_of::<Flow>(), entries))
        .collect()
}

/// Puts the tuple of an IPv4 packet, of a context in register 1, to the stack's end; jumps where it is no such packet.
fn parse(a: &mut Assembler, layout: Layout, direction: Direction, out: Label) {
    const ETHERTYPE_IPV4: u32 = 0x0008;
    layout.reach(a, 42, out);
    a.load(Width::Half, 4, 2, 12);
    a.jump_if_not(4, ETHERTYPE_IPV4, out);
    // No options, and no fragment.
    a.load(Width::Byte, 4, 2, 14);
    a.jump_if_not(4, 0x45, out);
    a.load(Width::Half, 4, 2, 20);
    a.and32(4, 0xff3f);
    a.jump_if_not(4, 0, out);
    for (at, from) in [(0, 26), (16, 30)] {
        a.store_value(Width::Double, 10, at - KEY, 0);
        a.store_value(Width::Word, 10, at + 8 - KEY, 0xffff_0000u32 as i32);
        a.load(Width::Word, 4, 2, from);
        a.store(Width::Word, 10, at + 12 - KEY, 4);
    }
    a.load(Width::Word, 4, 2, 34);
    a.store(Width::Word, 10, 32 - KEY, 4);
    a.load(Width::Byte, 4, 2, 23);
    a.store_value(Width::Word, 10, 36 - KEY, (direction as i32) << 8);
    a.store(Width::Byte, 10, 36 - KEY, 4);
}

/// Looks a key up that is `depth` below the stack's end.
fn look_up(a: &mut Assembler, map: BorrowedFd<'_>, depth: i16) {
    a.map(1, map.as_raw_fd());
    a.copy(2, 10);
    a.add(2, -i32::from(depth));
    a.call(helper::MAP_LOOKUP);
}

/// Inserts the key at the stack's end with the value before it.
fn insert(a: &mut Assembler, map: &RawMap) {
    a.map(1, map.number());
    a.copy(2, 10);
    a.add(2, -i32::from(KEY));
    a.copy(3, 10);
    a.add(3, -i32::from(KEY + VALUE));
    a.set(4, 0);
    a.call(helper::MAP_UPDATE);
}

/// Programs that are the same for both kinds.
pub struct Floor {
    program: RawProgram,
    /// Kept for the program.
    _maps: Vec<RawMap>,
}

impl Floor {
    fn of(kind: Kind, assembler: Assembler, maps: Vec<RawMap>) -> Result<Self> {
        Ok(Self {
            program: RawProgram::load(kind, &assembler.finish())?,
            _maps: maps,
        })
    }

    /// Returns at once.
    pub fn nothing(kind: Kind) -> Result<Self> {
        let mut a = Assembler::default();
        a.exit(Layout::of(kind).pass);
        Self::of(kind, a, Vec::new())
    }

    /// Sends every frame back, link-layer addresses exchanged.
    pub fn reflector() -> Result<Self> {
        const XDP_TX: i32 = 3;
        let layout = Layout::of(Kind::Xdp);
        let mut a = Assembler::default();
        let out = a.label();
        layout.reach(&mut a, 14, out);
        a.load(Width::Word, 4, 2, 0);
        a.load(Width::Half, 5, 2, 4);
        a.load(Width::Word, 6, 2, 6);
        a.load(Width::Half, 7, 2, 10);
        a.store(Width::Word, 2, 0, 6);
        a.store(Width::Half, 2, 4, 7);
        a.store(Width::Word, 2, 6, 4);
        a.store(Width::Half, 2, 10, 5);
        a.exit(XDP_TX);
        a.place(out);
        a.exit(layout.pass);
        Self::of(Kind::Xdp, a, Vec::new())
    }

    /// Parses an IPv4 packet as far as its ports, and looks its tuple up in `map` once.
    pub fn one_look_up(kind: Kind, map: BorrowedFd<'_>, direction: Direction) -> Result<Self> {
        let layout = Layout::of(kind);
        let mut a = Assembler::default();
        let out = a.label();
        parse(&mut a, layout, direction, out);
        look_up(&mut a, map, KEY);
        a.place(out);
        a.exit(layout.pass);
        Self::of(kind, a, Vec::new())
    }

    /// What a balancer with two entries a connection can't do without, and nothing else: parses an IPv4 packet, looks its tuple up in
    /// `flows` and its destination in `frontends`, with `keeps_source` the replies' tuple in `flows` too, and makes two entries in maps
    /// as large as `entries`.
    pub fn new_connection(
        kind: Kind,
        [flows, frontends]: [BorrowedFd<'_>; 2],
        keeps_source: bool,
        entries: u32,
    ) -> Result<Self> {
        const DESTINATION: i16 = 16;
        const DESTINATION_PORT: i16 = 34;
        const PROTOCOL: i16 = 36;
        const FRONTEND: i16 = KEY + VALUE + (size_of::<FrontendKey>().next_multiple_of(8)) as i16;
        let layout = Layout::of(kind);
        let maps = entry_maps(2, entries)?;
        let mut a = Assembler::default();
        let out = a.label();
        parse(&mut a, layout, Direction::Forward, out);
        for at in (-KEY - VALUE..-KEY).step_by(8) {
            a.store_value(Width::Double, 10, at, 0);
        }
        for at in [0, 8] {
            a.load(Width::Double, 4, 10, DESTINATION + at - KEY);
            a.store(Width::Double, 10, at - FRONTEND, 4);
        }
        a.store_value(Width::Double, 10, 16 - FRONTEND, 0);
        a.load(Width::Half, 4, 10, DESTINATION_PORT - KEY);
        a.store(Width::Half, 10, 16 - FRONTEND, 4);
        a.load(Width::Byte, 4, 10, PROTOCOL - KEY);
        a.store(Width::Byte, 10, 18 - FRONTEND, 4);
        look_up(&mut a, flows, KEY);
        look_up(&mut a, frontends, FRONTEND);
        a.jump_if_zero(0, out);
        insert(&mut a, &maps[0]);
        // The replies' tuple is another one.
        a.call(helper::RANDOM);
        a.store(Width::Word, 10, -KEY, 0);
        if keeps_source {
            look_up(&mut a, flows, KEY);
        }
        insert(&mut a, &maps[1]);
        a.place(out);
        a.exit(layout.pass);
        Self::of(kind, a, maps)
    }

    /// Makes `insertions` entries with random keys, each in a map of its own as large as `entries` and of flows' types.
    pub fn insertions(kind: Kind, insertions: usize, entries: u32) -> Result<Self> {
        let mut a = Assembler::default();
        let maps = entry_maps(insertions, entries)?;
        for at in (-KEY - VALUE..0).step_by(8) {
            a.store_value(Width::Double, 10, at, 0);
        }
        for map in &maps {
            for at in [-KEY, 4 - KEY] {
                a.call(helper::RANDOM);
                a.store(Width::Word, 10, at, 0);
            }
            insert(&mut a, map);
        }
        a.exit(Layout::of(kind).pass);
        Self::of(kind, a, maps)
    }

    /// Attaches an XDP program to an interface of this thread's network namespace; it goes with what is returned.
    pub fn attach(&self, ifindex: u32) -> Result<OwnedFd> {
        self.program.attach(ifindex)
    }

    /// The program itself.
    pub fn program(&self) -> &RawProgram {
        &self.program
    }
}

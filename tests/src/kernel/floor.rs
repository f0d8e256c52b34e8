//! What no program can be cheaper than, put together by hand so that nothing else is measured: one that does nothing, one
//! that parses a packet and looks its tuple up once, and such as insert into LRU maps.
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::Result;
use ferrogate_common::{Direction, Flow, FrontendKey, Tuple};

use super::asm::{Assembler, Label, Width, helper};
use super::bpf::{Kind, MapKind, RawMap, RawProgram};
use super::frames::Layout;

pub(super) const KEY: i16 = size_of::<Tuple>() as i16;

pub(super) const VALUE: i16 = size_of::<Flow>().next_multiple_of(8) as i16;

/// A frontend's key, looked up by [`find_backend`], is so far below the stack's end.
const FRONTEND: i16 = KEY + VALUE + (size_of::<FrontendKey>().next_multiple_of(8)) as i16;

fn entry_maps(count: usize, entries: u32) -> Result<Vec<RawMap>> {
    (0..count)
        .map(|_| RawMap::create(MapKind::LruHash, size_of::<Tuple>(), size_of::<Flow>(), entries))
        .collect()
}

/// Puts the tuple of an IPv4 packet, of a context in register 1, to the stack's end; jumps where it is no such packet.
pub(super) fn parse(a: &mut Assembler, layout: Layout, direction: Direction, out: Label) {
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
pub(super) fn look_up(a: &mut Assembler, map: BorrowedFd<'_>, depth: i16) {
    a.map(1, map.as_raw_fd());
    a.copy(2, 10);
    a.add(2, -i32::from(depth));
    a.call(helper::MAP_LOOKUP);
}

/// Zeroes what [`insert`] takes for the value.
pub(super) fn no_value(a: &mut Assembler) {
    for at in (-KEY - VALUE..-KEY).step_by(8) {
        a.store_value(Width::Double, 10, at, 0);
    }
}

/// Inserts the key at the stack's end with the value before it.
pub(super) fn insert(a: &mut Assembler, map: &RawMap) {
    a.map(1, map.number());
    a.copy(2, 10);
    a.add(2, -i32::from(KEY));
    a.copy(3, 10);
    a.add(3, -i32::from(KEY + VALUE));
    a.set(4, 0);
    a.call(helper::MAP_UPDATE);
}

/// Removes the key at the stack's end.
pub(super) fn remove(a: &mut Assembler, map: &RawMap) {
    a.map(1, map.number());
    a.copy(2, 10);
    a.add(2, -i32::from(KEY));
    a.call(helper::MAP_DELETE);
}

/// Where the tuple at the stack's end has its destination.
const DESTINATION: i16 = 16;
const DESTINATION_PORT: i16 = 34;
const PROTOCOL: i16 = 36;

/// Makes the key of the frontend that the tuple at the stack's end is to.
fn frontend_key(a: &mut Assembler) {
    for at in [0, 8] {
        a.load(Width::Double, 4, 10, DESTINATION + at - KEY);
        a.store(Width::Double, 10, at - FRONTEND, 4);
    }
    a.store_value(Width::Double, 10, 16 - FRONTEND, 0);
    a.load(Width::Half, 4, 10, DESTINATION_PORT - KEY);
    a.store(Width::Half, 10, 16 - FRONTEND, 4);
    a.load(Width::Byte, 4, 10, PROTOCOL - KEY);
    a.store(Width::Byte, 10, 18 - FRONTEND, 4);
}

/// What a balancer finds a backend by.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    pub frontends: BorrowedFd<'a>,
    pub slots: BorrowedFd<'a>,
    pub backends: BorrowedFd<'a>,
    /// How many slots there are to choose from, from the first one on.
    pub count: u32,
}

/// Looks up the frontend, one of its slots by chance, and the slot's backend; jumps where one of them is not there.
pub(super) fn find_backend(a: &mut Assembler, choice: Choice<'_>, out: Label) {
    frontend_key(a);
    look_up(a, choice.frontends, FRONTEND);
    a.jump_if_zero(0, out);
    a.call(helper::RANDOM);
    a.and32(0, u32::MAX);
    a.modulo(0, choice.count as i32);
    a.store(Width::Word, 10, -FRONTEND, 0);
    look_up(a, choice.slots, FRONTEND);
    a.jump_if_zero(0, out);
    a.load(Width::Word, 4, 0, 0);
    a.store(Width::Word, 10, -FRONTEND, 4);
    look_up(a, choice.backends, FRONTEND);
    a.jump_if_zero(0, out);
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

    /// What a balancer with two entries a connection, and a table of its own for those that are half open, can't do without, and
    /// nothing else: parses an IPv4 packet, looks its tuple up among the flows and the half-open ones, finds a backend, looks the
    /// replies' tuple up among the flows, and makes two entries in maps as large as `entries`.
    pub fn new_connection(kind: Kind, flows: BorrowedFd<'_>, choice: Choice<'_>, entries: u32) -> Result<Self> {
        let layout = Layout::of(kind);
        let maps = entry_maps(2, entries)?;
        let mut a = Assembler::default();
        let out = a.label();
        parse(&mut a, layout, Direction::Forward, out);
        no_value(&mut a);
        look_up(&mut a, flows, KEY);
        look_up(&mut a, maps[0].as_fd(), KEY);
        find_backend(&mut a, choice, out);
        insert(&mut a, &maps[0]);
        // The replies' tuple is another one.
        a.call(helper::RANDOM);
        a.store(Width::Word, 10, -KEY, 0);
        look_up(&mut a, flows, KEY);
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

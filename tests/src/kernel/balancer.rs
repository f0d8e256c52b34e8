//! What no balancer can leave out of a connection, and nothing else: programs that find what they would have to, and translate
//! nothing. The connection goes past them, straight to its server.
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use anyhow::Result;
use bytemuck::bytes_of;
use ferrogate_common::{Backend, Direction, Flow, Frontend, FrontendKey, FrontendKind, Port, Protocol, Tuple, maps};

use super::asm::{Assembler, Label, Width, helper};
use super::bpf::{Kind, MapKind, RawMap, RawProgram, attach_connect};
use super::bystander::Bystander;
use super::floor::{Choice, KEY, find_backend, insert, look_up, no_value, parse, remove};
use super::frames::Layout;
use super::object::Object;

const LAYOUT: Layout = Layout::of(Kind::Tc);

/// Headers, as far as a balancer reads them: to TCP's flags.
const HEADERS: usize = 48;

/// TCP's flags.
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

/// Tables of one Service with one backend, and of flows.
pub struct Balancer {
    flows: RawMap,
    /// Those that nobody has answered yet have a table of their own: so no flood of SYNs can take the place of the others.
    half_open: RawMap,
    frontends: RawMap,
    slots: RawMap,
    backends: RawMap,
    /// Socket-local storage as ours is.
    sockets: OwnedFd,
}

impl Balancer {
    /// A Service of TCP at this address.
    pub fn new(frontend: SocketAddr) -> Result<Self> {
        let hash = |key, value, entries| RawMap::create(MapKind::LruHash, key, value, entries);
        let array = |value| RawMap::create(MapKind::Array, size_of::<u32>(), value, 1);
        let object = Object::load_with(|_| ())?;
        let balancer = Self {
            flows: hash(size_of::<Tuple>(), size_of::<Flow>(), maps::FLOWS.entries)?,
            half_open: hash(size_of::<Tuple>(), size_of::<Flow>(), maps::HALF_OPEN.entries)?,
            frontends: hash(size_of::<FrontendKey>(), size_of::<Frontend>(), 1024)?,
            slots: array(size_of::<u32>())?,
            backends: array(size_of::<Backend>())?,
            sockets: object.map_descriptor(maps::SOCKETS.name)?.try_clone_to_owned()?,
        };
        let key = FrontendKey::new(frontend.ip().into(), Port::new(frontend.port()), Protocol::Tcp);
        let value = Frontend::new(0, FrontendKind::ClusterIp);
        balancer.frontends.put(bytes_of(&key), bytes_of(&value))?;
        Ok(balancer)
    }

    /// Enters an established flow.
    pub fn know(&self, flow: &Tuple) -> Result<()> {
        self.flows.put(bytes_of(flow), bytes_of(&Flow::NONE))
    }

    fn choice(&self) -> Choice<'_> {
        Choice {
            frontends: self.frontends.as_fd(),
            slots: self.slots.as_fd(),
            backends: self.backends.as_fd(),
            count: 1,
        }
    }

    /// At tcx ingress of an interface of this thread's network namespace, behind all programs there: one look-up a packet. With
    /// `tracks`, a SYN of a flow that is not known finds a backend and makes two entries.
    pub fn at_ingress(&self, ifindex: u32, tracks: bool) -> Result<Bystander> {
        let program = self.packets(Direction::Forward, tracks)?;
        Ok(Bystander::of(program.attach_ingress(ifindex, false)?))
    }

    /// At tcx egress of an interface of this thread's network namespace, behind all programs there: one look-up a packet. With
    /// `tracks`, the first answer moves the two entries.
    pub fn at_egress(&self, ifindex: u32, tracks: bool) -> Result<Bystander> {
        let program = self.packets(Direction::Reply, tracks)?;
        Ok(Bystander::of(program.attach_egress(ifindex)?))
    }

    fn packets(&self, direction: Direction, tracks: bool) -> Result<RawProgram> {
        let mut a = Assembler::default();
        let (far, out) = (a.label(), a.label());
        a.copy(6, 1);
        LAYOUT.reach(&mut a, HEADERS, far);
        self.packet(&mut a, direction, tracks);
        a.place(far);
        a.copy(1, 6);
        a.set(2, HEADERS as i32);
        a.call(helper::SKB_PULL_DATA);
        a.copy(1, 6);
        LAYOUT.reach(&mut a, HEADERS, out);
        self.packet(&mut a, direction, tracks);
        a.place(out);
        a.exit(LAYOUT.pass);
        RawProgram::load(Kind::Tc, &a.finish())
    }

    /// Ends the program. The context is in register 6, and headers are within reach.
    fn packet(&self, a: &mut Assembler, direction: Direction, tracks: bool) {
        let out = a.label();
        a.copy(1, 6);
        parse(a, LAYOUT, direction, out);
        look_up(a, self.flows.as_fd(), KEY);
        match (tracks, direction) {
            (false, _) => (),
            (true, Direction::Forward) => self.open(a, out),
            (true, Direction::Reply) => self.establish(a, out),
        }
        a.place(out);
        a.exit(LAYOUT.pass);
    }

    /// Makes a flow's two entries, of a SYN. What there is of an earlier connection by the same tuple is over.
    fn open(&self, a: &mut Assembler, out: Label) {
        with_flags(a, SYN, out);
        look_up(a, self.half_open.as_fd(), KEY);
        find_backend(a, self.choice(), out);
        no_value(a);
        insert(a, &self.half_open);
        turn(a, Direction::Reply);
        insert(a, &self.half_open);
    }

    /// Moves a flow's two entries, of its first answer.
    fn establish(&self, a: &mut Assembler, out: Label) {
        with_flags(a, SYN | ACK, out);
        look_up(a, self.half_open.as_fd(), KEY);
        a.jump_if_zero(0, out);
        no_value(a);
        insert(a, &self.flows);
        remove(a, &self.half_open);
        turn(a, Direction::Forward);
        insert(a, &self.flows);
        remove(a, &self.half_open);
    }

    /// At `connect4` of a cgroup, behind all programs there: finds a backend, and makes room in the socket for what its caller would
    /// be told of its peer.
    pub fn at_connect(&self, cgroup: &File) -> Result<Bystander> {
        /// struct bpf_sock_addr
        const ADDRESS: i16 = 4;
        const PORT: i16 = 24;
        const SOCKET: i16 = 64;
        const CREATE: i32 = 1;
        const ALLOW: i32 = 1;
        let mut a = Assembler::default();
        let out = a.label();
        a.copy(6, 1);
        for at in (0..KEY).step_by(8) {
            a.store_value(Width::Double, 10, at - KEY, 0);
        }
        a.store_value(Width::Word, 10, 24 - KEY, 0xffff_0000u32 as i32);
        a.load(Width::Word, 4, 6, ADDRESS);
        a.store(Width::Word, 10, 28 - KEY, 4);
        a.load(Width::Word, 4, 6, PORT);
        a.store(Width::Half, 10, 34 - KEY, 4);
        a.store_value(Width::Byte, 10, 36 - KEY, Protocol::Tcp as i32);
        find_backend(&mut a, self.choice(), out);
        a.map(1, self.sockets.as_raw_fd());
        a.load(Width::Double, 2, 6, SOCKET);
        a.set(3, 0);
        a.set(4, CREATE);
        a.call(helper::SK_STORAGE_GET);
        a.place(out);
        a.exit(ALLOW);
        Ok(Bystander::of(attach_connect(cgroup.as_fd(), &a.finish())?))
    }
}

/// Jumps where a packet of TCP has not these two flags. The context is in register 6, and headers are within reach.
fn with_flags(a: &mut Assembler, flags: u32, out: Label) {
    const FLAGS: i16 = 47;
    a.copy(1, 6);
    LAYOUT.reach(a, HEADERS, out);
    a.load(Width::Byte, 4, 2, FLAGS);
    a.and32(4, SYN | ACK);
    a.jump_if_not(4, flags, out);
}

/// Makes the tuple at the stack's end the one of the other direction.
fn turn(a: &mut Assembler, direction: Direction) {
    for at in [0, 8] {
        a.load(Width::Double, 4, 10, at - KEY);
        a.load(Width::Double, 5, 10, at + 16 - KEY);
        a.store(Width::Double, 10, at - KEY, 5);
        a.store(Width::Double, 10, at + 16 - KEY, 4);
    }
    a.load(Width::Half, 4, 10, 32 - KEY);
    a.load(Width::Half, 5, 10, 34 - KEY);
    a.store(Width::Half, 10, 32 - KEY, 5);
    a.store(Width::Half, 10, 34 - KEY, 4);
    a.store_value(Width::Byte, 10, 37 - KEY, direction as i32);
}

//! eBPF instructions, put together by hand: for programs so small that a compiler would be in the way, and of which nothing
//! but what is written is to be measured.

/// One instruction (`struct bpf_insn`): code, destination and source register, offset, immediate.
const fn encode(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    code as u64
        | (destination as u64) << 8
        | (source as u64) << 12
        | (offset as u16 as u64) << 16
        | (immediate as u32 as u64) << 32
}

/// Helpers by number (linux/bpf.h).
pub(super) mod helper {
    pub(crate) const MAP_LOOKUP: i32 = 1;
    pub(crate) const MAP_UPDATE: i32 = 2;
    pub(crate) const MAP_DELETE: i32 = 3;
    pub(crate) const RANDOM: i32 = 7;
    pub(crate) const TAIL_CALL: i32 = 12;
    pub(crate) const SKB_PULL_DATA: i32 = 39;
    pub(crate) const SK_STORAGE_GET: i32 = 107;
    pub(crate) const JIFFIES: i32 = 118;
}

/// Width of a load or store.
#[derive(Clone, Copy)]
pub(super) enum Width {
    Byte = 0x10,
    Half = 0x08,
    Word = 0x00,
    Double = 0x18,
}

impl Width {
    /// The widest that fits in so many bytes.
    pub(super) fn within(bytes: usize) -> Self {
        match bytes {
            0 | 1 => Self::Byte,
            2 | 3 => Self::Half,
            4..8 => Self::Word,
            _ => Self::Double,
        }
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Half => 2,
            Self::Word => 4,
            Self::Double => 8,
        }
    }
}

/// A place to jump to.
#[derive(Clone, Copy)]
pub(super) struct Label(usize);

/// A program that grows. Registers are their numbers: 0 results, 1 to 5 arguments, 6 to 9 kept over calls, 10 the stack's end.
#[derive(Default)]
pub(super) struct Assembler {
    instructions: Vec<u64>,
    labels: Vec<usize>,
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    fn push(&mut self, code: u8, destination: u8, source: u8, offset: i16, immediate: i32) {
        self.instructions
            .push(encode(code, destination, source, offset, immediate));
    }

    /// A place that [`Assembler::place`] will fix.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(usize::MAX);
        Label(self.labels.len() - 1)
    }

    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0] = self.instructions.len();
    }

    pub(super) fn set(&mut self, register: u8, value: i32) {
        self.push(0xb7, register, 0, 0, value);
    }

    pub(super) fn copy(&mut self, register: u8, from: u8) {
        self.push(0xbf, register, from, 0, 0);
    }

    pub(super) fn add(&mut self, register: u8, value: i32) {
        self.push(0x07, register, 0, 0, value);
    }

    pub(super) fn add_register(&mut self, register: u8, other: u8) {
        self.push(0x0f, register, other, 0, 0);
    }

    pub(super) fn modulo(&mut self, register: u8, value: i32) {
        self.push(0x97, register, 0, 0, value);
    }

    /// With the lower 32 bits of a register; the upper ones become zero.
    pub(super) fn and32(&mut self, register: u8, value: u32) {
        self.push(0x54, register, 0, 0, value as i32);
    }

    pub(super) fn or32(&mut self, register: u8, value: u32) {
        self.push(0x44, register, 0, 0, value as i32);
    }

    pub(super) fn xor32(&mut self, register: u8, value: u32) {
        self.push(0xa4, register, 0, 0, value as i32);
    }

    pub(super) fn or_register(&mut self, register: u8, other: u8) {
        self.push(0x4f, register, other, 0, 0);
    }

    pub(super) fn shift_right(&mut self, register: u8, bits: i32) {
        self.push(0x77, register, 0, 0, bits);
    }

    pub(super) fn load(&mut self, width: Width, register: u8, base: u8, at: i16) {
        self.push(0x61 | width as u8, register, base, at, 0);
    }

    pub(super) fn store(&mut self, width: Width, base: u8, at: i16, register: u8) {
        self.push(0x63 | width as u8, base, register, at, 0);
    }

    pub(super) fn store_value(&mut self, width: Width, base: u8, at: i16, value: i32) {
        self.push(0x62 | width as u8, base, 0, at, value);
    }

    /// A map, by its descriptor.
    pub(super) fn map(&mut self, register: u8, descriptor: i32) {
        // Two slots: the kernel puts the map's address there.
        self.push(0x18, register, 1, 0, descriptor);
        self.instructions.push(0);
    }

    pub(super) fn call(&mut self, helper: i32) {
        self.push(0x85, 0, 0, 0, helper);
    }

    pub(super) fn exit(&mut self, value: i32) {
        self.set(0, value);
        self.end();
    }

    /// With what register 0 holds.
    pub(super) fn end(&mut self) {
        self.push(0x95, 0, 0, 0, 0);
    }

    fn jump(&mut self, code: u8, register: u8, other: u8, value: i32, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(code, register, other, 0, value);
    }

    pub(super) fn jump_if_zero(&mut self, register: u8, to: Label) {
        self.jump(0x15, register, 0, 0, to);
    }

    pub(super) fn jump_if_greater(&mut self, register: u8, other: u8, to: Label) {
        self.jump(0x2d, register, other, 0, to);
    }

    /// By the lower 32 bits.
    pub(super) fn jump_if_not(&mut self, register: u8, value: u32, to: Label) {
        self.jump(0x56, register, 0, value as i32, to);
    }

    /// The instructions, their jumps filled in.
    pub(super) fn finish(mut self) -> Vec<u64> {
        for (at, label) in self.jumps {
            let distance = self.labels[label.0] as i64 - at as i64 - 1;
            self.instructions[at] |= u64::from(distance as i16 as u16) << 16;
        }
        self.instructions
    }
}

//! How much Services carry.

use crate::Direction;
use bytemuck::{Pod, Zeroable};

/// Value of `TRAFFIC`: what the packet edges have translated for a Service port, on one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Traffic {
    /// Of requests, and of replies. What a device splits into segments, or has merged from them, is so many.
    pub packets: [u64; 2],
    /// Of their IP packets.
    pub bytes: [u64; 2],
}

impl Traffic {
    /// Name of the constant in the programs' read-only data, a `u32`: not 0 where this is counted.
    pub const WANTED: &'static str = "SERVICE_TRAFFIC";

    /// One packet, or what stands for several.
    #[inline(always)]
    pub fn add(&mut self, direction: Direction, packets: u32, bytes: u32) {
        let index = usize::from(matches!(direction, Direction::Reply));
        self.packets[index] += u64::from(packets);
        self.bytes[index] += u64::from(bytes);
    }

    /// Adds what another CPU has counted.
    pub fn merge(&mut self, other: &Self) {
        for index in 0..2 {
            self.packets[index] += other.packets[index];
            self.bytes[index] += other.bytes[index];
        }
    }

    /// Whether there was any.
    pub const fn is_empty(&self) -> bool {
        self.packets[0] + self.packets[1] == 0
    }
}

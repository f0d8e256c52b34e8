//! The loaded programs beside the host's pipeline.
//!
//! * [`Object`] loads the eBPF object with private maps and runs packets through its programs (`BPF_PROG_TEST_RUN`).
//! * [`KernelTables`] reads and writes the maps with the types of the ABI.
//! * [`Network`] is a network namespace whose routes and neighbours are known, and the same as a host's routing table.
//! * [`Generator`] makes table states and packets from a seed; [`World`] holds both sides and compares them.
//! * [`Floor`] is what no program can be cheaper than, [`Balancer`] what no balancer can leave out of a connection; [`Driver`] writes each packet anew before a program sees it, or sends
//!   it; [`Counter`] counts what arrives.
//!
//! Everything here needs root.
mod asm;
mod balancer;
mod bpf;
mod bystander;
mod clock;
mod counter;
mod floor;
mod frames;
mod generate;
mod maps;
mod network;
mod object;
mod packets;
mod pool;
mod rare;
mod states;
mod world;

pub use balancer::Balancer;
pub use bpf::{Kind, RawProgram, freeze, pin_map, takes_tracing};
pub use bystander::Bystander;
pub use counter::Counter;
pub use floor::{Choice, Floor};
pub use frames::{Driver, Frames, RandomSource, Then};
pub use generate::Generator;
pub use maps::{KernelTables, enter_flows};
pub use network::{Network, Place};
pub use object::{Object, Run, Variant, clock_ticks, pass_frames};
pub use pool::Pool;
pub use world::{Shapes, Tally, World};

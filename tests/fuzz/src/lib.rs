//! What the fuzzers run, and what must hold of whatever they make. `cargo xtask fuzz` builds and runs them with libFuzzer
//! and AddressSanitizer; `cargo test` replays their corpora, in which every input that once failed is kept.

pub mod files;
mod node;
pub mod objects;
pub mod packets;
pub mod sockets;
// The node, and the reader of packets, of the pipeline's own tests.
#[expect(dead_code, reason = "these tests use a part of it")]
#[path = "../../../datapath/tests/pipeline/support.rs"]
mod support;
#[expect(dead_code, reason = "these tests use a part of it")]
#[path = "../../../datapath/tests/pipeline/wire.rs"]
mod wire;

/// Something that takes any bytes, and panics where anything is wrong.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: [(&str, Target); 5] = [
    ("packets", packets::run),
    ("handed", packets::run_handed),
    ("sockets", sockets::run),
    ("objects", objects::run),
    ("files", files::run),
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, run)| *run)
}

//! All fuzzers in one program: `FERROGATE_FUZZ` names the target. As `cargo xtask fuzz` builds it, the arguments are libFuzzer's; else
//! they are files, each an input to be run once.
#![cfg_attr(fuzzing, no_main)]

use ferrogate_fuzz::{TARGETS, Target, target};

fn chosen() -> Target {
    let name = std::env::var("FERROGATE_FUZZ").unwrap_or_default();
    target(&name).unwrap_or_else(|| {
        let known: Vec<&str> = TARGETS.iter().map(|(known, _)| *known).collect();
        panic!("FERROGATE_FUZZ={name}: one of {} is expected", known.join(", "))
    })
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    static CHOSEN: std::sync::LazyLock<Target> = std::sync::LazyLock::new(chosen);
    CHOSEN(data);
});

#[cfg(not(fuzzing))]
fn main() {
    let run = chosen();
    for file in std::env::args_os().skip(1) {
        let data = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        run(&data);
    }
}

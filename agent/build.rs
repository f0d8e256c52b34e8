//! Finds the eBPF objects that the library embeds.
//!
//! `cargo xtask build` puts them at `target/bpf/ferrogate.o` of the workspace and, beside it, `capture.o`; `FERROGATE_BPF_OBJECT` names
//! another first one. The paths reach the code as `FERROGATE_BPF_OBJECT_PATH` and `FERROGATE_CAPTURE_OBJECT_PATH`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::exit;

fn main() {
    println!("cargo::rerun-if-env-changed=FERROGATE_BPF_OBJECT");
    let path = match env::var_os("FERROGATE_BPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => default_path(),
    };
    embed(&path, "FERROGATE_BPF_OBJECT_PATH");
    embed(&path.with_file_name("capture.o"), "FERROGATE_CAPTURE_OBJECT_PATH");
}

fn embed(path: &Path, variable: &str) {
    println!("cargo::rerun-if-changed={}", path.display());
    if !path.is_file() {
        println!(
            "cargo::error=the eBPF object {} is missing: build it with `cargo xtask build`, or name one with FERROGATE_BPF_OBJECT",
            path.display()
        );
        exit(1);
    }
    println!("cargo::rustc-env={variable}={}", path.display());
}

/// `target/bpf/ferrogate.o` beside the workspace's manifest. Not below CARGO_TARGET_DIR: the object does not depend on
/// the host's profile or target directory.
fn default_path() -> PathBuf {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    manifest.join("../target/bpf/ferrogate.o")
}

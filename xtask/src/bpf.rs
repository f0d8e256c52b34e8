//! Which compiler builds the eBPF crate, and how.
//!
//! Two ways work. Way A: a pinned nightly of rustup with `rust-src`, which builds `core` itself. Way B: Debian's
//! `rustc-web` with its prebuilt `core` for BPF. Both link with bpf-linker, whose LLVM must be the compiler's or newer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::build::elf::{Builder, SectionData};
use object::elf;

use crate::{cmd, paths};

pub(crate) const TARGET: &str = "bpfel-unknown-none";
pub(crate) const PACKAGE: &str = "ferrogate-datapath-ebpf";
/// The binary targets of [`PACKAGE`]: the programs that a node runs, and those that look at them while somebody captures packets.
const BINARY: &str = "ferrogate";
const CAPTURE: &str = "capture";
/// LLVM 22, as rustc 1.96 and bpf-linker with `llvm-22` have.
pub(crate) const NIGHTLY: &str = "nightly-2026-05-20";
pub(crate) const LINKER_VERSION: &str = "0.13.0";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";

/// A compiler that can build for BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// rustup's pinned nightly with `-Z build-std=core`.
    Nightly,
    /// Debian's rustc with its prebuilt `core`.
    Debian,
}

impl Compiler {
    /// The one to use, if any is installed. Debian's goes first: it needs no second `core` in each clean build.
    pub(crate) fn detect() -> Option<Self> {
        if Path::new(DEBIAN_RUSTC).exists() && Path::new(DEBIAN_CORE).exists() {
            return Some(Self::Debian);
        }
        nightly_sysroot()
            .filter(|root| root.join("lib/rustlib/src/rust/library/core").exists())
            .map(|_| Self::Nightly)
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Nightly => format!("rustup's {NIGHTLY} with rust-src"),
            Self::Debian => "Debian's rustc-web".to_owned(),
        }
    }

    /// `cargo clippy` of the eBPF crate, by the clippy that belongs to this compiler.
    pub(crate) fn clippy(self) -> Result<Command> {
        if self == Self::Nightly {
            return Ok(self.cargo("clippy"));
        }
        if !debian_clippy().exists() {
            bail!("{} is missing: run `cargo xtask setup`", debian_clippy().display());
        }
        Ok(self.cargo("clippy"))
    }

    /// `cargo <subcommand>` for the eBPF crate: compiler, linker, flags and target directory set.
    fn cargo(self, subcommand: &str) -> Command {
        self.cargo_in(subcommand, &paths::bpf_build(), &[])
    }

    /// The same with a target directory and flags of its own.
    fn cargo_in(self, subcommand: &str, target: &Path, more: &[&str]) -> Command {
        let mut cmd = match self {
            Self::Debian => {
                // cargo-clippy starts the cargo that $CARGO names, and the clippy-driver that lies beside itself.
                let mut cmd = if subcommand == "clippy" {
                    cmd::cargo_named(debian_clippy())
                } else {
                    cmd::cargo()
                };
                cmd.arg(subcommand)
                    .env("RUSTC", DEBIAN_RUSTC)
                    .env("RUSTC_BOOTSTRAP", "1");
                cmd
            }
            Self::Nightly => {
                let mut cmd = Command::new("rustup");
                // What rustup's proxy set for the stable cargo that runs this must not decide the nightly's compiler.
                for name in ["CARGO_TARGET_DIR", "RUSTUP_TOOLCHAIN", "RUSTC", "RUSTDOC", "CARGO"] {
                    cmd.env_remove(name);
                }
                cmd.current_dir(paths::root())
                    .args(["run", NIGHTLY, "cargo", subcommand, "-Z", "build-std=core"]);
                cmd
            }
        };
        cmd.args(["--release", "--target", TARGET, "--package", PACKAGE, "--target-dir"])
            .arg(target);
        cmd.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", paths::bpf_linker());
        // v3 has atomics with fetch; --btf keeps the types that maps and log messages need.
        // Without the last one LLVM calls memset, a loop over bytes, where a few stores do.
        let flags = [
            "-Ctarget-cpu=v3",
            "-Cdebuginfo=2",
            "-Clink-arg=--btf",
            "-Clink-arg=--disable-expand-memcpy-in-order",
        ];
        let flags: Vec<&str> = flags.iter().chain(more).copied().collect();
        cmd.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        cmd
    }
}

/// The cargo-clippy of Debian's compiler (package `rust-web-clippy`).
pub(crate) fn debian_clippy() -> &'static Path {
    Path::new("/usr/bin/cargo-clippy")
}

fn nightly_sysroot() -> Option<PathBuf> {
    let mut rustc = Command::new("rustup");
    rustc.env_remove("RUSTUP_TOOLCHAIN").env("RUSTUP_AUTO_INSTALL", "0");
    cmd::output(rustc.args(["run", NIGHTLY, "rustc", "--print", "sysroot"]))
        .ok()
        .map(PathBuf::from)
}

/// Builds the eBPF objects to `target/bpf/ferrogate.o` and, beside it, `capture.o`. Files are replaced only when their bytes
/// change, so that the agent, which embeds them, is rebuilt only then.
pub(crate) fn build() -> Result<()> {
    let target = paths::bpf_build();
    build_to(&paths::bpf_object(), &target, &[])?;
    keep(CAPTURE, &target, &paths::capture_object())
}

/// Builds the same source to `target/bpf/ferrogate-other.o` with an optimization of the back end less: programs that do the same
/// by other instructions, for tests of upgrades.
pub(crate) fn build_other() -> Result<()> {
    let target = paths::target().join("bpf-build-other");
    build_to(
        &paths::target().join("bpf/ferrogate-other.o"),
        &target,
        &["-Clink-arg=--llvm-args=--disable-branch-fold"],
    )
}

fn build_to(file: &Path, target: &Path, flags: &[&str]) -> Result<()> {
    let Some(compiler) = Compiler::detect() else {
        bail!("no compiler for eBPF is installed: run `cargo xtask setup`");
    };
    if !cmd::is_executable(&paths::bpf_linker()) {
        bail!("{} is missing: run `cargo xtask setup`", paths::bpf_linker().display());
    }
    cmd::run(&mut compiler.cargo_in("build", target, flags))?;
    println!("eBPF programs built by {}", compiler.name());
    keep(BINARY, target, file)
}

/// Copies what was built, without what is for debuggers, if it has changed.
fn keep(binary: &str, target: &Path, file: &Path) -> Result<()> {
    let built = target.join(TARGET).join("release").join(binary);
    let object = fs::read(&built).with_context(|| format!("cannot read the eBPF object {}", built.display()))?;
    let object = strip(&object).with_context(|| format!("cannot strip {}", built.display()))?;
    if replace_if_changed(file, &object)? {
        println!("eBPF object: {} ({} bytes)", file.display(), object.len());
    }
    Ok(())
}

/// An object without DWARF, which the linker has made BTF from and nobody reads any more: three quarters of the file, and of what
/// the agent would carry in memory.
fn strip(object: &[u8]) -> Result<Vec<u8>> {
    let mut object = Builder::read(object)?;
    for section in &mut object.sections {
        let name = &section.name;
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    object.delete_orphans();
    // LLVM keeps sections' names among the symbols'; here they have a section of their own.
    let names = object.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = elf::SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    object.write(&mut stripped)?;
    Ok(stripped)
}

/// Writes `bytes` to `file` by a rename, unless they are there already. Returns whether it wrote.
fn replace_if_changed(file: &Path, bytes: &[u8]) -> Result<bool> {
    if fs::read(file).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    let dir = file.parent().context("a file has a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let new = file.with_extension("new");
    fs::write(&new, bytes).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, file).with_context(|| format!("cannot replace {}", file.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_object_keeps_its_file() {
        let dir = std::env::temp_dir().join(format!("fg-xtask-{}", std::process::id()));
        let file = dir.join("object.o");
        assert!(replace_if_changed(&file, b"one").unwrap());
        let written = fs::metadata(&file).unwrap().modified().unwrap();
        assert!(!replace_if_changed(&file, b"one").unwrap());
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), written);
        assert!(replace_if_changed(&file, b"two").unwrap());
        assert_eq!(fs::read(&file).unwrap(), b"two");
        fs::remove_dir_all(&dir).unwrap();
    }
}

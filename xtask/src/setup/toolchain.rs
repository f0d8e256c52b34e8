//! The compilers: one for BPF with its linker, and the components that `lint` needs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{self, Package};
use super::say;
use crate::bpf::{self, Compiler};
use crate::{cmd, paths};

/// LLVM's major version: that of the compilers in [`bpf`], and the one bpf-linker is built for.
const LLVM: &str = "22";

/// The Debian packages of what is missing. Reads the package lists only when something is.
pub(super) fn missing_packages() -> Vec<Package> {
    let mut missing = Vec::new();
    if cmd::which("cc").is_none() {
        missing.push(Package::new("gcc", "a C linker for rustc"));
        missing.push(Package::new("libc6-dev", "a C linker for rustc"));
    }
    if Compiler::detect().is_none() && debian_compiler_fits() {
        missing.push(Package::new("rustc-web", "the compiler of the eBPF programs"));
        missing.push(Package::new("libstd-rust-web-dev-bpf", "Rust's core library for BPF"));
        missing.push(Package::new("rust-web-clippy", "lints of the eBPF programs"));
    } else if Compiler::detect() == Some(Compiler::Debian) && !bpf::debian_clippy().exists() {
        missing.push(Package::new("rust-web-clippy", "lints of the eBPF programs"));
    }
    if !linker_works() && llvm_prefix().is_none() && apt::available() {
        missing.push(Package::new("llvm-22-dev", "LLVM, which bpf-linker links with"));
        missing.push(Package::new("libpolly-22-dev", "a part of LLVM"));
        missing.push(Package::new("zlib1g-dev", "for bpf-linker"));
        missing.push(Package::new("libzstd-dev", "for bpf-linker"));
    }
    missing
}

/// Debian's compiler conflicts with Debian's own rustup package, and is not offered by Ubuntu.
fn debian_compiler_fits() -> bool {
    apt::available()
        && !apt::installed("rustup")
        && (apt::offers("rustc-web") || (apt::update().is_ok() && apt::offers("rustc-web")))
}

/// After the packages: rustup's nightly where Debian's compiler is not, bpf-linker, rustfmt and clippy.
pub(super) fn install() -> Result<()> {
    if Compiler::detect().is_none() {
        install_nightly()?;
    }
    if !linker_works() {
        install_linker()?;
    }
    install_component("rustfmt", "rustfmt")?;
    install_component("clippy", "cargo-clippy")
}

fn install_nightly() -> Result<()> {
    let commands = format!(
        "rustup toolchain install {} --profile minimal --component rust-src,clippy",
        bpf::NIGHTLY
    );
    if cmd::which("rustup").is_none() {
        bail!("no compiler for eBPF is here. Install rustup (https://rustup.rs), then:\n    {commands}");
    }
    say(format_args!(
        "installing {} with rust-src, the compiler of the eBPF programs",
        bpf::NIGHTLY
    ));
    let mut words = commands.split_whitespace();
    let mut rustup = Command::new(words.next().context("a command has a name")?);
    cmd::run(rustup.args(words)).with_context(|| {
        format!(
            "no compiler for eBPF could be installed. Either of these gives one:\n    {commands}\n    \
             apt-get install rustc-web libstd-rust-web-dev-bpf      (Debian)"
        )
    })
}

/// Whether bpf-linker of the wanted version is there and starts, so that the LLVM it links with is there too.
fn linker_works() -> bool {
    let linker = paths::bpf_linker();
    cmd::is_executable(&linker)
        && cmd::output(Command::new(linker).arg("--version")).is_ok_and(|text| text.contains(bpf::LINKER_VERSION))
}

/// The installation prefix of LLVM with its headers.
fn llvm_prefix() -> Option<PathBuf> {
    ["llvm-config-22", "llvm-config"]
        .into_iter()
        .filter_map(cmd::which)
        .find_map(|config| {
            let version = cmd::output(Command::new(&config).arg("--version")).ok()?;
            let prefix = cmd::output(Command::new(&config).arg("--prefix")).ok()?;
            let prefix = PathBuf::from(prefix);
            (version.starts_with(LLVM) && prefix.join("include/llvm-c").exists()).then_some(prefix)
        })
}

fn install_linker() -> Result<()> {
    let root = paths::cache().join("tools");
    let command = format!(
        "cargo install bpf-linker --version {} --locked --no-default-features --features llvm-{LLVM} --root {}",
        bpf::LINKER_VERSION,
        root.display()
    );
    let Some(prefix) = llvm_prefix() else {
        bail!(
            "bpf-linker needs LLVM {LLVM} with its headers, which is not here. Install it (on Debian and Ubuntu \
             llvm-{LLVM}-dev and libpolly-{LLVM}-dev, or from https://apt.llvm.org; Fedora: llvm{LLVM}-devel), then run this \
             again, or by hand:\n    LLVM_PREFIX=<llvm> LLVM_SYS_221_PREFIX=<llvm> {command}"
        );
    };
    say(format_args!(
        "building bpf-linker {} with LLVM {LLVM}: about a minute",
        bpf::LINKER_VERSION
    ));
    let mut cargo = cmd::cargo();
    cargo.args([
        "install",
        "bpf-linker",
        "--version",
        bpf::LINKER_VERSION,
        "--locked",
        "--no-default-features",
    ]);
    cargo
        .args(["--features", &format!("llvm-{LLVM}"), "--force", "--root"])
        .arg(&root);
    // Without LLVM_PREFIX bpf-linker may look into a lib64 of another LLVM.
    cmd::run(cargo.env("LLVM_PREFIX", &prefix).env("LLVM_SYS_221_PREFIX", &prefix)).with_context(|| {
        format!(
            "by hand: LLVM_PREFIX={0} LLVM_SYS_221_PREFIX={0} {command}",
            prefix.display()
        )
    })?;
    if !linker_works() {
        bail!("{} was installed but does not start", paths::bpf_linker().display());
    }
    Ok(())
}

/// A component of the toolchain in use, which rustup's minimal profile leaves out.
fn install_component(component: &str, program: &str) -> Result<()> {
    let beside = std::env::var_os("CARGO").map(|cargo| PathBuf::from(cargo).with_file_name(program));
    if beside.is_some_and(|file| cmd::is_executable(&file)) {
        return Ok(());
    }
    if cmd::which("rustup").is_none() {
        bail!("`{program}` is missing: install the component {component} of this Rust toolchain");
    }
    say(format_args!(
        "adding {component} to the Rust toolchain, for `cargo xtask lint`"
    ));
    cmd::run(Command::new("rustup").args(["component", "add", component]))
}

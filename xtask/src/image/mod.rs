//! `cargo xtask image`: an OCI image with one static binary in it, made without a container engine.

mod layout;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{bpf, cmd, paths};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to write the image, an OCI layout in a tar archive [default: target/ferrogate-image.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The image's name
    #[arg(long, value_name = "NAME:TAG", default_value_t = format!("ferrogate:{}", env!("CARGO_PKG_VERSION")))]
    name: String,
}

pub(crate) fn image(args: &Args) -> Result<()> {
    bpf::build()?;
    let binary = binary()?;
    let output = args
        .output
        .clone()
        .unwrap_or_else(|| paths::target().join("ferrogate-image.tar"));
    layout::write(&binary, &full_name(&args.name), &output)?;
    check(&output)?;
    let size = fs::metadata(&output)?.len() / 1_000_000;
    println!("written: {} ({size} MB, {})", output.display(), args.name);
    println!(
        "a node takes it by: ctr --namespace k8s.io images import {}",
        output.display()
    );
    Ok(())
}

/// As container engines name it: `ferrogate:1` is `docker.io/library/ferrogate:1`.
fn full_name(name: &str) -> String {
    let has_registry = name
        .split_once('/')
        .is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost");
    match name.contains('/') {
        _ if has_registry => name.to_owned(),
        true => format!("docker.io/{name}"),
        false => format!("docker.io/library/{name}"),
    }
}

/// The agent, linked with all it needs: with musl where rustc has it, else with a static glibc.
pub(crate) fn binary() -> Result<PathBuf> {
    let sysroot = cmd::output(
        Command::new("rustc")
            .args(["--print", "sysroot"])
            .current_dir(paths::root()),
    )?;
    let arch = std::env::consts::ARCH;
    let musl = format!("{arch}-unknown-linux-musl");
    let has_musl = Path::new(&sysroot).join("lib/rustlib").join(&musl).is_dir();
    let target = if has_musl {
        musl
    } else {
        format!("{arch}-unknown-linux-gnu")
    };
    let mut cargo = cmd::cargo();
    cargo.args([
        "build",
        "--release",
        "--package",
        "ferrogate-agent",
        "--bin",
        "ferrogate",
        "--target",
        &target,
    ]);
    // With a target of its own, build scripts and macros are not linked so.
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    cmd::run(&mut cargo)?;
    Ok(paths::target().join(target).join("release/ferrogate"))
}

/// Unpacks the image and runs what is in it, with nothing else around: in a chroot, for which one has to be root.
fn check(image: &Path) -> Result<()> {
    let directory = paths::target().join("image-check");
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
    }
    let root = layout::unpack(image, &directory)?;
    let mut command = cmd::as_root("chroot")?;
    let version = cmd::output(command.arg(&root).arg(layout::PROGRAM).arg("--version"));
    fs::remove_dir_all(&directory)?;
    let version = version.context("the image's program does not run by itself")?;
    ensure!(
        version.starts_with("ferrogate "),
        "the image's program says {version:?}"
    );
    println!("checked: in a chroot of the image, {} says {version}", layout::PROGRAM);
    Ok(())
}

/// The sha256 of a file, in hexadecimal digits.
fn digest(file: &Path) -> Result<String> {
    let line = cmd::output(Command::new("sha256sum").arg(file))?;
    match line.split_whitespace().next() {
        Some(digest) if digest.len() == 64 => Ok(digest.trim_start_matches('\\').to_owned()),
        _ => bail!("sha256sum says {line:?} of {}", file.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_the_name_that_engines_look_for() {
        for (name, full) in [
            ("ferrogate:1", "docker.io/library/ferrogate:1"),
            ("team/ferrogate:1", "docker.io/team/ferrogate:1"),
            ("registry.example.com/ferrogate:1", "registry.example.com/ferrogate:1"),
            ("localhost:5000/ferrogate:1", "localhost:5000/ferrogate:1"),
        ] {
            assert_eq!(full_name(name), full);
        }
    }
}

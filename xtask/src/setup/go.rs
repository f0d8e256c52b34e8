//! A Go that can build the peers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::apt::{self, Package};
use super::say;
use crate::{cmd, paths};

/// The oldest Go that fetches the toolchain a module asks for by itself.
const FETCHES_TOOLCHAINS: u32 = 21;
/// What an older Go is made to fetch: good for every peer.
const TOOLCHAIN: &str = "go1.26.8";

/// A Go command, ready to build.
pub(super) struct Go {
    program: PathBuf,
}

impl Go {
    /// The machine's Go, else Debian's newest; one that is too old to fetch its successor by itself is led to do so.
    pub(super) fn find() -> Result<Self> {
        let fetched = fetched_dir().join("bin/go");
        if let Some((go, minor)) = newest() {
            if minor >= FETCHES_TOOLCHAINS {
                return Ok(Self { program: go });
            }
            if !cmd::is_executable(&fetched) {
                fetch_toolchain(&go)?;
            }
            return Ok(Self { program: fetched });
        }
        if !apt::available() {
            bail!("the cluster tests need Go 1.{FETCHES_TOOLCHAINS} or newer, which is not here: https://go.dev/dl");
        }
        apt::update()?;
        apt::install(&[Package {
            name: newest_package()?,
            why: "builds Kubernetes, CoreDNS and helm for the tests",
        }])?;
        if newest().is_none() {
            bail!("Go was installed from Debian, but no `go` is found in PATH or /usr/lib/go-*/bin");
        }
        Self::find()
    }

    /// `go <args>` in a module's directory. Downloads missing modules and the toolchain that the module asks for.
    pub(super) fn command(&self, dir: &Path, args: &[&str]) -> Command {
        let mut go = Command::new(&self.program);
        go.args(args).current_dir(dir);
        go.env("GOTOOLCHAIN", "auto")
            .env("GOFLAGS", "-mod=mod")
            .env("GOWORK", "off")
            .env("CGO_ENABLED", "0");
        go.env_remove("GOROOT").env_remove("GOOS").env_remove("GOARCH");
        go
    }
}

/// The newest Go on this machine and its minor version.
fn newest() -> Option<(PathBuf, u32)> {
    let packaged = fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let packaged = packaged.filter(|dir| {
        dir.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("go-"))
    });
    let usual = [PathBuf::from("/usr/local/go/bin/go")].into_iter();
    let candidates = packaged
        .map(|dir| dir.join("bin/go"))
        .chain(usual)
        .chain(cmd::which("go"));
    let versions = candidates
        .filter(|go| cmd::is_executable(go))
        .filter_map(|go| Some((minor(&go)?, go)));
    versions.max().map(|(minor, go)| (go, minor))
}

/// The N of Go 1.N, by asking the command itself.
fn minor(go: &Path) -> Option<u32> {
    let version = cmd::output(Command::new(go).arg("version").env("GOTOOLCHAIN", "local")).ok()?;
    minor_of(&version)
}

/// The N in `go version go1.N.P linux/amd64`.
fn minor_of(version: &str) -> Option<u32> {
    let digits = version.split_whitespace().find_map(|word| word.strip_prefix("go1."))?;
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Debian's newest Go package, backports included when they are configured.
fn newest_package() -> Result<String> {
    let names = cmd::output(Command::new("apt-cache").args(["pkgnames", "golang-1."]))?;
    let newest = names.lines().filter_map(|name| {
        let minor: u32 = name.strip_prefix("golang-1.")?.strip_suffix("-go")?.parse().ok()?;
        Some((minor, name.to_owned()))
    });
    let (_, name) = newest
        .max()
        .context("the package lists offer no golang-1.*-go; install Go from https://go.dev/dl")?;
    Ok(name)
}

fn fetched_dir() -> PathBuf {
    paths::cache().join("tools").join(TOOLCHAIN)
}

/// Downloads a Go toolchain with an old Go. Toolchains are modules too: the checksum database vouches for them.
fn fetch_toolchain(old: &Path) -> Result<()> {
    let arch = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no Go toolchain is known for {other}: install Go 1.{FETCHES_TOOLCHAINS} or newer"),
    };
    say(format_args!(
        "fetching {TOOLCHAIN}: the Go that is here is too old to do so by itself"
    ));
    let dir = fetched_dir();
    let part = dir.with_extension("part");
    fs::create_dir_all(&part).with_context(|| format!("cannot create {}", part.display()))?;
    fs::write(part.join("go.mod"), "module ferrogate.dev/toolchain\n")?;
    let module = format!("golang.org/toolchain@v0.0.1-{TOOLCHAIN}.linux-{arch}");
    let mut download = Command::new(old);
    download
        .args(["mod", "download", "-json", &module])
        .current_dir(&part)
        .env("GOFLAGS", "")
        .env_remove("GOROOT");
    let answer: Value = serde_json::from_str(&cmd::output(&mut download)?).context("go mod download -json")?;
    let unpacked = answer["Dir"].as_str().context("go mod download names no directory")?;
    // The module cache keeps no execute permissions, and is read-only.
    let copied = part.join("go");
    cmd::run(
        Command::new("cp")
            .args(["-r", "--no-preserve=mode", unpacked])
            .arg(&copied),
    )?;
    cmd::run(
        Command::new("chmod")
            .args(["-R", "+x"])
            .arg(copied.join("bin"))
            .arg(copied.join("pkg/tool")),
    )?;
    fs::rename(&copied, &dir).with_context(|| format!("cannot create {}", dir.display()))?;
    fs::remove_dir_all(&part).with_context(|| format!("cannot remove {}", part.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_version_is_read_from_releases_and_candidates() {
        assert_eq!(minor_of("go version go1.26.8 linux/amd64"), Some(26));
        assert_eq!(minor_of("go version go1.27rc1 linux/arm64"), Some(27));
        assert_eq!(minor_of("go version devel linux/amd64"), None);
    }
}

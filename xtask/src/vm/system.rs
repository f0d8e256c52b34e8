//! A small Debian system with systemd, made of the files of this machine's own packages: for the package of the agent.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::Archive;
use super::text;
use crate::cmd;

/// What it consists of, and what the programs of these are linked with.
const PACKAGES: &[&str] = &[
    "bash",
    "coreutils",
    "dash",
    "debianutils",
    "diffutils",
    "dpkg",
    "findutils",
    "grep",
    "init-system-helpers",
    "iproute2",
    "libc-bin",
    "libsystemd-shared",
    "mount",
    "perl-base",
    "procps",
    "sed",
    "systemd",
    "tar",
    "util-linux",
];

/// Folders whose files are taken; the rest is documents, and configuration that the machine has its own of.
const PLACES: &[&str] = &["/usr/bin/", "/usr/sbin/", "/usr/lib/"];
const LEFT_OUT: &[&str] = &["/gconv/", "/udev/", "/locale/"];

/// Names that lead to the folders below /usr.
const LINKS: &[&str] = &["bin", "sbin", "lib", "lib64"];

/// The files of such a system; `None`: this machine has not all of its packages.
pub(super) fn files() -> Option<BTreeSet<PathBuf>> {
    let mut query = Command::new("dpkg-query");
    let listed = cmd::output(query.arg("--listfiles").args(PACKAGES)).ok()?;
    let mut files: BTreeSet<PathBuf> = listed.lines().filter_map(|line| real(Path::new(line))).collect();
    files.retain(|path| {
        let path = path.to_string_lossy();
        PLACES.iter().any(|place| path.starts_with(place)) && !LEFT_OUT.iter().any(|part| path.contains(part))
    });
    files.contains(Path::new("/usr/lib/systemd/systemd")).then_some(files)
}

/// Puts them into an archive, below a folder, with their libraries and those of another program.
pub(super) fn add(archive: &mut Archive, below: &str, mut files: BTreeSet<PathBuf>, other: &Path) -> Result<()> {
    for name in LINKS {
        if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
            archive.link(&format!("{below}/{name}"), text(&target)?)?;
        }
    }
    let mut programs: Vec<PathBuf> = files.iter().filter(|file| cmd::is_executable(file)).cloned().collect();
    programs.push(other.to_owned());
    for some in programs.chunks(64) {
        // It fails where one of them is a script or linked with nothing, and has told of the others.
        let output = Command::new("ldd").args(some).output().context("cannot start ldd")?;
        let list = String::from_utf8_lossy(&output.stdout);
        files.extend(
            list.split_whitespace()
                .filter(|word| word.starts_with('/') && !word.ends_with(':'))
                .filter_map(|word| real(Path::new(word))),
        );
    }
    let targets: Vec<PathBuf> = files.iter().filter_map(|file| fs::canonicalize(file).ok()).collect();
    files.extend(targets);
    for file in &files {
        let path = format!("{below}{}", text(file)?);
        if file.is_symlink() {
            archive.link(&path, text(&fs::read_link(file)?)?)?;
        } else if file.is_file() {
            let mode = if cmd::is_executable(file) { 0o755 } else { 0o644 };
            let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            archive.file(&path, mode, &content)?;
        }
    }
    Ok(())
}

/// The path with its folders' links followed, and its own not.
fn real(path: &Path) -> Option<PathBuf> {
    let folder = fs::canonicalize(path.parent()?).ok()?;
    Some(folder.join(path.file_name()?))
}

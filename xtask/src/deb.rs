//! `cargo xtask deb`: a Debian package, by Debian's own dpkg-deb.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ferrogate_documents::git;

use crate::{bpf, cmd, image, paths, setup};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const UNIT: &str = "usr/lib/systemd/system/ferrogate.service";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Package this program, which runs on this machine and needs no library, instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where to write it [default: target/ferrogate_VERSION_ARCHITECTURE.deb]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Args {
    /// A package of this program.
    pub(crate) fn of(binary: &Path, output: &Path) -> Self {
        Self {
            binary: Some(binary.to_owned()),
            output: Some(output.to_owned()),
        }
    }
}

/// What is copied from deploy/debian: the file, its place, its mode.
const FILES: &[(&str, &str, u32)] = &[
    ("ferrogate.service", UNIT, 0o644),
    ("config.yaml", "etc/ferrogate/config.yaml", 0o644),
    ("ferrogate.default", "etc/default/ferrogate", 0o644),
    ("copyright", "usr/share/doc/ferrogate/copyright", 0o644),
    ("lintian-overrides", "usr/share/lintian/overrides/ferrogate", 0o644),
    ("postinst", "DEBIAN/postinst", 0o755),
    ("prerm", "DEBIAN/prerm", 0o755),
    ("postrm", "DEBIAN/postrm", 0o755),
];

/// The program's completions, where each shell looks for those of packages.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "usr/share/bash-completion/completions/ferrogate"),
    ("zsh", "usr/share/zsh/vendor-completions/_ferrogate"),
    ("fish", "usr/share/fish/vendor_completions.d/ferrogate.fish"),
];

pub(crate) fn deb(args: &Args) -> Result<()> {
    setup::programs(&[
        ("dpkg-deb", "dpkg", "makes Debian packages"),
        ("strip", "binutils", "leaves out what only a debugger reads"),
    ])?;
    let architecture = cmd::output(Command::new("dpkg").arg("--print-architecture"))?;
    let binary = match &args.binary {
        Some(binary) => std::path::absolute(binary)?,
        None => {
            bpf::build()?;
            image::binary()?
        }
    };
    let name = format!("ferrogate_{VERSION}_{architecture}.deb");
    let output = args.output.clone().unwrap_or_else(|| paths::target().join(name));
    let root = empty_directory(&output.with_extension("root"))?;
    fill(&root, &binary, &architecture)?;
    let mut dpkg = Command::new("dpkg-deb");
    // The files are root's, whoever builds; the same input makes the same package.
    dpkg.args(["--build", "--root-owner-group", "-Zxz"])
        .arg(&root)
        .arg(&output);
    cmd::run(dpkg.env("SOURCE_DATE_EPOCH", last_change()?))?;
    fs::remove_dir_all(&root)?;
    check(&output)?;
    let size = fs::metadata(&output)?.len() / 1_000_000;
    println!("written: {} ({size} MB)", output.display());
    Ok(())
}

fn empty_directory(directory: &Path) -> Result<PathBuf> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    Ok(directory.to_owned())
}

/// When the last commit was made, Unix time: the date of all that is in the package.
fn last_change() -> Result<String> {
    cmd::output(git(paths::root()).args(["log", "-1", "--format=%ct"]))
}

/// The tree that is packed.
fn fill(root: &Path, binary: &Path, architecture: &str) -> Result<()> {
    let program = root.join("usr/bin/ferrogate");
    fs::create_dir_all(program.parent().context("a directory")?)?;
    cmd::run(
        Command::new("strip")
            .arg("--strip-unneeded")
            .arg("-o")
            .arg(&program)
            .arg(binary),
    )?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    for (file, place, mode) in FILES {
        let from = paths::root().join("deploy/debian").join(file);
        let bytes = fs::read(&from).with_context(|| from.display().to_string())?;
        put(root, place, &bytes, *mode)?;
    }
    for (shell, place) in COMPLETIONS {
        let script = cmd::output(Command::new(binary).args(["completions", shell]))?;
        put(root, place, format!("{script}\n").as_bytes(), 0o644)?;
    }
    let pages = root.join("usr/share/man/man1");
    cmd::output(Command::new(binary).arg("man").arg(&pages))?;
    for page in fs::read_dir(&pages)? {
        compress(&page?.path())?;
    }
    let documents = "usr/share/doc/ferrogate";
    put(root, &format!("{documents}/crates.txt"), crates()?.as_bytes(), 0o644)?;
    let changelog = format!("{documents}/changelog");
    put(root, &changelog, changes()?.as_bytes(), 0o644)?;
    compress(&root.join(changelog))?;
    let conffiles: Vec<String> = FILES
        .iter()
        .filter(|(_, place, _)| place.starts_with("etc/"))
        .map(|(_, place, _)| format!("/{place}\n"))
        .collect();
    put(root, "DEBIAN/conffiles", conffiles.concat().as_bytes(), 0o644)?;
    put(root, "DEBIAN/control", control(root, architecture)?.as_bytes(), 0o644)?;
    let sums = cmd::output(
        Command::new("sh")
            .current_dir(root)
            .args(["-c", "find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum"]),
    )?;
    put(root, "DEBIAN/md5sums", format!("{sums}\n").as_bytes(), 0o644)?;
    // Whatever the caller's umask is.
    cmd::run(Command::new("chmod").args(["-R", "u=rwX,go=rX"]).arg(root))
}

fn put(root: &Path, place: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let file = root.join(place);
    fs::create_dir_all(file.parent().context("a directory")?)?;
    fs::write(&file, bytes).with_context(|| file.display().to_string())?;
    fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn compress(file: &Path) -> Result<()> {
    // Without a name and a time in it.
    cmd::run(Command::new("gzip").args(["-9", "--no-name"]).arg(file))
}

fn control(root: &Path, architecture: &str) -> Result<String> {
    let size = cmd::output(
        Command::new("du")
            .args(["-sk", "--apparent-size"])
            .arg(root.join("usr")),
    )?;
    let size = size.split_whitespace().next().context("du says a size")?.to_owned();
    Ok(format!(
        "Package: ferrogate\n\
         Version: {VERSION}\n\
         Architecture: {architecture}\n\
         Maintainer: The authors of Ferrogate <maintainers@ferrogate.dev>\n\
         Installed-Size: {size}\n\
         Section: net\n\
         Priority: optional\n\
         Homepage: {}\n\
         Description: service load balancer of a Kubernetes node, in eBPF\n\
         \x20Takes kube-proxy's place: the ClusterIP, NodePort and LoadBalancer addresses of\n\
         \x20Services are translated in the kernel, at the edge where a client meets the\n\
         \x20node, on any network plugin. Without a cluster it balances what a directory of\n\
         \x20manifests says.\n\
         \x20.\n\
         \x20This package has the command with its manual pages, and a unit of systemd for\n\
         \x20nodes on which the agent does not run as a pod. It needs Linux 5.18 or later.\n",
        env!("CARGO_PKG_REPOSITORY")
    ))
}

/// Every crate that the program is linked with, and its licence.
fn crates() -> Result<String> {
    let mut cargo = cmd::cargo();
    cargo.args(["tree", "--quiet", "--package", "ferrogate-agent", "--edges", "normal"]);
    cargo.args(["--prefix", "none", "--no-dedupe", "--format", "{p} {l}"]);
    let list = cmd::output(&mut cargo)?;
    let mut lines: Vec<String> = list.lines().map(without_path).collect();
    lines.sort();
    lines.dedup();
    Ok(lines.join("\n") + "\n")
}

/// `name v1.0 (/somewhere) MIT` without where it lies here, or that it is a macro.
fn without_path(line: &str) -> String {
    let mut words = line.split_whitespace();
    let head: Vec<&str> = words.by_ref().take(2).collect();
    let licence: Vec<&str> = words
        .skip_while(|word| word.starts_with("(/") || *word == "(proc-macro)")
        .collect();
    format!("{} {}", head.join(" "), licence.join(" "))
}

fn changes() -> Result<String> {
    let date = cmd::output(git(paths::root()).args(["log", "-1", "--format=%cD"]))?;
    Ok(format!(
        "ferrogate ({VERSION}) unstable; urgency=medium\n\n  * See CHANGELOG.md of the sources.\n\n \
         -- The authors of Ferrogate <maintainers@ferrogate.dev>  {}\n",
        two_digit_day(&date)
    ))
}

/// `Sun, 2 Nov 2026 ...` as Debian wants it: `Sun, 02 Nov 2026 ...`.
fn two_digit_day(date: &str) -> String {
    match date.split_once(", ") {
        Some((day, rest)) if rest.as_bytes().get(1) == Some(&b' ') => format!("{day}, 0{rest}"),
        _ => date.to_owned(),
    }
}

/// Unpacks the package and runs what is in it; a systemd that is here reads the unit.
fn check(package: &Path) -> Result<()> {
    let root = empty_directory(&package.with_extension("check"))?;
    cmd::run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&root))?;
    let version = cmd::output(Command::new(root.join("usr/bin/ferrogate")).arg("--version"))?;
    ensure!(
        version == format!("ferrogate {VERSION}"),
        "the package's program says {version:?}"
    );
    println!("checked: unpacked, usr/bin/ferrogate says {version}");
    if cmd::which("systemd-analyze").is_some() {
        read_unit(&root)?;
        println!("checked: systemd reads the unit");
    }
    fs::remove_dir_all(&root)?;
    Ok(())
}

/// Has systemd read the unit, as one whose program is the unpacked one.
fn read_unit(root: &Path) -> Result<()> {
    let unit = root.join("ferrogate.service");
    let text = fs::read_to_string(root.join(UNIT))?;
    let program = root.join("usr/bin/ferrogate").display().to_string();
    fs::write(&unit, text.replace("/usr/bin/ferrogate", &program))?;
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&unit)
        .output()?;
    // It succeeds with keys that it does not know, and complains of other units too.
    let complaints = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = complaints
        .lines()
        .filter(|line| line.contains("ferrogate.service"))
        .collect();
    ensure!(ours.is_empty(), "systemd says of the unit: {}", ours.join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_listed_without_where_they_lie() {
        for (line, expected) in [
            ("anyhow v1.0.1 MIT OR Apache-2.0", "anyhow v1.0.1 MIT OR Apache-2.0"),
            ("serde_derive v1.0.2 (proc-macro) MIT", "serde_derive v1.0.2 MIT"),
            (
                "ferrogate-common v0.1.0 (/src/common) Apache-2.0",
                "ferrogate-common v0.1.0 Apache-2.0",
            ),
        ] {
            assert_eq!(without_path(line), expected);
        }
    }

    #[test]
    fn dates_are_as_debian_wants_them() {
        for (date, expected) in [
            ("Sun, 2 Nov 2026 10:00:00 +0000", "Sun, 02 Nov 2026 10:00:00 +0000"),
            ("Sun, 22 Nov 2026 10:00:00 +0000", "Sun, 22 Nov 2026 10:00:00 +0000"),
        ] {
            assert_eq!(two_digit_day(date), expected);
        }
    }
}

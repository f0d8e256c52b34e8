//! Debian's kernels: fetched as packages and unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cmd, paths};

/// An unpacked kernel.
pub(super) struct Kernel {
    /// As `uname -r` says.
    pub(super) release: String,
    /// The kernel itself.
    pub(super) image: PathBuf,
    /// The folder of its modules.
    pub(super) modules: PathBuf,
}

/// The kernel of a series, or of a package's file. `None`: the package lists have none.
pub(super) fn find(wanted: &str) -> Result<Option<Kernel>> {
    let cache = paths::cache().join("kernels");
    fs::create_dir_all(&cache)?;
    let file = PathBuf::from(wanted);
    let file = if file.is_file() {
        file
    } else {
        match newest(wanted)? {
            Some(package) => fetch(&package, &cache)?,
            None => return Ok(None),
        }
    };
    let name = file.file_stem().context("a package without a name")?;
    unpack(&file, &cache.join(name)).map(Some)
}

/// The newest package of a series, of the kind for virtual machines: it is the smallest.
fn newest(series: &str) -> Result<Option<String>> {
    let names = cmd::output(Command::new("apt-cache").args(["pkgnames", &format!("linux-image-{series}.")]))?;
    let mut names: Vec<&str> = names.lines().filter(|name| name.ends_with("-cloud-amd64")).collect();
    names.sort_by_key(|name| numbers(name));
    Ok(names.last().map(|name| (*name).to_owned()))
}

/// The numbers in a name, by which versions compare.
fn numbers(name: &str) -> Vec<u64> {
    let parts = name.split(|letter: char| !letter.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

/// Downloads a package, unless it is there.
fn fetch(package: &str, cache: &Path) -> Result<PathBuf> {
    let downloaded = || {
        let entries = fs::read_dir(cache).ok()?;
        let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let begins = format!("{package}_");
        paths.find(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with(&begins) && name.ends_with(".deb")
        })
    };
    if let Some(file) = downloaded() {
        return Ok(file);
    }
    println!("[setup] downloading {package}");
    let mut apt = Command::new("apt-get");
    cmd::output(apt.args(["-q", "download", package]).current_dir(cache))?;
    downloaded().with_context(|| format!("apt-get has downloaded {package}, and it is not in {}", cache.display()))
}

fn unpack(package: &Path, folder: &Path) -> Result<Kernel> {
    if !folder.is_dir() {
        let partial = folder.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        cmd::run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&partial))?;
        fs::rename(&partial, folder)?;
    }
    let boot = folder.join("boot");
    for entry in fs::read_dir(&boot).with_context(|| format!("cannot list {}", boot.display()))? {
        let image = entry?.path();
        let name = image.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(release) = name.strip_prefix("vmlinuz-") {
            let release = release.to_owned();
            // Newer packages have /usr merged.
            let candidates = ["lib/modules", "usr/lib/modules"].map(|below| folder.join(below).join(&release));
            let modules = candidates.into_iter().find(|path| path.is_dir());
            let modules = modules.with_context(|| format!("{} has no modules", package.display()))?;
            return Ok(Kernel {
                release,
                image,
                modules,
            });
        }
    }
    bail!("{} has no kernel", package.display());
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_compare_by_their_numbers() {
        assert!(numbers("linux-image-6.1.0-50-cloud-amd64") > numbers("linux-image-6.1.0-9-cloud-amd64"));
    }
}

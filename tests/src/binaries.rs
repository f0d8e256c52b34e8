//! Where the programs that the rig starts are found.
use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// A program of this workspace (`testpod`, `ferrogate`): beside the running program, or in the folder above (test programs
/// run in `deps/`), or where the variable `<NAME>_BIN` in capitals says.
pub fn workspace(name: &str) -> Result<PathBuf> {
    let variable = format!("{}_BIN", name.to_uppercase().replace('-', "_"));
    if let Some(path) = env::var_os(&variable) {
        return existing(name, vec![path.into()]);
    }
    let current = env::current_exe()?;
    let folders = current.ancestors().skip(1).take(2);
    existing(name, folders.map(|folder| folder.join(name)).collect())
}

/// A program of the control plane or a rival (`kube-apiserver`, `kube-proxy`, `coredns`), built by `cargo xtask setup`.
pub fn peer(name: &str) -> Result<PathBuf> {
    let mut candidates = vec![cache().join("peers/bin").join(name)];
    candidates.extend(env::var_os("FERROGATE_PEERS").map(|folder| Path::new(&folder).join(name)));
    candidates.push(home().join(".cache/k8s-e2e/bin").join(name));
    existing(name, candidates)
}

/// A program of the distribution, from PATH or the usual folders of administrators.
pub fn system(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from));
    existing(name, folders.map(|folder| folder.join(name)).collect())
}

/// `FERROGATE_CACHE`, or `~/.cache/ferrogate`.
pub fn cache() -> PathBuf {
    env::var_os("FERROGATE_CACHE").map_or_else(|| home().join(".cache/ferrogate"), PathBuf::from)
}

fn home() -> PathBuf {
    env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from)
}

fn existing(name: &str, candidates: Vec<PathBuf>) -> Result<PathBuf> {
    if let Some(found) = candidates.iter().find(|path| path.is_file()) {
        return Ok(found.clone());
    }
    bail!("no program {name}; looked at {candidates:?}")
}

//! Kernel modules, in the order in which they can be loaded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// What the test cluster's wiring and the agent need; what a kernel has built in is not among its modules.
pub(super) const WANTED: &[&str] = &[
    "veth",
    "bridge",
    "br_netfilter",
    "vxlan",
    "bonding",
    "8021q",
    "vrf",
    "macvlan",
    "ipip",
    "wireguard",
    "cls_bpf",
    "sch_ingress",
    "nf_conntrack",
    "inet_diag",
    "udp_diag",
    "tcp_diag",
];

pub(super) struct Module {
    pub(super) name: String,
    /// The ELF file.
    pub(super) image: Vec<u8>,
}

/// Reads the wanted modules below a folder and what they depend on, each behind what it needs.
pub(super) fn load(folder: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    find(folder, &mut files).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut loaded = Vec::new();
    for name in wanted {
        add(name, &files, &mut loaded)?;
    }
    Ok(loaded)
}

fn add(name: &str, files: &BTreeMap<String, PathBuf>, loaded: &mut Vec<Module>) -> Result<()> {
    let name = name.replace('-', "_");
    let Some(file) = files.get(&name) else {
        return Ok(());
    };
    if loaded.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let image = read(file)?;
    for dependency in dependencies(&image) {
        add(&dependency, files, loaded)?;
    }
    loaded.push(Module { name, image });
    Ok(())
}

/// Names of all modules, and their files.
fn find(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if let Some((name, _)) = path.file_name().and_then(|name| name.to_str()?.split_once(".ko")) {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let unpack = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(file).with_context(|| format!("cannot read {}", file.display())),
    };
    let output = Command::new(unpack).args(["-d", "-c"]).arg(file).output();
    let output = output.with_context(|| format!("cannot start {unpack}"))?;
    anyhow::ensure!(output.status.success(), "{unpack} cannot read {}", file.display());
    Ok(output.stdout)
}

/// The modules that one says it depends on: `depends=a,b`, a string of its section `.modinfo`.
fn dependencies(image: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = image.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = image.get(at + KEY.len()..).unwrap_or_default();
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    let list = String::from_utf8_lossy(value.get(..end).unwrap_or_default());
    list.split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::dependencies;

    #[test]
    fn what_a_module_depends_on_is_read_from_its_information() {
        assert_eq!(
            dependencies(b"ELF\0license=GPL\0depends=llc,stp\0name=bridge\0"),
            ["llc", "stp"]
        );
        assert!(dependencies(b"ELF\0depends=\0name=veth\0").is_empty());
        assert!(dependencies(b"ELF").is_empty());
    }
}

//! The Go programs that the cluster tests run: Kubernetes' own and CoreDNS beside the agent, and helm for the chart.
//!
//! They are built from their published modules, through small modules of our own. A stamp beside each holds what it was
//! built from, so that a change of a version or of a source builds it again, and nothing else does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::go::Go;
use super::say;
use crate::{cmd, paths};

const KUBERNETES: &str = "v1.36.3";
const COREDNS: &str = "v1.14.7";
const COREDNS_MAIN: &str = include_str!("../../peers/coredns/main.go");
const HELM: &str = "v3.22.0";
const KUBERNETES_PROGRAMS: &[&str] = &["kube-apiserver", "kube-controller-manager", "kube-proxy", "kubectl"];

/// Builds what is not there in the wanted version.
pub(super) fn build() -> Result<()> {
    let stale: Vec<&str> = KUBERNETES_PROGRAMS
        .iter()
        .copied()
        .filter(|name| !is_current(name, &kubernetes_stamp()))
        .collect();
    let coredns = !is_current("coredns", &coredns_stamp());
    let helm = !is_current("helm", &helm_mod());
    if stale.is_empty() && !coredns && !helm {
        return Ok(());
    }
    let go = Go::find()?;
    if !stale.is_empty() {
        say(format_args!(
            "building Kubernetes {KUBERNETES} from its Go module; the first time takes minutes"
        ));
        let module = kubernetes_module(&go)?;
        let flags = format!("-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES}");
        for name in stale {
            let package = format!("k8s.io/kubernetes/cmd/{name}");
            build_program(&go, &module, name, &package, &flags, &kubernetes_stamp())?;
        }
    }
    if coredns {
        let module = write_module("coredns", &coredns_mod())?;
        fs::write(module.join("main.go"), COREDNS_MAIN).context("cannot write CoreDNS's main.go")?;
        cmd::output(&mut go.command(&module, &["mod", "tidy"]))?;
        build_program(&go, &module, "coredns", ".", "-s -w", &coredns_stamp())?;
    }
    if helm {
        let package = "helm.sh/helm/v3/cmd/helm";
        let module = write_module("helm", &helm_mod())?;
        write_imports(&module, &[package])?;
        cmd::output(&mut go.command(&module, &["mod", "tidy"]))?;
        let flags = format!("-s -w -X helm.sh/helm/v3/internal/version.version={HELM}");
        build_program(&go, &module, "helm", package, &flags, &helm_mod())?;
    }
    Ok(())
}

fn kubernetes_stamp() -> String {
    format!("k8s.io/kubernetes {KUBERNETES}\n")
}

fn coredns_stamp() -> String {
    format!("{}{COREDNS_MAIN}", coredns_mod())
}

fn coredns_mod() -> String {
    format!("module ferrogate.dev/peers/coredns\n\ngo 1.26\n\nrequire github.com/coredns/coredns {COREDNS}\n")
}

/// Is its stamp too.
fn helm_mod() -> String {
    format!("module ferrogate.dev/peers/helm\n\ngo 1.26\n\nrequire helm.sh/helm/v3 {HELM}\n")
}

fn stamp_file(name: &str) -> PathBuf {
    paths::peers_bin().join(format!("{name}.stamp"))
}

fn is_current(name: &str, stamp: &str) -> bool {
    cmd::is_executable(&paths::peers_bin().join(name))
        && fs::read_to_string(stamp_file(name)).is_ok_and(|is| is == stamp)
}

/// Builds one program beside its place, then renames it there: a build that is cut short leaves nothing half-made.
fn build_program(go: &Go, module: &Path, name: &str, package: &str, flags: &str, stamp: &str) -> Result<()> {
    say(format_args!("go build {name}"));
    let bin = paths::peers_bin();
    fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
    let part = bin.join(format!(".{name}.{}", std::process::id()));
    let built = cmd::run(
        go.command(module, &["build", "-ldflags", flags, "-o"])
            .arg(&part)
            .arg(package),
    );
    if let Err(error) = built {
        fs::remove_file(&part).ok();
        return Err(error);
    }
    let place = bin.join(name);
    fs::rename(&part, &place).with_context(|| format!("cannot replace {}", place.display()))?;
    fs::write(stamp_file(name), stamp).with_context(|| format!("cannot write {}", stamp_file(name).display()))
}

/// Writes a module's go.mod into a clean directory of the cache and returns the directory.
fn write_module(name: &str, go_mod: &str) -> Result<PathBuf> {
    let dir = paths::cache().join("peers/src").join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot clear {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    fs::write(dir.join("go.mod"), go_mod).with_context(|| format!("cannot write {}/go.mod", dir.display()))?;
    Ok(dir)
}

/// A module that requires k8s.io/kubernetes, which nothing can require as it is: its go.mod names its staging modules at
/// v0.0.0, and they are published at `v0.<minor>.<patch>`.
fn kubernetes_module(go: &Go) -> Result<PathBuf> {
    let empty = write_module("kubernetes", "module ferrogate.dev/peers/kubernetes\n")?;
    let wanted = format!("k8s.io/kubernetes@{KUBERNETES}");
    let answer = cmd::output(&mut go.command(&empty, &["mod", "download", "-json", &wanted]))?;
    let answer: Value = serde_json::from_str(&answer).context("go mod download -json")?;
    let upstream = answer["GoMod"].as_str().context("go mod download names no go.mod")?;
    let upstream = fs::read_to_string(upstream).with_context(|| format!("cannot read {upstream}"))?;
    let dir = write_module("kubernetes", &kubernetes_mod(&upstream)?)?;
    let packages: Vec<String> = KUBERNETES_PROGRAMS
        .iter()
        .map(|name| format!("k8s.io/kubernetes/cmd/{name}"))
        .collect();
    write_imports(&dir, &packages)?;
    cmd::output(&mut go.command(&dir, &["mod", "tidy"]))?;
    Ok(dir)
}

/// Makes `go mod tidy` keep the modules of these programs.
fn write_imports(module: &Path, packages: &[impl std::fmt::Display]) -> Result<()> {
    let imports: String = packages.iter().map(|package| format!("\t_ \"{package}\"\n")).collect();
    let text = format!("//go:build tools\n\npackage tools\n\nimport (\n{imports})\n");
    fs::write(module.join("tools.go"), text).with_context(|| format!("cannot write {}/tools.go", module.display()))
}

/// Our go.mod, from the one of k8s.io/kubernetes.
fn kubernetes_mod(upstream: &str) -> Result<String> {
    let go = upstream
        .lines()
        .find(|line| line.starts_with("go "))
        .context("k8s.io/kubernetes names no Go version")?;
    let staging = KUBERNETES.replacen("v1.", "v0.", 1);
    let mut text =
        format!("module ferrogate.dev/peers/kubernetes\n\n{go}\n\nrequire k8s.io/kubernetes {KUBERNETES}\n\n");
    let mut replaced = 0;
    for line in upstream.lines() {
        let mut words = line.split_whitespace();
        if let (Some(module), Some("v0.0.0")) = (words.next(), words.next()) {
            text.push_str(&format!("replace {module} => {module} {staging}\n"));
            replaced += 1;
        }
    }
    if replaced == 0 {
        bail!("the go.mod of k8s.io/kubernetes {KUBERNETES} names no staging module at v0.0.0");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staging_modules_are_replaced_by_their_published_versions_and_others_are_not() {
        let upstream =
            "module k8s.io/kubernetes\n\ngo 1.26.0\n\nrequire (\n\tk8s.io/api v0.0.0\n\tk8s.io/utils v0.0.0-2025\n)\n";
        let text = kubernetes_mod(upstream).unwrap();
        assert!(text.contains("\ngo 1.26.0\n"), "{text}");
        assert!(text.contains("replace k8s.io/api => k8s.io/api v0.36.3\n"), "{text}");
        assert!(!text.contains("k8s.io/utils"), "{text}");
    }

    #[test]
    fn a_go_mod_without_staging_modules_is_refused() {
        assert!(kubernetes_mod("module k8s.io/kubernetes\n\ngo 1.26.0\n").is_err());
    }
}

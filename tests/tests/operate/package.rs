//! The Debian package: what is in it, that it installs, upgrades and goes, and that its agent serves with what its unit leaves it.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrogate_tests::binaries;
use serde_json::json;

use crate::common::{Is, apply, boot, eventually, ferrogate, ferrogate_json};

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("fg-package-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{said}{errors}",
        output.status
    );
    Ok(said)
}

/// The package of the agent under test.
fn build(directory: &Path) -> Result<PathBuf> {
    let package = directory.join("ferrogate.deb");
    let mut xtask = Command::new(binaries::workspace("xtask")?);
    xtask.arg("deb").arg("--binary").arg(binaries::workspace("ferrogate")?);
    let said = output(xtask.arg("--output").arg(&package))?;
    let systemd = binaries::system("systemd-analyze").is_ok();
    ensure!(said.contains("systemd reads the unit") == systemd, "{said}");
    Ok(package)
}

/// dpkg on a system that is nothing but this directory.
fn dpkg(root: &Path, arguments: &[&str]) -> Result<String> {
    let mut dpkg = Command::new("dpkg");
    // Maintainer scripts run outside of it, and are told where it is: there is no shell inside.
    dpkg.arg("--force-script-chrootless")
        .arg("--force-confold")
        .arg("--root")
        .arg(root);
    output(dpkg.args(arguments))
}

fn system(directory: &Path) -> Result<PathBuf> {
    let root = directory.join("system");
    for part in ["info", "updates", "triggers"] {
        fs::create_dir_all(root.join("var/lib/dpkg").join(part))?;
    }
    fs::write(root.join("var/lib/dpkg/status"), "")?;
    Ok(root)
}

#[test]
fn the_package_installs_upgrades_and_goes_and_its_agent_serves() -> Result<()> {
    let scratch = Scratch::new()?;
    let package = build(&scratch.0)?;
    installs(&scratch.0, &package)?;
    serves(&scratch.0, &package)
}

/// It has what a node needs, installs, keeps its configuration over an upgrade, and goes.
fn installs(directory: &Path, package: &Path) -> Result<()> {
    let shown = package.to_str().context("a path")?;
    let listed = output(Command::new("dpkg-deb").args(["--contents", shown]))?;
    for path in [
        "./usr/bin/ferrogate",
        "./usr/lib/systemd/system/ferrogate.service",
        "./usr/share/man/man1/ferrogate.1.gz",
        "./usr/share/man/man1/ferrogate-agent.1.gz",
        "./usr/share/bash-completion/completions/ferrogate",
        "./usr/share/zsh/vendor-completions/_ferrogate",
        "./usr/share/fish/vendor_completions.d/ferrogate.fish",
        "./usr/share/doc/ferrogate/copyright",
        "./usr/share/doc/ferrogate/changelog.gz",
        "./etc/default/ferrogate",
        "./etc/ferrogate/config.yaml",
    ] {
        ensure!(listed.lines().any(|line| line.ends_with(path)), "no {path}: {listed}");
    }
    ensure!(listed.lines().all(|line| line.contains(" root/root ")), "{listed}");
    let fields = output(Command::new("dpkg-deb").args(["--field", shown]))?;
    ensure!(
        fields.contains("Package: ferrogate\n") && !fields.contains("Depends:"),
        "{fields}"
    );

    let root = system(directory)?;
    dpkg(&root, &["--install", shown])?;
    let program = root.join("usr/bin/ferrogate");
    let version = output(Command::new(&program).arg("--version"))?;
    ensure!(
        fields.contains(&format!(
            "Version: {}\n",
            version.trim().trim_start_matches("ferrogate ")
        )),
        "{version}"
    );
    ensure!(
        dpkg(&root, &["--verify", "ferrogate"])?.is_empty(),
        "the sums are those of the files"
    );
    // What the owner of the machine has written stays.
    let config = root.join("etc/ferrogate/config.yaml");
    fs::write(&config, "mine")?;
    dpkg(&root, &["--install", shown])?;
    ensure!(
        fs::read_to_string(&config)? == "mine",
        "an upgrade keeps the configuration"
    );
    dpkg(&root, &["--remove", "ferrogate"])?;
    ensure!(
        !program.exists() && config.exists(),
        "removed, with the configuration left"
    );
    dpkg(&root, &["--purge", "ferrogate"])?;
    ensure!(!config.exists(), "purged");
    Ok(())
}

/// `+bpf,+net_admin`: the unit's capabilities as setpriv takes them.
fn capabilities(unit: &str) -> Result<String> {
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = line.context("the unit names capabilities")?.split_whitespace();
    let names: Vec<String> = names
        .map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    Ok(format!("-all,{}", names.join(",")))
}

/// Its agent serves with the package's configuration, and the capabilities that the unit leaves it.
fn serves(directory: &Path, package: &Path) -> Result<()> {
    let root = directory.join("root");
    output(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&root))?;
    let unit = fs::read_to_string(root.join("usr/lib/systemd/system/ferrogate.service"))?;
    let mut rig = boot(&[])?;
    apply(&rig, &json!({}), &[("a1", Is::Ready), ("b1", Is::Ready)])?;
    rig.take_proxy(1)?.terminate(Duration::from_secs(15))?;
    let node = rig.node(1);
    let manifests = node
        .directory
        .parent()
        .context("the rig's directory")?
        .join("manifests");
    let mut agent = node.place.command(binaries::system("setpriv")?)?;
    agent.args(["--no-new-privs", "--bounding-set", &capabilities(&unit)?]);
    agent.arg(root.join("usr/bin/ferrogate")).arg("agent");
    agent.arg("--config").arg(root.join("etc/ferrogate/config.yaml"));
    agent
        .arg("--manifests")
        .arg(manifests)
        .args(["--node-name", "n1", "--xdp", "off"]);
    agent
        .arg("--run-dir")
        .arg(&node.directory)
        .arg("--state-dir")
        .arg(&node.bpffs);
    agent.arg("--cgroup").arg(&node.place.cgroup);
    let log = fs::File::create(directory.join("agent.log"))?;
    let mut agent = agent.stdin(Stdio::null()).stderr(log).spawn().context("setpriv")?;
    let served = eventually("the package's agent serves", || {
        let Ok(status) = ferrogate_json(&rig, 1, &["status"]) else {
            return Ok(false);
        };
        Ok(status["source"]["state"] == "synced" && status["services"] == 1 && status["problems"] == json!([]))
    });
    let doctor = ferrogate(&rig, 1, &["doctor"])?;
    agent.kill()?;
    agent.wait()?;
    let log = fs::read_to_string(directory.join("agent.log"))?;
    served.context(log.clone())?;
    ensure!(
        doctor.status.success(),
        "{}\n{log}",
        String::from_utf8_lossy(&doctor.stdout)
    );
    // The helper, which the capabilities beyond the three are for, is there.
    ensure!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    Ok(())
}

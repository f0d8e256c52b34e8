//! Network namespaces with names, as `ip netns` keeps them.
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, thread};

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where iproute2 keeps named namespaces.
pub(crate) const FOLDER: &str = "/run/netns";

/// A network namespace, deleted when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes the namespace, with `lo` up and IPv6 addresses that are usable at once (no duplicate address detection, no
    /// router advertisements).
    pub(crate) fn create(name: String) -> Result<Self> {
        ip(["netns", "add", &name])?;
        let netns = Self { name };
        for scope in ["all", "default"] {
            netns.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
            netns.sysctl(&format!("net/ipv6/conf/{scope}/accept_ra"), "0")?;
            netns.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
        }
        // Refusals in quick succession are to be seen, all of them.
        netns.sysctl("net/ipv4/icmp_ratelimit", "0")?;
        netns.sysctl("net/ipv6/icmp/ratelimit", "0")?;
        netns.ip_batch("link set lo up\n")?;
        Ok(netns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// Runs `work` on a thread that is inside the namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| self.name.clone())?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            });
            inside.join().map_err(|_| anyhow!("panicked inside {}", self.name))?
        })
    }

    /// Sets `/proc/sys/<path>`.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        self.enter(|| fs::write(Path::new("/proc/sys").join(path), value).with_context(|| format!("{path}={value}")))
    }

    /// Runs lines of iproute2 commands in the namespace (`link add ...`), all of them or an error.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        self.batch("ip", lines)
    }

    /// The same for iproute2's `bridge` (`fdb add ...`).
    pub fn bridge_batch(&self, lines: &str) -> Result<()> {
        self.batch("bridge", lines)
    }

    /// Switches an offload of an interface: `ethtool -K`.
    pub(crate) fn ethtool(&self, interface: &str, feature: &str, value: &str) -> Result<()> {
        self.enter(|| {
            let arguments = ["-K", interface, feature, value];
            let output = Command::new("ethtool").args(arguments).output().context("ethtool")?;
            if !output.status.success() {
                let message = String::from_utf8_lossy(&output.stderr).into_owned();
                bail!("ethtool {}: {}", arguments.join(" "), message.trim());
            }
            Ok(())
        })
    }

    fn batch(&self, program: &str, lines: &str) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut child = Command::new(program)
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("iproute2's {program}"))?;
        child.stdin.take().context("stdin")?.write_all(lines.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "{program} in {}: {}\n{lines}",
                self.name,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = delete(&self.name);
    }
}

/// Deletes a namespace by name.
pub(crate) fn delete(name: &str) -> Result<()> {
    ip(["netns", "del", name])
}

fn ip<const N: usize>(arguments: [&str; N]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("iproute2's ip")?;
    if !output.status.success() {
        bail!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

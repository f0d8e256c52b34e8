//! What machine it is, and what ran.
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::binaries;

/// What a reader must know to judge the numbers.
pub(super) struct Facts {
    pub(super) lines: Vec<(&'static str, String)>,
}

impl Facts {
    pub(super) fn collect(quick: bool, only: Option<&str>, took: Duration) -> Result<Self> {
        let read = |file: &str| fs::read_to_string(file).with_context(|| file.to_owned());
        let cpu = read("/proc/cpuinfo")?;
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.map_or("unknown", |line| line.trim_start_matches([' ', '\t', ':']));
        let cpus = thread_count();
        let memory = read("/proc/meminfo")?;
        let kilobytes = memory
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").unwrap_or_default();
        let virtual_machine = cpu
            .lines()
            .any(|line| line.starts_with("flags") && line.contains(" hypervisor"));
        let mut lines = vec![
            ("kernel", read("/proc/sys/kernel/osrelease")?.trim().to_owned()),
            (
                "processor",
                format!("{cpus} x {model}{}", if virtual_machine { ", virtual" } else { "" }),
            ),
            (
                "memory",
                kilobytes.map_or_else(String::new, |kb| format!("{} MiB", kb / 1024)),
            ),
            ("BPF JIT", if jit.trim() == "0" { "off" } else { "on" }.to_owned()),
            (
                "run",
                format!(
                    "{}{}, {:.0} s",
                    only.map_or_else(String::new, |only| format!("of several, the last of rows {only}: ")),
                    if quick { "quick" } else { "full" },
                    took.as_secs_f64()
                ),
            ),
        ];
        if let Some(version) = version(Command::new("nft").arg("--version")) {
            lines.push(("nftables", version));
        }
        if let Ok(program) = binaries::peer("kube-proxy")
            && let Some(version) = version(Command::new(program).arg("--version"))
        {
            lines.push(("kube-proxy", version));
        }
        Ok(Self { lines })
    }
}

fn thread_count() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// The first line of what a program says of itself.
fn version(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().map(|line| line.trim().to_owned())
}

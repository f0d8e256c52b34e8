//! Row 12: kernel memory a flow.
use std::fs;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ferrogate_common::maps;

use super::command::Settings;
use super::result::{Goal, Measured, Samples};
use crate::kernel::Object;
use crate::rig::{Family, FerrogateOptions, Options, Place, PodSpec, Process, Proxy, Rig, ServiceSpec};
use crate::wire::{ProbeRequest, Protocol};

const ROW_12: (u8, &str) = (12, "kernel memory a flow");

/// What this file measures.
pub(super) const ROWS: &[(u8, &str)] = &[ROW_12];

/// Sockets that are held at once: below what a container's processes may have open (20,000 files).
const SOCKETS: u32 = 15_000;

const PATIENCE: Duration = Duration::from_secs(20);

/// Row 12.
///
/// On the packet edges a flow is two entries; what an entry takes is what the kernel says the whole map takes, buckets and all,
/// by its number of entries, which are all allocated at once.
pub(super) fn measure(settings: &Settings) -> Result<Vec<Measured>> {
    if !settings.wants(ROW_12.0, ROW_12.1) {
        return Ok(Vec::new());
    }
    let object = Object::load_with(|_| {})?;
    let entry = |name: &str, entries: u32| -> Result<f64> {
        Ok(bytes(object.map_descriptor(name)?)? as f64 / f64::from(entries))
    };
    let flows = entry(maps::FLOWS.name, maps::FLOWS.entries)?;
    let half_open = entry(maps::HALF_OPEN.name, maps::HALF_OPEN.entries)?;
    let snat = entry(maps::SNAT_FLOWS.name, maps::SNAT_FLOWS.entries)?;
    let mut measured = Vec::new();
    for (case, value) in [
        ("established, to a pod here", 2.0 * flows),
        ("half open, to a pod here", 2.0 * half_open),
        ("established, transit", flows + snat),
    ] {
        measured.push(size(case, &[value], 260.0)?);
    }
    // A UDP socket's entry in the map of connected ones, beside what is allocated with it.
    let udp = entry(maps::UDP_SOCKETS.name, maps::UDP_SOCKETS.entries)?;
    let sockets: Vec<_> = sockets(settings)?.iter().map(|bytes| bytes + udp).collect();
    measured.push(size("a connected UDP socket, socket edge", &sockets, 128.0)?);
    Ok(measured)
}

/// Bytes, held against a goal in bytes.
fn size(case: &str, rounds: &[f64], most: f64) -> Result<Measured> {
    let mut samples = Samples::default();
    for value in rounds {
        samples.push("ours", *value);
        samples.push("one byte", 1.0);
    }
    samples.measured(ROW_12, case, ("ours", "one byte"), Goal::AtMost(most), "bytes")
}

/// What the kernel allocates more for a socket that is connected to a ClusterIP than for one that is connected to the pod itself,
/// round by round.
fn sockets(settings: &Settings) -> Result<Vec<f64>> {
    const SERVER: &str = "a";
    let mut rig = Rig::boot(Options {
        nodes: 1,
        proxy: Proxy::Ferrogate(FerrogateOptions::default()),
        ..Options::default()
    })?;
    rig.add_pod(PodSpec::new(SERVER, 1))?;
    rig.add_pod(PodSpec::new("c", 1).ports(&[]))?;
    let service = ServiceSpec::new("memory", SERVER, 1000).port(Protocol::Udp, 80, 8080, None);
    let cluster_ip = SocketAddr::new(service.cluster_ip.get(Family::V4), 80);
    rig.add_service(service)?;
    let client = &rig.pod("c").place;
    let deadline = Instant::now() + PATIENCE;
    while !client.probe(&ProbeRequest::new(Protocol::Udp, cluster_ip))?.complete() {
        ensure!(
            Instant::now() < deadline,
            "the Service does not answer within {PATIENCE:?}"
        );
    }
    let straight = SocketAddr::new(rig.pod(SERVER).addresses.get(Family::V4), 8080);
    let mut rounds = Vec::new();
    for _ in 0..settings.choose(3, 7) {
        let (without, with) = (held(client, straight)?, held(client, cluster_ip)?);
        rounds.push((with - without) / f64::from(SOCKETS));
    }
    Ok(rounds)
}

/// What the kernel allocates while sockets are connected, in bytes.
fn held(client: &Place, to: SocketAddr) -> Result<f64> {
    let mut command = client.testpod_command()?;
    command
        .args(["hold", &format!("--to={to}"), &format!("--count={SOCKETS}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let before = allocated()?;
    let mut process = Process::start("hold", command)?;
    process.wait_for_error_line("held")?;
    let after = allocated()?;
    drop(process.stdin());
    process.output()?;
    // What is freed is freed after a grace period.
    thread::sleep(Duration::from_millis(500));
    Ok(after - before)
}

/// Bytes of the kernel's own general allocations (kmalloc) in use.
fn allocated() -> Result<f64> {
    let file = "/proc/slabinfo";
    let text = fs::read_to_string(file).context(file)?;
    let caches = text.lines().filter(|line| line.starts_with("kmalloc-"));
    let bytes = caches.filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let objects: f64 = words.next()?.parse().ok()?;
        let size: f64 = words.nth(1)?.parse().ok()?;
        Some(objects * size)
    });
    Ok(bytes.sum())
}

/// What the kernel has for a map.
fn bytes(map: BorrowedFd<'_>) -> Result<u64> {
    let file = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let text = fs::read_to_string(&file).context(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.and_then(|number| number.trim().parse().ok())
        .context("the kernel does not say what a map takes")
}

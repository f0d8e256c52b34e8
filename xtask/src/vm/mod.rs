//! `cargo xtask vm-test`: the programs and a walk through them on other kernels, in an emulated machine.

mod archive;
mod kernel;
mod machine;
mod modules;
mod system;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::test::Tally;
use crate::{bpf, cmd, deb, paths, setup, test};
use archive::Archive;
use kernel::Kernel;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernels: series of Debian's (6.1, 6.12), or files of linux-image packages
    #[arg(
        long,
        value_name = "KERNEL[,KERNEL]",
        value_delimiter = ',',
        default_value = "6.1,6.12"
    )]
    kernel: Vec<String>,
    /// Only runs whose name contains this: verifier, capture, walks, walks over a bond, walks over a
    /// VLAN, walks over a VRF, package
    #[arg(long, value_name = "TEXT", default_value = "")]
    run: String,
    /// Passed to the walks: only those whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "->", allow_hyphen_values = true)]
    walks: String,
    /// Show also what the machine prints while it starts
    #[arg(long, short)]
    verbose: bool,
}

/// What runs in the machine: a test program of the tests crate, and its arguments.
struct Run {
    name: &'static str,
    target: &'static str,
    arguments: Vec<String>,
}

impl Run {
    fn new(name: &'static str, target: &'static str, arguments: &[&str]) -> Self {
        Self {
            name,
            target,
            arguments: arguments.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Packages with what the machine needs besides the kernel.
const PROGRAMS: [(&str, &str, &str); 6] = [
    ("qemu-system-x86_64", "qemu-system-x86", "the emulated machine"),
    ("busybox", "busybox", "its first process and shell"),
    ("ip", "iproute2", "network namespaces, links, routes"),
    ("ethtool", "ethtool", "offloads of the test cluster's links"),
    ("xz", "xz-utils", "unpacks kernel modules"),
    (
        "strip",
        "binutils",
        "makes the programs small enough for the machine's memory",
    ),
];

/// Sets up, builds, and runs. The last line is always `N passed, N failed, N skipped`; returns whether all is well.
pub(crate) fn vm_test(args: &Args) -> Result<bool> {
    setup::setup(&setup::Args { peers: false })?;
    setup::programs(&PROGRAMS)?;
    bpf::build()?;
    let filter = format!("--filter={}", args.walks);
    let walks = ["--layout", "routed", &filter];
    let runs = [
        Run::new("verifier", "verifier", &["--nocapture"]),
        capture(),
        Run::new("walks", "walks", &walks),
        Run::new(
            "walks over a bond",
            "walks",
            &[&walks[..], &["--uplink", "bond", "--socket-edge", "off"]].concat(),
        ),
        Run::new(
            "walks over a VLAN",
            "walks",
            &[&walks[..], &["--uplink", "vlan", "--socket-edge", "off"]].concat(),
        ),
        Run::new(
            "walks over a VRF",
            "walks",
            // A node's packets to its own address in a VRF come round by the VRF's device, where there is no edge.
            &[&walks[..], &["--uplink", "vrf", "--socket-edge", "node"]].concat(),
        ),
    ];
    let runs: Vec<Run> = runs.into_iter().filter(|run| run.name.contains(&args.run)).collect();
    let package = PACKAGE.contains(&args.run);
    if runs.is_empty() && !package {
        bail!("no run's name contains {:?}: see --help", args.run);
    }
    let mut programs = Vec::new();
    for run in &runs {
        programs.push(test::program(run.target)?);
    }
    let mut total = Tally::default();
    let mut rows = Vec::new();
    for wanted in &args.kernel {
        let Some(kernel) = kernel::find(wanted)? else {
            total.complaints.push(format!(
                "{wanted}: this machine's package lists have no such kernel; name a file of a linux-image package"
            ));
            continue;
        };
        println!("\n== Linux {} ==", kernel.release);
        let begun = Instant::now();
        let mut tally = Tally::default();
        if !runs.is_empty() {
            tally += boot(&kernel, &runs, &programs, args.verbose)?;
        }
        if package {
            tally += test_package(&kernel, args.verbose)?;
        }
        rows.push(format!(
            "{:<36} {:>6.1} s  {}",
            kernel.release,
            begun.elapsed().as_secs_f64(),
            tally.line()
        ));
        total += tally;
    }
    println!("\n{}", rows.join("\n"));
    for complaint in &total.complaints {
        println!("FAILED: {complaint}");
    }
    println!("{}", total.line());
    Ok(total.complaints.is_empty())
}

/// The oldest kernel that the programs are for: its verifier gives up soonest.
const OLDEST: &str = "6.1";

/// Captures of packets, which a hardened kernel does not allow: the one that the tests run on may be one.
fn capture() -> Run {
    Run::new("capture", "operate", &["capture::", "--test-threads=1", "--nocapture"])
}

/// Has the oldest kernel's verifier look at every program, packets be captured there, and the package run under systemd; the arguments
/// are test programs.
pub(crate) fn test_oldest(verifier: &Path, operate: &Path, verbose: bool) -> Result<Tally> {
    setup::programs(&PROGRAMS)?;
    let Some(kernel) = kernel::find(OLDEST)? else {
        return Ok(Tally::skip(&format!(
            "the verifier of Linux {OLDEST}, captures of packets and the package under systemd: this machine's package lists have no such kernel"
        )));
    };
    println!("in an emulated machine: Linux {}", kernel.release);
    let runs = [Run::new("verifier", "verifier", &["--nocapture"]), capture()];
    let mut tally = boot(&kernel, &runs, &[verifier.to_owned(), operate.to_owned()], verbose)?;
    tally += test_package(&kernel, verbose)?;
    Ok(tally)
}

/// The run that is none of a test program.
const PACKAGE: &str = "package";

/// Boots a system with systemd, on which the Debian package is installed, run, upgraded and removed.
fn test_package(kernel: &Kernel, verbose: bool) -> Result<Tally> {
    let Some(files) = system::files() else {
        return Ok(Tally::skip(
            "the package under systemd: this machine's packages have none to make a system of",
        ));
    };
    let directory = directory(kernel)?;
    let debug = paths::target().join("debug");
    let package = directory.join("ferrogate.deb");
    deb::deb(&deb::Args::of(&debug.join("ferrogate"), &package))?;
    let image = directory.join("system.cpio");
    let mut archive = begin(kernel, &image)?;
    let testpod = stripped(&debug.join("testpod"), &directory)?;
    system::add(&mut archive, SYSTEM, files, &testpod)?;
    let mut put = |path: &str, content: &[u8]| archive.file(&format!("{SYSTEM}/{path}"), 0o755, content);
    put("usr/bin/testpod", &std::fs::read(&testpod)?)?;
    put("ferrogate.deb", &std::fs::read(&package)?)?;
    put("package.sh", include_bytes!("package.sh"))?;
    archive.file("/init", 0o755, include_bytes!("system.sh"))?;
    archive.finish()?;
    machine::run(kernel, &image, [PACKAGE].into_iter(), verbose)
}

/// Where the system's files are before it is one.
const SYSTEM: &str = "/system";

/// Boots a kernel with the programs in its first file system, and reads what it prints until it is off.
fn boot(kernel: &Kernel, runs: &[Run], programs: &[PathBuf], verbose: bool) -> Result<Tally> {
    let directory = directory(kernel)?;
    let image = directory.join("initramfs.cpio");
    let mut archive = begin(kernel, &image)?;
    for program in ["ip", "ethtool"] {
        archive.binary(&which(program)?, None)?;
    }
    let debug = paths::target().join("debug");
    for program in programs.iter().chain(&[debug.join("testpod"), debug.join("ferrogate")]) {
        archive.binary(&stripped(program, &directory)?, Some(text(program)?))?;
    }
    archive.file(text(&paths::bpf_object())?, 0o644, &std::fs::read(paths::bpf_object())?)?;
    archive.file("/init", 0o755, machine::init(runs, programs)?.as_bytes())?;
    archive.finish()?;
    machine::run(kernel, &image, runs.iter().map(|run| run.name), verbose)
}

/// Where a kernel's images are made.
fn directory(kernel: &Kernel) -> Result<PathBuf> {
    let directory = paths::target().join("vm").join(&kernel.release);
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// A first file system with the kernel's modules and a shell.
fn begin(kernel: &Kernel, image: &Path) -> Result<Archive> {
    let mut archive = Archive::create(image)?;
    let modules = modules::load(&kernel.modules, modules::WANTED)?;
    let order: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
    archive.file("/modules/order", 0o644, (order.join("\n") + "\n").as_bytes())?;
    for module in &modules {
        archive.file(&format!("/modules/{}.ko", module.name), 0o644, &module.image)?;
    }
    archive.binary(&which("busybox")?, Some("/bin/busybox"))?;
    Ok(archive)
}

fn which(program: &str) -> Result<PathBuf> {
    cmd::which(program).with_context(|| format!("no program {program}"))
}

/// A copy without debug information: the machine's memory holds it all.
fn stripped(program: &Path, directory: &Path) -> Result<PathBuf> {
    let name = program.file_name().context("a program without a name")?;
    let copy = directory.join(name);
    cmd::run(Command::new("strip").arg("-o").arg(&copy).arg(program))?;
    Ok(copy)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

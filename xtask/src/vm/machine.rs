//! The emulated machine: what runs in it first, and how it is started.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::kernel::Kernel;
use super::{Run, text};
use crate::paths;
use crate::test::Tally;

/// The longest that a machine may run.
const SECONDS: &str = "2400";
/// Its memory, in MiB: the programs are in it too.
const MEMORY: &str = "4096";
/// What the machine prints around each run: `BEGIN name` and `END name STATUS`.
const BEGIN: &str = "[vm] begin ";
const END: &str = "[vm] end ";

/// The script that the kernel starts.
pub(super) fn init(runs: &[Run], programs: &[PathBuf]) -> Result<String> {
    let mut script = format!(
        "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root FERROGATE_BPF_OBJECT={object}
mkdir -p /dev /proc /sys /tmp /root /run
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd
for module in $(cat /modules/order); do
    insmod /modules/$module.ko || echo \"insmod $module failed\"
done
ip link set lo up
ulimit -l unlimited
mkdir -p {tests}
cd {tests}
",
        object = text(&paths::bpf_object())?,
        tests = text(&paths::root().join("tests"))?,
    );
    for (run, program) in runs.iter().zip(programs) {
        let arguments: Vec<String> = run.arguments.iter().map(|argument| format!("'{argument}'")).collect();
        writeln!(
            script,
            "echo '{BEGIN}{name}'\n{program} {arguments} 2>&1\necho \"{END}{name} $?\"",
            name = run.name,
            program = text(program)?,
            arguments = arguments.join(" ")
        )?;
    }
    script.push_str("poweroff -f\n");
    Ok(script)
}

/// Starts the machine and reads what it prints.
pub(super) fn run(
    kernel: &Kernel,
    image: &Path,
    names: impl Iterator<Item = &'static str>,
    verbose: bool,
) -> Result<Tally> {
    let mut machine = Command::new("timeout");
    machine.args([
        SECONDS,
        "qemu-system-x86_64",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
    ]);
    machine.args(["-smp", "2", "-m", MEMORY, "-nodefaults", "-nographic", "-no-reboot"]);
    machine.args([
        "-serial",
        "stdio",
        "-append",
        "console=ttyS0 quiet panic=-1 mitigations=off",
    ]);
    machine.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(image);
    let mut child = machine
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the emulated machine")?;
    let output = child.stdout.take().context("no output")?;
    let mut whole = Tally::default();
    let mut running: Option<(String, Tally)> = None;
    let mut ended = Vec::new();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        if let Some((_, name)) = line.split_once(BEGIN) {
            running = Some((name.to_owned(), Tally::default()));
        } else if let Some((_, end)) = line.split_once(END) {
            let status = end.rsplit_once(' ').map_or("", |(_, status)| status);
            if let Some((name, mut tally)) = running.take() {
                tally.settle(&name, status == "0", &format!("exit status {status}"));
                whole += tally;
                ended.push(name);
            }
        } else if let Some((_, tally)) = &mut running {
            tally.read(&line);
            println!("{line}");
        } else if verbose {
            println!("{line}");
        }
    }
    child.wait()?;
    for name in names.filter(|name| !ended.iter().any(|ended| ended == name)) {
        whole.failed += 1;
        whole.complaints.push(format!(
            "{} on Linux {}: the machine ended before it did; --verbose shows what it printed",
            name, kernel.release
        ));
    }
    Ok(whole)
}

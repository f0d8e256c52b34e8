//! The life of the agent: ends, restarts, upgrades, and starts that fail.
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrogate_common::ABI_VERSION;

use super::{Aftermath, Fault, Ground, TERMINATION, harmless, links, objects};
use crate::binaries;
use crate::kernel::pin_map;
use crate::rig::{Node, Process};
use crate::wait::eventually;

pub(super) const FAULTS: &[Fault] = &[
    harmless("killed (SIGKILL) and started again", true, killed),
    harmless("stopped (SIGTERM) and started again", true, stopped),
    harmless("killed again and again while it starts", true, killed_at_start),
    harmless("upgraded to other programs of the same ABI, and back", false, upgraded),
    harmless(
        "upgraded from another version of the maps' layouts, and back",
        false,
        other_layouts,
    ),
    harmless("an upgrade that the verifier refuses", false, refused_by_the_verifier),
    harmless("an upgrade over a pinned map of another layout", false, foreign_map),
    harmless("started with its BPF file system read-only", false, read_only),
    harmless("a second agent started beside it", false, second_agent),
];

/// Only where another build is at hand.
pub(super) const OTHER_BUILD: Fault = harmless(
    "another build of the agent takes over, and this one again",
    false,
    other_build,
);

/// As [`OTHER_BUILD`], in a rig whose agents are of the other build at first, as those of an earlier release are.
pub(super) const FROM_OTHER_BUILD: Fault =
    harmless("upgraded from another build of the agent", false, from_other_build);

/// Ends every node's proxy, leaves the nodes alone for a while with something new to learn, and starts the proxies again.
fn absent(ground: &mut Ground, end: impl Fn(&mut Ground, u8) -> Result<()>) -> Result<Aftermath> {
    for node in ground.nodes() {
        end(ground, node)?;
    }
    let marker = ground.marker()?;
    let absence = Duration::from_millis(ground.random.u64(200..2000));
    thread::sleep(absence);
    for node in ground.nodes() {
        ground.start(node)?;
    }
    Ok(Aftermath {
        converged: Some(ground.await_marker(&marker)?),
        note: format!("away for {} ms", absence.as_millis()),
    })
}

fn killed(ground: &mut Ground) -> Result<Aftermath> {
    absent(ground, |ground, node| {
        ground.rig.take_proxy(node)?.kill()?;
        Ok(())
    })
}

fn stopped(ground: &mut Ground) -> Result<Aftermath> {
    absent(ground, |ground, node| {
        let status = ground.rig.take_proxy(node)?.terminate(TERMINATION)?;
        ensure!(
            !ground.ours() || status.success(),
            "the agent of node {node} ended with {status}"
        );
        Ok(())
    })
}

fn killed_at_start(ground: &mut Ground) -> Result<Aftermath> {
    const TIMES: u32 = 6;
    for _ in 0..TIMES {
        for node in ground.nodes() {
            ground.rig.take_proxy(node)?.kill()?;
            ground.start(node)?;
        }
        let moment = Duration::from_millis(ground.random.u64(5..900));
        thread::sleep(moment);
    }
    let marker = ground.marker()?;
    Ok(Aftermath {
        converged: Some(ground.await_marker(&marker)?),
        note: format!("{TIMES} times, at random moments of its start"),
    })
}

/// Ends every agent, and starts them again after something was done; until they have taken in what is new.
fn restart(ground: &mut Ground, between: impl FnOnce(&mut Ground) -> Result<()>) -> Result<Duration> {
    for node in ground.nodes() {
        ground.rig.take_proxy(node)?.terminate(TERMINATION)?;
    }
    between(ground)?;
    let marker = ground.marker()?;
    for node in ground.nodes() {
        ground.start(node)?;
    }
    ground.await_marker(&marker)
}

/// Ends every agent and starts it again with these options.
pub(super) fn exchange(ground: &mut Ground, options: &[String]) -> Result<Duration> {
    restart(ground, |ground| {
        ground.set_agent_options(options);
        Ok(())
    })
}

fn with_object(path: &Path) -> Vec<String> {
    vec![format!("--object={}", path.display())]
}

fn upgraded(ground: &mut Ground) -> Result<Aftermath> {
    let (old, new) = (objects::built("ferrogate.o")?, objects::built("ferrogate-other.o")?);
    ensure!(fs::read(&old)? != fs::read(&new)?, "the two objects are the same");
    let before = ground.links()?;
    let converged = exchange(ground, &with_object(&new))?;
    let upgraded = ground.links()?;
    links::same(&before, &upgraded)?;
    links::replaced(&before, &upgraded)?;
    exchange(ground, &[])?;
    links::replaced(&upgraded, &ground.links()?)?;
    Ok(Aftermath {
        converged: Some(converged),
        note: format!("{} links kept, each with a new program", before.len()),
    })
}

/// What starts an agent by a script that changes the mounts which it alone sees.
pub(super) fn with_mounts(script: &str) -> Vec<String> {
    [
        "unshare",
        "--mount",
        "--propagation=private",
        "sh",
        "-ec",
        script,
        "agent",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// What starts an agent of another build with this one's arguments.
pub(super) fn instead(other: &Path) -> Vec<String> {
    let command = format!("shift; exec {} \"$@\"", other.display());
    vec!["sh".to_owned(), "-ec".to_owned(), command, "sh".to_owned()]
}

/// Ends the agents and starts what the launcher starts, which is to take every link over.
fn relieve(ground: &mut Ground, launcher: &[String]) -> Result<Duration> {
    let before = ground.links()?;
    let converged = restart(ground, |ground| {
        ground.set_launcher(launcher);
        Ok(())
    })?;
    let after = ground.links()?;
    links::same(&before, &after)?;
    links::replaced(&before, &after)?;
    Ok(converged)
}

fn other_build(ground: &mut Ground) -> Result<Aftermath> {
    let other = ground.other_agent.clone().context("no other build")?;
    let there = relieve(ground, &instead(&other))?;
    let back = relieve(ground, &[])?;
    Ok(Aftermath {
        converged: Some(there.max(back)),
        note: "each link kept, with a new program both times".to_owned(),
    })
}

/// Where the agents that serve are of another build.
fn from_other_build(ground: &mut Ground) -> Result<Aftermath> {
    Ok(Aftermath {
        converged: Some(relieve(ground, &[])?),
        note: "each link kept, with a new program".to_owned(),
    })
}

/// Files what a node's agent has left under another version, of which one map is of another layout.
fn file_under(node: &Node, version: u32) -> Result<()> {
    let left = node.bpffs.join(format!("v{version}"));
    fs::rename(node.pin(""), &left).with_context(|| left.display().to_string())?;
    let (map, note) = (left.join("maps/UDP_SOCKETS"), left.join("maps/changed"));
    fs::remove_file(&map)?;
    pin_map(&map, 8, 16)?;
    // The first version had no note; a later one has more to tell.
    fs::remove_file(&note)?;
    if version > ABI_VERSION {
        std::os::unix::fs::symlink(format!("UDP_SOCKETS={version}"), &note)?;
    }
    Ok(())
}

fn other_layouts(ground: &mut Ground) -> Result<Aftermath> {
    let mut converged = None;
    let before = ground.links()?;
    for version in [ABI_VERSION - 1, ABI_VERSION + 1] {
        let mut left = BTreeMap::new();
        let took = restart(ground, |ground| {
            for node in ground.nodes() {
                file_under(ground.rig.node(node), version)?;
            }
            left = ground.links()?;
            links::same(&before, &left)
        })?;
        converged = converged.max(Some(took));
        let taken = ground.links()?;
        links::same(&before, &taken)?;
        links::replaced(&left, &taken)?;
        for node in ground.nodes() {
            let left = ground.rig.node(node).bpffs.join(format!("v{version}"));
            eventually(TERMINATION, "what was left is removed", || Ok(!left.exists()))?;
        }
    }
    Ok(Aftermath {
        converged,
        note: format!("{} links and all maps but one kept", before.len()),
    })
}

/// Tries to start an agent that cannot, on every node, and brings the good one back. What the failed ones have said.
fn in_vain(ground: &mut Ground, options: &[String]) -> Result<(String, Duration)> {
    for node in ground.nodes() {
        ground.rig.take_proxy(node)?.terminate(TERMINATION)?;
    }
    ground.set_agent_options(options);
    let before = ground.links()?;
    let mut said = String::new();
    for node in ground.nodes() {
        said = ground.start_in_vain(node)?;
    }
    ensure!(
        before == ground.links()?,
        "a failed start has changed links or their programs: {said}"
    );
    ground.set_agent_options(&[]);
    let marker = ground.marker()?;
    for node in ground.nodes() {
        ground.start(node)?;
    }
    Ok((said, ground.await_marker(&marker)?))
}

fn refused_by_the_verifier(ground: &mut Ground) -> Result<Aftermath> {
    let spoiled = ground.rig.lease.directory().join("spoiled.o");
    objects::spoil(&objects::built("ferrogate.o")?, &spoiled)?;
    let (said, converged) = in_vain(ground, &with_object(&spoiled))?;
    ensure!(
        said.contains("cannot load the eBPF program"),
        "the agent did not say what was refused: {said}"
    );
    Ok(Aftermath {
        converged: Some(converged),
        note: "the old programs stay".to_owned(),
    })
}

/// The pin of a map of a node, wherever its ABI version files it.
fn pin(ground: &Ground, node: u8, map: &str) -> Result<PathBuf> {
    let root = &ground.rig.node(node).bpffs;
    let versions = fs::read_dir(root)?
        .flatten()
        .map(|entry| entry.path().join("maps").join(map));
    versions
        .filter(|path| path.exists())
        .last()
        .with_context(|| format!("no map {map} below {}", root.display()))
}

fn foreign_map(ground: &mut Ground) -> Result<Aftermath> {
    const MAP: &str = "FLOWS";
    let mut pins = Vec::new();
    for node in ground.nodes() {
        let path = pin(ground, node, MAP)?;
        let aside = path.with_file_name("fg-aside");
        fs::rename(&path, &aside).with_context(|| path.display().to_string())?;
        pin_map(&path, 8, 12)?;
        pins.push((path, aside));
    }
    for node in ground.nodes() {
        ground.rig.take_proxy(node)?.terminate(TERMINATION)?;
    }
    let before = ground.links()?;
    let mut said = String::new();
    for node in ground.nodes() {
        said = ground.start_in_vain(node)?;
    }
    ensure!(before == ground.links()?, "a failed start has changed links: {said}");
    ensure!(
        said.contains("FLOWS") && said.contains("12 bytes"),
        "the agent did not say which map is wrong: {said}"
    );
    for (path, aside) in pins {
        fs::remove_file(&path)?;
        fs::rename(&aside, &path)?;
    }
    let marker = ground.marker()?;
    for node in ground.nodes() {
        ground.start(node)?;
    }
    Ok(Aftermath {
        converged: Some(ground.await_marker(&marker)?),
        note: "refused before anything was changed".to_owned(),
    })
}

/// A restart needs nothing that is not there, so it works; whatever it says, what was attached stays so.
fn read_only(ground: &mut Ground) -> Result<Aftermath> {
    for node in ground.nodes() {
        ground.rig.take_proxy(node)?.terminate(TERMINATION)?;
    }
    let marker = ground.marker()?;
    for node in ground.nodes() {
        let bpffs = ground.rig.node(node).bpffs.display().to_string();
        let script = format!("mount --bind {bpffs} {bpffs} && mount -o remount,bind,ro {bpffs} && exec \"$@\"");
        ground.set_launcher(&with_mounts(&script));
        ground.start(node)?;
        ground.set_launcher(&[]);
    }
    let converged = ground.await_marker(&marker)?;
    for node in ground.nodes() {
        ground.rig.take_proxy(node)?.terminate(TERMINATION)?;
        ground.start(node)?;
    }
    Ok(Aftermath {
        converged: Some(converged),
        note: "it serves, and learns what is new".to_owned(),
    })
}

/// Once with the same directories, once with its own: both would translate twice.
fn second_agent(ground: &mut Ground) -> Result<Aftermath> {
    let node = ground.rig.node(1);
    let run = ground.rig.lease.directory().join("second");
    let state = ground.rig.lease.bpffs().join("second");
    let control_plane = ground.rig.control_plane().context("no control plane")?;
    for (run, state) in [(&node.directory, &node.bpffs), (&run, &state)] {
        let mut command = node.place.command(binaries::workspace("ferrogate")?)?;
        command.args(["agent", "--node-name", &node.name]);
        command.arg("--run-dir").arg(run).arg("--state-dir").arg(state);
        command.arg("--kubeconfig").arg(control_plane.kubeconfig());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (status, output, errors) = Process::start("second", command)?.output()?;
        let said = output + &errors;
        ensure!(!status.success(), "two agents serve one node: {said}");
        ensure!(said.contains("another agent (pid "), "not clear: {said}");
    }
    ensure!(!state.exists(), "the refused agent has made a state directory");
    let marker = ground.marker()?;
    Ok(Aftermath {
        converged: Some(ground.await_marker(&marker)?),
        note: "refused, with the first one's process id".to_owned(),
    })
}

//! The rig itself: that it comes up, stands beside others, and leaves nothing behind.
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::{fs, panic};

use anyhow::Result;
use ferrogate_tests::rig::{Family, Layout, Options, PodSpec, Rig};
use ferrogate_tests::wire::{ProbeRequest, Protocol};

fn boot(layout: Layout) -> Result<Rig> {
    let mut rig = Rig::boot(Options {
        layout,
        ..Options::default()
    })?;
    rig.add_pod(PodSpec::new("one", 1))?;
    rig.add_pod(PodSpec::new("two", 2))?;
    Ok(rig)
}

/// Pod one asks pod two over everything there is.
fn pods_reach_each_other(rig: &Rig) -> Result<()> {
    for protocol in Protocol::ALL {
        for family in Family::BOTH {
            let to = SocketAddr::new(rig.pod("two").addresses.get(family), 8080);
            let request = ProbeRequest::new(protocol, to).questions(3);
            let report = rig.pod("one").place.probe(&request)?;
            assert!(report.complete(), "{protocol:?} to {to}: {report:?}");
            let answer = report
                .answers()
                .next()
                .unwrap_or_else(|| panic!("{protocol:?} to {to}: {report:?}"));
            assert_eq!(answer.pod, "two");
            assert_eq!(answer.peer.ip(), rig.pod("one").addresses.get(family));
        }
    }
    Ok(())
}

/// Namespaces, cgroups, bpffs and temporary folders whose name contains `id`, and processes that mention it.
fn traces(id: &str) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
    let cgroup2 = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"))
        .expect("cgroup2");
    let cgroup2 = cgroup2.split(' ').nth(1).expect("mount point").to_owned();
    let folders = [
        "/run/netns".to_owned(),
        "/sys/fs/bpf".to_owned(),
        cgroup2,
        "/tmp/ferrogate-rigs".to_owned(),
    ];
    let mut traces = Vec::new();
    for folder in folders {
        let names = fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name());
        let ours = names
            .filter_map(|name| name.into_string().ok())
            .filter(|name| mentions(name, id));
        traces.extend(ours.map(|name| format!("{folder}/{name}")));
    }
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let cgroup = fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
        traces.extend(
            cgroup
                .split(['/', '\n'])
                .any(|name| mentions(name, id))
                .then(|| format!("{:?}", process.path())),
        );
    }
    traces
}

/// Whether a name is one that a rig of this id gave.
fn mentions(name: &str, id: &str) -> bool {
    let own = name.strip_prefix("fg").unwrap_or(name);
    own.strip_prefix(id)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[test]
fn pods_of_two_nodes_reach_each_other_in_every_layout() -> Result<()> {
    for layout in Layout::ALL {
        pods_reach_each_other(&boot(layout)?)?;
    }
    Ok(())
}

#[test]
fn two_rigs_stand_side_by_side() -> Result<()> {
    let (one, two) = (boot(Layout::Routed)?, boot(Layout::Routed)?);
    pods_reach_each_other(&one)?;
    pods_reach_each_other(&two)?;
    drop(one);
    pods_reach_each_other(&two)
}

#[test]
fn a_rig_leaves_nothing_behind() -> Result<()> {
    let rig = boot(Layout::Vxlan)?;
    let id = rig.lease.id().to_owned();
    assert!(
        traces(&id).len() > 8,
        "what is looked for is there while the rig stands"
    );
    drop(rig);
    assert_eq!(traces(&id), Vec::<String>::new());
    Ok(())
}

#[test]
fn a_rig_leaves_nothing_behind_when_its_test_panics() -> Result<()> {
    let rig = boot(Layout::Routed)?;
    let id = rig.lease.id().to_owned();
    let result = panic::catch_unwind(panic::AssertUnwindSafe(move || {
        let _rig = rig;
        panic!("as a failing test does");
    }));
    assert!(result.is_err());
    assert_eq!(traces(&id), Vec::<String>::new());
    Ok(())
}

#[test]
fn the_leftovers_of_a_killed_program_are_swept() -> Result<()> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_testpod"))
        .arg("hold-rig")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line)?;
    child.kill()?;
    child.wait()?;
    let id = line.trim();
    assert!(!traces(id).is_empty(), "the killed program left something: {line}");
    let swept = ferrogate_tests::rig::sweep()?;
    assert!(
        swept.iter().any(|swept| swept == id) || traces(id).is_empty(),
        "swept {swept:?}"
    );
    assert_eq!(traces(id), Vec::<String>::new());
    Ok(())
}

//! What the agent may do once it runs: nearly nothing, and all that it does is done with that.
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrogate_tests::rig::{PodSpec, Rig};
use serde_json::json;

use crate::common::{Is, apply, boot, eventually, ferrogate, ferrogate_json, serves};

/// CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF (linux/capability.h).
const KEPT: u64 = 1 << 12 | 1 << 38 | 1 << 39;

fn pid(rig: &Rig) -> Result<u64> {
    ferrogate_json(rig, 1, &["status"])?["pid"]
        .as_u64()
        .context("a process id")
}

/// A line of a thread's `status`.
fn field(status: &str, name: &str) -> Result<u64> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = value.with_context(|| format!("no {name}"))?.trim();
    Ok(u64::from_str_radix(value, 16)?)
}

/// That every thread of the agent has three capabilities and no way to any other.
fn check(rig: &Rig) -> Result<()> {
    let tasks = Path::new("/proc").join(pid(rig)?.to_string()).join("task");
    let mut threads = 0;
    for task in fs::read_dir(&tasks)? {
        // A thread may end meanwhile.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else {
            continue;
        };
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            let held = field(&status, set)?;
            ensure!(held == KEPT, "{set} is {held:x}: {status}");
        }
        for set in ["CapInh", "CapAmb"] {
            ensure!(field(&status, set)? == 0, "{status}");
        }
        ensure!(field(&status, "NoNewPrivs")? == 1, "{status}");
        threads += 1;
    }
    ensure!(
        threads > 2,
        "{threads} threads: those of the runtime are not among them"
    );
    Ok(())
}

#[test]
fn an_agent_with_three_capabilities_does_all_its_work() -> Result<()> {
    let mut rig = boot(&[])?;
    apply(&rig, &json!({}), &[("a1", Is::Ready), ("b1", Is::Ready)])?;
    serves(&rig, 1)?;
    check(&rig)?;
    let log = fs::read_to_string(rig.node(1).directory.join("proxy.log"))?;
    ensure!(
        log.contains("clock=\"jiffies\""),
        "the programs ask a helper for the time: {log}"
    );
    // A new interface gets its programs.
    rig.add_pod(PodSpec::new("late", 1))?;
    let hooks = |rig: &Rig| -> Result<usize> {
        // An agent that is busy attaching answers later.
        let Ok(status) = ferrogate_json(rig, 1, &["status"]) else {
            return Ok(0);
        };
        let interfaces = status["interfaces"].as_array().context("interfaces")?;
        let attached = interfaces.iter().filter(|one| one["name"] == "vethlate");
        Ok(attached.filter_map(|one| Some(one["hooks"].as_array()?.len())).sum())
    };
    eventually("the new pod's interface has both programs", || Ok(hooks(&rig)? == 2))?;
    // A link that somebody has taken away comes back, at the next look: an interface that changes is one.
    let links = rig.node(1).pin("links");
    let pin = fs::read_dir(&links)?.flatten().map(|pin| pin.path());
    let lost = pin
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("pod_ingress-"))
        })
        .last()
        .context("a link of a pod")?;
    fs::remove_file(&lost)?;
    rig.add_pod(PodSpec::new("later", 1))?;
    eventually("the link is attached again", || Ok(lost.exists()))?;
    // A restart puts new programs into the links of the old ones.
    let before = pid(&rig)?;
    rig.take_proxy(1)?.terminate(Duration::from_secs(15))?;
    rig.start_proxy(1)?;
    eventually(
        "the next agent answers",
        || Ok(pid(&rig).is_ok_and(|pid| pid != before)),
    )?;
    check(&rig)?;
    eventually("nothing is wrong on the node", || {
        Ok(ferrogate(&rig, 1, &["doctor"])?.status.success())
    })?;
    rig.check_proxies()
}

#[test]
fn conntrack_is_raised_to_kube_proxys_timeouts_and_set_back_by_cleanup() -> Result<()> {
    const SETTING: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";
    let mut rig = boot(&[])?;
    let place = rig.node(1).place.sibling(rig.node(1).place.cgroup.clone());
    let seconds = || -> Result<u64> { Ok(place.run("cat", [SETTING])?.trim().parse()?) };
    eventually("half-closed connections live for an hour", || Ok(seconds()? == 3600))?;
    rig.take_proxy(1)?.terminate(Duration::from_secs(10))?;
    ensure!(seconds()? == 3600, "it outlives the agent");
    let output = ferrogate(&rig, 1, &["cleanup"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        said.contains("nf_conntrack_tcp_timeout_close_wait back to 60"),
        "{said}"
    );
    ensure!(seconds()? == 60, "{said}");
    Ok(())
}

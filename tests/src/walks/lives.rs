//! Walks over time: transfers, restarts, endpoints that come and go.
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::cell::{Client, Target};
use super::fixture::{self, THREE};
use super::others::{Level, Outcome, resolve};
use crate::rig::{Family, PodSpec, Process, Proxy, Rig, Source};
use crate::wire::{BulkReport, ProbeRequest, Protocol, TickReport};

/// How long a change may take to reach every node.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn dns(rig: &mut Rig, _: Level) -> Result<Outcome> {
    if rig.options.source == Source::Manifests {
        return Ok(Outcome::Skipped(
            "CoreDNS watches an API server; this rig's source is manifests",
        ));
    }
    let service = rig.service(THREE).cluster_ip;
    let name = format!("{THREE}.default.svc.cluster.local");
    eventually(|| resolve(rig, Client::Pod, Protocol::Udp, Family::V4, &name).map(|report| report.code == 0))?;
    for client in [Client::Pod, Client::Node] {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            for family in Family::BOTH {
                let report = resolve(rig, client, protocol, family, &name)?;
                ensure!(
                    report.addresses == [service.get(family)],
                    "{client:?} {protocol:?}: {report:?}"
                );
            }
        }
    }
    Ok(Outcome::Passed)
}

pub(super) fn bulk(rig: &mut Rig, level: Level) -> Result<Outcome> {
    let paths = [
        (Client::Pod, Target::ClusterIp, "local"),
        (Client::Pod, Target::ClusterIp, "remote"),
        (Client::Node, Target::ClusterIp, "remote"),
        (Client::Outside, Target::NodePort(1), "local"),
        (Client::Outside, Target::NodePort(2), "local"),
        (Client::Outside, Target::NodePort(1), "host-local"),
    ];
    let bytes = level.bulk_bytes();
    for (client, target, service) in paths {
        for family in Family::BOTH {
            for download in [false, true] {
                let to = fixture::address(rig, service, target, family);
                let mut arguments = vec!["bulk".to_owned(), format!("--to={to}"), format!("--bytes={bytes}")];
                arguments.extend(download.then(|| "--download".to_owned()));
                let report: BulkReport = fixture::place(rig, client).testpod(arguments)?;
                let right = report.failure.is_none() && report.intact == bytes;
                ensure!(
                    right,
                    "{client:?} {target:?} {service} {family:?} download={download}: {report:?}"
                );
            }
        }
    }
    Ok(Outcome::Passed)
}

pub(super) fn restart(rig: &mut Rig, _: Level) -> Result<Outcome> {
    if rig.options.proxy == Proxy::None {
        return Ok(Outcome::Skipped("there is no proxy to kill"));
    }
    let mut ticking = Vec::new();
    for (client, target) in [(Client::Pod, Target::ClusterIp), (Client::Outside, Target::NodePort(1))] {
        for family in Family::BOTH {
            let place = fixture::place(rig, client);
            let to = fixture::address(rig, "remote", target, family);
            let mut command = place.testpod_command()?;
            command.args(["tick".to_owned(), format!("--to={to}")]);
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut process = Process::start("tick", command)?;
            let input = process.stdin();
            process.wait_for_error_line("connected")?;
            ticking.push((client, family, process, input));
        }
    }
    for node in 1..=rig.options.nodes {
        rig.take_proxy(node)?.kill()?;
    }
    // New connections find the datapath in place too, with nobody there.
    let to = fixture::address(rig, "remote", Target::ClusterIp, Family::V4);
    let orphaned = fixture::place(rig, Client::Pod).probe(&ProbeRequest::new(Protocol::Tcp, to).count(10))?;
    ensure!(orphaned.complete(), "with the proxy killed: {orphaned:?}");
    (1..=rig.options.nodes).try_for_each(|node| rig.start_proxy(node))?;
    fixture::wait_followed(rig, fixture::START)?;
    fixture::wait_ready(rig, fixture::START)?;
    thread::sleep(Duration::from_millis(500));
    for (client, family, process, input) in ticking {
        drop(input);
        let (_, output, errors) = process.output()?;
        let report: TickReport = serde_json::from_str(&output)?;
        ensure!(report.failure.is_none(), "{client:?} {family:?}: {report:?} {errors}");
        ensure!(
            report.longest_ms < 1000,
            "{client:?} {family:?}: silent for {} ms",
            report.longest_ms
        );
    }
    Ok(Outcome::Passed)
}

pub(super) fn endpoint_leaves(rig: &mut Rig, _: Level) -> Result<Outcome> {
    rig.set_ready("t3", false)?;
    let result = tallies(rig, 2);
    rig.set_ready("t3", true)?;
    result?;
    tallies(rig, 3)?;
    Ok(Outcome::Passed)
}

/// Waits until new connections go to exactly `endpoints` endpoints, from every kind of client.
fn tallies(rig: &Rig, endpoints: usize) -> Result<()> {
    for (client, target) in [(Client::Pod, Target::ClusterIp), (Client::Outside, Target::NodePort(2))] {
        for family in Family::BOTH {
            let to = fixture::address(rig, THREE, target, family);
            let request = ProbeRequest::new(Protocol::Tcp, to).count(60);
            let mut last = String::new();
            eventually(|| {
                let report = fixture::place(rig, client).probe(&request)?;
                let failures: Vec<_> = report
                    .attempts
                    .iter()
                    .filter_map(|attempt| attempt.failure.as_ref())
                    .collect();
                last = format!("answers {:?}, failures {failures:?}", report.tally());
                Ok(report.complete() && report.tally().len() == endpoints)
            })
            .with_context(|| format!("{client:?} to {to}: {endpoints} endpoints expected; last {last}"))?;
        }
    }
    Ok(())
}

/// One UDP socket that asks all the time finds a new endpoint after the only one went (kubernetes#139628).
pub(super) fn none_and_back(rig: &mut Rig, _: Level) -> Result<Outcome> {
    let mut port = 15100;
    for (client, target) in [(Client::Pod, Target::ClusterIp), (Client::Outside, Target::NodePort(1))] {
        for family in Family::BOTH {
            port += 1;
            let to = fixture::address(rig, "remote", target, family);
            let request = ProbeRequest::new(Protocol::Udp, to)
                .unconnected()
                .source_port(port)
                .timeout_ms(100);
            let answered = |rig: &Rig| Ok(fixture::place(rig, client).probe(&request)?.complete());
            // Each family has a slice of its own: that the last round saw one says nothing of the other.
            eventually(|| answered(rig)).with_context(|| format!("{client:?} to {to}: no answer at first"))?;
            rig.remove_pod("b")?;
            eventually(|| Ok(!answered(rig)?))?;
            rig.add_pod(PodSpec::new("b", 2).ports(&[fixture::TARGET_PORT]))?;
            eventually(|| answered(rig))?;
        }
    }
    Ok(Outcome::Passed)
}

/// Asks until the answer is yes.
fn eventually(mut question: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = question();
        if matches!(answer, Ok(true)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            answer?;
            anyhow::bail!("not within {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

//! The socket edge: whom it serves, and what becomes of UDP sockets when their backend ends. Needs root.
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ferrogate_common::Reason;
use ferrogate_tests::rig::{Family, FerrogateOptions, NAMESPACE, Options, Place, Process, Proxy, Rig, SocketEdge};
use ferrogate_tests::wait;
use ferrogate_tests::walks::cell::Target;
use ferrogate_tests::walks::fixture::{self, CLIENT_PODS, STICKY, TARGET_PORT};
use ferrogate_tests::wire::{FailureKind, ProbeReport, ProbeRequest, Protocol};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);

/// A routed rig with the walks' pods and Services, ready.
fn boot(socket_edge: SocketEdge) -> Result<Rig> {
    boot_with(socket_edge, &[])
}

fn boot_with(socket_edge: SocketEdge, more: &[&str]) -> Result<Rig> {
    let mut rig = fixture::boot(Options {
        proxy: Proxy::Ferrogate(FerrogateOptions {
            socket_edge,
            more: more.iter().copied().map(str::to_owned).collect(),
            ..FerrogateOptions::default()
        }),
        ..Options::default()
    })?;
    fixture::wait_ready(&mut rig, PATIENCE)?;
    Ok(rig)
}

fn eventually(what: &str, question: impl FnMut() -> Result<bool>) -> Result<()> {
    wait::eventually(Duration::from_secs(5), what, question)
}

/// The client pod's network namespace, from another cgroup of its node.
fn in_cgroup(rig: &Rig, name: &str) -> Result<Place> {
    let path = cgroup(rig, name)?;
    Ok(rig.pod(CLIENT_PODS[0]).place.sibling(path))
}

fn cgroup(rig: &Rig, name: &str) -> Result<PathBuf> {
    let path = rig.node(1).place.cgroup.join(name);
    fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// The peer that the kernel sees of a TCP connection to a Service while it is answered: the Service's address where it is
/// translated by packet edges, a backend's where it was by the socket edge.
fn real_peer(place: &Place, to: SocketAddr) -> Result<SocketAddr> {
    let mut command = place.testpod_command()?;
    command.args(["tick".to_owned(), format!("--to={to}")]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut tick = Process::start("tick", command)?;
    let input = tick.stdin();
    tick.wait_for_error_line("connected")?;
    let not_served = format!("not sport = :{TARGET_PORT}");
    let listed = place.run("ss", ["-Htn", "state", "established", &not_served])?;
    drop(input);
    let peer = listed
        .split_whitespace()
        .nth(3)
        .with_context(|| format!("no connection: {listed:?}"))?;
    peer.parse().with_context(|| format!("a peer: {listed:?}"))
}

/// In both families.
const SERVED: [bool; 2] = [true, true];
const LEFT_ALONE: [bool; 2] = [false, false];

/// Whether the socket edge serves this place, in each family; every connection is answered in any case.
fn served(rig: &Rig, place: &Place) -> Result<[bool; 2]> {
    let mut served = SERVED;
    for (served, family) in served.iter_mut().zip(Family::BOTH) {
        let to = fixture::address(rig, "remote", Target::ClusterIp, family);
        *served = real_peer(place, to)? != to;
    }
    Ok(served)
}

#[test]
fn once_there_is_a_kubelet_s_cgroup_only_its_pods_and_the_node_are_served() -> Result<()> {
    let rig = boot(SocketEdge::All)?;
    let foreign = in_cgroup(&rig, "docker/c0ffee")?;
    assert_eq!(served(&rig, &foreign)?, SERVED, "nothing says whose it is");
    let pod = in_cgroup(&rig, "kubepods/burstable/pod0a-1b/container")?;
    eventually("another engine's container is left alone", || {
        Ok(served(&rig, &foreign)? == LEFT_ALONE)
    })?;
    assert_eq!(served(&rig, &pod)?, SERVED, "a pod of the kubelet's");
    let node = rig.node(1).place.sibling(cgroup(&rig, "system.slice")?);
    let port = fixture::address(&rig, "remote", Target::NodePort(1), Family::V4).port();
    let report = node.probe(&ProbeRequest::new(
        Protocol::Tcp,
        SocketAddr::from(([127, 0, 0, 1], port)),
    ))?;
    assert!(report.complete(), "a process of the node: {report:?}");
    // The kubelet makes its directory anew, with another driver.
    let later = in_cgroup(&rig, "kubepods.slice/kubepods-pod0a_1b.slice")?;
    eventually("the kubelet's new directory is found", || {
        Ok(served(&rig, &later)? == SERVED)
    })
}

#[test]
fn with_socket_edge_node_pods_are_left_to_the_pod_edge() -> Result<()> {
    let rig = boot(SocketEdge::Node)?;
    assert_eq!(served(&rig, &rig.pod(CLIENT_PODS[0]).place)?, LEFT_ALONE);
    Ok(())
}

/// A Pod of node 1 that asks something of the socket edge.
fn asking_pod(uid: &str, value: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": NAMESPACE, "name": "asking", "uid": uid,
            "annotations": {"ferrogate.dev/socket-edge": value}},
        "spec": {"nodeName": "n1", "containers": [{"name": "one", "image": "one"}]},
        "status": {"phase": "Pending"},
    })
}

#[test]
fn a_pod_that_opts_out_is_left_alone_from_its_first_process_on() -> Result<()> {
    let rig = boot(SocketEdge::All)?;
    for (uid, directory) in [
        ("0a-1", "kubepods/besteffort/pod0a-1/container"),
        (
            "0a-2",
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a_2.slice/cri.scope",
        ),
    ] {
        rig.apply(&asking_pod(uid, "off"))?;
        // As the kubelet does it: the object is there first, then the cgroup, and a sandbox later the first process.
        thread::sleep(Duration::from_millis(300));
        let pod = in_cgroup(&rig, directory)?;
        let neighbour = in_cgroup(
            &rig,
            &directory.replace(&uid.replace('-', "_"), "ff").replace(uid, "ff"),
        )?;
        thread::sleep(Duration::from_millis(100));
        assert_eq!(served(&rig, &pod)?, LEFT_ALONE, "{directory}");
        assert_eq!(served(&rig, &neighbour)?, SERVED, "another pod: {directory}");
        rig.delete(&asking_pod(uid, "off"))?;
        eventually("the pod's entry goes with it", || Ok(served(&rig, &pod)? == SERVED))?;
    }
    Ok(())
}

#[test]
fn a_client_of_a_service_with_affinity_has_one_backend_whichever_edge_and_address_it_uses() -> Result<()> {
    for socket_edge in [SocketEdge::All, SocketEdge::Node, SocketEdge::Off] {
        let rig = boot(socket_edge)?;
        let node = &rig.node(1).place;
        for pod in [Some(CLIENT_PODS[0]), Some("a"), None] {
            let place = pod.map_or(node, |pod| &rig.pod(pod).place);
            for (protocol, family) in [
                (Protocol::Tcp, Family::V4),
                (Protocol::Tcp, Family::V6),
                (Protocol::Udp, Family::V4),
                (Protocol::Udp, Family::V6),
            ] {
                let mut seen = Vec::new();
                for target in [Target::ClusterIp, Target::NodePort(1)] {
                    if pod.is_none() && socket_edge == SocketEdge::Off && target == Target::NodePort(1) {
                        // No edge is in the way of these packets: README.md, "Limits".
                        continue;
                    }
                    let to = fixture::address(&rig, STICKY, target, family);
                    let free = ProbeRequest::new(protocol, to).count(4);
                    let bound = ProbeRequest::new(protocol, to).source_port(15300);
                    for request in [free, bound] {
                        let report = place.probe(&request)?;
                        ensure!(
                            report.complete(),
                            "{socket_edge:?} {pod:?} {protocol:?} to {to}: {report:?}"
                        );
                        seen.extend(report.answers().map(|answer| answer.pod.clone()));
                    }
                }
                let one = seen.iter().all(|pod| *pod == seen[0]);
                ensure!(one, "{socket_edge:?} {pod:?} {protocol:?} {family:?}: {seen:?}");
            }
        }
    }
    Ok(())
}

/// A socket that asks all the time, for about three seconds.
struct Asking {
    name: String,
    begun: Instant,
    process: Process,
    /// It leads to a pod by way of its Service.
    by_service: bool,
    connected: bool,
}

impl Asking {
    fn start(rig: &Rig, pod: bool, to: SocketAddr, by_service: bool, connected: bool) -> Result<Self> {
        let place = if pod {
            &rig.pod(CLIENT_PODS[0]).place
        } else {
            &rig.node(1).place
        };
        let request = ProbeRequest {
            unconnected: !connected,
            pause_ms: 25,
            ..ProbeRequest::new(Protocol::Udp, to).questions(120).timeout_ms(700)
        };
        let mut command = place.testpod_command()?;
        command.arg("probe").args(request.arguments());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(Self {
            begun: Instant::now(),
            name: format!(
                "{} {} socket to {to}",
                if pod { "pod" } else { "node" },
                if connected { "connected" } else { "unconnected" }
            ),
            process: Process::start("probe", command)?,
            by_service,
            connected,
        })
    }

    fn end(self) -> Result<(String, ProbeReport, bool, bool)> {
        let (_, output, errors) = self.process.output()?;
        let report = serde_json::from_str(&output).with_context(|| format!("{}: {output} {errors}", self.name))?;
        Ok((self.name, report, self.by_service, self.connected))
    }
}

/// Sockets of every kind ask pod `b`; then `change` takes `b` from its Service, while it goes on to run and would answer.
/// `all_are_told`: every connected socket gets an error then; else some just hear nothing.
fn sockets_when_a_backend_ends(
    rig: &mut Rig,
    all_are_told: bool,
    change: impl FnOnce(&mut Rig) -> Result<()>,
) -> Result<()> {
    let mut asking = Vec::new();
    for family in Family::BOTH {
        let service = fixture::address(rig, "remote", Target::ClusterIp, family);
        let straight = SocketAddr::new(rig.pod("b").addresses.get(family), TARGET_PORT);
        for pod in [true, false] {
            for connected in [true, false] {
                asking.push(Asking::start(rig, pod, service, true, connected)?);
            }
            asking.push(Asking::start(rig, pod, straight, false, true)?);
        }
    }
    thread::sleep(Duration::from_millis(700));
    change(rig)?;
    let programmed = Instant::now();
    for asking in asking {
        let begun = asking.begun;
        let (name, report, by_service, connected) = asking.end()?;
        let attempt = &report.attempts[0];
        ensure!(attempt.answers.len() > 3, "{name}: {attempt:?}");
        if !by_service {
            ensure!(report.complete(), "{name} is no business of ours: {attempt:?}");
            continue;
        }
        let failure = attempt.failure.as_ref();
        let failure = failure.with_context(|| format!("{name}: answered by a backend that ended, to the last"))?;
        // The kernel tells an unconnected socket of no ICMP error: it hears nothing.
        let silent = failure.kind == FailureKind::Silence && (!connected || !all_are_told);
        let told = failure.kind == FailureKind::Refused || silent;
        ensure!(told, "{name}: {failure:?}");
        // A process takes a moment to start, and the socket is asked after in between its questions.
        let told = begun + Duration::from_micros(attempt.micros);
        let late = told.saturating_duration_since(programmed);
        ensure!(
            !connected || late < Duration::from_millis(1500),
            "{name}: told {late:?} late"
        );
    }
    Ok(())
}

/// A new socket is refused or unanswered: the change is programmed.
fn wait_programmed(rig: &Rig, service: &str) -> Result<()> {
    let to = fixture::address(rig, service, Target::ClusterIp, Family::V6);
    let request = ProbeRequest::new(Protocol::Udp, to).timeout_ms(100);
    eventually("the change is programmed", || {
        Ok(!rig.pod(CLIENT_PODS[0]).place.probe(&request)?.complete())
    })
}

#[test]
fn udp_sockets_leave_a_backend_that_ended_through_the_socket_edge_and_through_the_pod_edge() -> Result<()> {
    for socket_edge in [SocketEdge::All, SocketEdge::Off] {
        let mut rig = boot(socket_edge)?;
        sockets_when_a_backend_ends(&mut rig, true, |rig| {
            rig.set_ready("b", false)?;
            wait_programmed(rig, "remote")
        })
        .with_context(|| format!("no endpoint is ready, socket edge {socket_edge:?}"))?;
        rig.set_ready("b", true)?;
        fixture::wait_ready(&mut rig, PATIENCE)?;
        let service = rig.service("remote").clone();
        let object = json!({"kind": "Service", "metadata": {"namespace": NAMESPACE, "name": "remote"}});
        // Packet edges have nothing to say of an address that no Service has any more.
        let told = socket_edge == SocketEdge::All;
        sockets_when_a_backend_ends(&mut rig, told, |rig| {
            rig.set_ready("b", false)?;
            rig.delete(&object)?;
            wait_programmed(rig, "remote")
        })
        .with_context(|| format!("the Service is deleted, socket edge {socket_edge:?}"))?;
        rig.set_ready("b", true)?;
        rig.add_service(service)?;
        fixture::wait_ready(&mut rig, PATIENCE)?;
    }
    Ok(())
}

#[test]
fn connected_udp_sockets_that_no_helper_reaches_are_told_when_they_send() -> Result<()> {
    let mut rig = boot_with(
        SocketEdge::All,
        &["--sock-destroy-helper=/nonexistent/ferrogate-helper"],
    )?;
    sockets_when_a_backend_ends(&mut rig, true, |rig| {
        rig.set_ready("b", false)?;
        wait_programmed(rig, "remote")
    })?;
    // The node's own were destroyed; the pod's two were answered.
    let count = rig.node(1).counted(Reason::BackendGone)?;
    ensure!(count >= 2, "{count} were answered");
    Ok(())
}

#[test]
fn a_connected_udp_socket_that_only_waits_is_woken_when_its_backend_is_replaced() -> Result<()> {
    let mut rig = boot(SocketEdge::All)?;
    let mut waiting = Vec::new();
    for family in Family::BOTH {
        let to = fixture::address(&rig, "remote", Target::ClusterIp, family);
        // The answer to the second question is so long in coming that only an error can end the wait.
        let mut command = rig.pod(CLIENT_PODS[0]).place.testpod_command()?;
        command.args([
            "await-error".to_owned(),
            format!("--to={to}"),
            "--timeout-ms=5000".to_owned(),
        ]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Process::start("await-error", command)?;
        process.wait_for_error_line("connected")?;
        waiting.push(process);
    }
    rig.set_ready("b", false)?;
    for process in waiting {
        let (_, output, _) = process.output()?;
        let report: ferrogate_tests::wire::AwaitReport = serde_json::from_str(&output)?;
        let failure = report.failure.context("woken by an error")?;
        assert_eq!(failure.kind, FailureKind::Refused, "{failure:?}");
        assert!(report.waited_ms < 2000, "{} ms", report.waited_ms);
    }
    Ok(())
}

#[test]
fn a_pod_on_macvlan_is_served_by_the_socket_edge_alone() -> Result<()> {
    let rig = boot(SocketEdge::All)?;
    let uid = "0a-3";
    rig.apply(&asking_pod(uid, "only"))?;
    let pod = rig.add_macvlan("mv", 1, 60, &format!("kubepods/pod{uid}"))?;
    thread::sleep(Duration::from_millis(1200));
    for (protocol, family) in [
        (Protocol::Tcp, Family::V4),
        (Protocol::Tcp, Family::V6),
        (Protocol::Udp, Family::V4),
        (Protocol::Udp, Family::V6),
    ] {
        for unconnected in [false, true] {
            let to = fixture::address(&rig, "remote", Target::ClusterIp, family);
            let request = ProbeRequest {
                unconnected,
                ..ProbeRequest::new(protocol, to)
            };
            let report = pod.probe(&request)?;
            let attempt = &report.attempts[0];
            ensure!(report.complete(), "{protocol:?} to {to}: {attempt:?}");
            let seen = attempt.peer.or(attempt.from);
            ensure!(seen == Some(to), "{protocol:?} to {to}: {attempt:?}");
        }
        // Nobody else would translate a bound socket's packets.
        let to = fixture::address(&rig, "remote", Target::ClusterIp, family);
        let report = pod.probe(&ProbeRequest::new(protocol, to).source_port(15310))?;
        ensure!(report.complete(), "bound, {protocol:?} to {to}: {report:?}");
    }
    Ok(())
}

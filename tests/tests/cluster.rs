//! The agent beside a real API server: what walks cannot show, because it takes more than packets.
//!
//! The walks themselves run against it with `--source control-plane`.
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ferrogate_tests::rig::{Family, FerrogateOptions, Layout, Options, Proxy, Rig, Source};
use ferrogate_tests::walks::cell::Target;
use ferrogate_tests::walks::fixture;
use ferrogate_tests::wire::{ProbeReport, ProbeRequest, Protocol};

const PATIENCE: Duration = Duration::from_secs(30);

fn options(proxy: Proxy) -> Options {
    Options {
        nodes: 2,
        layout: Layout::Routed,
        source: Source::ControlPlane,
        proxy,
        ..Options::default()
    }
}

fn ferrogate() -> Options {
    options(Proxy::Ferrogate(FerrogateOptions::default()))
}

/// New connections of the client pod to the Service with three endpoints.
fn ask_three(rig: &Rig) -> Result<ProbeReport> {
    let to = fixture::address(rig, fixture::THREE, Target::ClusterIp, Family::V4);
    rig.pod(fixture::CLIENT_PODS[0])
        .place
        .probe(&ProbeRequest::new(Protocol::Tcp, to).count(30))
}

/// Waits until new connections spread over this many endpoints, all of them answered.
fn wait_for_endpoints(rig: &Rig, endpoints: usize) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let report = ask_three(rig)?;
        if report.complete() && report.tally().len() == endpoints {
            return Ok(());
        }
        assert!(
            Instant::now() < deadline,
            "not {endpoints} endpoints within {PATIENCE:?}: {:?}",
            report.tally()
        );
    }
}

#[test]
fn the_control_plane_boots_within_20_seconds() -> Result<()> {
    let begin = Instant::now();
    let rig = Rig::boot(options(Proxy::None))?;
    let took = begin.elapsed();
    let nodes = rig
        .control_plane()
        .context("a control plane")?
        .api()
        .get("/api/v1/nodes")?;
    assert!(
        nodes.contains("n1") && nodes.contains("n2"),
        "the rig's nodes are registered"
    );
    assert!(took < Duration::from_secs(20), "took {took:?}");
    Ok(())
}

#[test]
fn services_go_on_while_the_api_server_is_away_and_catch_up_when_it_is_back() -> Result<()> {
    let mut rig = fixture::boot(ferrogate())?;
    fixture::wait_ready(&mut rig, PATIENCE)?;
    rig.control_plane_mut().context("a control plane")?.stop_api_server();
    std::thread::sleep(Duration::from_secs(1));
    let away = ask_three(&rig)?;
    assert!(
        away.complete() && away.tally().len() == 3,
        "while the API server is away: {:?}",
        away.tally()
    );
    rig.control_plane_mut().context("a control plane")?.start_api_server()?;
    rig.set_ready("t3", false)?;
    wait_for_endpoints(&rig, 2)?;
    rig.check_proxies()
}

#[test]
fn an_agent_that_starts_while_the_api_server_is_away_takes_nothing_away() -> Result<()> {
    let mut rig = fixture::boot(ferrogate())?;
    fixture::wait_ready(&mut rig, PATIENCE)?;
    rig.control_plane_mut().context("a control plane")?.stop_api_server();
    for node in 1..=2 {
        rig.take_proxy(node)?.kill()?;
        rig.start_proxy(node)?;
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        let report = ask_three(&rig)?;
        assert!(
            report.complete() && report.tally().len() == 3,
            "without an API server: {:?}",
            report.tally()
        );
    }
    rig.control_plane_mut().context("a control plane")?.start_api_server()?;
    rig.set_ready("t1", false)?;
    wait_for_endpoints(&rig, 2)
}

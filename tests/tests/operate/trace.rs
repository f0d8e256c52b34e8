//! `ferrogate trace`, beside what clients did and whom servers saw.
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use ferrogate_tests::rig::addresses::{NODE_BASE, lan};
use ferrogate_tests::rig::{Family, FerrogateOptions, Place, Process, Rig};
use ferrogate_tests::wire::{ProbeReport, ProbeRequest, Protocol};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::common::{
    Is, NODE_PORT, apply, apply_void, boot, boot_with, cluster_ip, ferrogate, ferrogate_command, serves,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn shop() -> SocketAddr {
    SocketAddr::new(cluster_ip(), 80)
}

pub(crate) fn node_port() -> SocketAddr {
    SocketAddr::new(lan(NODE_BASE + 1).get(Family::V4), NODE_PORT)
}

pub(crate) fn ask(place: &Place, to: SocketAddr, count: u32) -> Result<ProbeReport> {
    place.probe(&ProbeRequest {
        timeout_ms: 1000,
        ..ProbeRequest::new(Protocol::Tcp, to).count(count)
    })
}

/// Starts `ferrogate trace` with these arguments, and waits until it traces.
pub(crate) fn start(rig: &Rig, arguments: &[&str]) -> Result<Process> {
    let arguments = [&["trace", "--output", "json"], arguments].concat();
    let mut command = ferrogate_command(rig, 1, &arguments)?;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::start("ferrogate trace", command)?;
    process.wait_for_error_line("Tracing; Ctrl-C ends it.")?;
    Ok(process)
}

/// Its events, when it has ended by itself.
fn events(process: Process) -> Result<Vec<Value>> {
    let (status, output, _) = process.output()?;
    ensure!(status.success(), "{status}: {output}");
    output.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Ends it as a person does, and has its events.
pub(crate) fn stop(process: Process) -> Result<Vec<Value>> {
    signal(&process, Signal::INT)?;
    events(process)
}

fn signal(process: &Process, signal: Signal) -> Result<()> {
    let id = Pid::from_raw(i32::try_from(process.id())?).context("a process id")?;
    Ok(kill_process(id, signal)?)
}

fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap_or_default()
}

/// A rig with `shop` on both nodes and `void`, which has no endpoint.
pub(crate) fn well(more: &[&str]) -> Result<(Rig, SocketAddr)> {
    let rig = boot(more)?;
    apply(&rig, &json!({}), &[("a1", Is::Ready), ("b1", Is::Ready)])?;
    let void = apply_void(&rig)?;
    serves(&rig, 2)?;
    Ok((rig, void))
}

#[test]
fn trace_shows_each_connection_once_with_its_addresses_before_and_after_and_each_refusal() -> Result<()> {
    let (rig, void) = well(&[])?;
    let client = rig.pod("client");
    let trace = start(&rig, &[])?;
    let inside = ask(&client.place, shop(), 6)?;
    let outside = ask(&rig.outside, node_port(), 6)?;
    ensure!(inside.complete() && outside.complete(), "{inside:?} {outside:?}");
    ask(&client.place, void, 3)?;
    ask(&rig.outside, shop(), 1)?;
    let events = stop(trace)?;
    for event in &events {
        println!("{event}");
    }
    let of = |reason: &str| -> Vec<&Value> { events.iter().filter(|event| text(event, "reason") == reason).collect() };

    // What servers saw of the socket edge's connections is what the calls were told to use.
    let calls = of("socket_translated");
    assert_eq!(calls.len(), 6);
    let backends: BTreeSet<&str> = calls.iter().map(|event| text(event, "backend")).collect();
    let servers: BTreeSet<String> = inside.answers().map(|answer| answer.local.to_string()).collect();
    assert_eq!(backends, servers.iter().map(String::as_str).collect());
    for event in &calls {
        assert_eq!(text(event, "edge"), "socket");
        assert_eq!(
            text(event, "client"),
            client.addresses.get(Family::V4).to_string(),
            "{event}"
        );
        assert!(text(event, "process").starts_with("testpod["), "{event}");
        assert_eq!(
            (text(event, "frontend"), text(event, "service")),
            (&*shop().to_string(), "default/shop:80")
        );
    }

    // Packets: of each connection the server knows the address that it saw.
    let flows = of("new_flow");
    assert_eq!(
        flows.len(),
        6,
        "one event a connection, whatever its packets: {flows:#?}"
    );
    for answer in outside.answers() {
        let seen = answer.peer.to_string();
        let of_this = |event: &&&Value| {
            let source = match text(event, "source") {
                "" => format!("{}:{}", text(event, "client"), event["client_port"]),
                source => source.to_owned(),
            };
            source == seen && text(event, "backend") == answer.local.to_string()
        };
        let event = flows
            .iter()
            .find(of_this)
            .with_context(|| format!("{answer:?} in {flows:#?}"))?;
        let fields = ["edge", "interface", "frontend", "service"].map(|field| text(event, field));
        assert_eq!(fields, ["uplink", "eth0", &*node_port().to_string(), "default/shop:80"]);
    }

    let refused = of("no_endpoints");
    assert_eq!(refused.len(), 3, "{refused:#?}");
    for event in refused {
        assert_eq!(
            (text(event, "service"), &event["refused"]),
            ("default/void:81", &json!(true))
        );
        assert_eq!(event["backend"], Value::Null);
    }
    let dropped = of("external_cluster_ip");
    assert!(!dropped.is_empty(), "a ClusterIP is not for clients outside");
    assert_eq!(events.len(), 6 + 6 + 3 + dropped.len(), "and nothing else");
    Ok(())
}

#[test]
fn what_xdp_begins_and_drops_is_told_once_too() -> Result<()> {
    let rig = boot_with(FerrogateOptions {
        xdp: true,
        ..FerrogateOptions::default()
    })?;
    apply(&rig, &json!({}), &[("a1", Is::Ready), ("b1", Is::Ready)])?;
    serves(&rig, 1)?;
    let trace = start(&rig, &[])?;
    ensure!(ask(&rig.outside, node_port(), 6)?.complete(), "no answer");
    ask(&rig.outside, shop(), 1)?;
    let events = stop(trace)?;
    let of = |reason: &str| -> Vec<&Value> { events.iter().filter(|event| text(event, "reason") == reason).collect() };
    let (begun, dropped) = (of("new_flow"), of("external_cluster_ip"));
    assert_eq!(begun.len(), 6, "{events:#?}");
    assert!(
        !dropped.is_empty() && begun.len() + dropped.len() == events.len(),
        "{events:#?}"
    );
    // Those of the other node's pod at least, which XDP sends on itself.
    assert!(
        begun.iter().filter(|event| text(event, "edge") == "xdp").count() >= 3,
        "{begun:#?}"
    );
    assert!(dropped.iter().all(|event| text(event, "edge") == "xdp"), "{dropped:#?}");
    Ok(())
}

#[test]
fn trace_prints_a_line_for_people_for_each_event() -> Result<()> {
    let (rig, void) = well(&[])?;
    let client = rig.pod("client");
    let mut command = ferrogate_command(&rig, 1, &["trace", "--count", "5"])?;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut trace = Process::start("ferrogate trace", command)?;
    trace.wait_for_error_line("Tracing; Ctrl-C ends it.")?;
    ask(&client.place, shop(), 2)?;
    ask(&rig.outside, node_port(), 2)?;
    ask(&client.place, void, 1)?;
    let (status, page, _) = trace.output()?;
    println!("{page}");
    ensure!(status.success(), "{status}");
    let lines: Vec<&str> = page.lines().collect();
    assert_eq!(lines.len(), 5, "{page}");
    let address = client.addresses.get(Family::V4);
    let call = format!(" socket TCP {address} testpod[");
    assert!(
        lines[0].contains(&call) && lines[0].ends_with(":8080  default/shop:80"),
        "{page}"
    );
    let way = format!(" -> {} => ", node_port());
    for line in &lines[2..4] {
        assert!(
            line.contains(" uplink/eth0 TCP 172.31.0.100:") && line.contains(&way),
            "{page}"
        );
    }
    let refused = format!(" -> {void} REFUSED no_endpoints  default/void:81");
    assert!(lines[4].contains(&call) && lines[4].ends_with(&refused), "{page}");
    Ok(())
}

#[test]
fn filters_show_what_was_asked_for_and_one_traces_at_a_time() -> Result<()> {
    let (rig, void) = well(&[])?;
    let client = &rig.pod("client").place;
    let both = || -> Result<()> {
        ask(client, shop(), 4)?;
        ask(&rig.outside, node_port(), 4)?;
        ask(client, void, 2)?;
        Ok(())
    };
    let count = |arguments: &[&str]| -> Result<(usize, BTreeSet<String>)> {
        let trace = start(&rig, arguments)?;
        both()?;
        let events = stop(trace)?;
        Ok((
            events.len(),
            events.iter().map(|event| text(event, "service").to_owned()).collect(),
        ))
    };
    let shop = BTreeSet::from(["default/shop:80".to_owned()]);
    let void = BTreeSet::from(["default/void:81".to_owned()]);
    assert_eq!(count(&["default/void"])?, (2, void.clone()));
    assert_eq!(count(&["shop"])?, (8, shop.clone()));
    assert_eq!(count(&["--verdict", "refused"])?, (2, void.clone()));
    assert_eq!(count(&["--verdict", "new"])?, (8, shop.clone()));
    assert_eq!(count(&["--reason", "new_flow"])?, (4, shop.clone()));
    let outside = "172.31.0.100";
    assert_eq!(count(&["--address", outside])?, (4, shop.clone()));
    let remote = rig.pod("b1").addresses.get(Family::V4).to_string();
    assert_eq!(
        count(&["--address", &remote])?,
        (4, shop.clone()),
        "a backend of every second connection"
    );

    // Ends by itself.
    let trace = start(&rig, &["--count", "3"])?;
    both()?;
    assert_eq!(events(trace)?.len(), 3);
    assert!(events(start(&rig, &["--for", "1s"])?)?.is_empty(), "nobody connects");

    let first = start(&rig, &[])?;
    let second = ferrogate(&rig, 1, &["trace", "--for", "1s"])?;
    let why = String::from_utf8(second.stderr)?;
    assert!(!second.status.success() && why.contains("somebody traces"), "{why}");
    stop(first)?;
    let wrong = ferrogate(&rig, 1, &["trace", "--reason", "translated"])?;
    let why = String::from_utf8(wrong.stderr)?;
    assert!(why.contains("new_flow") && !why.contains("not_service,"), "{why}");
    Ok(())
}

/// Until when the programs tell (`TraceSettings::until`).
pub(crate) fn until(rig: &Rig) -> Result<u64> {
    let path = rig.node(1).pin("maps/TRACE");
    let map = Array::<_, [u64; 2]>::try_from(Map::Array(MapData::from_pin(&path)?))?;
    Ok(map.get(&0, 0)?[0])
}

#[test]
fn what_does_not_fit_is_counted_and_nothing_is_told_when_nobody_traces() -> Result<()> {
    let (rig, _) = well(&["--map-entries", "TRACE_EVENTS=4096"])?;
    assert_eq!(until(&rig)?, 0);
    let trace = start(&rig, &[])?;
    assert!(until(&rig)? > 0);
    // A reader that does not get to read.
    signal(&trace, Signal::STOP)?;
    let report = ask(&rig.pod("client").place, shop(), 100)?;
    ensure!(report.complete(), "a connection waits for no reader: {report:?}");
    signal(&trace, Signal::CONT)?;
    signal(&trace, Signal::INT)?;
    let (status, output, errors) = trace.output()?;
    ensure!(status.success(), "{status}: {errors}");
    let shown = output.lines().count();
    // wait_for_error_line has taken standard error, so the sum is asked of the map.
    let missed = lost(&rig)?;
    assert!(shown > 0 && missed > 0, "{shown} shown, {missed} lost");
    assert_eq!(shown as u64 + missed, 100);
    assert_eq!(until(&rig)?, 0, "it has put back what it set");

    // One that is killed cannot.
    let mut trace = start(&rig, &[])?;
    trace.kill()?;
    let left = until(&rig)?;
    assert!(left > 0);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec)?);
    let term = Duration::from_nanos(left).saturating_sub(now);
    assert!(term <= Duration::from_secs(5), "{term:?}");
    std::thread::sleep(term.min(PATIENCE));
    let before = lost(&rig)?;
    ask(&rig.pod("client").place, shop(), 100)?;
    assert_eq!(
        lost(&rig)?,
        before,
        "nobody traces: nothing was told, and so nothing lost"
    );
    assert!(
        events(start(&rig, &["--for", "1s"])?)?.is_empty(),
        "what others left is not shown"
    );
    Ok(())
}

/// Events that had no room, of all CPUs.
fn lost(rig: &Rig) -> Result<u64> {
    let path = rig.node(1).pin("maps/TRACE_LOST");
    let map = aya::maps::PerCpuArray::<_, u64>::try_from(Map::PerCpuArray(MapData::from_pin(&path)?))?;
    Ok(map.get(&0, 0)?.iter().sum())
}

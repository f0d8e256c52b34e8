//! `ferrogate top` on a terminal, beside what clients did.
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use ferrogate_tests::rig::addresses::{NODE_BASE, lan};
use ferrogate_tests::rig::{Family, Place, Rig};
use ferrogate_tests::wire::{ProbeRequest, Protocol};
use serde_json::{Value, json};

use crate::common::{
    Is, NODE_PORT, apply, apply_void, boot, cluster_ip, eventually, ferrogate, ferrogate_command, serves,
};
use crate::terminal::Terminal;

fn connect(place: &Place, to: SocketAddr, count: u32) -> Result<()> {
    let report = place.probe(&ProbeRequest {
        timeout_ms: 2000,
        ..ProbeRequest::new(Protocol::Tcp, to).count(count)
    })?;
    ensure!(report.complete(), "{to}: {report:?}");
    Ok(())
}

fn refused(place: &Place, to: SocketAddr, count: u32) -> Result<()> {
    let report = place.probe(&ProbeRequest {
        timeout_ms: 2000,
        ..ProbeRequest::new(Protocol::Tcp, to).count(count)
    })?;
    ensure!(report.tally().is_empty(), "{to}: {report:?}");
    Ok(())
}

/// The service's line, in words.
fn line<'a>(screen: &'a str, service: &str) -> Option<Vec<&'a str>> {
    let line = screen.lines().find(|line| line.contains(service))?;
    Some(line.trim_start_matches("> ").split_whitespace().collect())
}

/// New connections to the service so far.
fn total(screen: &str, service: &str) -> Option<u32> {
    line(screen, service)?.get(4)?.parse().ok()
}

fn place(screen: &str, service: &str) -> Option<usize> {
    screen.lines().position(|line| line.contains(service))
}

#[test]
fn top_shows_on_a_terminal_of_80x24_what_clients_do_and_gives_the_terminal_back() -> Result<()> {
    let rig = boot(&[])?;
    apply(&rig, &json!({}), &[("a1", Is::Ready), ("b1", Is::Ready)])?;
    let void = apply_void(&rig)?;
    serves(&rig, 2)?;
    let shop = SocketAddr::new(cluster_ip(), 80);
    let command = || ferrogate_command(&rig, 1, &["top", "--interval", "1s"]);
    let mut terminal = Terminal::start(command()?, 80, 24)?;
    terminal.shows("both Services", |screen| {
        total(screen, "default/shop:80") == Some(0) && total(screen, "default/void:81") == Some(0)
    })?;
    assert!(terminal.on_other_page() && !terminal.echoes()?);
    let screen = terminal.screen();
    assert!(screen.contains("Dropped  nothing"), "{screen}");
    assert!(screen.contains("FLOWS 0%") && screen.contains("q quit"), "{screen}");

    // 9 by the socket edge, and 7 by packets.
    let client = &rig.pod("client").place;
    connect(client, shop, 9)?;
    let node = SocketAddr::new(lan(NODE_BASE + 1).get(Family::V4), NODE_PORT);
    connect(&rig.outside, node, 7)?;
    refused(client, void, 5)?;
    let screen = terminal.shows("every connection, and no other", |screen| {
        total(screen, "default/shop:80") == Some(16) && screen.contains("no_endpoints") && screen.contains("(5)")
    })?;
    assert_eq!(total(&screen, "default/void:81"), Some(0), "{screen}");
    assert_eq!(
        line(&screen, "default/shop:80").map(|words| words[5..].join(" ")),
        Some("0 2 (1)".to_owned()),
        "{screen}"
    );
    let refused = line(&screen, "default/void:81").and_then(|words| words.get(5)?.parse::<f64>().ok());
    assert!(refused > Some(0.0), "{screen}");

    // A rate, while somebody connects, and none when nobody does.
    eventually("a rate", || {
        connect(client, shop, 40)?;
        let screen = terminal.screen();
        let rate = line(&screen, "default/shop:80").and_then(|words| words.get(3)?.parse::<f64>().ok());
        Ok(rate > Some(0.0))
    })?;
    terminal.shows("no rate", |screen| {
        line(screen, "default/shop:80").is_some_and(|words| words[3] == "0")
    })?;

    keys(&mut terminal, &rig)?;
    terminal.press("q")?;
    assert!(terminal.end()?.success());
    eventually("the terminal as it was", || {
        Ok(!terminal.on_other_page() && terminal.echoes()?)
    })?;

    // Told to end by a signal, the terminal is given back as well.
    let mut terminal = Terminal::start(command()?, 80, 24)?;
    terminal.shows("the page", |screen| screen.contains("default/shop:80"))?;
    assert!(terminal.terminate()?.success());
    eventually("the terminal as it was", || {
        Ok(!terminal.on_other_page() && terminal.echoes()?)
    })
}

/// Order, cursor, backends, another size.
fn keys(terminal: &mut Terminal, rig: &Rig) -> Result<()> {
    terminal.press("n")?;
    terminal.shows("ordered by name", |screen| {
        screen.contains("by name") && place(screen, "default/shop:80") < place(screen, "default/void:81")
    })?;
    terminal.press("r")?;
    terminal.shows("the other way round", |screen| {
        screen.contains("by name, reversed") && place(screen, "default/shop:80") > place(screen, "default/void:81")
    })?;
    terminal.press("rd")?;
    terminal.shows("what refuses first", |screen| {
        screen.contains("by refused/s") && place(screen, "default/shop:80") > place(screen, "default/void:81")
    })?;
    terminal.press("t")?;
    terminal.shows("the cursor on the busiest", |screen| {
        screen.contains("> default/shop:80")
    })?;
    terminal.press("\r")?;
    let local = SocketAddr::new(rig.pod("a1").addresses.get(Family::V4), 8080).to_string();
    let screen = terminal.shows("its backends", |screen| screen.contains(&local))?;
    assert!(
        screen
            .lines()
            .any(|line| line.contains(&local) && line.contains("here")),
        "{screen}"
    );
    terminal.press("\x1b[B")?;
    terminal.shows("the cursor moves", |screen| screen.contains("> default/void:81"))?;
    terminal.resize(120, 10)?;
    terminal.shows("a small page", |screen| {
        screen.lines().count() == 10 && screen.contains("> default/void:81") && screen.contains("q quit")
    })?;
    Ok(())
}

#[test]
fn top_says_when_the_agent_is_gone_and_goes_on_when_it_is_back() -> Result<()> {
    let mut rig = boot(&[])?;
    apply(&rig, &json!({}), &[("a1", Is::Ready)])?;
    serves(&rig, 1)?;
    let mut terminal = Terminal::start(ferrogate_command(&rig, 1, &["top", "--interval", "1s"])?, 80, 24)?;
    terminal.shows("the page", |screen| screen.contains("default/shop:80"))?;
    rig.take_proxy(1)?.kill()?;
    terminal.shows("that it is gone", |screen| screen.contains("OLD: no agent answers"))?;
    rig.start_proxy(1)?;
    serves(&rig, 1)?;
    connect(&rig.pod("client").place, SocketAddr::new(cluster_ip(), 80), 3)?;
    terminal.shows("the page again", |screen| {
        !screen.contains("OLD:") && total(screen, "default/shop:80") == Some(3)
    })?;
    terminal.press("q")?;
    assert!(terminal.end()?.success());
    Ok(())
}

#[test]
fn top_for_pipes_prints_one_page_or_a_line_of_json_for_each_interval() -> Result<()> {
    let rig = boot(&[])?;
    apply(&rig, &json!({}), &[("a1", Is::Ready)])?;
    serves(&rig, 1)?;
    connect(&rig.pod("client").place, SocketAddr::new(cluster_ip(), 80), 4)?;
    let once = ["top", "--once", "--interval", "1s"];
    let page = String::from_utf8(ferrogate(&rig, 1, &once)?.stdout)?;
    assert_eq!(total(&page, "default/shop:80"), Some(4), "{page}");
    assert!(!page.contains('\x1b'), "{page:?}");
    let output = ferrogate(&rig, 1, &[&once[..], &["--output", "json"]].concat())?;
    let rates: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(rates["services"][0]["connections"], 4, "{rates:#}");
    assert!(rates["seconds"].as_f64() >= Some(1.0), "{rates:#}");
    let output = ferrogate(&rig, 1, &["top"])?;
    let why = String::from_utf8(output.stderr)?;
    assert!(!output.status.success() && why.contains("--once"), "{why}");
    let mut command = ferrogate_command(&rig, 1, &["top", "--interval", "1s", "--output", "json"])?;
    let lines = command.stdout(std::process::Stdio::piped());
    let mut child = lines.spawn().context("ferrogate top")?;
    let read = std::io::BufReader::new(child.stdout.take().context("its output")?);
    for line in std::io::BufRead::lines(read).take(2) {
        let rates: Value = serde_json::from_str(&line?)?;
        assert_eq!(rates["node"], "n1", "{rates:#}");
    }
    // Nobody reads on: it ends by itself.
    let status = child.wait()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

//! The page of a node in a real browser, beside what clients did.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use ferrogate_tests::rig::addresses::{NODE_BASE, OUTSIDE, lan};
use ferrogate_tests::rig::{Family, Place, Process, Rig};
use ferrogate_tests::wire::{ProbeReport, ProbeRequest, Protocol};
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::common::{
    Is, NODE_PORT, apply, apply_void, boot, cluster_ip, eventually, ferrogate, ferrogate_command, serves,
};
use crate::trace::until;

const AT: &str = "127.0.0.1:10261";

fn ask(place: &Place, to: SocketAddr, count: u32) -> Result<ProbeReport> {
    place.probe(&ProbeRequest {
        timeout_ms: 2000,
        ..ProbeRequest::new(Protocol::Tcp, to).count(count)
    })
}

/// A node with a page, and a browser on that node that has it open.
fn stage() -> Result<(Rig, SocketAddr, Browser)> {
    let rig = boot(&["--ui", AT])?;
    apply(
        &rig,
        &json!({}),
        &[("a1", Is::Ready), ("a2", Is::NotReady), ("b1", Is::Ready)],
    )?;
    let void = apply_void(&rig)?;
    serves(&rig, 2)?;
    assert_eq!(until(&rig)?, 0, "nothing is told while nobody looks");
    let node = rig.node(1);
    let profile = node.directory.join("browser");
    let mut browser = Browser::open(&node.place, &profile, &format!("http://{AT}/"))?;
    browser.shows("#rows tr", |rows| rows.len() == 2)?;
    // From here on everything that is refused is told.
    browser.shows("#feed-state", |text| text == ["listening"])?;
    Ok((rig, void, browser))
}

/// Pictures for the documents, where somebody wants them.
fn keep(name: &str, picture: &[u8]) -> Result<()> {
    ensure!(
        picture.starts_with(b"\x89PNG") && picture.len() > 10_000,
        "{name}: no picture"
    );
    match std::env::var_os("FERROGATE_SCREENS").map(PathBuf::from) {
        Some(folder) => Ok(std::fs::write(folder.join(name), picture)?),
        None => Ok(()),
    }
}

#[test]
fn the_page_shows_services_their_way_flows_and_drops_and_every_part_is_reached_by_keys() -> Result<()> {
    let (rig, void, mut browser) = stage()?;
    let client = &rig.pod("client").place;
    // 9 by the socket edge, and 7 by packets.
    let shop = SocketAddr::new(cluster_ip(), 80);
    ensure!(ask(client, shop, 9)?.complete());
    let door = SocketAddr::new(lan(NODE_BASE + 1).get(Family::V4), NODE_PORT);
    let outside = ask(&rig.outside, door, 7)?;
    ensure!(outside.complete(), "{outside:?}");
    ensure!(ask(client, void, 5)?.tally().is_empty(), "nobody is behind it");
    ask(&rig.outside, shop, 1)?;

    let total = |rows: &[String], row: &str| rows.iter().any(|one| one == row);
    browser.shows("#rows tr", |rows| {
        total(rows, "default/shop:80 0 16 2 (1)") && total(rows, "default/void:81 0 0 0 (0)")
    })?;
    order_by_keys(&mut browser)?;
    way_and_flows(&mut browser, &rig, &outside)?;

    // What was refused: by whom, where to, and what that means.
    let calls = |lines: &[String], part: &str| {
        lines
            .iter()
            .any(|line| line.contains("no_endpoints") && line.contains(part))
    };
    let to = format!("→ {void} default/void:81 The Service has no usable endpoint");
    let feed = browser.shows("#feed li", |lines| {
        calls(lines, &to) && lines.iter().any(|line| line.contains("external_cluster_ip"))
    })?;
    assert!(
        calls(&feed, " testpod[") && calls(&feed, "×5"),
        "one that tries again is one line: {feed:#?}"
    );
    let from = format!("uplink/eth0 TCP {}", lan(OUTSIDE).get(Family::V4));
    assert!(feed.iter().any(|line| line.contains(&from)), "{from}: {feed:#?}");
    browser.shows("#reasons li", |lines| {
        lines
            .iter()
            .any(|line| line.starts_with("no_endpoints ") && line.contains("5 The Service has"))
    })?;
    browser.shows("#maps li", |maps| maps.iter().any(|map| map.starts_with("FLOWS ")))?;

    pictures(&mut browser, &rig, (shop, void))?;
    assert!(browser.troubles().is_empty(), "{:#?}", browser.troubles());
    assert!(until(&rig)? > 0, "the programs tell while somebody looks");
    drop(browser);
    eventually("the programs are silent when nobody looks", || Ok(until(&rig)? == 0))
}

/// Headings, the search, the names of Services.
fn order_by_keys(browser: &mut Browser) -> Result<()> {
    let first = |name: &'static str| move |rows: &[String]| rows.first().is_some_and(|row| row.starts_with(name));
    browser.tab_to("search")?;
    browser.write("voi")?;
    browser.shows("#rows tr", |rows| rows.len() == 1)?;
    browser.shows("#count", |text| text == ["1 of 2 Service ports"])?;
    browser
        .value("const search = document.activeElement; search.value = ''; search.dispatchEvent(new Event('input'))")?;
    browser.shows("#rows tr", |rows| rows.len() == 2)?;
    browser.tab_to("Service")?;
    browser.press("Enter")?;
    browser.shows("#rows tr", first("default/shop:80"))?;
    browser.press("Space")?;
    browser.shows("#rows tr", first("default/void:81"))?;
    let sorted = browser.value("document.querySelector('th[aria-sort]').ariaSort")?;
    assert_eq!(sorted, "descending");
    browser.tab_to("default/void:81")?;
    browser.press("Enter")?;
    browser.shows("#service-title", |title| title == ["default/void:81"])?;
    browser.shows("#way .bad", |text| {
        text.iter().any(|one| one.starts_with("no endpoint"))
    })?;
    browser.press("ArrowDown")?;
    browser.press("Enter")?;
    browser.shows("#service-title", |title| title == ["default/shop:80"])?;
    let focused = browser.value("document.activeElement.innerText")?;
    assert_eq!(focused, "default/shop:80", "the focus stays where it was");
    Ok(())
}

/// The drawing, the endpoints and the flows of the Service that is open.
fn way_and_flows(browser: &mut Browser, rig: &Rig, outside: &ProbeReport) -> Result<()> {
    let drawn = browser.shows("#way text", |texts| !texts.is_empty())?;
    let a1 = rig.pod("a1").addresses.get(Family::V4);
    for part in [
        "outside".to_owned(),
        "NodePort, uplink edge".to_owned(),
        "shop:80".to_owned(),
        format!("{a1}:8080"),
    ] {
        assert!(drawn.contains(&part), "{part}: {drawn:#?}");
    }
    let spoken = browser.value("document.querySelector('#way svg').ariaLabel")?;
    assert!(
        spoken
            .as_str()
            .is_some_and(|text| text.ends_with("2 of 3 endpoints are used.")),
        "{spoken}"
    );
    let ends = browser.texts("#endpoints tr")?;
    let a2 = rig.pod("a2").addresses.get(Family::V4);
    let unready = format!("{a2}:8080 a2 n1, here not ready no: it is not ready 0");
    assert!(ends.len() == 3 && ends.contains(&unready), "{ends:#?}");
    let flows = browser.shows("#flows tr", |rows| rows.len() == 7)?;
    for answer in outside.answers() {
        let to = answer.local.to_string();
        assert!(flows.iter().any(|row| row.contains(&to)), "{to}: {flows:#?}");
    }
    Ok(())
}

/// No page is wider than its window, large or small, light or dark. Meanwhile something happens.
fn pictures(browser: &mut Browser, rig: &Rig, (shop, void): (SocketAddr, SocketAddr)) -> Result<()> {
    let client = &rig.pod("client").place;
    let door = SocketAddr::new(lan(NODE_BASE + 1).get(Family::V4), NODE_PORT);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                ensure!(ask(&rig.outside, door, 6)?.complete() && ask(client, shop, 3)?.complete());
                ask(client, void, 1)?;
            }
            Ok(())
        });
        let taken = pictures_of(browser);
        done.store(true, Ordering::Release);
        let traffic = traffic.join().map_err(|_| anyhow::anyhow!("the traffic panicked"))?;
        taken.and(traffic)
    })
}

fn pictures_of(browser: &mut Browser) -> Result<()> {
    let moves = |rates: &[String]| rates.len() == 2 && rates.iter().all(|rate| !["0", "–"].contains(&rate.as_str()));
    browser.shows("#connections, #refused", moves)?;
    for (name, width, height, dark) in [
        ("page-light.png", 1180, 820, false),
        ("page-dark.png", 1180, 820, true),
        ("page-small.png", 400, 900, false),
        ("page-large.png", 1800, 1000, false),
    ] {
        let (picture, extent) = browser.picture(width, height, dark)?;
        assert_eq!(extent[0], width, "{name}: {extent}");
        keep(name, &picture)?;
    }
    Ok(())
}

#[test]
fn the_page_makes_way_for_a_trace_and_says_when_its_agent_is_away() -> Result<()> {
    let (mut rig, void, mut browser) = stage()?;
    let mut command = ferrogate_command(&rig, 1, &["trace", "--count", "3", "--output", "json"])?;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut trace = Process::start("ferrogate trace", command)?;
    trace.wait_for_error_line("Tracing; Ctrl-C ends it.")?;
    browser.shows("#feed-state", |text| {
        text[0].starts_with("waiting: `ferrogate trace` runs")
    })?;
    ask(&rig.pod("client").place, void, 3)?;
    let (status, output, _) = trace.output()?;
    ensure!(status.success(), "{status}");
    let events: Vec<Value> = output.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert!(
        events.len() == 3 && events.iter().all(|event| event["reason"] == "no_endpoints"),
        "{output}"
    );
    browser.shows("#feed-state", |text| text == ["listening"])?;
    assert!(browser.texts("#feed li")?.is_empty(), "they were the command's alone");
    ask(&rig.pod("client").place, void, 1)?;
    browser.shows("#feed li", |lines| lines.len() == 1)?;

    rig.take_proxy(1)?.kill()?;
    browser.shows("#old:not([hidden])", |text| {
        text.len() == 1 && text[0].contains("does not answer since")
    })?;
    rig.start_proxy(1)?;
    browser.shows("#old:not([hidden])", <[String]>::is_empty)?;
    // The new agent's programs tell once it has been asked for the first time.
    browser.shows("#feed-state", |text| text == ["listening"])?;
    ask(&rig.pod("client").place, void, 1)?;
    browser.shows("#feed li", |lines| lines.len() == 1 && lines[0].contains("×2"))?;
    assert!(browser.troubles().is_empty(), "{:#?}", browser.troubles());
    Ok(())
}

#[test]
fn an_address_that_others_reach_has_to_be_meant() -> Result<()> {
    let rig = boot(&[])?;
    let output = ferrogate(&rig, 1, &["agent", "--ui", "0.0.0.0"])?;
    let why = String::from_utf8(output.stderr).context("text")?;
    assert!(
        !output.status.success() && why.contains("--ui 0.0.0.0:10261") && why.contains("--ui-public"),
        "{why}"
    );
    Ok(())
}

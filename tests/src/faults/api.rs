//! The API server: away, slow, forgetful, confused. What was programmed is served, nothing is deleted that should be there,
//! and in the end everything is as the API server says.
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Aftermath, Fault, Ground, Harm};
use crate::rig::addresses::{API, cluster_ip};
use crate::wire::api::Weather;

const PATIENCE: Duration = Duration::from_secs(30);

const fn fault(name: &'static str, inflict: fn(&mut Ground) -> Result<Aftermath>) -> Fault {
    Fault {
        name,
        rival: false,
        harm: Harm::None,
        inflict,
    }
}

pub(super) const FAULTS: &[Fault] = &[
    fault("the API server goes away", away),
    fault("started while the API server is away", away_at_start),
    fault("the API server restarts and has forgotten its history", compacted),
    fault("every watch ends with 410 Gone", gone),
    fault("watches end with 410 Gone all the time", storm),
    fault("the API server is slow", slow),
    fault("every watch event comes twice", duplicated),
    fault("watch events are cut off in the middle", truncated),
    fault(
        "the API server is reached by the ClusterIP that the agent programs",
        own_cluster_ip,
    ),
];

/// While the weather is bad a Service is deleted and another one is new. Before it is fair again the first one is still
/// served, if `blind`; in the end it is refused, and the new one is served.
fn weather(ground: &mut Ground, bad: Weather, blind: bool, restart: bool) -> Result<Aftermath> {
    let doomed = ground.marker()?;
    ground.await_answer(&doomed)?;
    if restart {
        for node in ground.nodes() {
            ground.rig.take_proxy(node)?.kill()?;
        }
    }
    ground.set_weather(bad)?;
    let length = Duration::from_millis(ground.random.u64(1500..4000));
    if restart {
        for node in ground.nodes() {
            ground.start(node)?;
        }
    }
    ground.delete_marker(&doomed)?;
    let new = ground.marker()?;
    let end = Instant::now() + length;
    ground.check_services()?;
    while Instant::now() < end {
        ensure!(
            !blind || ground.answers(&doomed)?,
            "what was programmed is not served any more"
        );
        thread::sleep(Duration::from_millis(50));
    }
    ground.set_weather(Weather::Fair)?;
    let converged = ground.await_marker(&new)?;
    ground.await_silence(&doomed)?;
    ground.check_services()?;
    Ok(Aftermath {
        converged: Some(converged),
        note: format!(
            "for {} ms, one Service deleted and one new meanwhile",
            length.as_millis()
        ),
    })
}

fn away(ground: &mut Ground) -> Result<Aftermath> {
    weather(ground, Weather::Down, true, false)
}

fn away_at_start(ground: &mut Ground) -> Result<Aftermath> {
    weather(ground, Weather::Down, true, true)
}

fn gone(ground: &mut Ground) -> Result<Aftermath> {
    weather(ground, Weather::Gone, false, false)
}

fn storm(ground: &mut Ground) -> Result<Aftermath> {
    weather(ground, Weather::Storm, false, false)
}

fn slow(ground: &mut Ground) -> Result<Aftermath> {
    weather(ground, Weather::Slow(300), false, true)
}

fn duplicated(ground: &mut Ground) -> Result<Aftermath> {
    weather(ground, Weather::Duplicate, false, true)
}

fn truncated(ground: &mut Ground) -> Result<Aftermath> {
    weather(ground, Weather::Truncate, false, true)
}

fn compacted(ground: &mut Ground) -> Result<Aftermath> {
    let doomed = ground.marker()?;
    ground.await_answer(&doomed)?;
    // The agents hear nothing of what happens before the server forgets it.
    ground.set_weather(Weather::Down)?;
    ground.delete_marker(&doomed)?;
    let new = ground.marker()?;
    let control_plane = ground.rig.control_plane_mut().context("no control plane")?;
    control_plane.stop_api_server();
    control_plane.forget_history()?;
    control_plane.start_api_server()?;
    ensure!(ground.answers(&doomed)?, "what was programmed is not served any more");
    ground.set_weather(Weather::Fair)?;
    let converged = ground.await_marker(&new)?;
    ground.await_silence(&doomed)?;
    ground.check_services()?;
    Ok(Aftermath {
        converged: Some(converged),
        note: "its process and etcd's old revisions gone".to_owned(),
    })
}

/// Killed and started twice, so that what the first one has programmed is all that the second one can go by.
fn own_cluster_ip(ground: &mut Ground) -> Result<Aftermath> {
    let servers = cluster_ip(API);
    ground.set_agent_options(&[format!("--api-server=https://{}", servers.v4)]);
    let mut converged = Duration::ZERO;
    for _ in 0..2 {
        for node in ground.nodes() {
            ground.rig.take_proxy(node)?.kill()?;
            ground.start(node)?;
        }
        let marker = ground.marker()?;
        converged = converged.max(ground.await_marker(&marker)?);
    }
    ground.set_agent_options(&[]);
    for node in ground.nodes() {
        ground.rig.take_proxy(node)?.terminate(PATIENCE)?;
        ground.start(node)?;
    }
    ground.check_services()?;
    Ok(Aftermath {
        converged: Some(converged),
        note: format!("https://{}", servers.v4),
    })
}

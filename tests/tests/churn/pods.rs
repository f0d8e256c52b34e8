//! Pods that come by the hundred, and go.
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use ferrogate_tests::rig::{Family, Layout, Place, PodSpec, SocketEdge};
use ferrogate_tests::walks::cell::Target;
use ferrogate_tests::walks::fixture::{self, TARGET_PORT, THREE};
use ferrogate_tests::wire::{ProbeRequest, Protocol};

use crate::ground::{Traffic, boot, eventually, holdings};

/// Pods that come at once.
const CROWD: u8 = 100;

/// Links of a hundred pods on node 1, their other ends in a namespace that stands for all of theirs.
fn crowd(layout: Layout, parking: &Place) -> Result<(String, String)> {
    let (mut come, mut go) = (String::new(), String::new());
    for number in 0..CROWD {
        let (name, host) = (format!("crowd{number}"), 100 + number);
        writeln!(
            come,
            "link add {name} type veth peer name {name} netns {}",
            parking.netns.name()
        )?;
        match layout {
            Layout::Routed => {
                writeln!(come, "link set {name} up\naddr add 10.244.1.1/32 dev {name}")?;
                writeln!(come, "route add 10.244.1.{host}/32 dev {name}")?;
            }
            _ => writeln!(come, "link set {name} master cni0 up")?,
        }
        writeln!(go, "link del {name}")?;
    }
    Ok((come, go))
}

fn pods_come_and_go(layout: Layout, socket_edge: SocketEdge) -> Result<()> {
    let mut rig = boot(layout, socket_edge, &[])?;
    let parking = rig.add_machine("parking", 71)?;
    let (come, go) = crowd(layout, &parking)?;
    let netns = rig.node(1).place.netns.clone();
    let before = holdings(&rig)?;
    let traffic = Traffic::start(&rig, true)?;
    for round in 0..2 {
        netns.ip_batch(&come)?;
        eventually("every new pod's link has its programs", || {
            let held = holdings(&rig)?.interfaces;
            let theirs = held.iter().filter(|(name, _)| name.starts_with("crowd"));
            Ok(theirs.filter(|(_, (role, hooks))| role == "pod" && *hooks == 2).count() == usize::from(CROWD))
        })?;
        let late = format!("late-{round}");
        rig.add_pod(PodSpec::new(&late, 1).ports(&[TARGET_PORT]))?;
        for family in Family::BOTH {
            let to = fixture::address(&rig, THREE, Target::ClusterIp, family);
            let request = ProbeRequest::new(Protocol::Tcp, to).timeout_ms(200);
            eventually("a pod among them reaches a Service", || {
                Ok(rig.pod(&late).place.probe(&request)?.complete())
            })?;
            let report = rig.pod(&late).place.probe(&request.count(30))?;
            ensure!(
                report.complete() && report.tally().len() == 3,
                "{late}: {:?}",
                report.tally()
            );
        }
        rig.remove_pod(&late)?;
        netns.ip_batch(&go)?;
    }
    // Gone before anybody has looked.
    netns.ip_batch(&come)?;
    netns.ip_batch(&go)?;
    let mut after = holdings(&rig)?;
    eventually("nothing of them is left", || {
        after = holdings(&rig)?;
        Ok(after == before)
    })
    .with_context(|| format!("before: {before:?}, after: {after:?}"))?;
    traffic.end()?;
    rig.check_proxies()
}

#[test]
fn pods_on_veths_come_and_go_by_the_hundred_and_nothing_is_lost_or_left_behind() -> Result<()> {
    pods_come_and_go(Layout::Routed, SocketEdge::Off)
}

#[test]
fn pods_on_a_bridge_come_and_go_by_the_hundred_and_nothing_is_lost_or_left_behind() -> Result<()> {
    pods_come_and_go(Layout::Bridge { netfilter: true }, SocketEdge::All)
}

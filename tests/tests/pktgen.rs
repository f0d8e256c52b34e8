//! The packet generator: what it sends arrives and is right, as a stack shows that answers each packet.
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ferrogate_common::Protocol;
use ferrogate_datapath::host::tcp;
use ferrogate_tests::pktgen::{Flows, Generator, Pace, Report, Traffic};
use ferrogate_tests::rig::addresses::{OUTSIDE, lan};
use ferrogate_tests::rig::{Family, Options, Place, Rig};
use ipnet::IpNet;

/// A port at which nobody listens: TCP answers each SYN with a reset, if all its checksums are right.
const CLOSED: u16 = 9;

/// Packets a second, and for how long: little enough for queues on a busy machine.
const RATE: u64 = 2000;
const DURATION: Duration = Duration::from_millis(250);

fn clients(family: Family) -> Result<IpNet> {
    let text = match family {
        Family::V4 => "198.18.0.0/15",
        Family::V6 => "2001:2::/48",
    };
    Ok(text.parse()?)
}

/// A node whose answers to the clients go to the outside machine, which has no address of theirs.
fn rig() -> Result<Rig> {
    let rig = Rig::boot(Options {
        nodes: 1,
        ..Options::default()
    })?;
    for family in Family::BOTH {
        let (clients, via) = (clients(family)?, lan(OUTSIDE).get(family));
        rig.node(1)
            .place
            .netns
            .ip_batch(&format!("route add {clients} via {via} dev eth0\n"))?;
    }
    // The far end of the generator's link takes live frames only with generic receive offload.
    rig.lan().enter(|| {
        let device = format!("v{OUTSIDE}");
        let status = Command::new("ethtool").args(["-K", &device, "gro", "on"]).status()?;
        ensure!(status.success(), "ethtool -K {device} gro on: {status}");
        Ok(())
    })?;
    Ok(rig)
}

/// The link-layer address of a machine's `eth0`.
fn mac(place: &Place) -> Result<[u8; 6]> {
    let text = place.run("ip", ["-o", "link", "show", "dev", "eth0"])?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether");
    let bytes: Vec<u8> = words
        .nth(1)
        .with_context(|| format!("no link-layer address in {text}"))?
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()?;
    Ok(bytes.as_slice().try_into()?)
}

/// Sends SYNs from the outside machine to a closed port of the node.
fn syns(rig: &Rig, family: Family, flows: Flows) -> Result<Report> {
    let traffic = Traffic {
        protocol: Protocol::Tcp,
        flags: tcp::SYN,
        source: clients(family)?,
        destination: (rig.node(1).address.get(family), CLOSED).into(),
        flows,
        length: 60,
        source_mac: mac(&rig.outside)?,
        destination_mac: mac(&rig.node(1).place)?,
    };
    let pace = Pace {
        rate: Some(RATE),
        duration: DURATION,
        cpus: vec![0],
    };
    rig.outside
        .netns
        .enter(|| Generator::open("eth0", traffic.source)?.send(&traffic, &pace))
}

#[test]
fn every_packet_is_answered_so_its_checksums_are_right() -> Result<()> {
    let rig = rig()?;
    for family in Family::BOTH {
        for flows in [Flows::Random, Flows::Numbered(100)] {
            let report = syns(&rig, family, flows)?;
            ensure!(
                report.sent > 0 && report.replies == report.sent,
                "{family:?}, {flows:?}: not every packet was answered: {report:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_fixed_rate_is_not_exceeded() -> Result<()> {
    let rig = rig()?;
    let report = syns(&rig, Family::V4, Flows::Numbered(10))?;
    let most = (report.seconds * RATE as f64) as u64;
    ensure!(report.sent <= most, "more than {most} packets: {report:?}");
    Ok(())
}

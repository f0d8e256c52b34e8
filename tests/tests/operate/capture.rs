//! `ferrogate trace --pcap`: the file, beside what clients did and whom servers saw.
use std::fs::{self, File};
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use aya::programs::loaded_programs;
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use ferrogate_tests::kernel::takes_tracing;
use ferrogate_tests::rig::{FerrogateOptions, Rig};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::json;

use crate::common::{Is, apply, boot_with, ferrogate, serves};
use crate::trace::{ask, node_port, start, stop, well};

/// A TCP segment in the file.
#[derive(Debug)]
struct Segment {
    source: SocketAddr,
    destination: SocketAddr,
    syn: bool,
    ack: bool,
    /// What the file says of it.
    comment: String,
}

impl Segment {
    fn came(&self) -> bool {
        self.comment.starts_with("came to ")
    }
}

fn segments(path: &std::path::Path) -> Result<Vec<Segment>> {
    let mut reader = PcapNgReader::new(File::open(path)?)?;
    let mut found = Vec::new();
    while let Some(block) = reader.next_block() {
        let Block::EnhancedPacket(packet) = block? else {
            continue;
        };
        let Some(EnhancedPacketOption::Comment(comment)) = packet.options.first() else {
            bail!("a packet without comment: {packet:?}");
        };
        let sliced = LaxSlicedPacket::from_ethernet(&packet.data)?;
        let (Some(LaxNetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (&sliced.net, &sliced.transport) else {
            bail!("not of the Service, which is IPv4 and TCP: {sliced:?}");
        };
        found.push(Segment {
            source: SocketAddr::new(ip.header().source_addr().into(), tcp.source_port()),
            destination: SocketAddr::new(ip.header().destination_addr().into(), tcp.destination_port()),
            syn: tcp.syn(),
            ack: tcp.ack(),
            comment: comment.to_string(),
        });
    }
    Ok(found)
}

/// Programs that look at ours, on the whole machine.
fn watching() -> Result<usize> {
    let mut count = 0;
    for program in loaded_programs() {
        count += usize::from(program?.name_as_str() == Some("ferrogate_pcap"));
    }
    Ok(count)
}

/// On a kernel that takes no such programs: it is said so, and nothing is left. `cargo xtask test` captures in an emulated machine too,
/// whose kernel takes them.
fn refusal(rig: &Rig, file: &str) -> Result<()> {
    println!("this kernel takes no tracing programs: what is looked at is the refusal");
    let output = ferrogate(rig, 1, &["trace", "--for", "1s", "--pcap", file])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && said.contains("this kernel takes no programs that look at others"),
        "{said}"
    );
    assert_eq!(watching()?, 0);
    Ok(())
}

/// Clients outside ask the Service's node port, and each connection is in the file, both ways, before and behind the programs.
fn both_ways(rig: &Rig, entry: &str) -> Result<Option<Vec<Segment>>> {
    let path = std::env::temp_dir().join(format!("fg-capture-{}.pcapng", std::process::id()));
    let name = path.to_str().context("a path")?;
    if !takes_tracing()? {
        refusal(rig, name)?;
        ensure!(!path.exists(), "a file is left");
        return Ok(None);
    }
    let trace = start(rig, &["default/shop", "--pcap", name])?;
    ensure!(watching()? > 0, "nobody looks at the programs");
    let report = ask(&rig.outside, node_port(), 8)?;
    ensure!(report.complete(), "{report:?}");
    let events = stop(trace)?;
    assert_eq!(events.len(), 8, "events are told beside");
    assert_eq!(watching()?, 0, "programs that looked at ours are left");
    let found = segments(&path)?;
    fs::remove_file(&path)?;
    for one in &found {
        println!("{:<34} {} -> {}", one.comment, one.source, one.destination);
    }
    for attempt in &report.attempts {
        let client = attempt.local.context("a client's address")?;
        let answer = attempt.answers.first().context("an answer")?;
        let (seen, server) = (answer.peer, answer.local);
        let has = |what: &str, syn: bool, from: SocketAddr, to: SocketAddr, came: bool| {
            let is = |one: &&Segment| {
                (one.source, one.destination, one.came()) == (from, to, came)
                    && one.syn == syn
                    && one.comment.contains(what)
            };
            let one = found.iter().find(is);
            one.with_context(|| format!("no packet {from} -> {to} at {what} (SYN: {syn}) in {found:#?}"))
        };
        // The opening and what follows it: packets of a known connection are there too.
        for syn in [true, false] {
            let before = has("", syn, client, node_port(), true)?;
            let behind = has("", syn, seen, server, false)?;
            assert_eq!(before.ack, behind.ack);
        }
        has(entry, true, client, node_port(), true)?;
        // Answers of the other node's pod come back to the node, those of its own leave its pod.
        has("", true, server, seen, true)?;
        has("", true, node_port(), client, false)?;
    }
    Ok(Some(found))
}

#[test]
fn a_capture_has_each_packet_of_the_service_as_it_came_and_as_it_left() -> Result<()> {
    let (rig, void) = well(&[])?;
    // Packets of other Services are not in it: `segments` fails for what is not of this one's kind, and these have other ports.
    let client = rig.pod("client");
    ask(&client.place, void, 1)?;
    let Some(found) = both_ways(&rig, "uplink_ingress")? else {
        return Ok(());
    };
    assert!(
        found.iter().any(|one| one.comment.contains("uplink_ingress: sent on")),
        "{found:#?}"
    );
    Ok(())
}

#[test]
fn a_capture_sees_what_xdp_sends_on_and_the_stack_never_meets() -> Result<()> {
    let rig = boot_with(FerrogateOptions {
        xdp: true,
        ..FerrogateOptions::default()
    })?;
    apply(&rig, &json!({}), &[("a1", Is::Ready), ("b1", Is::Ready)])?;
    serves(&rig, 1)?;
    let Some(found) = both_ways(&rig, "uplink_xdp")? else {
        return Ok(());
    };
    assert!(
        found.iter().any(|one| one.comment.contains("uplink_xdp: sent ")),
        "{found:#?}"
    );
    Ok(())
}

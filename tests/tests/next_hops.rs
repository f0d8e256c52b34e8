//! What the programs remember of routes is true: they forget it when they are told, and within a tick when nobody tells them. Needs root.
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use aya::Ebpf;
use ferrogate_common::{
    Address, Backend, Direction, Flow, Frontend, FrontendKey, FrontendKind, Port, Protocol, TICK_SHIFT, Tuple,
    flow_flags,
};
use ferrogate_datapath::host::{HostPacket, HostTables, Program, Segment, Sizes, tcp};
use ferrogate_tests::kernel::{KernelTables, Network, Object, Place, Variant, clock_ticks, pass_frames};

const SIZES: Sizes = Sizes {
    services: 2,
    slots: 2,
    backends: 2,
    sources: 16,
};

/// Behind 192.0.2.2, until the test says otherwise.
const BACKEND: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 244, 2, 7), 8080);
const CLIENT: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 7), 40_000);
const FRONTEND: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 1), 80);

/// The programs, in a network of their own.
struct Stage {
    network: Network,
    object: Object,
    kernel: KernelTables,
    /// What XDP test runs need on their device.
    _passing: Ebpf,
}

impl Stage {
    fn enter() -> Result<Self> {
        let network = Network::enter()?;
        let _passing = pass_frames(&[Place::Uplink.device().to_owned()])?;
        let mut object = Object::load(SIZES, Variant::default())?;
        let kernel = KernelTables::take(&mut object.ebpf)?;
        Ok(Self {
            network,
            object,
            kernel,
            _passing,
        })
    }
}

/// A connection from outside to a backend on another node.
fn tables(network: &Network) -> HostTables {
    let mut tables = HostTables::new(SIZES);
    for (index, source) in network.sources.iter().enumerate() {
        tables.sources[index] = *source;
    }
    for place in network.ifindexes.keys() {
        tables
            .interfaces
            .insert(network.ifindex(*place), network.interface(*place));
    }
    tables.backends[1] = Backend {
        address: BACKEND.0.into(),
        port: Port::new(BACKEND.1),
        flags: 0,
        generation: 1,
        service: 1,
        last_generation: 1,
    };
    let end = |(address, port): (Ipv4Addr, u16)| (Address::from(address), Port::new(port));
    let key = FrontendKey::new(FRONTEND.0.into(), Port::new(FRONTEND.1), Protocol::Tcp);
    tables
        .frontends
        .insert(key, Frontend::new(1, FrontendKind::LoadBalancer));
    let key = Tuple::new(end(CLIENT), end(FRONTEND), Protocol::Tcp as u8, Direction::Forward);
    let flow = Flow {
        address: BACKEND.0.into(),
        port: Port::new(BACKEND.1),
        source_port: Port::new(24_000),
        backend: 1,
        generation: 1,
        seen: clock_ticks(),
        source: 1,
        flags: flow_flags::SNAT | flow_flags::TRANSIT,
        ..Flow::NONE
    };
    tables.flows.insert(key, flow);
    tables
}

/// Where a frame of the connection goes.
fn sent_to(object: &Object, network: &Network, length: usize) -> Result<([u8; 6], i32)> {
    let mut segment = Segment::tcp(SocketAddr::from(CLIENT), SocketAddr::from(FRONTEND), tcp::ACK);
    segment.payload = vec![0; length];
    let packet = HostPacket::ethernet(segment.ethernet(), network.ifindex(Place::Uplink));
    let run = object.run(Program::UplinkXdp, &packet, 1)?;
    let mut mac = [0; 6];
    mac.copy_from_slice(&run.bytes[..6]);
    Ok((mac, run.code))
}

/// Puts the backend behind another gateway.
fn lead(network: &Network, gateway: &str) -> Result<()> {
    network.change(&format!(
        "route replace 10.244.2.0/24 via {gateway} dev {}\n",
        Place::Uplink.device()
    ))
}

#[test]
fn a_way_is_remembered_until_the_routes_have_changed() -> Result<()> {
    let Stage {
        network,
        object,
        mut kernel,
        _passing,
    } = Stage::enter()?;
    kernel.write(&tables(&network))?;
    let mac = |number| [2, 0xfd, 0, 0, 0, number];
    let (first, second) = ((mac(2), XDP_TX), (mac(1), XDP_TX));

    clock_ticks();
    ensure!(sent_to(&object, &network, 0)? == first, "not by the gateway at first");
    let ways = kernel.ways(&BACKEND.0.into())?;
    ensure!(ways.len() == 1, "{ways:?}");
    ensure!(
        ways[0].mtu == 1500 && ways[0].next_hop == Address::from(Ipv4Addr::new(192, 0, 2, 2)),
        "{ways:?}"
    );
    lead(&network, "192.0.2.1")?;
    kernel.change_routes()?;
    ensure!(
        sent_to(&object, &network, 0)? == second,
        "told, and not by the new gateway"
    );

    lead(&network, "192.0.2.2")?;
    sleep(Duration::from_nanos(1 << TICK_SHIFT));
    ensure!(
        sent_to(&object, &network, 0)? == first,
        "not told, and a tick later not by the new gateway"
    );

    ensure!(
        kernel.ways(&BACKEND.0.into())?[0].source == Address::UNSPECIFIED,
        "a way that is not all sources'"
    );
    kernel.ways_by_source = true;
    kernel.change_routes()?;
    clock_ticks();
    ensure!(sent_to(&object, &network, 0)? == first);
    let sources: Vec<Address> = kernel.ways(&BACKEND.0.into())?.iter().map(|way| way.source).collect();
    ensure!(
        sources.contains(&tables(&network).sources[1]),
        "ways by source, and not {sources:?}"
    );

    // A packet that is too long for the way is looked up all the same, and is left to tcx, which answers it.
    ensure!(sent_to(&object, &network, 1480)?.1 == XDP_PASS, "too long, and sent on");
    Ok(())
}

#[test]
fn nothing_is_remembered_before_the_agent_has_said_that_it_will_tell() -> Result<()> {
    let Stage {
        network,
        object,
        mut kernel,
        _passing,
    } = Stage::enter()?;
    // The fourth generation is 0.
    for _ in 0..4 {
        kernel.write(&tables(&network))?;
    }
    ensure!(sent_to(&object, &network, 0)?.1 == XDP_TX);
    ensure!(kernel.ways(&BACKEND.0.into())?.iter().all(|way| way.generation == 0));
    Ok(())
}

/// linux/bpf.h.
const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;

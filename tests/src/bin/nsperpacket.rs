//! Nanoseconds a packet on every path, by `BPF_PROG_TEST_RUN`. Needs root.
//!
//! A repeated run works on what the run before left, so each path is made a loop: the packet that comes out is one of
//! another known flow, which leads back.
//!
//! * established, reply: two flows that undo each other.
//! * transit: the same, source and destination both changed. Each run takes one from the hop limit, so a measurement is of
//!   250 runs.
//! * new flow: a chain of services; the backend of each is the address of the next. Every run makes a flow, inserted into an
//!   LRU map that is full.
//!
//! Beside them, in the same process: an XDP program that does nothing, and one with a single look-up in the same LRU map.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use ferrogate_common::{
    Address, Backend, Direction, Flow, Frontend, FrontendKey, FrontendKind, Port, Protocol, Service, SlotRange,
    SnatFlow, Tuple, backend_flags, flow_flags, maps,
};
use ferrogate_datapath::host::{HostPacket, HostTables, Program, Segment, Sizes};
use ferrogate_tests::kernel::{Floor, KernelTables, Kind, Network, Object, Place, clock_ticks, pass_frames};

#[derive(Parser)]
#[command(about = "Nanoseconds a packet on every path")]
struct Arguments {
    /// Services in the tables, all in one chain.
    #[arg(long, default_value_t = 4096)]
    services: u32,
    /// Measurements of each path; the best and the median are printed.
    #[arg(long, default_value_t = 60)]
    rounds: usize,
}

/// Runs in one measurement of a path that goes on for ever: shorter than a time slice, so that on a busy machine too some
/// measurements are of nothing else.
const REPEAT: u32 = 10_000;

/// Runs in one measurement of a path that uses the hop limit up.
const HOPS: u32 = 250;

/// Flows made in one measurement.
const FLOWS: u32 = 2_000;

fn address(text: &str) -> IpAddr {
    text.parse().expect("a constant of this file")
}

/// Ends of the loops: the client, another name of it on the backend's side, the frontend and the backend.
struct Ends {
    client: SocketAddr,
    source: SocketAddr,
    frontend: SocketAddr,
    backend: SocketAddr,
}

impl Ends {
    fn new() -> Self {
        Self {
            client: SocketAddr::new(address("198.51.100.7"), 24_007),
            // Not the node's own: in the loop it is a client too, and there is no route to oneself.
            source: SocketAddr::new(address("198.51.100.9"), 24_008),
            frontend: SocketAddr::new(address("198.18.0.1"), 80),
            backend: SocketAddr::new(address("10.244.2.2"), 8080),
        }
    }
}

/// The address of a service of the chain.
fn link(index: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(0x0a60_0000 + index).into(), 80)
}

fn tuple(source: SocketAddr, destination: SocketAddr, direction: Direction) -> Tuple {
    Tuple {
        source: source.ip().into(),
        destination: destination.ip().into(),
        source_port: Port::new(source.port()),
        destination_port: Port::new(destination.port()),
        protocol: Protocol::Udp as u8,
        direction: direction as u8,
        reserved: 0,
    }
}

/// A flow to (or back from) `address`; with a source, to be taken from `SOURCES`.
fn flow(to: SocketAddr, source: Option<(u16, u16)>, flags: u8) -> Flow {
    Flow {
        address: to.ip().into(),
        port: Port::new(to.port()),
        source_port: Port::new(source.map_or(0, |(_, port)| port)),
        backend: 0,
        generation: 1,
        seen: clock_ticks(),
        source: source.map_or(0, |(index, _)| index),
        flags: flags | flow_flags::REPLIED,
        reserved: 0,
    }
}

fn snat_flow(client: SocketAddr, frontend: SocketAddr) -> SnatFlow {
    SnatFlow {
        client: client.ip().into(),
        frontend: frontend.ip().into(),
        client_port: Port::new(client.port()),
        frontend_port: Port::new(frontend.port()),
        seen: clock_ticks(),
        backend: 0,
        flags: flow_flags::SNAT | flow_flags::TRANSIT,
        reserved: [0; 3],
    }
}

/// Every service leads to the address of the next.
fn chain(network: &Network, services: u32) -> HostTables {
    let mut tables = HostTables::new(sizes(services));
    tables.config.snat_port_base = 24_000;
    tables.config.snat_port_count = 4096;
    tables.config.node_port_min = 30_000;
    tables.config.node_port_max = 32_767;
    for (index, source) in network.sources.iter().enumerate() {
        tables.sources[index] = *source;
    }
    for place in network.ifindexes.keys() {
        tables
            .interfaces
            .insert(network.ifindex(*place), network.interface(*place));
    }
    for id in 0..services {
        let index = id as usize;
        let next = link(id + 1);
        tables.slots[index] = id;
        tables.backends[index] = Backend {
            address: next.ip().into(),
            port: Port::new(next.port()),
            flags: backend_flags::LOCAL,
            generation: 1,
            service: id,
            last_generation: 1,
        };
        let range = SlotRange {
            base: id,
            cluster: 1,
            local: 0,
        };
        tables.services[index] = Service {
            range: range.pack(),
            flags: 0,
            reserved: 0,
        };
        let key = FrontendKey::new(link(id).ip().into(), Port::new(80), Protocol::Udp);
        tables
            .frontends
            .insert(key, Frontend::new(id, FrontendKind::LoadBalancer));
    }
    tables
}

/// Adds the loops.
fn add_loops(tables: &mut HostTables, ends: &Ends) {
    use Direction::{Forward, Reply};
    const CLIENT: u16 = 14;
    const NODE: u16 = 15;
    tables.sources[CLIENT as usize] = Address::from(ends.client.ip());
    tables.sources[NODE as usize] = Address::from(ends.source.ip());
    let Ends {
        client,
        source,
        frontend,
        backend,
    } = *ends;
    let plain = SocketAddr::new(client.ip(), 40_000);
    let transit = flow_flags::SNAT | flow_flags::TRANSIT;
    let flows = &mut tables.flows;
    flows.insert(tuple(plain, frontend, Forward), flow(backend, None, 0));
    flows.insert(tuple(plain, backend, Forward), flow(frontend, None, 0));
    flows.insert(tuple(backend, plain, Reply), flow(frontend, None, 0));
    flows.insert(tuple(frontend, plain, Reply), flow(backend, None, 0));
    let there = Some((NODE, source.port()));
    let back = Some((CLIENT, client.port()));
    flows.insert(tuple(client, frontend, Forward), flow(backend, there, transit));
    flows.insert(tuple(source, backend, Forward), flow(frontend, back, transit));
    let snat = &mut tables.snat_flows;
    snat.insert(tuple(backend, source, Reply), snat_flow(client, frontend));
    snat.insert(tuple(frontend, client, Reply), snat_flow(source, backend));
}

fn sizes(services: u32) -> Sizes {
    let most = services as usize + 1;
    Sizes {
        services: most,
        slots: most,
        backends: most,
        sources: 16,
    }
}

/// Everything that is measured.
struct Bench {
    object: Object,
    kernel: KernelTables,
    uplink: u32,
    pod: u32,
    rounds: usize,
}

impl Bench {
    /// Mean times of the rounds, sorted. `change` changes the packet from round to round.
    fn measure(
        &self,
        program: Program,
        segment: &Segment,
        repeat: u32,
        change: impl Fn(&mut Segment, usize),
    ) -> Result<Vec<Duration>> {
        let ifindex = if matches!(program, Program::PodIngress | Program::PodEgress) {
            self.pod
        } else {
            self.uplink
        };
        let mut times = Vec::new();
        for round in 0..self.rounds {
            let mut segment = segment.clone();
            change(&mut segment, round);
            let packet = HostPacket::ethernet(segment.ethernet(), ifindex);
            times.push(self.object.run(program, &packet, repeat)?.duration);
        }
        times.sort();
        Ok(times)
    }

    /// Measures a path and prints it; fails where the packets did not come to `reason`.
    fn path(
        &self,
        name: &str,
        program: Program,
        segment: &Segment,
        repeat: u32,
        reason: ferrogate_common::Reason,
    ) -> Result<()> {
        let before = self.kernel.counted(reason as u32)?;
        let times = self.measure(program, segment, repeat, |segment, round| {
            if reason == ferrogate_common::Reason::NewFlow {
                segment.source.set_port(1000 + program as u16 * 1000 + round as u16);
            }
        })?;
        let counted = self.kernel.counted(reason as u32)? - before;
        let runs = u64::from(repeat) * self.rounds as u64;
        ensure!(
            counted >= runs * 99 / 100,
            "{name}: {counted} of {runs} packets came to {reason}"
        );
        print_line(name, program.name(), &times);
        Ok(())
    }

    /// Measures every path.
    fn paths(&self, ends: &Ends) -> Result<()> {
        use ferrogate_common::Reason::{NewFlow, NotService, Reply, Translated};
        let plain = SocketAddr::new(ends.client.ip(), 40_000);
        let udp = |source, destination| Segment::udp(source, destination, &[0; 18]);
        let stranger = udp(plain, SocketAddr::new(address("10.244.3.2"), 53));
        let request = udp(plain, ends.frontend);
        let mut transit = udp(ends.client, ends.frontend);
        let mut transit_reply = udp(ends.backend, ends.source);
        transit.hop_limit = 255;
        transit_reply.hop_limit = 255;
        for program in [Program::UplinkXdp, Program::UplinkIngress, Program::PodIngress] {
            self.path("not a service", program, &stranger, REPEAT, NotService)?;
            self.path("established", program, &request, REPEAT, Translated)?;
            if program != Program::PodIngress {
                self.path("transit", program, &transit, HOPS, Translated)?;
                self.path("transit, reply", program, &transit_reply, HOPS, Reply)?;
            }
            self.path("new flow", program, &udp(plain, link(0)), FLOWS, NewFlow)?;
        }
        for program in [Program::UplinkEgress, Program::PodEgress] {
            self.path("not a service", program, &stranger, REPEAT, NotService)?;
            self.path("reply", program, &udp(ends.backend, plain), REPEAT, Reply)?;
        }
        Ok(())
    }
}

fn print_line(name: &str, program: &str, times: &[Duration]) {
    let (best, median) = (times[0].as_nanos(), times[times.len() / 2].as_nanos());
    println!("{name:<24} {program:<18} {best:>6} {median:>6}");
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        arguments.services > FLOWS,
        "the chain must be longer than {FLOWS} services"
    );
    let network = Network::enter()?;
    let mut object = Object::load_with(|loader| {
        let array = sizes(arguments.services);
        for (spec, entries) in [
            (maps::SERVICES, array.services),
            (maps::CURSORS, array.services),
            (maps::CONNECTIONS, array.services),
            (maps::SLOTS, array.slots),
            (maps::BACKENDS, array.backends),
            (maps::SOURCES, array.sources),
        ] {
            loader.map_max_entries(spec.name, entries as u32);
        }
    })?;
    let _passing = pass_frames(&[Place::Uplink.device().to_owned()])?;
    let nothing = Floor::nothing(Kind::Xdp)?;
    let look_up = Floor::one_look_up(Kind::Xdp, object.map_descriptor("FLOWS")?, Direction::Forward)?;
    let mut kernel = KernelTables::take(&mut object.ebpf)?;
    let ends = Ends::new();
    let mut tables = chain(&network, arguments.services);
    add_loops(&mut tables, &ends);
    kernel.write(&tables)?;
    let bench = Bench {
        object,
        kernel,
        uplink: network.ifindex(Place::Uplink),
        pod: network.ifindex(Place::Pod),
        rounds: arguments.rounds,
    };
    println!(
        "{:<24} {:<18} {:>6} {:>6}   ns, {} services",
        "path", "program", "best", "median", arguments.services
    );
    let packet = Segment::udp(ends.client, ends.frontend, &[0; 18]).ethernet();
    for (name, floor) in [("floor: nothing", &nothing), ("floor: one LRU look-up", &look_up)] {
        let runs = (0..arguments.rounds).map(|_| floor.run(&packet, &[], REPEAT));
        let mut times = runs.collect::<Result<Vec<_>>>()?;
        times.sort();
        print_line(name, "xdp", &times);
    }
    bench.paths(&ends)
}

//! The loaded programs with Services and flows in their tables, to run packets through.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context, Result, ensure};
use ferrogate_common::{
    Address, Backend, Direction, Flow, Frontend, FrontendKey, FrontendKind, Port, Protocol, Reason, Service, SlotRange,
    Tuple, backend_flags, config_flags, flow_flags, maps,
};
use ferrogate_datapath::FlowTable;
use ferrogate_datapath::host::{HostPacket, HostTables, Program, Segment, Sizes, tcp};

use crate::kernel::{Choice, KernelTables, Network, Object, Place, Variant, clock_ticks};

/// Flows that take turns in the measurements.
pub(super) const FLOWS: u32 = 4096;

/// Where a stage's backends are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Behind {
    /// Pods of this node.
    Pod,
    /// Pods of another node.
    Node,
}

/// How much is in the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Load {
    pub(super) services: u32,
    /// Of each Service.
    pub(super) backends: u32,
    pub(super) behind: Behind,
    /// Established flows beside those that are measured.
    pub(super) flows: u32,
}

/// Programs, tables, and packets for them.
pub(super) struct Stage {
    pub(super) object: Object,
    /// The map of established flows.
    pub(super) flows: OwnedFd,
    frontends: OwnedFd,
    slots: OwnedFd,
    backends: OwnedFd,
    kernel: KernelTables,
    uplink: u32,
    pod: u32,
    load: Load,
}

/// The packets of established flows, one of each.
pub(super) struct Conversation {
    pub(super) requests: Vec<Vec<u8>>,
    pub(super) replies: Vec<Vec<u8>>,
}

/// The frontend of a Service.
fn frontend(service: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(0x0a60_0000 + service + 1).into(), 80)
}

/// Client of a flow, outside.
fn client(flow: u32) -> SocketAddr {
    let address = Ipv4Addr::from(0xc633_6400 + 1 + flow % 200);
    SocketAddr::new(address.into(), 32_768 + (flow / 200) as u16)
}

fn entries(load: Load) -> [(&'static str, u32); 9] {
    let backends = load.services * load.backends + 1;
    let flows = maps::FLOWS.entries.max(2 * (load.flows + FLOWS));
    [
        (maps::SERVICES.name, load.services),
        (maps::CURSORS.name, load.services),
        (maps::CONNECTIONS.name, load.services),
        (maps::SLOTS.name, backends),
        (maps::BACKENDS.name, backends),
        (maps::ACTIVE.name, backends),
        (maps::SOURCES.name, 16),
        (maps::FRONTENDS.name, maps::FRONTENDS.entries),
        (maps::FLOWS.name, flows),
    ]
}

fn tables(network: &Network, load: Load) -> HostTables {
    let backends = (load.services * load.backends + 1) as usize;
    let mut tables = HostTables::new(Sizes {
        services: load.services as usize,
        slots: backends,
        backends,
        sources: 16,
    });
    // As the agent's defaults are.
    tables.config.snat_port_base = 24_000;
    tables.config.snat_port_count = 4096;
    tables.config.node_port_min = 30_000;
    tables.config.node_port_max = 32_767;
    for (index, source) in network.sources.iter().enumerate() {
        tables.sources[index] = *source;
    }
    for place in network.ifindexes.keys() {
        let interface = network.interface(*place);
        tables.interfaces.insert(network.ifindex(*place), interface);
    }
    for service in 0..load.services {
        add_service(&mut tables, service, load);
    }
    tables.config.flags |= config_flags::FILTER;
    tables.fill_filter();
    tables
}

fn add_service(tables: &mut HostTables, service: u32, load: Load) {
    for number in 0..load.backends {
        // Backend 0 is nobody.
        let id = 1 + service * load.backends + number;
        let (address, flags): (IpAddr, _) = match load.behind {
            Behind::Pod => (Ipv4Addr::new(10, 244, 1, 2).into(), backend_flags::LOCAL),
            Behind::Node => (Ipv4Addr::new(10, 244, 2, 2 + (id % 250) as u8).into(), 0),
        };
        tables.slots[id as usize - 1] = id;
        tables.backends[id as usize] = Backend {
            address: address.into(),
            port: Port::new(8080 + (id % 40_000) as u16),
            flags,
            generation: 1,
            service,
            last_generation: 1,
        };
    }
    let range = SlotRange {
        base: service * load.backends,
        cluster: load.backends as u16,
        local: 0,
    };
    tables.services[service as usize] = Service {
        range: range.pack(),
        flags: 0,
        reserved: 0,
    };
    let at = frontend(service);
    let key = FrontendKey::new(at.ip().into(), Port::new(at.port()), Protocol::Tcp);
    tables
        .frontends
        .insert(key, Frontend::new(service, FrontendKind::LoadBalancer));
}

impl Stage {
    /// Loads the programs into tables of their own; this thread must be in the network's namespace.
    pub(super) fn new(network: &Network, load: Load) -> Result<Self> {
        Self::with(network, load, Variant::default())
    }

    /// The same, as with `--service-traffic`.
    pub(super) fn counting(network: &Network, load: Load) -> Result<Self> {
        let variant = Variant {
            counts_traffic: true,
            ..Variant::default()
        };
        Self::with(network, load, variant)
    }

    fn with(network: &Network, load: Load, variant: Variant) -> Result<Self> {
        let mut object = Object::load_with(|loader| {
            variant.set(loader);
            for (name, entries) in entries(load) {
                loader.map_max_entries(name, entries);
            }
        })?;
        let map = |name| anyhow::Ok(object.map_descriptor(name)?.try_clone_to_owned()?);
        let [flows, frontends, slots, backends] = [
            map(maps::FLOWS.name)?,
            map(maps::FRONTENDS.name)?,
            map(maps::SLOTS.name)?,
            map(maps::BACKENDS.name)?,
        ];
        let mut kernel = KernelTables::take(&mut object.ebpf)?;
        kernel.write(&tables(network, load))?;
        let mut stage = Self {
            object,
            flows,
            frontends,
            slots,
            backends,
            kernel,
            uplink: network.ifindex(Place::Uplink),
            pod: network.ifindex(Place::Pod),
            load,
        };
        stage.fill()?;
        Ok(stage)
    }

    /// Enters established flows of clients that send nothing.
    fn fill(&mut self) -> Result<()> {
        for (key, value) in idle_flows(self.load.flows, self.load.services, self.load.backends) {
            self.kernel.set_flow(FlowTable::Established, &key, Some(&value))?;
        }
        Ok(())
    }

    /// What a program's packets come with: their interface.
    pub(super) fn context(&self, program: Program, bytes: &[u8]) -> Vec<u8> {
        Object::context(program, &self.packet(program, bytes.to_vec()))
    }

    fn packet(&self, program: Program, bytes: Vec<u8>) -> HostPacket {
        let pod = matches!(program, Program::PodIngress | Program::PodEgress);
        HostPacket::ethernet(bytes, if pod { self.pod } else { self.uplink })
    }

    /// Opens flows with a SYN and the acknowledgment of its answer, through `ingress`; replies are as `behind` says them.
    pub(super) fn converse(&self, ingress: Program, egress: Program) -> Result<Conversation> {
        let mut conversation = Conversation {
            requests: Vec::new(),
            replies: Vec::new(),
        };
        for flow in 0..FLOWS {
            let (from, to) = (client(flow), frontend(flow % self.load.services));
            let pass = |program: Program, segment: &Segment| -> Result<Vec<u8>> {
                Ok(self
                    .object
                    .run(program, &self.packet(program, segment.ethernet()), 1)?
                    .bytes)
            };
            pass(ingress, &Segment::tcp(from, to, tcp::SYN))?;
            let request = Segment::tcp(from, to, tcp::ACK);
            let (source, destination) = ends(&pass(ingress, &request)?)?;
            ensure!(
                destination != to,
                "{from} to {to} was not translated by {}",
                ingress.name()
            );
            let reply = Segment::tcp(destination, source, tcp::ACK);
            pass(egress, &reply)?;
            conversation.requests.push(request.ethernet());
            conversation.replies.push(reply.ethernet());
        }
        Ok(conversation)
    }

    /// Packets that no Service has anything to do with.
    pub(super) fn strangers() -> Vec<Vec<u8>> {
        let to = SocketAddr::new(Ipv4Addr::new(10, 244, 3, 2).into(), 8080);
        (0..FLOWS)
            .map(|flow| Segment::tcp(client(flow), to, tcp::ACK).ethernet())
            .collect()
    }

    /// What any other balancer would find a backend of the first Service by.
    pub(super) fn choice(&self) -> Choice<'_> {
        Choice {
            frontends: self.frontends.as_fd(),
            slots: self.slots.as_fd(),
            backends: self.backends.as_fd(),
            count: self.load.backends,
        }
    }

    /// How often programs came to a reason.
    pub(super) fn counted(&self, reason: Reason) -> Result<u64> {
        self.kernel.counted(reason as u32)
    }

    /// Where the first Service is.
    pub(super) fn frontend() -> SocketAddr {
        frontend(0)
    }
}

/// The two entries of each of so many established flows, seen just now.
pub(super) fn idle_flows(flows: u32, services: u32, backends: u32) -> impl Iterator<Item = (Tuple, Flow)> {
    let seen = clock_ticks();
    (0..flows).flat_map(move |flow| {
        let source = SocketAddr::new(
            Ipv4Addr::from(0x0b00_0000 + flow / 16).into(),
            1024 + (flow % 16) as u16,
        );
        let (to, backend) = (frontend(flow % services), 1 + flow % backends);
        let at = SocketAddr::new(Ipv4Addr::new(10, 244, 1, 2).into(), 8080 + backend as u16);
        let entry = move |leads_to: SocketAddr| Flow {
            address: leads_to.ip().into(),
            port: Port::new(leads_to.port()),
            backend,
            generation: 1,
            seen,
            flags: flow_flags::REPLIED,
            ..Flow::NONE
        };
        [
            (tuple(source, to, Direction::Forward), entry(at)),
            (tuple(at, source, Direction::Reply), entry(to)),
        ]
    })
}

fn tuple(source: SocketAddr, destination: SocketAddr, direction: Direction) -> Tuple {
    let end = |at: SocketAddr| (Address::from(at.ip()), Port::new(at.port()));
    Tuple::new(end(source), end(destination), Protocol::Tcp as u8, direction)
}

/// Source and destination of an IPv4 packet without options.
pub(super) fn ends(bytes: &[u8]) -> Result<(SocketAddr, SocketAddr)> {
    const SOURCE: usize = 26;
    let header = bytes.get(SOURCE..SOURCE + 12).context("a packet that is too short")?;
    let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]).into();
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    Ok((
        SocketAddr::new(address(0), port(8)),
        SocketAddr::new(address(4), port(10)),
    ))
}

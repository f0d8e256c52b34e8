//! The node that packets and socket calls meet: Services of every kind, with policies and algorithms that the input chooses.

use arbitrary::{Result, Unstructured};
use ferrogate_common::{
    Address, Algorithm, Dsr, Frontend, FrontendKey, FrontendKind, NetworkKey, Protocol, V4_PREFIX, config_flags,
    service_flags,
};
use ferrogate_datapath::host::{HostRoute, Simulator, Target};
use std::net::SocketAddr;

use crate::support::{FAMILIES, Offer, PAIR, PROTOCOLS, Who, at, cluster_ip, ip, node};

/// Ports of the Services, of their NodePorts, and of their endpoints.
pub(crate) const PORT: u16 = 80;
pub(crate) const NODE_PORT: u16 = 30_080;
pub(crate) const TARGET_PORT: u16 = 8080;

/// Slots and backends that [`Offer::put`] gives a service.
const RANGE: usize = 16;

/// Services of the node: a ClusterIP, a load balancer's address and a NodePort by family and protocol.
pub(crate) const SERVICES: usize = 3 * FAMILIES.len() * PROTOCOLS.len();

/// Who may be an endpoint.
pub(crate) const ENDPOINTS: [Who; 4] = [Who::Pod, Who::LocalPod, Who::RemotePod, Who::NarrowPod];

/// Switches of the configuration.
const SWITCHES: [u32; 8] = [
    config_flags::POD_EDGE,
    config_flags::EXTERNAL_CLUSTER_IP,
    config_flags::SNAT_ALWAYS,
    config_flags::NODE_EDGE_OFF,
    config_flags::CLUSTER_CIDRS,
    config_flags::BRIDGE_PORTS,
    config_flags::TAKE_OVER,
    config_flags::HAND_OVER,
];

/// Flags of services.
const POLICIES: [u32; 5] = [
    service_flags::INTERNAL_LOCAL,
    service_flags::EXTERNAL_LOCAL,
    service_flags::SOURCE_RANGES,
    service_flags::NODE_ALLOWED,
    60 << service_flags::AFFINITY_SHIFT,
];

/// The frontends of a family.
pub(crate) fn frontends(v4: bool) -> [(FrontendKind, SocketAddr); 3] {
    [
        (FrontendKind::ClusterIp, at(Who::Vip, v4, PORT)),
        (FrontendKind::LoadBalancer, at(Who::OtherVip, v4, PORT)),
        (FrontendKind::NodePort, at(Who::Node, v4, NODE_PORT)),
    ]
}

/// Those of `choices` whose bits `bits` has.
fn chosen(choices: &[u32], bits: u8) -> u32 {
    let wanted = choices.iter().enumerate().filter(|(bit, _)| bits & 1 << bit != 0);
    wanted.fold(0, |flags, (_, flag)| flags | flag)
}

/// A node as the input wants it.
pub(crate) fn build(input: &mut Unstructured<'_>) -> Result<Simulator> {
    let mut simulator = node();
    simulator.tables.config.flags |= chosen(&SWITCHES, input.arbitrary()?);
    simulator.tables.config.snat_port_count = *input.choose(&[4096, 4096, 8, 1, 0])?;
    simulator.tables.config.udp_timeout = 2;
    simulator.tables.config.udp_stream_timeout = 3;
    let mut id = 0;
    for v4 in FAMILIES {
        let all = ENDPOINTS.map(|who| at(who, v4, TARGET_PORT));
        for protocol in PROTOCOLS {
            for (kind, frontend) in frontends(v4) {
                let cluster = &all[..usize::from(input.arbitrary::<u8>()?) % (all.len() + 1)];
                let local = &all[..usize::from(input.arbitrary::<u8>()?) % 3];
                let algorithm = *input.choose(&Algorithm::ALL)?;
                Offer {
                    kind,
                    local,
                    flags: chosen(&POLICIES, input.arbitrary()?) | algorithm.bits(),
                    ..cluster_ip(id, protocol, frontend, cluster)
                }
                .put(&mut simulator);
                id += 1;
            }
        }
        add_networks(&mut simulator, v4);
    }
    Ok(simulator)
}

/// Another node.
pub(crate) const PEER: Who = Who::Gateway;

/// Makes it a node that knows another one, with the endpoints elsewhere, and hands packets over to it or not; and that lets packets to a
/// pod of its own go past its stack or not.
pub(crate) fn hand_over(simulator: &mut Simulator, input: &mut Unstructured<'_>) -> Result<()> {
    let tables = &mut simulator.tables;
    tables.is_dsr = true;
    if input.arbitrary()? {
        tables.config.flags |= config_flags::DSR;
    }
    tables.is_redirect = input.arbitrary()?;
    for v4 in FAMILIES {
        let pod = ip(Who::LocalPod, v4);
        let whole = if v4 { 32 } else { 128 };
        let way = HostRoute::new(pod, whole, Target::Link(PAIR));
        simulator.fib.routes.push(way);
        let neighbour = ((PAIR, pod.into()), [2, 0, 0, 0, 2, PAIR as u8]);
        simulator.fib.neighbours.extend([neighbour]);
    }
    let tables = &mut simulator.tables;
    for v4 in FAMILIES {
        let peer: Address = ip(PEER, v4).into();
        tables.nodes.insert(ip(Who::Node, v4).into(), Dsr::HERE);
        tables.nodes.insert(peer, peer);
        for endpoint in [Who::RemotePod, Who::NarrowPod] {
            if input.arbitrary()? {
                tables.nodes.insert(ip(endpoint, v4).into(), peer);
            }
        }
    }
    Ok(())
}

/// Addresses as such, source ranges of every second service, and the cluster's pods.
fn add_networks(simulator: &mut Simulator, v4: bool) {
    let tables = &mut simulator.tables;
    for (who, kind) in [(Who::Vip, FrontendKind::Address), (Who::OtherVip, FrontendKind::Vip)] {
        let key = FrontendKey::address_alone(ip(who, v4).into());
        tables.frontends.insert(key, Frontend::new(0, kind));
    }
    let prefix = if v4 { V4_PREFIX + 24 } else { 48 };
    let outside: Address = ip(Who::Outside, v4).into();
    for service in (0..SERVICES).step_by(2) {
        tables.networks.insert(NetworkKey::new(service as u32, outside, prefix));
    }
    let pods: Address = ip(Who::Pod, v4).into();
    tables
        .networks
        .insert(NetworkKey::new(NetworkKey::CLUSTER, pods, prefix));
}

/// Something that the agent does to the tables while traffic flows.
pub(crate) fn change(simulator: &mut Simulator, input: &mut Unstructured<'_>) -> Result<()> {
    let tables = &mut simulator.tables;
    let service = usize::from(input.arbitrary::<u8>()?) % SERVICES;
    match input.int_in_range(0..=5)? {
        // An endpoint goes, or comes back under another generation.
        0 | 1 => {
            let backend = &mut tables.backends[service * RANGE + usize::from(input.arbitrary::<u8>()?) % 8];
            if backend.last_generation == 0 {
                return Ok(());
            }
            if backend.generation == 0 {
                backend.last_generation += 1;
                backend.generation = backend.last_generation;
            } else {
                backend.generation = 0;
            }
        }
        2 => tables.services[service].flags = chosen(&POLICIES, input.arbitrary()?),
        3 => tables.services[service].range = 0,
        4 => tables.full = !tables.full,
        _ => evict(simulator, input)?,
    }
    Ok(())
}

/// An entry of a table of flows goes, as the kernel's LRU makes it go.
fn evict(simulator: &mut Simulator, input: &mut Unstructured<'_>) -> Result<()> {
    let tables = &mut simulator.tables;
    let at = usize::from(input.arbitrary::<u8>()?);
    if let Some(key) = tables.flows.keys().chain(tables.half_open.keys()).nth(at).copied() {
        tables.flows.remove(&key);
        tables.half_open.remove(&key);
    } else if let Some(key) = tables.snat_flows.keys().next().copied() {
        tables.snat_flows.remove(&key);
    }
    Ok(())
}

/// Whether this is the protocol's endpoint of a service that no change has ended.
pub(crate) fn is_alive(simulator: &Simulator, protocol: Protocol, endpoint: SocketAddr) -> bool {
    let place = PROTOCOLS.iter().position(|known| *known == protocol);
    simulator.tables.backends.iter().any(|backend| {
        let of_protocol = place == Some(backend.service as usize / 3 % PROTOCOLS.len());
        of_protocol
            && backend.generation != 0
            && backend.address.ip() == endpoint.ip()
            && backend.port.get() == endpoint.port()
    })
}

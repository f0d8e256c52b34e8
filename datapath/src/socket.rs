//! The socket edge: a process's call is given a backend's address before there is a packet.

use crate::env::{Clock, Opaque, Random, Tables};
use crate::select;
use bytemuck::Zeroable;
use ferrogate_common::{
    Address, AffinityKey, Backend, BackendSet, CGROUP_LEVELS, Frontend, FrontendKind, Port, Protocol, Reason,
    RefusalKey, Service, SocketPair, cgroup_scope, config_flags, service_flags, trace_edge,
};

/// The address a call is about.
pub trait SocketCall {
    fn address(&self) -> Address;
    fn port(&self) -> Port;
    /// Writes another one of the same family.
    fn set(&mut self, address: &Address, port: Port);
    /// IP protocol number of the socket.
    fn protocol(&self) -> u8;
    /// Cookie of the socket's network namespace.
    fn netns(&self) -> u64;
    /// Whether the socket has a local port already.
    fn is_bound(&self) -> bool;
    /// What `CGROUPS` says of the caller's cgroup at this level of the hierarchy: one of [`cgroup_scope`], 0: nothing.
    fn cgroup_scope(&self, level: u32) -> u32;

    /// Tells those who trace: what address a call asked for, and the id and generation of the backend that it got; 0 is no generation.
    #[inline(always)]
    fn tell(&mut self, _address: &Address, _port: Port, _backend: (u32, u32), _reason: Reason) {}
}

/// What a socket remembers.
pub trait SocketMemory {
    /// The socket's own pairs, 0 or 1; `None` where it has none.
    fn pair(&self, index: usize) -> Option<SocketPair>;
    /// Stores one; false where there is no memory.
    fn set_pair(&mut self, index: usize, pair: &SocketPair) -> bool;
    /// More pairs, shared by all sockets, by frontend.
    fn more_by_frontend(&self, address: &Address, port: Port) -> Option<SocketPair>;
    /// The same by backend.
    fn more_by_backend(&self, address: &Address, port: Port) -> Option<SocketPair>;
    fn put_more(&mut self, pair: &SocketPair) -> bool;
    fn remove_more(&mut self, pair: &SocketPair);
    /// Notes in `UDP_SOCKETS` which backend a connected UDP socket has.
    fn note_connected(&mut self, pair: &SocketPair);
    /// Takes that back.
    fn forget_connected(&mut self);
}

/// All a socket hook needs.
pub trait SocketEnv: SocketCall + SocketMemory + Tables + Clock + Opaque + Random {}

impl<T: SocketCall + SocketMemory + Tables + Clock + Opaque + Random> SocketEnv for T {}

/// What the hook answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketVerdict {
    /// Go on, with whatever address the call has now.
    Proceed(Reason),
    /// ECONNREFUSED.
    Refuse(Reason),
}

/// Which call it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CallKind {
    Connect,
    Sendmsg,
}

/// `connect()`: the socket's peer becomes a backend, for good.
#[inline(always)]
pub fn connect<E: SocketEnv>(env: &mut E) -> SocketVerdict {
    counted(env, |env, address, port| {
        match choose(env, CallKind::Connect, address, port) {
            Ok(pair) => {
                if env.set_pair(0, &pair) && env.protocol() == Protocol::Udp as u8 {
                    env.note_connected(&pair);
                }
                SocketCall::tell(env, address, port, (pair.id, pair.generation), Reason::SocketTranslated);
                Ok(pair)
            }
            Err(verdict) => {
                forget_peer(env, address, port);
                Err(verdict)
            }
        }
    })
}

/// A socket that was translated before and now goes straight to `address`: that peer is what it seems to be.
#[inline(never)]
fn forget_peer<E: SocketEnv>(env: &mut E, address: &Address, port: Port) {
    // Most sockets have no storage: nothing of theirs was ever translated.
    if env.pair(0).is_none() {
        return;
    }
    for index in 0..2 {
        let held = env.pair(index).unwrap_or(SocketPair::EMPTY);
        if held.generation != 0 && held.backend == *address && held.backend_port.be() == port.be() {
            env.set_pair(index, &SocketPair::EMPTY);
        }
    }
    if let Some(held) = env.more_by_backend(address, port) {
        env.remove_more(&held);
    }
    env.forget_connected();
}

/// `sendmsg()` with an address, on a UDP socket: keeps the backend that this socket has for this frontend while it is
/// current.
#[inline(always)]
pub fn sendmsg<E: SocketEnv>(env: &mut E) -> SocketVerdict {
    let (frontend, frontend_port) = (env.address(), env.port());
    // Where a new pair goes, and its backend; a generation of 0: there is no new one.
    let (mut place, mut id, mut generation) = (0, 0, 0);
    let verdict = counted(env, |env, address, port| {
        let mut free = MORE;
        for index in 0..2 {
            let Some(pair) = env.pair(index) else {
                // Behind one that has ended: what is told of that backend is the first that is found.
                free = free.min(index as u32);
                break;
            };
            let current = pair.generation != 0 && env.generation(pair.id) == pair.generation;
            if current && pair.frontend == *address && pair.frontend_port.be() == port.be() {
                return Ok(pair);
            }
            if !current && free == MORE {
                free = index as u32;
            }
        }
        place = env.opaque(free);
        if let Some(pair) = env.more_by_frontend(address, port)
            && env.generation(pair.id) == pair.generation
        {
            return Ok(pair);
        }
        let pair = choose(env, CallKind::Sendmsg, address, port)?;
        (id, generation) = (pair.id, pair.generation);
        SocketCall::tell(env, address, port, (id, generation), Reason::SocketTranslated);
        Ok(pair)
    });
    if generation != 0 {
        remember(env, &frontend, pack(frontend_port, place), id, generation);
    }
    verdict
}

/// Beside 0 and 1, where a pair is kept: not in the socket's own storage.
const MORE: u32 = 2;

/// A port and where its pair is kept, as one argument: a function of these programs has five at most.
#[inline(always)]
fn pack(port: Port, place: u32) -> u32 {
    u32::from(port.be()) | place << 16
}

/// Keeps the pair of a call that has got a backend.
///
/// Where the socket has that backend for another frontend already, the call is left as it was, and so will be the next ones: of a
/// datagram that comes back nobody could say which of the two it answers. Where packets are translated, the client gets another
/// port for one of them.
#[inline(never)]
fn remember<E: SocketEnv>(env: &mut E, frontend: &Address, packed: u32, id: u32, generation: u32) {
    let mut pair = SocketPair {
        frontend: *frontend,
        backend: env.address(),
        frontend_port: Port::from_be(packed as u16),
        backend_port: env.port(),
        id,
        generation,
    };
    if is_ambiguous(env, &pair.backend, pair.backend_port) && others_serve(env, frontend) {
        (pair.backend, pair.backend_port) = (pair.frontend, pair.frontend_port);
        env.set(frontend, pair.frontend_port);
    }
    let place = packed >> 16;
    if place == MORE || !env.set_pair(place as usize, &pair) {
        env.put_more(&pair);
    }
}

/// Whether the socket has a backend for some frontend.
#[inline(never)]
fn is_ambiguous<E: SocketEnv>(env: &E, backend: &Address, port: Port) -> bool {
    let is_it = |held: &SocketPair| {
        held.backend == *backend
            && held.backend_port.be() == port.be()
            && held.generation != 0
            && env.generation(held.id) == held.generation
    };
    (0..2).any(|index| env.pair(index).is_some_and(|held| is_it(&held)))
        || env.more_by_backend(backend, port).is_some_and(|held| is_it(&held))
}

/// Whether the caller's packets to a frontend's own address are translated at another edge.
#[inline(never)]
fn others_serve<E: SocketEnv>(env: &E, address: &Address) -> bool {
    let config = env.config();
    if env.netns() == config.netns_cookie {
        return config.flags & config_flags::NODE_EDGE_OFF == 0 && !is_loopback(address);
    }
    config.flags & config_flags::POD_EDGE != 0 && scope(env) == HERE
}

/// `recvmsg()`, `getpeername()`: a backend's address becomes the frontend's that the process had used.
#[inline(always)]
pub fn restore_peer<E: SocketEnv>(env: &mut E) {
    let (address, port) = (env.address(), env.port());
    for index in 0..2 {
        let Some(pair) = env.pair(index) else {
            break;
        };
        if pair.generation != 0 && pair.backend == address && pair.backend_port.be() == port.be() {
            return restored(env, &pair);
        }
    }
    if let Some(pair) = env.more_by_backend(&address, port) {
        restored(env, &pair);
    }
}

#[inline(always)]
fn restored<E: SocketEnv>(env: &mut E, pair: &SocketPair) {
    env.set(&pair.frontend, pair.frontend_port);
    env.count(Reason::SocketReply);
}

/// Runs a call through `backend_of` and writes the outcome.
#[inline(always)]
fn counted<E: SocketEnv>(
    env: &mut E,
    backend_of: impl FnOnce(&mut E, &Address, Port) -> Result<SocketPair, SocketVerdict>,
) -> SocketVerdict {
    let (address, port) = (env.address(), env.port());
    let verdict = match backend_of(env, &address, port) {
        Ok(pair) => {
            env.set(&pair.backend, pair.backend_port);
            SocketVerdict::Proceed(Reason::SocketTranslated)
        }
        Err(verdict) => verdict,
    };
    let (SocketVerdict::Proceed(reason) | SocketVerdict::Refuse(reason)) = verdict;
    if matches!(verdict, SocketVerdict::Refuse(_)) {
        SocketCall::tell(env, &address, port, (0, 0), reason);
    }
    if reason as u8 != Reason::NotService as u8 {
        env.count(reason);
    }
    verdict
}

/// Who translates a caller's connections: the socket edge, and what it cannot do well the pod edge; the socket edge alone;
/// other edges, or nobody. Numbers, so that the verifier can forget which.
const HERE: u32 = 0;
const ONLY_HERE: u32 = 1;
const ELSEWHERE: u32 = 2;

/// What an address is, to a caller of the right protocol. Numbers for the same reason.
const NOT_OURS: u32 = 0;
/// A ClusterIP, but not with this port.
const NO_SUCH_PORT: u32 = 1;
const FRONTEND: u32 = 2;

/// Looks the address of a call up; a frontend is written to `frontend`.
///
/// A function of its own, so that the verifier walks what follows once, and not for each way through here.
#[inline(never)]
fn find<E: SocketEnv>(env: &E, kind: CallKind, address: &Address, port: Port, frontend: &mut Frontend) -> u32 {
    let protocol = env.protocol();
    // Sockets for ping are here too.
    if protocol != Protocol::Tcp as u8 && protocol != Protocol::Udp as u8 {
        return NOT_OURS;
    }
    if env.config().flags & config_flags::HAND_OVER != 0 {
        return NOT_OURS;
    }
    let node_loopback = is_loopback(address) && env.netns() == env.config().netns_cookie;
    if let Some(found) = select::frontend(env, address, port, protocol, node_loopback) {
        *frontend = found;
        return FRONTEND;
    }
    // ping and traceroute connect() UDP sockets to ports of no meaning, to learn their own address. What is sent there is
    // refused by the packet edges.
    let harmless = kind == CallKind::Connect && protocol == Protocol::Udp as u8;
    // An address of a ServiceCIDR that no Service has: the packet edges drop what is sent there.
    if harmless || select::without_frontend(env, address) != Reason::NoSuchPort {
        return NOT_OURS;
    }
    NO_SUCH_PORT
}

/// A backend for a new connection.
#[inline(always)]
fn choose<E: SocketEnv>(
    env: &mut E,
    kind: CallKind,
    address: &Address,
    port: Port,
) -> Result<SocketPair, SocketVerdict> {
    let not_ours = SocketVerdict::Proceed(Reason::NotService);
    let mut frontend = Frontend::zeroed();
    let found = env.opaque(find(env, kind, address, port, &mut frontend));
    if found == NOT_OURS {
        return Err(not_ours);
    }
    let scope = env.opaque(scope(env));
    if scope == ELSEWHERE {
        return Err(not_ours);
    }
    if found == NO_SUCH_PORT {
        return Err(SocketVerdict::Refuse(Reason::NoSuchPort));
    }
    let config = env.config();
    let of_node = env.netns() == config.netns_cookie;
    let service = env.service(frontend.service).ok_or(not_ours)?;
    if is_source_restricted(&frontend, &service, of_node) {
        return Err(not_ours);
    }
    let pod_edge = config.flags & config_flags::POD_EDGE != 0 && !of_node && scope == HERE;
    if pod_edge && is_better_left(env, kind, &service) {
        return Err(not_ours);
    }
    let set: BackendSet = service.allowed_set(&frontend, true);
    let asking = select::Client {
        address: &client(env, of_node, address.is_v4()),
        tuple: None,
    };
    let (id, backend): (u32, Backend) = match select::backend(env, frontend.service, &service, set, &asking) {
        Ok(found) => found,
        Err(Reason::NoEndpoints) => {
            env.count_refusal(&RefusalKey {
                service: frontend.service,
                reason: Reason::NoEndpoints as u8,
                edge: trace_edge::SOCKET,
                reserved: 0,
            });
            return Err(SocketVerdict::Refuse(Reason::NoEndpoints));
        }
        // The call goes on to the Service's own address, and the packet edges drop it.
        Err(reason) => return Err(SocketVerdict::Proceed(reason)),
    };
    env.count_socket_connection(frontend.service);
    Ok(SocketPair {
        frontend: *address,
        backend: backend.address,
        frontend_port: port,
        backend_port: backend.port,
        id,
        generation: backend.generation,
    })
}

/// Whether a load balancer's address with loadBalancerSourceRanges is to judge this caller by its packets, at the edges that see
/// the address they come from. The node's own address has been judged by the agent.
#[inline(always)]
fn is_source_restricted(frontend: &Frontend, service: &Service, of_node: bool) -> bool {
    frontend.is(FrontendKind::LoadBalancer)
        && service.flags & service_flags::SOURCE_RANGES != 0
        && !(service.flags & service_flags::NODE_ALLOWED != 0 && of_node)
}

/// Whether a pod's connection is left to the pod edge:
///
/// - a TCP socket that is bound to a port already: connected to two Services that share a backend, one port would be one
///   and the same connection twice, which the kernel refuses
/// - a Service that needs the client's address, which is not known yet here
#[inline(always)]
fn is_better_left<E: SocketEnv>(env: &E, kind: CallKind, service: &Service) -> bool {
    let bound = kind == CallKind::Connect && env.protocol() == Protocol::Tcp as u8 && env.is_bound();
    bound || service.flags & service_flags::NEEDS_CLIENT != 0
}

/// Stands for the client: of a process of the node the node's own address, of a pod its network namespace.
#[inline(always)]
fn client<E: SocketEnv>(env: &E, of_node: bool, v4: bool) -> Address {
    let node = if of_node { select::node_client(env, v4) } else { None };
    match node {
        Some(address) => address,
        None => AffinityKey::of_netns(env.netns()),
    }
}

/// Who translates this caller's connections.
#[inline(never)]
fn scope<E: SocketEnv>(env: &E) -> u32 {
    let config = env.config();
    let of_node = env.netns() == config.netns_cookie;
    let levels = config.cgroup_levels;
    let mut served = of_node || levels & 1 == 0;
    if levels > 1 {
        for level in 1..CGROUP_LEVELS {
            if levels & (1 << level) == 0 {
                continue;
            }
            match env.cgroup_scope(level) {
                cgroup_scope::OFF => return ELSEWHERE,
                cgroup_scope::ONLY => return ONLY_HERE,
                cgroup_scope::SERVED => served = true,
                _ => {}
            }
        }
    }
    let too_far = !of_node && config.flags & config_flags::SOCKETS_OF_NODE != 0;
    if served && !too_far { HERE } else { ELSEWHERE }
}

#[inline(always)]
fn is_loopback(address: &Address) -> bool {
    if address.is_v4() {
        return address.octets()[12] == 127;
    }
    let [a, b, c, d] = address.words();
    a == 0 && b == 0 && c == 0 && d == 1u32.to_be()
}

//! The socket edge: a process's call is given a backend's address before there is a packet.

use crate::env::{Clock, Random, Tables};
use crate::select;
use ferrogate_common::{
    Address, Backend, BackendSet, Frontend, FrontendKind, Port, Protocol, Reason, Service, SocketPair, config_flags,
    service_flags,
};

/// The address a call is about.
pub trait SocketCall {
    fn address(&self) -> Address;
    fn port(&self) -> Port;
    /// Writes another one of the same family.
    fn set(&mut self, address: &Address, port: Port);
    /// IP protocol number of the socket.
    fn protocol(&self) -> u8;
    /// Stands for the caller's address, which isn't known yet ([`ferrogate_common::AffinityKey::of_netns`]).
    fn client(&self) -> Address;
    /// Whether the socket has a local port already.
    fn is_bound(&self) -> bool;
    /// Whether the caller is in the node's own network namespace, and its loopback so the node's.
    fn is_node_process(&self) -> bool;
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
}

/// All a socket hook needs.
pub trait SocketEnv: SocketCall + SocketMemory + Tables + Clock + Random {}

impl<T: SocketCall + SocketMemory + Tables + Clock + Random> SocketEnv for T {}

/// What the hook answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketVerdict {
    /// Go on, with whatever address the call has now.
    Proceed(Reason),
    /// ECONNREFUSED.
    Refuse(Reason),
}

/// `connect()`: the socket's peer becomes a backend, for good.
///
/// A pod's TCP socket that is bound to a port already is left to the pod edge: connected to two Services that share a
/// backend, one port would be one and the same connection twice, which the kernel refuses.
#[inline(always)]
pub fn connect<E: SocketEnv>(env: &mut E) -> SocketVerdict {
    let left_to_pod_edge = env.protocol() == Protocol::Tcp as u8
        && env.is_bound()
        && env.config().flags & config_flags::POD_EDGE != 0
        && !env.is_node_process();
    if left_to_pod_edge {
        return SocketVerdict::Proceed(Reason::NotService);
    }
    counted(env, |env, address, port| match choose(env, address, port) {
        Ok(pair) => {
            env.set_pair(0, &pair);
            Ok(pair)
        }
        Err(verdict) => Err(verdict),
    })
}

/// `sendmsg()` with an address, on a UDP socket: keeps the backend that this socket has for this frontend while it is
/// current.
#[inline(always)]
pub fn sendmsg<E: SocketEnv>(env: &mut E) -> SocketVerdict {
    counted(env, |env, address, port| {
        let mut free = 2;
        for index in 0..2 {
            let Some(pair) = env.pair(index) else {
                free = index;
                break;
            };
            let current = pair.generation != 0 && env.generation(pair.id) == pair.generation;
            if current && pair.frontend == *address && pair.frontend_port.be() == port.be() {
                return Ok(pair);
            }
            if !current && free == 2 {
                free = index;
            }
        }
        if free == 2
            && let Some(pair) = env.more_by_frontend(address, port)
            && env.generation(pair.id) == pair.generation
        {
            return Ok(pair);
        }
        let pair = choose(env, address, port)?;
        if free == 2 || !env.set_pair(free, &pair) {
            env.put_more(&pair);
        }
        Ok(pair)
    })
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
    if reason as u8 != Reason::NotService as u8 {
        env.count(reason);
    }
    verdict
}

/// A backend for a new connection.
#[inline(always)]
fn choose<E: SocketEnv>(env: &mut E, address: &Address, port: Port) -> Result<SocketPair, SocketVerdict> {
    let not_ours = SocketVerdict::Proceed(Reason::NotService);
    let node_loopback = is_loopback(address) && env.is_node_process();
    let Some(frontend) = select::frontend(env, address, port, env.protocol(), node_loopback) else {
        return Err(match select::without_frontend(env, address) {
            Reason::NoSuchPort => SocketVerdict::Refuse(Reason::NoSuchPort),
            // An address of a ServiceCIDR that no Service has: the packet edges drop what is sent there.
            _ => not_ours,
        });
    };
    let service = env.service(frontend.service).ok_or(not_ours)?;
    if is_source_restricted(env, &frontend, &service) {
        return Err(not_ours);
    }
    let set: BackendSet = select::allowed_set(&frontend, &service, true);
    let asking = select::Client {
        address: &env.client(),
        tuple: None,
    };
    let (id, backend): (u32, Backend) = match select::backend(env, frontend.service, &service, set, &asking) {
        Ok(found) => found,
        Err(Reason::NoEndpoints) => return Err(SocketVerdict::Refuse(Reason::NoEndpoints)),
        // The call goes on to the Service's own address, and the packet edges drop it.
        Err(reason) => return Err(SocketVerdict::Proceed(reason)),
    };
    env.count_connection(frontend.service);
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
fn is_source_restricted<E: SocketEnv>(env: &E, frontend: &Frontend, service: &Service) -> bool {
    frontend.is(FrontendKind::LoadBalancer)
        && service.flags & service_flags::SOURCE_RANGES != 0
        && !(service.flags & service_flags::NODE_ALLOWED != 0 && env.is_node_process())
}

#[inline(always)]
fn is_loopback(address: &Address) -> bool {
    if address.is_v4() {
        return address.octets()[12] == 127;
    }
    let [a, b, c, d] = address.words();
    a == 0 && b == 0 && c == 0 && d == 1u32.to_be()
}

//! Calls of sockets at the socket edge, while the tables change.

use arbitrary::{Result, Unstructured};
use ferrogate_common::{Protocol, Reason, cgroup_scope, config_flags};
use ferrogate_datapath::SocketVerdict;
use ferrogate_datapath::host::{HostSocket, Simulator, SocketSimulator};
use std::net::SocketAddr;

use crate::node;
use crate::support::{NODE_NETNS, POD_NETNS, Who, at};

/// Calls of one input, at most.
const STEPS: usize = 96;

/// Runs what an input asks for.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    // An input that ends in the middle of a step has done what it could.
    let _ = steps(&mut input);
}

fn steps(input: &mut Unstructured<'_>) -> Result<()> {
    let mut node = node::build(input)?;
    let kinds = [
        (Protocol::Tcp, POD_NETNS),
        (Protocol::Tcp, NODE_NETNS),
        (Protocol::Udp, POD_NETNS),
        (Protocol::Udp, NODE_NETNS),
    ];
    let mut cookie = 0;
    let mut sockets = kinds.map(|(protocol, netns)| {
        cookie += 1;
        HostSocket::new(cookie, protocol, netns)
    });
    let mut connected = [false; 4];
    for _ in 0..STEPS {
        let index = input.choose_index(kinds.len())?;
        let socket = &mut sockets[index];
        match input.int_in_range(0..=7)? {
            0 => node::change(&mut node, input)?,
            1 => {
                cookie += 1;
                let (protocol, netns) = (socket.protocol, socket.netns);
                *socket = HostSocket::new(cookie, protocol, netns);
                connected[index] = false;
                socket.bound = input.arbitrary()?;
                socket.scopes[input.int_in_range(0..=3)?] =
                    *input.choose(&[0, cgroup_scope::SERVED, cgroup_scope::OFF, cgroup_scope::ONLY])?;
            }
            2..=4 => {
                connected[index] = true;
                call(&mut node, socket, peer(input)?, |call, peer| call.connect(peer), true);
            }
            // A socket that is connected to one Service and sends to another is told of the one that it is connected to.
            5 | 6 => {
                let exact = !connected[index];
                call(&mut node, socket, peer(input)?, |call, peer| call.sendmsg(peer), exact);
            }
            _ => {
                let said = peer(input)?;
                let told = SocketSimulator::new(&mut node.tables, socket).peer_of(said);
                assert_eq!(told.is_ipv4(), said.is_ipv4(), "{said} became {told}");
            }
        }
    }
    Ok(())
}

fn peer(input: &mut Unstructured<'_>) -> Result<SocketAddr> {
    let v4 = input.arbitrary()?;
    Ok(match input.int_in_range(0..=4)? {
        0 => at(*input.choose(&node::ENDPOINTS)?, v4, node::TARGET_PORT),
        1 => at(
            *input.choose(&[Who::Vip, Who::OtherVip, Who::Node])?,
            v4,
            input.arbitrary()?,
        ),
        _ => input.choose(&node::frontends(v4))?.1,
    })
}

/// A call with a peer: what it is given is an endpoint that is there, and is called by its Service's name afterwards.
fn call(
    node: &mut Simulator,
    socket: &mut HostSocket,
    asked: SocketAddr,
    call: fn(&mut SocketSimulator<'_>, SocketAddr) -> (SocketVerdict, SocketAddr),
    exact: bool,
) {
    let protocol = socket.protocol;
    let (verdict, given) = call(&mut SocketSimulator::new(&mut node.tables, socket), asked);
    if verdict != SocketVerdict::Proceed(Reason::SocketTranslated) {
        assert_eq!(given, asked, "{verdict:?} changes nothing");
        return;
    }
    assert!(
        given == asked || node::is_alive(node, protocol, given),
        "{asked} became {given}, which is no endpoint\n{}",
        node.tables
    );
    let told = SocketSimulator::new(&mut node.tables, socket).peer_of(given);
    // Of two Services with one endpoint a socket that talks to both cannot tell the answers apart, unless its packets are translated.
    let flags = node.tables.config.flags;
    let translated = if socket.netns == NODE_NETNS {
        flags & config_flags::NODE_EDGE_OFF == 0
    } else {
        flags & config_flags::POD_EDGE != 0 && !socket.scopes.contains(&cgroup_scope::ONLY)
    };
    if exact && translated {
        assert_eq!(told, asked, "the process hears of {given}");
    }
}

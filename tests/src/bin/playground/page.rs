//! The page of node 1's agent for a browser of this machine: the agent listens inside its node's namespace, and what comes to an
//! address here is passed on to it.
use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use ferrogate_tests::rig::Rig;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where the agents listen, and this program where that is free.
pub(crate) const PORT: u16 = 10_261;
/// Connections at one time; a browser opens six.
const MOST: usize = 32;
/// After `accept` failed.
const PAUSE: Duration = Duration::from_millis(100);

/// Begins to pass connections on, for as long as this program runs. Returns where.
pub(crate) fn open(rig: &Rig) -> Result<SocketAddr> {
    let netns = &rig.node(1).place.netns;
    let inside = File::open(netns.path()).with_context(|| netns.name().to_owned())?;
    // A socket stays in the namespace that it was made in.
    let listener = listen().context("cannot listen for the page")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        // Without the namespace nobody is answered, and the playground goes on.
        if move_into_link_name_space(inside.as_fd(), Some(LinkNameSpaceType::Network)).is_ok() {
            serve(&listener);
        }
    });
    Ok(address)
}

fn listen() -> io::Result<TcpListener> {
    let at = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    match at(PORT) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => at(0),
        result => result,
    }
}

fn serve(listener: &TcpListener) {
    let open = Arc::new(AtomicUsize::new(0));
    for client in listener.incoming() {
        let Ok(client) = client else {
            thread::sleep(PAUSE);
            continue;
        };
        if open.load(Ordering::Acquire) >= MOST {
            continue;
        }
        // The agent may be away; the browser is told by the end of its connection.
        let Ok(agent) = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)) else {
            continue;
        };
        open.fetch_add(1, Ordering::AcqRel);
        let open = Arc::clone(&open);
        thread::spawn(move || {
            let (client, agent) = (&client, &agent);
            thread::scope(|scope| {
                scope.spawn(|| pass(client, agent));
                pass(agent, client);
            });
            open.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

/// One direction, to its end; then neither goes on.
fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    // Whatever ends it, the connection is over for both.
    let _ = io::copy(&mut from, &mut to);
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

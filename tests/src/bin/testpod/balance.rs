//! `testpod balance`: what a cloud's load balancer does, as far as a node can tell: it takes TCP connections at one address
//! and opens one of its own to the node port of the next node for each.
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::SockRef;

/// How long a node may take to accept.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The public address.
    #[arg(long)]
    listen: SocketAddr,
    /// Node ports, asked in turn; one that refuses is passed over.
    #[arg(long = "to", required = true)]
    to: Vec<SocketAddr>,
}

/// Prints `ready` once it listens, then balances for ever.
pub(crate) fn run(options: Options) -> Result<()> {
    let listener = TcpListener::bind(options.listen).with_context(|| format!("TCP {}", options.listen))?;
    println!("ready");
    let (nodes, turn): (Arc<[SocketAddr]>, _) = (options.to.into(), Arc::new(AtomicUsize::new(0)));
    for client in listener.incoming().flatten() {
        let (nodes, turn) = (nodes.clone(), turn.clone());
        thread::spawn(move || {
            // A client or a node that goes away in the middle ends its own connection and no other.
            let _ = serve(&client, &nodes, &turn);
        });
    }
    Ok(())
}

fn serve(client: &TcpStream, nodes: &[SocketAddr], turn: &AtomicUsize) -> io::Result<()> {
    let first = turn.fetch_add(1, Ordering::Relaxed);
    let mut tried = (0..nodes.len()).map(|step| nodes[(first + step) % nodes.len()]);
    let Some(node) = tried.find_map(|node| TcpStream::connect_timeout(&node, PATIENCE).ok()) else {
        // No node serves: the client gets a reset, not an orderly end.
        return SockRef::from(client).set_linger(Some(Duration::ZERO));
    };
    client.set_nodelay(true)?;
    node.set_nodelay(true)?;
    thread::scope(|scope| {
        scope.spawn(|| relay(client, &node));
        relay(&node, client);
    });
    Ok(())
}

/// Moves bytes until their source ends, and passes the end on.
fn relay(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

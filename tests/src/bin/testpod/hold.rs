//! `testpod hold`: many connected sockets that do nothing.
use std::io;
use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// UDP sockets are connected to this address.
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 1000)]
    count: u32,
}

/// Says `held` on standard error once all are connected, and holds them until standard input ends.
pub(crate) fn run(options: &Options) -> Result<()> {
    const OTHERS: u64 = 64;
    let needed = u64::from(options.count) + OTHERS;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(needed),
            maximum: limit.maximum.map(|maximum| maximum.max(needed)),
        },
    )
    .with_context(|| format!("a limit of {needed} open files"))?;
    let sockets = (0..options.count).map(|_| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(options.to)?;
        Ok(socket)
    });
    let held = sockets
        .collect::<io::Result<Vec<_>>>()
        .with_context(|| format!("sockets connected to {}", options.to))?;
    eprintln!("held");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    drop(held);
    Ok(())
}

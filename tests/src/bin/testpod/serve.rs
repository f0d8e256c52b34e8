//! `testpod serve`: the conversation that [`ferrogate_tests::wire`] describes.
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use ferrogate_tests::wire::{Identity, pattern};
use socket2::{Domain, Protocol, Socket, Type};

use crate::sctp::server::Server;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The name to answer with.
    #[arg(long)]
    name: String,
    /// Addresses to listen on: each has sockets of its own, so an answer always leaves from the address that was asked.
    #[arg(long = "listen", required = true)]
    listen: Vec<IpAddr>,
    /// Ports, each of TCP, UDP and SCTP.
    #[arg(long = "port", required = true)]
    ports: Vec<u16>,
}

/// Prints `ready` once every socket is bound, then serves for ever.
pub(crate) fn run(options: &Options) -> Result<()> {
    let name: Arc<str> = options.name.as_str().into();
    let mut threads = Vec::new();
    for (address, port) in options
        .listen
        .iter()
        .flat_map(|a| options.ports.iter().map(|p| (*a, *p)))
    {
        let at = SocketAddr::new(address, port);
        let listener = listener(at).with_context(|| format!("TCP {at}"))?;
        let socket = UdpSocket::bind(at).with_context(|| format!("UDP {at}"))?;
        let (tcp, udp) = (name.clone(), name.clone());
        threads.push(thread::spawn(move || accept(&tcp, &listener)));
        threads.push(thread::spawn(move || datagrams(&udp, &socket)));
    }
    for address in &options.listen {
        let sctp = Server::bind(&options.name, *address, &options.ports).with_context(|| format!("SCTP {address}"))?;
        threads.push(thread::spawn(|| sctp.run()));
    }
    println!("ready");
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

/// A listener with a backlog that 300 connections at once do not fill.
fn listener(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

fn accept(name: &Arc<str>, listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        let name = name.clone();
        thread::spawn(move || {
            // A client that goes away in the middle is not this server's business.
            let _ = converse(&name, &stream);
        });
    }
}

fn converse(name: &str, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut identity = Identity {
        pod: name.to_owned(),
        peer: stream.peer_addr()?,
        local: stream.local_addr()?,
        count: 0,
    };
    let mut reader = BufReader::with_capacity(1 << 16, stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        identity.count += 1;
        let mut words = line.split_whitespace();
        match (words.next(), words.next().and_then(|n| n.parse().ok())) {
            (Some("who"), _) => answer(stream, &identity)?,
            (Some("sink"), Some(bytes)) => {
                let intact = sink(&mut reader, bytes)?;
                answer(stream, &identity)?;
                writeln!(&mut { stream }, "{intact}")?;
            }
            (Some("source"), Some(bytes)) => {
                answer(stream, &identity)?;
                source(stream, bytes)?;
            }
            (Some("GET"), _) => return http(stream, &mut reader, &identity),
            _ => return Ok(()),
        }
        line.clear();
    }
    Ok(())
}

fn answer(mut stream: &TcpStream, identity: &Identity) -> io::Result<()> {
    let mut line = serde_json::to_string(identity)?;
    line.push('\n');
    stream.write_all(line.as_bytes())
}

fn http(mut stream: &TcpStream, reader: &mut impl BufRead, identity: &Identity) -> io::Result<()> {
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let body = serde_json::to_string(identity)?;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Reads `bytes` bytes and returns how many were right, in order, from the first on.
fn sink(reader: &mut impl Read, bytes: u64) -> io::Result<u64> {
    let expected = pattern::doubled();
    let mut buffer = vec![0; 1 << 16];
    let (mut seen, mut intact) = (0_u64, 0_u64);
    while seen < bytes {
        let wanted = (bytes - seen).min(buffer.len() as u64) as usize;
        let got = reader.read(&mut buffer[..wanted])?;
        if got == 0 {
            break;
        }
        let offset = (seen % pattern::LENGTH as u64) as usize;
        let right = buffer[..got] == expected[offset..offset + got];
        if right && intact == seen {
            intact += got as u64;
        }
        seen += got as u64;
    }
    Ok(intact)
}

fn source(mut stream: &TcpStream, bytes: u64) -> io::Result<()> {
    let data = pattern::doubled();
    let mut sent = 0_u64;
    while sent < bytes {
        let length = (bytes - sent).min(1 << 16) as usize;
        let offset = (sent % pattern::LENGTH as u64) as usize;
        stream.write_all(&data[offset..offset + length])?;
        sent += length as u64;
    }
    Ok(())
}

fn datagrams(name: &str, socket: &UdpSocket) {
    let Ok(local) = socket.local_addr() else { return };
    let mut counts: HashMap<SocketAddr, u64> = HashMap::new();
    let mut buffer = [0; 65_536];
    loop {
        // An error here is an ICMP message about an earlier answer: that client is gone, others are not.
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let count = counts.entry(peer).or_default();
        *count += 1;
        let identity = Identity {
            pod: name.to_owned(),
            peer,
            local,
            count: *count,
        };
        if let Ok(mut answer) = serde_json::to_vec(&identity) {
            answer.resize(length.max(answer.len()), b' ');
            let _ = socket.send_to(&answer, peer);
        }
    }
}

//! `testpod strain` and `testpod lean`: client and server that do as little as can be besides what is measured.
//!
//! The first byte of a connection says what the client wants: `q` one byte back, then the end; `r` every message of
//! [`MESSAGE`] bytes back; `s` nothing, whatever it sends.
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::ValueEnum;
use ferrogate_tests::wire::StrainReport;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Bytes of a request, and of its response.
const MESSAGE: usize = 64;

/// Bytes of one write of a stream.
const CHUNK: usize = 128 << 10;

/// Threads that accept.
const ACCEPTING: usize = 2;

/// Longer than this nothing may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// New connections, each with a byte there and back.
    Connections,
    /// Requests and responses on one connection.
    Requests,
    /// One connection as full as it gets.
    Stream,
}

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, value_enum)]
    kind: Kind,
    #[arg(long, default_value_t = 1000)]
    milliseconds: u64,
    /// Clients at once, a thread each.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// Prints `ready` once it listens, then serves for ever.
pub(crate) fn serve(at: SocketAddr) -> Result<()> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into()).with_context(|| format!("TCP {at}"))?;
    socket.listen(1024)?;
    let listener: TcpListener = socket.into();
    println!("ready");
    thread::scope(|scope| {
        for _ in 0..ACCEPTING {
            scope.spawn(|| listener.incoming().flatten().for_each(answer));
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream) {
    let mut wish = [0];
    // A client that goes away in the middle is not this server's business.
    if stream.read_exact(&mut wish).is_err() {
        return;
    }
    match wish[0] {
        b'r' => drop(thread::spawn(move || echo(&stream))),
        b's' => drop(thread::spawn(move || swallow(&stream))),
        _ => drop(stream.write_all(b"q")),
    }
}

fn echo(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE];
    loop {
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
}

fn swallow(mut stream: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 2 * CHUNK];
    while stream.read(&mut buffer)? != 0 {}
    // The client waits for this: all has arrived.
    stream.shutdown(Shutdown::Both)
}

/// Strains a server for a time.
pub(crate) fn run(options: &Options) -> Result<StrainReport> {
    let over = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let threads: Vec<_> = (0..options.threads)
        .map(|_| {
            let (over, to, kind) = (over.clone(), options.to, options.kind);
            thread::spawn(move || client(kind, to, &over))
        })
        .collect();
    thread::sleep(Duration::from_millis(options.milliseconds));
    over.store(true, Ordering::Relaxed);
    let mut report = StrainReport::default();
    let mut took = Vec::new();
    for thread in threads {
        let (count, times) = thread.join().map_err(|_| anyhow!("a client panicked"))??;
        report.count += count;
        took.extend(times);
    }
    report.micros = begun.elapsed().as_micros() as u64;
    took.sort_unstable();
    let at = |part: f64| took.get((took.len() as f64 * part) as usize).copied().unwrap_or(0);
    report.p50_nanos = at(0.5);
    report.p99_nanos = at(0.99);
    Ok(report)
}

/// What it did, by number, and what each took in nanoseconds.
fn client(kind: Kind, to: SocketAddr, over: &AtomicBool) -> Result<(u64, Vec<u64>)> {
    match kind {
        Kind::Connections => connections(to, over),
        Kind::Requests => requests(to, over),
        Kind::Stream => stream(to, over),
    }
    .with_context(|| format!("straining {to}"))
}

fn open(to: SocketAddr, wish: u8) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    stream.write_all(&[wish])?;
    Ok(stream)
}

fn connections(to: SocketAddr, over: &AtomicBool) -> Result<(u64, Vec<u64>)> {
    let mut took = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let mut stream = open(to, b'q')?;
        stream.read_exact(&mut [0])?;
        // With a reset, so that no port waits.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        drop(stream);
        took.push(begun.elapsed().as_nanos() as u64);
    }
    Ok((took.len() as u64, took))
}

fn requests(to: SocketAddr, over: &AtomicBool) -> Result<(u64, Vec<u64>)> {
    let mut stream = open(to, b'r')?;
    let mut message = [7; MESSAGE];
    let mut took = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        took.push(begun.elapsed().as_nanos() as u64);
    }
    Ok((took.len() as u64, took))
}

/// Counts bytes.
fn stream(to: SocketAddr, over: &AtomicBool) -> Result<(u64, Vec<u64>)> {
    let mut stream = open(to, b's')?;
    let data = vec![7; CHUNK];
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        stream.write_all(&data)?;
        count += CHUNK as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())?;
    Ok((count, Vec::new()))
}

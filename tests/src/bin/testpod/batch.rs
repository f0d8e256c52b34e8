//! `testpod batch`: questions by the hundred, from one process.
use std::io::{self, BufRead, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ferrogate_tests::batch::{Answer, BatchReport, BatchRequest, Question, Seen, SocketKind};
use ferrogate_tests::wire::{Identity, Protocol};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Local ports that are given out in turn, above the node ports: a port comes again only when nothing remembers its last
/// flow. Those of UDP flows are remembered longest, up to two minutes.
const PORTS: (u16, u16) = (33_000, 60_999);

/// How often a socket that connects is asked for an error that it was told of.
const SOFT_ERRORS: Duration = Duration::from_millis(5);

/// Serves requests until standard input ends.
pub(crate) fn run() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let request: BatchRequest = serde_json::from_str(&line).with_context(|| format!("request {line}"))?;
        let report = runtime.block_on(ask_all(request))?;
        writeln!(output, "{}", serde_json::to_string(&report)?)?;
        output.flush()?;
    }
    Ok(())
}

async fn ask_all(request: BatchRequest) -> Result<BatchReport> {
    let mut tasks = Vec::new();
    for chain in request.chains {
        tasks.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            for question in &chain {
                seen.push(ask(question).await);
            }
            seen
        }));
    }
    let mut report = BatchReport::default();
    for task in tasks {
        report.chains.push(task.await?);
    }
    Ok(report)
}

async fn ask(question: &Question) -> Vec<Seen> {
    let mut seen = Vec::new();
    for _ in 0..question.tries {
        let begin = Instant::now();
        let patience = Duration::from_millis(question.patience_ms);
        let one = match question.protocol {
            Protocol::Tcp => timeout(patience, tcp(question)).await,
            Protocol::Udp => timeout(patience, udp(question)).await,
            Protocol::Sctp => Ok(Err(io::Error::new(
                ErrorKind::Unsupported,
                "a batch asks over TCP and UDP",
            ))),
        };
        let one = match one {
            Err(_) => Seen::Silence,
            Ok(Err(error)) => failure(&error),
            Ok(Ok((identity, from_asked))) => Seen::Answer(Answer {
                pod: identity.pod,
                port: identity.local.port(),
                source: identity.peer.ip(),
                from_asked,
                micros: begin.elapsed().as_micros() as u64,
            }),
        };
        let answered = matches!(one, Seen::Answer(_));
        seen.push(one);
        if !answered {
            break;
        }
    }
    seen
}

async fn tcp(question: &Question) -> io::Result<(Identity, bool)> {
    let socket = Socket::new(Domain::for_address(question.to), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if question.socket == SocketKind::Bound {
        socket.set_reuse_address(true)?;
        bind(|at| socket.bind(&at.into()), question.to)?;
    }
    let mut stream = connect(socket, question.to).await?;
    // A reset at the end: no port waits in TIME_WAIT, here or at the server.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    stream.set_nodelay(true)?;
    let from_asked = stream.peer_addr()? == question.to;
    stream.write_all(b"who\n").await?;
    let mut line = String::new();
    BufReader::new(&mut stream).read_line(&mut line).await?;
    if line.is_empty() {
        return Err(ErrorKind::ConnectionReset.into());
    }
    Ok((serde_json::from_str(&line)?, from_asked))
}

/// An ICMP error that arrives while connect(2) still holds the socket, as over a veth it can, ends nothing: the kernel
/// keeps it as a soft error until the next SYN, a second later. SO_ERROR tells it at once.
async fn connect(socket: Socket, to: SocketAddr) -> io::Result<TcpStream> {
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    loop {
        let connected = timeout(SOFT_ERRORS, stream.writable()).await;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        if let Ok(writable) = connected {
            writable?;
            return Ok(stream);
        }
    }
}

async fn udp(question: &Question) -> io::Result<(Identity, bool)> {
    let mut bound = None;
    bind(
        |at| std::net::UdpSocket::bind(at).map(|socket| bound = Some(socket)),
        question.to,
    )?;
    let socket = bound.ok_or(ErrorKind::AddrInUse)?;
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket)?;
    let mut buffer = [0; 2048];
    let (length, from) = if question.socket == SocketKind::Unconnected {
        socket.send_to(b"who", question.to).await?;
        socket.recv_from(&mut buffer).await?
    } else {
        socket.connect(question.to).await?;
        socket.send(b"who").await?;
        socket.recv_from(&mut buffer).await?
    };
    Ok((serde_json::from_slice(&buffer[..length])?, from == question.to))
}

/// Binds to the next free port.
fn bind(mut bind: impl FnMut(SocketAddr) -> io::Result<()>, to: SocketAddr) -> io::Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let any: IpAddr = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let count = u32::from(PORTS.1 - PORTS.0) + 1;
    for _ in 0..count {
        let port = PORTS.0 + (NEXT.fetch_add(1, Ordering::Relaxed) % count) as u16;
        match bind(SocketAddr::new(any, port)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
    Err(ErrorKind::AddrInUse.into())
}

fn failure(error: &io::Error) -> Seen {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Seen::Refused,
        ErrorKind::TimedOut => Seen::Silence,
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => Seen::Unreachable,
        ErrorKind::PermissionDenied => Seen::NotPermitted,
        _ => Seen::Broken(error.to_string()),
    }
}

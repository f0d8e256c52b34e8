//! `testpod probe`: sockets, one after the other, and what each of them met. SCTP has no sockets: it is in `sctp`.
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use ferrogate_tests::wire::{Attempt, Failure, FailureKind, Identity, ProbeReport, ProbeRequest, Protocol};
use socket2::{Domain, Socket, Type};

use crate::failure::At;
use crate::sctp;

pub(crate) fn run(request: &ProbeRequest) -> ProbeReport {
    let mut open = Vec::new();
    let round = |number| {
        if request.protocol == Protocol::Sctp {
            return sctp::client::round(request, number);
        }
        if request.protocol == Protocol::Udp && request.unconnected {
            return unconnected(request);
        }
        let attempts = connected(request, &mut open);
        // A UDP flow outlives its socket: were it closed, a later round could get its port, and be that flow again.
        if request.protocol == Protocol::Tcp || request.source_port != 0 {
            open.clear();
        }
        attempts
    };
    ProbeReport {
        attempts: (0..request.count).flat_map(round).collect(),
    }
}

/// A socket for each address; all stay open until the last is done, so that their tuples really stand side by side.
fn connected(request: &ProbeRequest, open: &mut Vec<Socket>) -> Vec<Attempt> {
    let ask = |to: &SocketAddr| {
        let (attempt, socket) = once(request, *to);
        open.extend(socket);
        attempt
    };
    request.to.iter().map(ask).collect()
}

/// One socket towards `to`, and what it met; the socket is open still if all went well.
pub(crate) fn once(request: &ProbeRequest, to: SocketAddr) -> (Attempt, Option<Socket>) {
    let mut attempt = fresh(to);
    let begin = Instant::now();
    let result = if request.protocol == Protocol::Tcp {
        tcp(request, &mut attempt)
    } else {
        udp(request, &mut attempt)
    };
    attempt.micros = begin.elapsed().as_micros() as u64;
    match result {
        Ok(socket) => (attempt, Some(socket)),
        Err(failure) => {
            attempt.failure = Some(failure);
            (attempt, None)
        }
    }
}

/// An attempt that nothing is known of yet.
pub(crate) fn fresh(to: SocketAddr) -> Attempt {
    Attempt {
        to,
        local: None,
        peer: None,
        from: None,
        answers: Vec::new(),
        failure: None,
        micros: 0,
    }
}

/// The address to hand to the socket calls: v4-mapped where the request says so.
fn target(request: &ProbeRequest, to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(v4) if request.mapped => SocketAddr::new(IpAddr::V6(v4.to_ipv6_mapped()), to.port()),
        _ => to,
    }
}

fn open(request: &ProbeRequest, to: SocketAddr) -> Result<Socket, Failure> {
    let kind = if request.protocol == Protocol::Tcp {
        Type::STREAM
    } else {
        Type::DGRAM
    };
    let socket = Socket::new(Domain::for_address(to), kind, None).at("bind")?;
    if to.is_ipv6() {
        socket.set_only_v6(!request.mapped).at("bind")?;
    }
    if request.source_port != 0 || request.source.is_some() {
        socket.set_reuse_address(true).at("bind")?;
        let any = if to.is_ipv4() {
            IpAddr::from([0, 0, 0, 0])
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let source = SocketAddr::new(request.source.unwrap_or(any), request.source_port);
        socket.bind(&source.into()).at("bind")?;
    }
    let timeout = Some(Duration::from_millis(request.timeout_ms));
    socket.set_read_timeout(timeout).at("bind")?;
    socket.set_write_timeout(timeout).at("bind")?;
    Ok(socket)
}

fn tcp(request: &ProbeRequest, attempt: &mut Attempt) -> Result<Socket, Failure> {
    let to = target(request, attempt.to);
    let socket = open(request, to)?;
    socket
        .connect_timeout(&to.into(), Duration::from_millis(request.timeout_ms))
        .at("connect")?;
    let stream: TcpStream = socket.into();
    attempt.local = Some(stream.local_addr().at("connect")?);
    attempt.peer = Some(stream.peer_addr().at("connect")?);
    stream.set_nodelay(true).at("connect")?;
    let mut reader = BufReader::new(&stream);
    for question in 0..request.questions {
        pause(request, question);
        (&stream).write_all(b"who\n").at("send")?;
        let mut line = String::new();
        reader.read_line(&mut line).at("receive")?;
        attempt.answers.push(parse(line.as_bytes())?);
    }
    if request.source_port != 0 {
        // The port is to be free at once for the next round: end with a reset instead of TIME_WAIT.
        socket2::SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .at("close")?;
    }
    Ok(stream.into())
}

fn udp(request: &ProbeRequest, attempt: &mut Attempt) -> Result<Socket, Failure> {
    let to = target(request, attempt.to);
    let socket: UdpSocket = open(request, to)?.into();
    socket.connect(to).at("connect")?;
    attempt.local = Some(socket.local_addr().at("connect")?);
    attempt.peer = Some(socket.peer_addr().at("connect")?);
    for question in 0..request.questions {
        pause(request, question);
        socket.send(&question_of(request)).at("send")?;
        receive(&socket, attempt)?;
    }
    Ok(socket.into())
}

/// One socket that asks all addresses in turn, without connect(2).
pub(crate) fn unconnected(request: &ProbeRequest) -> Vec<Attempt> {
    let mut attempts: Vec<_> = request.to.iter().map(|to| fresh(*to)).collect();
    let socket: UdpSocket = match open(request, target(request, request.to[0])) {
        Ok(socket) => socket.into(),
        Err(failure) => {
            attempts
                .iter_mut()
                .for_each(|attempt| attempt.failure = Some(failure.clone()));
            return attempts;
        }
    };
    for question in 0..request.questions {
        pause(request, question);
        for attempt in attempts.iter_mut().filter(|attempt| attempt.failure.is_none()) {
            let begin = Instant::now();
            let sent = socket
                .send_to(&question_of(request), target(request, attempt.to))
                .at("send");
            attempt.failure = sent.and_then(|_| receive(&socket, attempt)).err();
            attempt.local = socket.local_addr().ok();
            attempt.micros += begin.elapsed().as_micros() as u64;
        }
    }
    attempts
}

fn question_of(request: &ProbeRequest) -> Vec<u8> {
    let mut question = b"who".to_vec();
    question.resize(request.size.max(question.len()), b' ');
    question
}

fn receive(socket: &UdpSocket, attempt: &mut Attempt) -> Result<(), Failure> {
    let mut buffer = [0; 65_536];
    let (length, from) = socket.recv_from(&mut buffer).at("receive")?;
    attempt.from = Some(from);
    attempt.answers.push(parse(&buffer[..length])?);
    Ok(())
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Identity, Failure> {
    serde_json::from_slice(bytes).map_err(|error| Failure {
        stage: "answer".to_owned(),
        kind: if bytes.is_empty() {
            FailureKind::Refused
        } else {
            FailureKind::Other
        },
        text: format!("{error}: {:?}", String::from_utf8_lossy(bytes)),
    })
}

fn pause(request: &ProbeRequest, question: u32) {
    if question > 0 && request.pause_ms > 0 {
        thread::sleep(Duration::from_millis(request.pause_ms));
    }
}

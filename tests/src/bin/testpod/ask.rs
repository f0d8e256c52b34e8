//! `testpod ask`: questions come as lines of [`ferrogate_tests::wire::ask`], are asked side by side, and are answered as they
//! end.
use std::collections::{BTreeSet, HashMap};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use ferrogate_tests::wire::ask::{Answer, Ask, Question, Reach, Seen, Told};
use ferrogate_tests::wire::{Attempt, Failure, FailureKind, Identity, ProbeRequest, Protocol};
use socket2::Socket;

use crate::failure::At;
use crate::{dns, echo, probe, sctp};

/// Questions that are asked at the same time: most of them wait for a silence to end.
const AT_ONCE: usize = 96;

/// Connections and sockets that are kept, by name.
type Held = Mutex<HashMap<String, (Protocol, Arc<Socket>)>>;

pub(crate) fn run() -> Result<()> {
    let (questions, queue) = mpsc::channel::<Question>();
    let (queue, held) = (Arc::new(Mutex::new(queue)), Arc::new(Held::default()));
    let workers: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (queue, held) = (queue.clone(), held.clone());
            thread::spawn(move || work(&queue, &held))
        })
        .collect();
    for line in io::stdin().lock().lines() {
        questions.send(serde_json::from_str(&line?)?)?;
    }
    drop(questions);
    for worker in workers {
        let _ = worker.join();
    }
    Ok(())
}

fn work(queue: &Mutex<mpsc::Receiver<Question>>, held: &Held) {
    loop {
        let question = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Question { id, ask }) = question else { return };
        let told = answer(ask, held).unwrap_or_else(Told::Failed);
        let Ok(mut line) = serde_json::to_string(&Answer { id, told }) else {
            return;
        };
        line.push('\n');
        let mut output = io::stdout().lock();
        if output.write_all(line.as_bytes()).and_then(|()| output.flush()).is_err() {
            // Nobody listens any more.
            return;
        }
    }
}

fn answer(ask: Ask, held: &Held) -> Result<Told, Failure> {
    match ask {
        Ask::Reach(reach) => Ok(reached(&reach)),
        Ask::Hold { name, reach } => Ok(hold(name, &reach, held)),
        Ask::Resume { name, timeout_ms } => {
            let (protocol, socket) = lock(held).get(&name).cloned().ok_or_else(|| Failure {
                stage: "resume".to_owned(),
                kind: FailureKind::Other,
                text: format!("nothing is held under the name {name}"),
            })?;
            resume(protocol, &socket, Duration::from_millis(timeout_ms)).map(|identity| Told::Reached {
                seen: vec![seen(&identity)],
                failure: None,
            })
        }
        Ask::Resolve {
            server,
            name,
            protocol,
            ipv6,
            timeout_ms,
        } => Ok(Told::Resolved(dns::resolve(server, &name, protocol, ipv6, timeout_ms))),
        Ask::Ping { to, timeout_ms } => echo::ping(to, Duration::from_millis(timeout_ms))
            .map(Told::Pinged)
            .at("ping"),
        Ask::Get { to, path, timeout_ms } => get(to, &path, Duration::from_millis(timeout_ms)),
    }
}

fn lock(held: &Held) -> std::sync::MutexGuard<'_, HashMap<String, (Protocol, Arc<Socket>)>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

fn request(reach: &Reach) -> ProbeRequest {
    ProbeRequest {
        source_port: reach.source_port,
        unconnected: reach.unconnected,
        ..ProbeRequest::new(reach.protocol, reach.to).timeout_ms(reach.timeout_ms)
    }
}

/// Sockets stay open until the last one is done: UDP flows outlive them, and each is to be a flow of its own.
fn reached(reach: &Reach) -> Told {
    let request = request(reach);
    let (mut open, mut all) = (Vec::new(), Vec::new());
    let mut missing: BTreeSet<&str> = reach.wanted.iter().map(String::as_str).collect();
    for round in 0..reach.at_most {
        if round >= reach.at_least && missing.is_empty() {
            break;
        }
        if round > 0 && reach.pause_ms > 0 {
            thread::sleep(Duration::from_millis(reach.pause_ms));
        }
        let mut attempt = one(&request, reach, round, &mut open);
        for identity in &attempt.answers {
            missing.remove(identity.pod.as_str());
            all.push(seen(identity));
        }
        if let Some(mut failure) = attempt.failure.take() {
            if let Some(local) = attempt.local {
                failure.text = format!("{}, from {local}", failure.text);
            }
            return Told::Reached {
                seen: all,
                failure: Some(failure),
            };
        }
    }
    Told::Reached {
        seen: all,
        failure: None,
    }
}

fn one(request: &ProbeRequest, reach: &Reach, round: u32, open: &mut Vec<Socket>) -> Attempt {
    if reach.protocol == Protocol::Sctp {
        return sctp::client::round(request, round).swap_remove(0);
    }
    if reach.unconnected && reach.protocol == Protocol::Udp {
        return probe::unconnected(request).swap_remove(0);
    }
    let (attempt, socket) = probe::once(request, reach.to);
    // A port that was asked for is to be free for the next round; TCP's ends are orderly anyway.
    if reach.protocol == Protocol::Udp && reach.source_port == 0 {
        open.extend(socket);
    }
    attempt
}

fn hold(name: String, reach: &Reach, held: &Held) -> Told {
    // What was held under this name gives its port back first.
    lock(held).remove(&name);
    let (attempt, socket) = probe::once(&request(reach), reach.to);
    if let Some(socket) = socket {
        if reach.protocol == Protocol::Tcp {
            // An orderly end again, whatever the probe wanted.
            let _ = socket.set_linger(None);
        }
        lock(held).insert(name, (reach.protocol, Arc::new(socket)));
    }
    Told::Reached {
        seen: attempt.answers.iter().map(seen).collect(),
        failure: attempt.failure,
    }
}

fn resume(protocol: Protocol, socket: &Socket, timeout: Duration) -> Result<Identity, Failure> {
    socket.set_read_timeout(Some(timeout)).at("resume")?;
    let copy = socket.try_clone().at("resume")?;
    if protocol == Protocol::Tcp {
        let stream: TcpStream = copy.into();
        (&stream).write_all(b"who\n").at("send")?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).at("receive")?;
        return probe::parse(line.as_bytes());
    }
    let socket: UdpSocket = copy.into();
    let mut buffer = [0; 2048];
    socket.send(b"who").at("send")?;
    let length = socket.recv(&mut buffer).at("receive")?;
    probe::parse(&buffer[..length])
}

fn seen(identity: &Identity) -> Seen {
    Seen {
        pod: identity.pod.clone(),
        port: identity.local.port(),
        source: identity.peer.ip().to_canonical(),
    }
}

fn get(to: SocketAddr, path: &str, timeout: Duration) -> Result<Told, Failure> {
    let mut stream = TcpStream::connect_timeout(&to, timeout).at("connect")?;
    stream.set_read_timeout(Some(timeout)).at("connect")?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n").at("send")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).at("receive")?;
    http(&text).ok_or_else(|| Failure {
        stage: "answer".to_owned(),
        kind: FailureKind::Other,
        text: format!("not HTTP: {text:?}"),
    })
}

/// A response whose body ends with the connection, or comes in one chunk.
fn http(text: &str) -> Option<Told> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Told::Got {
        status,
        headers,
        body: body.to_owned(),
    })
}

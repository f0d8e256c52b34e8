//! `testpod siege`: held TCP connections, UDP flows and a stream of new connections, while something happens to the proxy.
use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ferrogate_tests::wire::Identity;
use ferrogate_tests::wire::siege::{Loss, SiegeReport, SiegeRequest};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

/// A datagram that is not answered for this long is lost.
const DATAGRAM_PATIENCE: Duration = Duration::from_secs(2);
/// Lengths of questions over UDP, one after the other: the answer has the same length, so a late one is not taken for another.
const LENGTHS: std::ops::Range<usize> = 400..656;

struct Siege {
    request: SiegeRequest,
    begin: Instant,
    report: RefCell<SiegeReport>,
    /// Whether to end; every connection asks once more when it does.
    over: watch::Receiver<bool>,
}

pub(crate) fn run(request: SiegeRequest) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let report = local.block_on(&runtime, besiege(request))?;
    println!("{}", serde_json::to_string(&report)?);
    // A thread of the runtime may still wait for standard input.
    runtime.shutdown_background();
    Ok(())
}

/// Says `held` on standard error once every connection and flow was answered, and ends with standard input.
async fn besiege(request: SiegeRequest) -> Result<SiegeReport> {
    let (end, over) = watch::channel(false);
    let siege = Rc::new(Siege {
        request,
        begin: Instant::now(),
        report: RefCell::default(),
        over,
    });
    let before = retransmissions()?;
    let (answered, mut first) = tokio::sync::mpsc::channel::<()>(1);
    let mut tasks = JoinSet::new();
    for index in 0..siege.request.connections {
        tasks.spawn_local(hold(Rc::clone(&siege), index, answered.clone()));
    }
    for index in 0..siege.request.flows {
        tasks.spawn_local(flow(Rc::clone(&siege), index, answered.clone()));
    }
    drop(answered);
    // Ends when every holder of the sending side has been answered or has failed.
    while first.recv().await.is_some() {}
    tasks.spawn_local(renew(Rc::clone(&siege)));
    eprintln!("held");
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    end.send(true).context("nobody waits for the end")?;
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    let after = retransmissions()?;
    let mut report = siege.report.take();
    report.syns_again = after.0.saturating_sub(before.0);
    report.segments_again = after.1.saturating_sub(before.1);
    Ok(report)
}

impl Siege {
    fn to(&self, index: u32) -> SocketAddr {
        self.request.to[index as usize % self.request.to.len()]
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.request.timeout_ms)
    }

    fn loss(&self, what: &str, local: Option<SocketAddr>, to: SocketAddr, why: String) {
        let mut report = self.report.borrow_mut();
        if report.losses.len() < SiegeReport::KEPT {
            report.losses.push(Loss {
                what: what.to_owned(),
                local,
                to,
                at_ms: self.begin.elapsed().as_millis() as u64,
                why,
            });
        }
    }

    /// Whether this pod may answer.
    fn check(&self, pod: &str) -> io::Result<()> {
        if self.request.pods.is_empty() || self.request.pods.iter().any(|allowed| allowed == pod) {
            return Ok(());
        }
        self.report.borrow_mut().misdirected += 1;
        Err(wrong(format!("answered by {pod}, which is no endpoint")))
    }

    fn waited(&self, since: Instant) {
        let waited = since.elapsed().as_millis() as u64;
        let mut report = self.report.borrow_mut();
        report.longest_ms = report.longest_ms.max(waited);
    }

    /// Waits for the next turn of a periodic question; false when all is over.
    async fn pause(&self, next: Instant) -> bool {
        let mut over = self.over.clone();
        tokio::select! {
            () = sleep_until(next.into()) => true,
            _ = over.wait_for(|over| *over) => false,
        }
    }
}

fn wrong(why: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

async fn in_time<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let silence = |_| io::Error::new(ErrorKind::TimedOut, format!("silence for {patience:?}"));
    timeout(patience, work).await.map_err(silence)?
}

/// One question of a connection.
async fn ask(stream: &mut BufReader<TcpStream>, patience: Duration) -> io::Result<Identity> {
    in_time(patience, async {
        stream.write_all(b"who\n").await?;
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed by the other end"));
        }
        serde_json::from_str(&line).map_err(|_| wrong(format!("not as expected: {line:?}")))
    })
    .await
}

/// One held connection. `answered` is dropped with its first answer.
async fn hold(siege: Rc<Siege>, index: u32, answered: tokio::sync::mpsc::Sender<()>) {
    let to = siege.to(index);
    let mut answered = Some(answered);
    // Spread, so that the server's queue never fills.
    sleep(Duration::from_millis(u64::from(index))).await;
    siege.report.borrow_mut().held += 1;
    let mut local = None;
    if let Err(error) = hold_until(&siege, index, to, &mut local, &mut answered).await {
        siege.report.borrow_mut().lost += 1;
        siege.loss("connection", local, to, error.to_string());
    }
}

async fn hold_until(
    siege: &Siege,
    index: u32,
    to: SocketAddr,
    local: &mut Option<SocketAddr>,
    answered: &mut Option<tokio::sync::mpsc::Sender<()>>,
) -> io::Result<()> {
    let stream = in_time(siege.patience(), TcpStream::connect(to)).await?;
    stream.set_nodelay(true)?;
    *local = stream.local_addr().ok();
    let mut stream = BufReader::new(stream);
    let interval = Duration::from_millis(siege.request.interval_ms);
    let mut next = Instant::now() + interval * (index % 16) / 16;
    let mut pod: Option<String> = None;
    let mut count = 0;
    loop {
        let more = siege.pause(next).await;
        let begin = Instant::now();
        let identity = ask(&mut stream, siege.patience()).await?;
        siege.waited(begin);
        count += 1;
        if identity.count != count {
            return Err(wrong(format!("answer {} to question {count}", identity.count)));
        }
        siege.check(&identity.pod)?;
        if let Some(before) = pod.replace(identity.pod.clone())
            && before != identity.pod
        {
            siege.report.borrow_mut().misdirected += 1;
            return Err(wrong(format!("answered by {}, before by {before}", identity.pod)));
        }
        siege.report.borrow_mut().answered += 1;
        answered.take();
        if !more {
            return Ok(());
        }
        next = (next + interval).max(Instant::now());
    }
}

/// One UDP flow: a socket of its own.
async fn flow(siege: Rc<Siege>, index: u32, answered: tokio::sync::mpsc::Sender<()>) {
    let to = siege.to(index);
    let mut answered = Some(answered);
    siege.report.borrow_mut().flows += 1;
    sleep(Duration::from_millis(u64::from(index))).await;
    // Every second one of each address.
    let connected = (index as usize / siege.request.to.len()) % 2 == 1;
    if let Err(error) = flow_until(&siege, index, to, connected, &mut answered).await {
        siege.report.borrow_mut().unanswered += 1;
        siege.loss("flow", None, to, error.to_string());
    }
}

async fn flow_until(
    siege: &Siege,
    index: u32,
    to: SocketAddr,
    connected: bool,
    answered: &mut Option<tokio::sync::mpsc::Sender<()>>,
) -> io::Result<()> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    let local = socket.local_addr().ok();
    if connected {
        socket.connect(to).await?;
    }
    let interval = Duration::from_millis(siege.request.interval_ms);
    let mut next = Instant::now() + interval * (index % 16) / 16;
    let mut pod: Option<String> = None;
    for length in LENGTHS.cycle() {
        let more = siege.pause(next).await;
        siege.report.borrow_mut().datagrams += 1;
        match question(&socket, to, connected, length).await {
            Ok(identity) => {
                siege.check(&identity.pod)?;
                if let Some(before) = pod.replace(identity.pod.clone())
                    && before != identity.pod
                {
                    siege.report.borrow_mut().moved += 1;
                    siege.loss("flow", local, to, format!("moved from {before} to {}", identity.pod));
                }
            }
            Err(error) => {
                siege.report.borrow_mut().unanswered += 1;
                siege.loss("flow", local, to, error.to_string());
            }
        }
        answered.take();
        if !more {
            break;
        }
        next = (next + interval).max(Instant::now());
    }
    Ok(())
}

async fn question(socket: &UdpSocket, to: SocketAddr, connected: bool, length: usize) -> io::Result<Identity> {
    let bytes = vec![b'w'; length];
    if connected {
        socket.send(&bytes).await?;
    } else {
        socket.send_to(&bytes, to).await?;
    }
    in_time(DATAGRAM_PATIENCE, async {
        let mut buffer = [0; 2048];
        loop {
            let (got, from) = socket.recv_from(&mut buffer).await?;
            if from != to {
                return Err(wrong(format!("an answer from {from}")));
            }
            // One of another length is a late answer to a question that was given up.
            if got == length {
                return serde_json::from_slice(&buffer[..got]).map_err(|_| wrong("not as expected".to_owned()));
            }
        }
    })
    .await
}

/// Opens connections at the rate that was asked for.
async fn renew(siege: Rc<Siege>) {
    if siege.request.rate == 0 {
        return;
    }
    let gap = Duration::from_secs(1) / siege.request.rate;
    let mut next = Instant::now();
    let mut open = JoinSet::new();
    for index in 0.. {
        if !siege.pause(next).await {
            break;
        }
        open.spawn_local(once(Rc::clone(&siege), siege.to(index)));
        while open.try_join_next().is_some() {}
        // What this process was too busy for is not made up for by a burst.
        next = (next + gap).max(Instant::now() - gap * 4);
    }
    while open.join_next().await.is_some() {}
}

async fn once(siege: Rc<Siege>, to: SocketAddr) {
    let mut local = None;
    let outcome = once_asked(&siege, to, &mut local).await;
    let mut report = siege.report.borrow_mut();
    match &outcome {
        Ok(()) => report.opened += 1,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => report.refused += 1,
        Err(_) => report.failed += 1,
    }
    drop(report);
    if let Err(error) = outcome {
        siege.loss("new connection", local, to, error.to_string());
    }
}

async fn once_asked(siege: &Siege, to: SocketAddr, local: &mut Option<SocketAddr>) -> io::Result<()> {
    let begin = Instant::now();
    let stream = in_time(siege.patience(), TcpStream::connect(to)).await?;
    let took = begin.elapsed().as_millis() as u64;
    {
        let mut report = siege.report.borrow_mut();
        report.slowest_connect_ms = report.slowest_connect_ms.max(took);
    }
    *local = stream.local_addr().ok();
    let begin = Instant::now();
    let identity = ask(&mut BufReader::new(stream), siege.patience()).await?;
    siege.waited(begin);
    siege.check(&identity.pod)
}

/// SYNs, and all segments, that TCP of this network namespace has sent again so far.
fn retransmissions() -> Result<(u64, u64)> {
    let counter = |file: &str, section: &str, name: &str| -> Result<u64> {
        let text = std::fs::read_to_string(file).with_context(|| file.to_owned())?;
        let mut lines = text.lines().filter(|line| line.starts_with(section));
        let (names, values) = lines.next().zip(lines.next()).context("two lines a section")?;
        let found = names
            .split_whitespace()
            .zip(values.split_whitespace())
            .find(|(n, _)| *n == name);
        Ok(found.with_context(|| format!("no {name} in {file}"))?.1.parse()?)
    };
    Ok((
        counter("/proc/net/netstat", "TcpExt:", "TCPSynRetrans")?,
        counter("/proc/net/snmp", "Tcp:", "RetransSegs")?,
    ))
}

//! `testpod chase`: asks Services whose endpoints change all the time, one new connection or socket each.
use std::cell::RefCell;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ferrogate_tests::wire::Identity;
use ferrogate_tests::wire::churn::{Asked, now};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The ClusterIP of Service 0; the others follow it.
    #[arg(long)]
    base: Ipv4Addr,
    #[arg(long)]
    count: u32,
    #[arg(long)]
    port: u16,
    /// Questions a second, every second one over UDP.
    #[arg(long)]
    rate: u32,
    #[arg(long)]
    seed: u64,
}

/// Asks until standard input ends, then prints a line of JSON for each question.
pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let asked = local.block_on(&runtime, chase(options))?;
    let mut output = io::BufWriter::new(io::stdout().lock());
    for one in asked {
        writeln!(output, "{}", serde_json::to_string(&one)?)?;
    }
    output.flush()?;
    runtime.shutdown_background();
    Ok(())
}

async fn chase(options: &Options) -> Result<Vec<Asked>> {
    let asked: Rc<RefCell<Vec<Asked>>> = Rc::default();
    let mut random = fastrand::Rng::with_seed(options.seed);
    let gap = Duration::from_secs(1) / options.rate.max(1);
    let mut end = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink()));
    let mut next = Instant::now();
    let mut open = JoinSet::new();
    for turn in 0_u64.. {
        tokio::select! {
            _ = &mut end => break,
            () = sleep_until(next.into()) => {}
        }
        let service = random.u32(..options.count);
        let address = Ipv4Addr::from(u32::from(options.base).wrapping_add(service));
        let to = SocketAddr::from((address, options.port));
        let (asked, udp) = (Rc::clone(&asked), turn % 2 == 1);
        open.spawn_local(async move {
            let begun = now();
            let answer = timeout(PATIENCE, async {
                if udp { datagram(to).await } else { connection(to).await }
            });
            let answer = answer.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let (pod, failure) = match answer {
                Ok(identity) => (Some(identity.pod), None),
                Err(error) => (None, Some(error.to_string())),
            };
            asked.borrow_mut().push(Asked {
                service,
                udp,
                begun,
                pod,
                failure,
            });
        });
        while open.try_join_next().is_some() {}
        next = (next + gap).max(Instant::now() - gap * 4);
    }
    while open.join_next().await.is_some() {}
    Rc::into_inner(asked)
        .map(RefCell::into_inner)
        .context("questions are open")
}

async fn connection(to: SocketAddr) -> io::Result<Identity> {
    let mut stream = BufReader::new(TcpStream::connect(to).await?);
    stream.write_all(b"who\n").await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok(serde_json::from_str(&line)?)
}

async fn datagram(to: SocketAddr) -> io::Result<Identity> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.send_to(b"who", to).await?;
    let mut buffer = [0; 2048];
    let (length, _) = socket.recv_from(&mut buffer).await?;
    Ok(serde_json::from_slice(&buffer[..length])?)
}

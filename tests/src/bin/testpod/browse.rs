//! `testpod browse`: HTTP as browsers and services ask it, on connections that are kept and on new ones, each request once.
use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ferrogate_tests::wire::{BrowseReport, Identity};
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, HOST};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Failures that are told in words.
const TOLD: usize = 8;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    to: SocketAddr,
    /// Connections that are kept for as long as the server keeps them.
    #[arg(long, default_value_t = 4)]
    kept: u32,
    /// Pause between requests on each of them, in milliseconds.
    #[arg(long, default_value_t = 40)]
    interval_ms: u64,
    /// New connections a second, for one request each.
    #[arg(long, default_value_t = 25)]
    fresh: u32,
    /// Clients whose requests take `--slow-ms`, one after the other, each on a connection of its own.
    #[arg(long, default_value_t = 2)]
    slow: u32,
    #[arg(long, default_value_t = 500)]
    slow_ms: u64,
    /// Longest wait for a connection and for an answer.
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
}

type Connection = SendRequest<Empty<Bytes>>;

/// What all clients share.
struct Browser<'a> {
    options: &'a Options,
    begin: Instant,
    report: RefCell<BrowseReport>,
}

/// Says `browsing` on standard error once it asks.
pub(crate) fn run(options: &Options) -> Result<BrowseReport> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(browse(options))
}

async fn browse(options: &Options) -> Result<BrowseReport> {
    let (end, ended) = watch::channel(false);
    let browser = Browser {
        options,
        begin: Instant::now(),
        report: RefCell::default(),
    };
    let clients = async {
        let kept = (0..options.kept).map(|_| browser.keep(ended.clone()));
        let slow = (0..options.slow).map(|_| browser.ask_slowly(ended.clone()));
        tokio::join!(join_all(kept), join_all(slow), browser.ask_anew(ended.clone()));
    };
    let input = async {
        eprintln!("browsing");
        let mut ignored = Vec::new();
        let read = tokio::io::stdin().read_to_end(&mut ignored).await;
        end.send(true).ok();
        read
    };
    let (_, read) = tokio::join!(clients, input);
    read.context("standard input")?;
    Ok(browser.report.into_inner())
}

impl Browser<'_> {
    /// One connection at a time, asked again and again until the server says that it ends it.
    async fn keep(&self, ended: watch::Receiver<bool>) {
        while !*ended.borrow() {
            let mut connection = self.counted(self.connect(), Duration::ZERO).await;
            while let Some(open) = &mut connection {
                if *ended.borrow() {
                    return;
                }
                match self.counted(self.ask(open, 0, false), Duration::ZERO).await {
                    Some(last) if !last => self.rest().await,
                    _ => connection = None,
                }
            }
            self.rest().await;
        }
    }

    async fn rest(&self) {
        tokio::time::sleep(Duration::from_millis(self.options.interval_ms)).await;
    }

    async fn ask_slowly(&self, ended: watch::Receiver<bool>) {
        while !*ended.borrow() {
            self.ask_once(self.options.slow_ms).await;
        }
    }

    /// New connections at a steady rate, however long their answers take.
    async fn ask_anew(&self, mut ended: watch::Receiver<bool>) {
        let mut open = FuturesUnordered::new();
        let mut turn = tokio::time::interval(Duration::from_secs(1) / self.options.fresh.max(1));
        loop {
            tokio::select! {
                _ = ended.wait_for(|ended| *ended) => break,
                _ = turn.tick() => open.push(self.ask_once(0)),
                Some(()) = open.next(), if !open.is_empty() => {}
            }
        }
        while open.next().await.is_some() {}
    }

    async fn ask_once(&self, pause_ms: u64) {
        if let Some(mut connection) = self.counted(self.connect(), Duration::ZERO).await {
            let pause = Duration::from_millis(pause_ms);
            self.counted(self.ask(&mut connection, pause_ms, true), pause).await;
        }
    }

    /// What `work` came to; a failure is a request that was lost.
    async fn counted<T>(&self, work: impl Future<Output = Result<T>>, pause: Duration) -> Option<T> {
        let begin = Instant::now();
        let patience = Duration::from_millis(self.options.timeout_ms) + pause;
        let outcome = match tokio::time::timeout(patience, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow!("nothing within {patience:?}")),
        };
        let mut report = self.report.borrow_mut();
        let waited = begin.elapsed().saturating_sub(pause).as_millis() as u64;
        report.longest_ms = report.longest_ms.max(waited);
        match outcome {
            Ok(done) => Some(done),
            Err(error) => {
                report.lost += 1;
                if report.failures.len() < TOLD {
                    let at = (begin - self.begin).as_millis();
                    report.failures.push(format!("begun at {at} ms: {error:#}"));
                }
                None
            }
        }
    }

    async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.options.to).await.context("connect")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("handshake")?;
        tokio::spawn(async move {
            // Its failure is the failure of the request on it.
            let _ = connection.await;
        });
        self.report.borrow_mut().connections += 1;
        Ok(sender)
    }

    /// Whether that was the connection's last answer.
    async fn ask(&self, connection: &mut Connection, pause_ms: u64, last: bool) -> Result<bool> {
        connection
            .ready()
            .await
            .context("the connection was closed between requests")?;
        let mut request = Request::get(format!("/{pause_ms}")).header(HOST, self.options.to.to_string());
        if last {
            request = request.header(CONNECTION, "close");
        }
        let response = connection
            .send_request(request.body(Empty::new())?)
            .await
            .context("request")?;
        let closes = response.headers().get(CONNECTION).is_some_and(|value| value == "close");
        let status = response.status();
        let body = response.into_body().collect().await.context("answer")?.to_bytes();
        let identity: Identity = serde_json::from_slice(&body).with_context(|| format!("{status}: {body:?}"))?;
        let mut report = self.report.borrow_mut();
        report.answered += 1;
        *report.pods.entry(identity.pod).or_default() += 1;
        Ok(closes)
    }
}

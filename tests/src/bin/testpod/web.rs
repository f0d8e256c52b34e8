//! `testpod web`: HTTP/1.1 as a well-behaved application serves it. After SIGTERM it takes no new connections, answers what was
//! asked, says with its next answer on each connection that it was the last, and ends when all of them are closed.
//!
//! `GET /<milliseconds>` is answered after that time, with the [`Identity`] of the pod.
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ferrogate_tests::wire::Identity;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// How long after SIGTERM connections may stay open that nobody asks anything on any more.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The name to answer with.
    #[arg(long)]
    name: String,
    /// Addresses to listen on.
    #[arg(long = "listen", required = true)]
    listen: Vec<IpAddr>,
    /// TCP ports.
    #[arg(long = "port", required = true)]
    ports: Vec<u16>,
}

/// What a connection needs to know; that it holds one says that it is open.
#[derive(Clone)]
struct Server {
    name: Arc<str>,
    ending: watch::Receiver<bool>,
    _open: mpsc::Sender<Infallible>,
}

/// Prints `ready` once every socket is bound.
pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(options))
}

async fn serve(options: &Options) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (end, ending) = watch::channel(false);
    let (open, mut closed) = mpsc::channel(1);
    let server = Server {
        name: options.name.as_str().into(),
        ending,
        _open: open,
    };
    for (address, port) in options
        .listen
        .iter()
        .flat_map(|a| options.ports.iter().map(|p| (*a, *p)))
    {
        let at = SocketAddr::new(address, port);
        let listener = TcpListener::bind(at).await.with_context(|| format!("TCP {at}"))?;
        tokio::spawn(accept(listener, server.clone()));
    }
    drop(server);
    println!("ready");
    terminate.recv().await;
    end.send(true)?;
    match tokio::time::timeout(PATIENCE, closed.recv()).await {
        Ok(_) => Ok(()),
        Err(_) => bail!("clients keep connections open on which they ask nothing"),
    }
}

async fn accept(listener: TcpListener, server: Server) {
    let mut ending = server.ending.clone();
    loop {
        tokio::select! {
            _ = ending.wait_for(|ending| *ending) => return,
            accepted = listener.accept() => {
                if let Ok((stream, peer)) = accepted {
                    tokio::spawn(converse(stream, peer, server.clone()));
                }
            }
        }
    }
}

async fn converse(stream: TcpStream, peer: SocketAddr, server: Server) {
    let Ok(local) = stream.local_addr() else { return };
    let count = AtomicU64::new(0);
    let answer = |request: Request<Incoming>| {
        let count = count.fetch_add(1, Ordering::Relaxed) + 1;
        let (pod, ending) = (server.name.to_string(), &server.ending);
        async move {
            let pause = request.uri().path().trim_start_matches('/').parse().unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let identity = Identity {
                pod,
                peer,
                local,
                count,
            };
            let body = serde_json::to_vec(&identity)?;
            let mut response = Response::new(Full::new(Bytes::from(body)));
            if *ending.borrow() {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, serde_json::Error>(response)
        }
    };
    // A client that goes away in the middle is not this server's business.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
}

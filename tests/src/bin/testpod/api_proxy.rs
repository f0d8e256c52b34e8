//! `testpod api-proxy`: a way to the API server that can be bad in every way that is known to happen.
use std::convert::Infallible;
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use ferrogate_tests::wire::api::Weather;
use ferrogate_tests::wire::churn::{PREFIX, Passed, now};
use futures::StreamExt as _;
use futures::stream;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

/// Lines of a stream that wait for whoever reads them.
const WAITING: usize = 64;
/// How the API server says that a resource version is older than its history.
const EXPIRED: &str = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version","reason":"Expired","code":410}}"#;
/// In a storm no watch lives longer than this.
const STORM: Duration = Duration::from_millis(150);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The way to the real server.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Where to answer, over plain HTTP.
    #[arg(long)]
    listen: SocketAddr,
}

/// Serves until standard input ends. Each line of it is a new [`Weather`] in JSON, answered by a line once it holds.
pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (tell, weather) = watch::channel(Weather::Fair);
    runtime.block_on(async {
        let kubeconfig = Kubeconfig::read_from(&options.kubeconfig)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| options.listen.to_string())?;
        println!("ready");
        let commands = tokio::task::spawn_blocking(move || follow_input(&tell));
        tokio::select! {
            ended = commands => ended?,
            () = serve(listener, client, weather) => Ok(()),
        }
    })
}

fn follow_input(tell: &watch::Sender<Weather>) -> Result<()> {
    for line in io::stdin().lock().lines() {
        let weather: Weather = serde_json::from_str(&line?)?;
        tell.send_replace(weather);
        println!("done");
    }
    Ok(())
}

async fn serve(listener: TcpListener, client: Client, weather: watch::Receiver<Weather>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        if *weather.borrow() != Weather::Down {
            tokio::spawn(connection(stream, client.clone(), weather.clone()));
        }
    }
}

/// One connection, which ends at once when the server goes down.
async fn connection(stream: TcpStream, client: Client, weather: watch::Receiver<Weather>) {
    let mut down = weather.clone();
    let service = service_fn(move |request| {
        let (client, weather) = (client.clone(), weather.clone());
        async move { Ok::<_, Infallible>(answer(request, client, weather).await) }
    });
    tokio::select! {
        // A client that goes away is not this program's business.
        _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service) => {}
        _ = down.wait_for(|weather| *weather == Weather::Down) => {}
    }
}

type Bytestream = UnsyncBoxBody<Bytes, io::Error>;
type Answer = Response<Bytestream>;

async fn answer(request: Request<Incoming>, client: Client, weather: watch::Receiver<Weather>) -> Answer {
    let now = *weather.borrow();
    if let Weather::Slow(millis) = now {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
    match forward(request, client, weather).await {
        Ok(answer) => answer,
        Err(error) => {
            let mut answer = Response::new(whole(format!("{error:#}")));
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
            answer
        }
    }
}

async fn forward(request: Request<Incoming>, client: Client, weather: watch::Receiver<Weather>) -> Result<Answer> {
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default();
    let watching = query.contains("watch=true") || query.contains("watch=1");
    let resumed = watching && !query.contains("sendInitialEvents");
    let target = parts.uri.path_and_query().context("a request without a path")?.as_str();
    let mut asked = Request::builder().method(parts.method).uri(target);
    for name in [header::ACCEPT, header::CONTENT_TYPE] {
        if let Some(value) = parts.headers.get(&name) {
            asked = asked.header(name, value);
        }
    }
    let response = client
        .send(asked.body(Body::from(body.collect().await?.to_bytes().to_vec()))?)
        .await?;
    let (head, body) = response.into_parts();
    let mut answer = Response::builder().status(head.status);
    if let Some(kind) = head.headers.get(header::CONTENT_TYPE) {
        answer = answer.header(header::CONTENT_TYPE, kind);
    }
    let body = if watching && head.status.is_success() {
        events(body, resumed, weather)
    } else {
        let bytes = body.collect().await.map_err(|error| anyhow::anyhow!("{error}"))?;
        whole(bytes.to_bytes())
    };
    Ok(answer.body(body)?)
}

/// The lines of a watch as the weather lets them through.
fn events(body: Body, resumed: bool, weather: watch::Receiver<Weather>) -> Bytestream {
    let (lines, queue) = mpsc::channel::<io::Result<Bytes>>(WAITING);
    tokio::spawn(async move {
        // Whoever does not listen any more has gone.
        let _ = pass_on(body, resumed, weather, &lines).await;
    });
    let queue = stream::unfold(queue, |mut queue| async { Some((queue.recv().await?, queue)) });
    StreamBody::new(queue.map(|line| Ok(Frame::data(line?)))).boxed_unsync()
}

fn whole(bytes: impl Into<Bytes>) -> Bytestream {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// Says on standard error when an event about a slice of a churning Service goes on.
fn note(line: &[u8]) {
    let about = |part: &str| line.windows(part.len()).any(|window| window == part.as_bytes());
    if !about(PREFIX) || !about("EndpointSlice") {
        return;
    }
    let Ok(event) = serde_json::from_slice::<serde_json::Value>(line) else {
        return;
    };
    let object = &event["object"];
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let passed = Passed {
        at: now(),
        name: text(&object["metadata"]["name"]),
        address: text(&object["endpoints"][0]["addresses"][0]),
    };
    if passed.name.starts_with(PREFIX)
        && let Ok(line) = serde_json::to_string(&passed)
    {
        eprintln!("{line}");
    }
}

type Gone = mpsc::error::SendError<io::Result<Bytes>>;

async fn pass_on(
    body: Body,
    resumed: bool,
    mut weather: watch::Receiver<Weather>,
    lines: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), Gone> {
    static TRUNCATED: AtomicU64 = AtomicU64::new(0);
    let now = *weather.borrow_and_update();
    let expired = || Bytes::from(format!("{EXPIRED}\n"));
    if resumed && matches!(now, Weather::Gone | Weather::Storm) {
        return lines.send(Ok(expired())).await;
    }
    let mut data = body.into_data_stream();
    let mut rest = Vec::new();
    let storm = tokio::time::sleep(STORM);
    tokio::pin!(storm);
    loop {
        let now = *weather.borrow_and_update();
        let chunk = tokio::select! {
            chunk = data.next() => chunk,
            changed = weather.changed() => {
                let now = *weather.borrow_and_update();
                match now {
                    _ if changed.is_err() => return Ok(()),
                    Weather::Gone | Weather::Storm => return lines.send(Ok(expired())).await,
                    _ => continue,
                }
            }
            () = &mut storm, if now == Weather::Storm => return lines.send(Ok(expired())).await,
        };
        let Some(Ok(chunk)) = chunk else { return Ok(()) };
        rest.extend_from_slice(&chunk);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = Bytes::from(rest.drain(..=end).collect::<Vec<u8>>());
            note(&line);
            match now {
                Weather::Slow(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
                Weather::Duplicate => lines.send(Ok(line.clone())).await?,
                Weather::Truncate if TRUNCATED.fetch_add(1, Ordering::Relaxed) % 3 == 2 => {
                    lines.send(Ok(line.slice(..line.len() / 2))).await?;
                    return lines.send(Err(io::ErrorKind::ConnectionReset.into())).await;
                }
                _ => {}
            }
            lines.send(Ok(line)).await?;
        }
    }
}

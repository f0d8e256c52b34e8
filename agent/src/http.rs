//! A small HTTP/1.1 server: a listening socket, and a function that answers.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use std::convert::Infallible;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::debug;

/// Connections of one listener at a time; more wait in its backlog.
const CONNECTIONS: usize = 128;
const BACKLOG: i32 = 128;
/// A client that does not finish its request for this long is cut off, as is a connection without requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_HEADER: usize = 16 << 10;
/// After `accept` failed: out of file descriptors, mostly.
const PAUSE: Duration = Duration::from_millis(200);

pub(crate) const JSON: &str = "application/json";
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";

/// What is asked.
pub(crate) struct Question<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    /// What follows the question mark, as it was sent.
    pub(crate) query: &'a str,
    pub(crate) headers: &'a HeaderMap,
}

impl Question<'_> {
    /// A header's value; where there is none that is text, empty.
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }
}

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    /// Beside those of every answer.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn text(body: impl Into<String>) -> Self {
        Self {
            status: 200,
            content_type: TEXT,
            headers: vec![],
            body: body.into(),
        }
    }

    pub(crate) fn not_found() -> Self {
        Self {
            status: 404,
            ..Self::text("404 page not found\n")
        }
    }
}

pub(crate) type Handler = Arc<dyn Fn(&Question<'_>) -> Answer + Send + Sync>;

/// Opens a listening socket. Unspecified addresses are of their own family alone.
pub(crate) fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    open(&socket, address)?;
    Ok(socket.into())
}

/// As [`listen`], but an unspecified address of either family is every address of both: what Go's `net.Listen` makes of it.
pub(crate) fn listen_everywhere(address: SocketAddr) -> io::Result<StdListener> {
    if !address.ip().is_unspecified() {
        return listen(address);
    }
    let both = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port());
    let Ok(socket) = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)) else {
        // A kernel without IPv6.
        return listen(address);
    };
    socket.set_only_v6(false)?;
    match open(&socket, both) {
        Ok(()) => Ok(socket.into()),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => listen(address),
        Err(error) => Err(error),
    }
}

fn open(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    // Connections of an earlier agent that linger must not keep the next one from its port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)
}

/// Answers until the task is dropped, and with it every connection.
pub(crate) async fn serve(listener: StdListener, handler: Handler) -> io::Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
    let turns = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else {
            return Err(io::Error::other("no more connections are taken"));
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let handler = Arc::clone(&handler);
        connections.spawn(async move {
            let service = service_fn(move |request| std::future::ready(respond(&request, &handler)));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_header_size(MAX_HEADER)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                debug!(%error, "an HTTP connection ended early");
            }
            drop(turn);
        });
    }
}

fn respond(request: &Request<Incoming>, handler: &Handler) -> http::Result<Response<Full<Bytes>>> {
    let answer = handler(&Question {
        method: request.method(),
        path: request.uri().path(),
        query: request.uri().query().unwrap_or_default(),
        headers: request.headers(),
    });
    let mut response = Response::builder()
        .status(answer.status)
        .header(CONTENT_TYPE, answer.content_type)
        .header("X-Content-Type-Options", "nosniff");
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    response.body(Full::new(answer.body.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("connect");
        stream.write_all(request.as_bytes()).expect("write");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        text
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_unspecified_address_answers_both_families_and_nonsense_ends_only_its_connection() {
        let listener = listen_everywhere(([0, 0, 0, 0], 0).into()).expect("listen");
        let port = listener.local_addr().expect("an address").port();
        let handler: Handler = Arc::new(|question| Answer::text(question.path));
        let server = tokio::spawn(serve(listener, handler));
        let answers = tokio::task::spawn_blocking(move || {
            let nonsense = ask(([127, 0, 0, 1], port).into(), "nonsense\r\n\r\n");
            let close = "Connection: close\r\n\r\n";
            let four = ask(
                ([127, 0, 0, 1], port).into(),
                &format!("GET /x?y HTTP/1.1\r\nHost: a\r\n{close}"),
            );
            let six = ask(
                (Ipv6Addr::LOCALHOST, port).into(),
                &format!("HEAD /x HTTP/1.1\r\nHost: a\r\n{close}"),
            );
            [nonsense, four, six]
        });
        let [nonsense, four, six] = answers.await.expect("answers");
        server.abort();
        assert!(nonsense.starts_with("HTTP/1.1 400"), "{nonsense}");
        assert!(
            four.starts_with("HTTP/1.1 200") && four.ends_with("\r\n\r\n/x"),
            "{four}"
        );
        assert!(four.contains("x-content-type-options: nosniff"), "{four}");
        assert!(six.starts_with("HTTP/1.1 200") && six.ends_with("\r\n\r\n"), "{six}");
    }

    #[test]
    fn each_family_can_have_a_listener_of_its_own_on_one_port() {
        let four = listen(([127, 0, 0, 1], 0).into()).expect("listen");
        let port = four.local_addr().expect("an address").port();
        let six = listen((Ipv6Addr::UNSPECIFIED, port).into());
        assert!(six.is_ok(), "{six:?}");
        let again = listen(([127, 0, 0, 1], port).into()).expect_err("taken");
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
    }
}

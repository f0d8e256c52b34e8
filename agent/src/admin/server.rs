//! The answering side.

use super::{
    Checkup, Counters, Diff, Explained, FlowsPage, MAX_REQUEST, MAX_RESPONSE, Names, Request, Response, ServiceRow,
    Status, TIMEOUT,
};
use anyhow::{Context, Result, bail};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// Questions answered at one time; more wait.
const CONCURRENT: usize = 8;

/// What the agent knows. Called on a thread that may block: maps are read.
pub trait Provider: Send + Sync + 'static {
    fn status(&self) -> Result<Status>;
    /// As Prometheus reads them.
    fn metrics(&self) -> Result<String>;
    fn services(&self, name: Option<&str>) -> Result<Vec<ServiceRow>>;
    /// `service` is `[namespace/]name[:port]`.
    fn explain(&self, service: &str, from: Option<&str>) -> Result<Explained>;
    fn diff(&self) -> Result<Diff>;
    fn doctor(&self) -> Result<Checkup>;
    /// `backends_of`: index into `SERVICES`.
    fn counters(&self, backends_of: Option<u32>) -> Result<Counters>;
    /// `pod`: `[namespace/]name`.
    fn names(&self, pod: Option<&str>) -> Result<Names>;
    fn flows(&self, service: Option<&str>, client: Option<IpAddr>, limit: u32) -> Result<FlowsPage>;
    /// Those of one Service port. `id`: index into `SERVICES`.
    fn port_flows(&self, id: u32, limit: u32) -> Result<FlowsPage>;
}

/// A bound socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Binds `path`, in place of a socket that a dead agent left. Needs a runtime.
    ///
    /// Fails when another agent answers there, or when the file is not a socket.
    pub fn bind(path: &Path) -> Result<Self> {
        remove_stale(path)?;
        // The directory is private, so that the socket is never open to others between bind and chmod.
        let listener = UnixListener::bind(path).with_context(|| {
            format!(
                "cannot make the admin socket {}; choose another with --admin-socket",
                path.display()
            )
        })?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))
            .with_context(|| format!("cannot make {} private", path.display()))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Answers until the task is dropped.
    pub async fn serve(self, provider: Arc<dyn Provider>) {
        let turns = Arc::new(Semaphore::new(CONCURRENT));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "the admin socket cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    continue;
                }
            };
            let Ok(turn) = Arc::clone(&turns).acquire_owned().await else {
                return;
            };
            let provider = Arc::clone(&provider);
            tokio::spawn(async move {
                if let Err(error) = answer(stream, provider).await {
                    debug!(error = format!("{error:#}"), "an admin connection ended early");
                }
                drop(turn);
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!(%error, socket = %self.path.display(), "cannot remove the admin socket");
        }
    }
}

/// Removes the socket file at `path` if nobody listens behind it. Files that are no sockets are left for `bind` to refuse.
fn remove_stale(path: &Path) -> Result<()> {
    if !std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        return Ok(());
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => bail!(
            "an agent answers at {} already; give this one its own --run-dir and --state-dir",
            path.display()
        ),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .with_context(|| format!("cannot remove the socket {} of an agent that is gone", path.display())),
        Err(_) => Ok(()),
    }
}

async fn answer(mut stream: UnixStream, provider: Arc<dyn Provider>) -> Result<()> {
    let (read, mut write) = stream.split();
    let mut line = Vec::new();
    let mut read = BufReader::new(read.take(MAX_REQUEST as u64 + 1));
    tokio::time::timeout(TIMEOUT, read.read_until(b'\n', &mut line))
        .await
        .context("no request came")??;
    let response = if line.len() > MAX_REQUEST {
        Response::Error(format!("a request has at most {MAX_REQUEST} bytes"))
    } else {
        match serde_json::from_slice(&line) {
            Ok(request) => tokio::task::spawn_blocking(move || respond(provider.as_ref(), &request)).await?,
            Err(error) => Response::Error(error.to_string()),
        }
    };
    let mut text = serde_json::to_vec(&response)?;
    if text.len() >= MAX_RESPONSE {
        text = serde_json::to_vec(&Response::Error(
            "the answer would be too long; ask for less".to_owned(),
        ))?;
    }
    text.push(b'\n');
    tokio::time::timeout(TIMEOUT, write.write_all(&text))
        .await
        .context("the answer was not read")??;
    Ok(())
}

fn respond(provider: &dyn Provider, request: &Request) -> Response {
    let value = match request {
        Request::Status => provider.status().and_then(|status| Ok(serde_json::to_value(status)?)),
        Request::Metrics => provider.metrics().map(serde_json::Value::from),
        Request::Services { name } => provider
            .services(name.as_deref())
            .and_then(|rows| Ok(serde_json::to_value(rows)?)),
        Request::Explain { service, from } => provider
            .explain(service, from.as_deref())
            .and_then(|explained| Ok(serde_json::to_value(explained)?)),
        Request::Diff => provider.diff().and_then(|diff| Ok(serde_json::to_value(diff)?)),
        Request::Doctor => provider.doctor().and_then(|checkup| Ok(serde_json::to_value(checkup)?)),
        Request::Top { backends_of } => provider
            .counters(*backends_of)
            .and_then(|counters| Ok(serde_json::to_value(counters)?)),
        Request::Names { pod } => provider
            .names(pod.as_deref())
            .and_then(|names| Ok(serde_json::to_value(names)?)),
        Request::Flows { service, client, limit } => provider
            .flows(service.as_deref(), *client, *limit)
            .and_then(|page| Ok(serde_json::to_value(page)?)),
    };
    value.map_or_else(|error| Response::Error(format!("{error:#}")), Response::Ok)
}

#[cfg(test)]
mod tests {
    use super::super::{Error, ask};
    use super::*;
    use std::io::{Read, Write};
    use tempfile::TempDir;

    struct Fixed;

    impl Provider for Fixed {
        fn status(&self) -> Result<Status> {
            Ok(Status {
                node: "node-1".to_owned(),
                abi: 1,
                ..Status::default()
            })
        }

        fn metrics(&self) -> Result<String> {
            Ok("up 1\n".to_owned())
        }

        fn services(&self, name: Option<&str>) -> Result<Vec<ServiceRow>> {
            Ok(vec![ServiceRow {
                name: name.unwrap_or("every").to_owned(),
                ..ServiceRow::default()
            }])
        }

        fn explain(&self, service: &str, _: Option<&str>) -> Result<Explained> {
            bail!("{service} is beyond words")
        }

        fn diff(&self) -> Result<Diff> {
            Ok(Diff::default())
        }

        fn doctor(&self) -> Result<Checkup> {
            Ok(Checkup::default())
        }

        fn counters(&self, _: Option<u32>) -> Result<Counters> {
            Ok(Counters::default())
        }

        fn names(&self, _: Option<&str>) -> Result<Names> {
            Ok(Names::default())
        }

        fn flows(&self, _: Option<&str>, _: Option<IpAddr>, _: u32) -> Result<FlowsPage> {
            bail!("the flow table is away")
        }

        fn port_flows(&self, _: u32, _: u32) -> Result<FlowsPage> {
            bail!("the flow table is away")
        }
    }

    /// Starts a server below `dir` and runs `check` with its path on a blocking thread.
    async fn with_server(dir: &TempDir, check: impl FnOnce(&Path) + Send + 'static) {
        let path = dir.path().join("admin.sock");
        let server = Server::bind(&path).expect("bind");
        let task = tokio::spawn(server.serve(Arc::new(Fixed)));
        tokio::task::spawn_blocking(move || check(&path)).await.expect("check");
        task.abort();
        assert!(task.await.is_err_and(|error| error.is_cancelled()));
    }

    #[tokio::test]
    async fn questions_are_answered_over_a_private_socket_that_goes_with_the_server() {
        let dir = TempDir::new().expect("a directory");
        with_server(&dir, |path| {
            let status: Status = ask(path, &Request::Status).expect("status");
            assert_eq!(status.node, "node-1");
            let request = Request::Services {
                name: Some("web".to_owned()),
            };
            let rows: Vec<ServiceRow> = ask(path, &request).expect("services");
            assert_eq!(rows[0].name, "web");
            let mode = std::fs::metadata(path).expect("metadata").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert!(Server::bind(path).unwrap_err().to_string().contains("answers"));
        })
        .await;
        assert!(!dir.path().join("admin.sock").exists());
    }

    #[tokio::test]
    async fn failures_and_nonsense_are_answered_with_a_reason() {
        let dir = TempDir::new().expect("a directory");
        with_server(&dir, |path| {
            let request = Request::Flows {
                service: None,
                client: None,
                limit: 1,
            };
            let error = ask::<FlowsPage>(path, &request).unwrap_err();
            assert!(matches!(&error, Error::Refused(why) if why.contains("away")), "{error}");
            for (sent, expected) in [
                (b"{\"op\":\"dance\"}\n".to_vec(), "dance"),
                (vec![b'x'; MAX_REQUEST + 1], "at most"),
            ] {
                let mut stream = std::os::unix::net::UnixStream::connect(path).expect("connect");
                stream.write_all(&sent).expect("write");
                let mut answer = String::new();
                stream.read_to_string(&mut answer).expect("read");
                assert!(answer.contains("error") && answer.contains(expected), "{answer}");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_socket_left_by_a_dead_agent_is_replaced_and_other_files_are_not() {
        let dir = TempDir::new().expect("a directory");
        let path = dir.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bind"));
        let missing = ask::<Status>(&path, &Request::Status).unwrap_err();
        assert!(matches!(missing, Error::NotRunning { .. }), "{missing}");
        drop(Server::bind(&path).expect("replaces it"));
        std::fs::write(&path, "precious").expect("write");
        assert!(Server::bind(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("still there"), "precious");
    }
}

//! How the API server is reached.

use crate::health::Requests;
use anyhow::{Context, Result};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Client, Config};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing::info;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that is silent for longer than this is dead: the server was asked to end each watch before.
const SILENCE: Duration = Duration::from_secs(super::WATCH_SECONDS as u64 + 20);

/// What the options say about the API server.
#[derive(Clone, Debug, Default)]
pub struct Endpoint {
    /// Absent: the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// URLs that replace the one of the kubeconfig or service account.
    pub servers: Vec<String>,
    /// Counts what is asked.
    pub requests: Requests,
}

/// One client a server, of which one is in use.
pub(super) struct Pool {
    clients: Vec<(String, Client)>,
    /// How often another server was tried; the one in use is this modulo the number of servers.
    turn: Mutex<usize>,
}

impl Pool {
    pub(super) async fn new(endpoint: &Endpoint) -> Result<Self> {
        let mut config = load(endpoint).await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(SILENCE);
        config.reset_reader_on_write = true;
        config.default_retry = false;
        let mut configs = vec![];
        for server in &endpoint.servers {
            let mut config = config.clone();
            config.cluster_url = server
                .parse()
                .with_context(|| format!("--api-server {server:?} is not a URL"))?;
            configs.push(config);
        }
        if configs.is_empty() {
            configs.push(config);
        }
        let clients = configs.into_iter().map(|config| {
            let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
            let counting = endpoint.requests.layer(&config.cluster_url);
            let client = ClientBuilder::try_from(config).with_context(|| format!("cannot make a client for {url}"))?;
            Ok((url, client.with_layer(&counting).build()))
        });
        Ok(Self {
            clients: clients.collect::<Result<_>>()?,
            turn: Mutex::new(0),
        })
    }

    /// URLs of all servers.
    pub(super) fn origin(&self) -> String {
        let urls: Vec<&str> = self.clients.iter().map(|(url, _)| url.as_str()).collect();
        urls.join(",")
    }

    /// The client in use, and the turn it belongs to.
    pub(super) fn current(&self) -> (Client, usize) {
        let turn = *self.turn();
        let (_, client) = &self.clients[turn % self.clients.len()];
        (client.clone(), turn)
    }

    /// After a failure in `turn`: goes to the next server when this one cannot be reached. Whether to begin anew with
    /// [`Self::current`]: another watch may have gone on before.
    pub(super) fn rotate(&self, turn: usize, error: &watcher::Error) -> bool {
        let mut current = self.turn();
        if *current == turn && self.clients.len() > 1 && status(error).is_none_or(|status| status.code >= 500) {
            *current += 1;
            let (url, _) = &self.clients[*current % self.clients.len()];
            info!(server = url, "trying the next API server");
        }
        *current != turn
    }

    fn turn(&self) -> MutexGuard<'_, usize> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn load(endpoint: &Endpoint) -> Result<Config> {
    if let Some(path) = &endpoint.kubeconfig {
        let shown = path.display();
        let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("cannot read the kubeconfig {shown}"))?;
        return Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .with_context(|| format!("cannot use the kubeconfig {shown}"));
    }
    let hint = "no --manifests, no --kubeconfig, and this is no pod with a service account; give one of the two";
    match endpoint.servers.is_empty() {
        true => Config::incluster().context(hint),
        // The URL is replaced, so that the variables of a pod's environment need not be there.
        false => Config::incluster_dns().context(hint),
    }
}

/// What the server answered, if it did.
pub(super) fn status(error: &watcher::Error) -> Option<&kube::core::Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

/// Whether the server cannot answer a request for a streamed list: as invalid where it is older than 1.27 or has the
/// feature switched off, as an internal error where its etcd cannot be asked for progress (before 3.4.31 and 3.5.13).
///
/// An internal error may have another cause; then a plain list costs both sides some memory and loses nothing.
pub(super) fn refuses_streaming(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| matches!(status.code, 400 | 422 | 500))
}

/// Whether the server does not have or does not give what was asked for.
pub(super) fn is_refused(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| matches!(status.code, 403 | 404))
}

/// The error in one line.
pub(super) fn explain(error: &watcher::Error) -> String {
    if let Some(status) = status(error) {
        let hint = match status.code {
            401 => "; is the token or certificate valid?",
            403 => {
                "; grant list and watch on services, endpointslices.discovery.k8s.io, nodes and servicecidrs.networking.k8s.io"
            }
            _ => "",
        };
        return format!("{} {}{hint}", status.code, status.message);
    }
    let mut parts: Vec<String> = vec![];
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Many errors repeat their cause in their own text.
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}

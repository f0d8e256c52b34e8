//! A client of the rig's API server, on a thread inside the control plane's namespace.
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use http::Method;
use http::header::CONTENT_TYPE;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::netns::Netns;

type Request = http::Request<Vec<u8>>;
type Job = (Request, mpsc::Sender<Result<String>>);

/// Blocking calls; may be shared between threads. The thread ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Api {
    jobs: UnboundedSender<Job>,
}

impl Api {
    /// A client for the server that the kubeconfig names, connecting from inside `netns`.
    pub(crate) fn open(netns: &Netns, kubeconfig: &Path) -> Result<Self> {
        let netns = File::open(netns.path())?;
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let (jobs, queue) = unbounded_channel();
        let (ready, started) = mpsc::channel();
        thread::spawn(move || {
            let started = move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(Into::into)
                .and_then(|()| Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?));
            match started {
                Ok(runtime) => runtime.block_on(serve(kubeconfig, queue, &ready)),
                Err(error) => drop(ready.send(Err(error))),
            }
        });
        started.recv().context("the API client's thread ended")??;
        Ok(Self { jobs })
    }

    /// Creates or replaces an object (server-side apply), and its status where it has one. The status is merged instead: a
    /// Node with an address of each family is more than server-side apply can tell apart.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let path = path(object)?;
        let mut desired = object.clone();
        let status = desired.as_object_mut().and_then(|fields| fields.remove("status"));
        self.patch(
            &format!("{path}?fieldManager=rig&force=true"),
            "application/apply-patch+yaml",
            &desired,
        )?;
        match status {
            Some(status) => self.patch(
                &format!("{path}/status"),
                "application/merge-patch+json",
                &serde_json::json!({"status": status}),
            ),
            None => Ok(()),
        }
    }

    fn patch(&self, target: &str, kind: &str, body: &Value) -> Result<()> {
        let request = http::Request::builder()
            .method(Method::PATCH)
            .uri(target)
            .header(CONTENT_TYPE, kind);
        self.send(request.body(serde_json::to_vec(body)?)?)
            .with_context(|| format!("apply {target}"))?;
        Ok(())
    }

    /// Replaces an object that is there, status apart, whatever its version: less work for the server than [`Api::apply`].
    pub fn replace(&self, object: &Value) -> Result<()> {
        let path = path(object)?;
        let request = http::Request::put(&path).header(CONTENT_TYPE, "application/json");
        self.send(request.body(serde_json::to_vec(object)?)?)
            .with_context(|| format!("replace {path}"))?;
        Ok(())
    }

    /// Deletes an object at once.
    pub fn delete(&self, object: &Value) -> Result<()> {
        let path = path(object)?;
        let request = http::Request::delete(format!("{path}?gracePeriodSeconds=0")).body(Vec::new())?;
        self.send(request).with_context(|| format!("delete {path}"))?;
        Ok(())
    }

    /// Begins the deletion of a Pod on a node, which then has this long to end; it stays until it is deleted at once.
    pub fn delete_within(&self, object: &Value, seconds: u32) -> Result<()> {
        let path = path(object)?;
        let request = http::Request::delete(format!("{path}?gracePeriodSeconds={seconds}")).body(Vec::new())?;
        self.send(request).with_context(|| format!("delete {path}"))?;
        Ok(())
    }

    /// Begins the deletion of an object that has a grace period: it stays, being deleted, until somebody ends it.
    pub fn delete_gracefully(&self, object: &Value) -> Result<()> {
        let path = path(object)?;
        let request = http::Request::delete(&path).body(Vec::new())?;
        self.send(request).with_context(|| format!("delete {path}"))?;
        Ok(())
    }

    /// Creates what a path makes of a body: a token of an account (`.../serviceaccounts/NAME/token`).
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = http::Request::post(path).header(CONTENT_TYPE, "application/json");
        let answer = self.send(request.body(serde_json::to_vec(body)?)?);
        Ok(serde_json::from_str(
            &answer.with_context(|| format!("post to {path}"))?,
        )?)
    }

    /// The text at a path (`/readyz`, `/api/v1/nodes`).
    pub fn get(&self, path: &str) -> Result<String> {
        self.send(http::Request::get(path).body(Vec::new())?)
    }

    fn send(&self, request: Request) -> Result<String> {
        let (answer, answered) = mpsc::channel();
        self.jobs
            .send((request, answer))
            .map_err(|_| anyhow!("the API client's thread ended"))?;
        answered.recv().context("the API client's thread ended")?
    }
}

async fn serve(kubeconfig: Kubeconfig, mut queue: UnboundedReceiver<Job>, ready: &mpsc::Sender<Result<()>>) {
    let client = async {
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    };
    let client = match client.await {
        Ok(client) => client,
        Err(error) => return drop(ready.send(Err(error))),
    };
    drop(ready.send(Ok(())));
    while let Some((request, answer)) = queue.recv().await {
        let client = client.clone();
        tokio::spawn(async move {
            // Whoever asked may have stopped waiting.
            let _ = answer.send(client.request_text(request).await.map_err(Into::into));
        });
    }
}

/// Where an object lives, from its apiVersion, kind, namespace and name.
fn path(object: &Value) -> Result<String> {
    let word = |value: &'_ Value| value.as_str().map(str::to_owned);
    let (Some(version), Some(kind), Some(name)) = (
        word(&object["apiVersion"]),
        word(&object["kind"]),
        word(&object["metadata"]["name"]),
    ) else {
        bail!("not a Kubernetes object: {object}");
    };
    let group = if version.contains('/') {
        format!("/apis/{version}")
    } else {
        format!("/api/{version}")
    };
    let kind = kind.to_lowercase();
    let plural = if kind.ends_with('s') { kind } else { format!("{kind}s") };
    Ok(match word(&object["metadata"]["namespace"]) {
        Some(namespace) => format!("{group}/namespaces/{namespace}/{plural}/{name}"),
        None => format!("{group}/{plural}/{name}"),
    })
}

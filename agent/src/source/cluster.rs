//! The API server as a source: watches of Services, EndpointSlices, this Node, its Pods, and ServiceCIDRs.
//!
//! The watches fail and recover each by itself. While the server is away the last known state holds, for ever.

mod client;
mod events;
mod health;
mod object;

pub use client::Endpoint;
pub use events::Events;

use self::client::Pool;
use self::health::{Monitor, Watch};
use self::object::Received;
use super::{Change, Closed, Event, ObjectName, Sender};
use anyhow::Result;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::watcher::{self, Config, Event as Watched};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tracing::{info, warn};

/// First and longest pause between attempts; a random part of it, so that a cluster's nodes don't come back all at once.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// A resumed watch that has not failed for this long (longer than a connection may take) counts as good.
const SETTLED: Duration = Duration::from_secs(5);
/// A streamed list that stands still for this long will not end: the server is older than streaming lists.
const STREAM_STALLED: Duration = Duration::from_secs(15);
/// The server ends a watch after this long, and it is resumed where it was. It may have nothing to say for longer, not even
/// a bookmark: those come only when there is something newer.
const WATCH_SECONDS: u32 = 150;
/// What is not to be had, and is not needed, is asked for again after this long.
const REFUSED: Duration = Duration::from_secs(60);
/// Objects that no service proxy has a use for (the label is on the Service and on its slices).
const NOT_HEADLESS: &str = "!service.kubernetes.io/headless";

/// What of a cluster is of interest beside its Services.
#[derive(Clone, Copy, Debug)]
pub struct Interest<'a> {
    /// The Node that we are on.
    pub node_name: &'a str,
    /// All other Nodes too.
    pub all_nodes: bool,
    /// The Node's Pods.
    pub pods: bool,
}

/// Starts the watches on the current runtime. Returns what to call this source in `status`,
/// and a way to publish Events there.
///
/// Fails when the kubeconfig or the service account cannot be read; a server that does not answer is no failure.
pub async fn start(endpoint: &Endpoint, interest: Interest<'_>, events: Sender) -> Result<(String, Events)> {
    let Interest {
        node_name,
        all_nodes,
        pods,
    } = interest;
    let pool = Arc::new(Pool::new(endpoint).await?);
    let monitor = Arc::new(Monitor::new(events.clone(), pool.origin()));
    let proxied = Config::default().timeout(WATCH_SECONDS).labels(NOT_HEADLESS);
    let mut nodes = Config::default().timeout(WATCH_SECONDS);
    if !all_nodes {
        nodes = nodes.fields(&format!("metadata.name={node_name}"));
    }
    spawn::<Service>(
        Watch::Services,
        proxied.clone(),
        Event::Service,
        &pool,
        &monitor,
        &events,
    );
    spawn::<EndpointSlice>(Watch::Slices, proxied, Event::Slice, &pool, &monitor, &events);
    spawn::<Node>(Watch::Node, nodes, Event::Node, &pool, &monitor, &events);
    let all = Config::default().timeout(WATCH_SECONDS);
    spawn::<ServiceCIDR>(Watch::ServiceCidrs, all, Event::ServiceCidr, &pool, &monitor, &events);
    if pods {
        let own_pods = Config::default()
            .timeout(WATCH_SECONDS)
            .fields(&format!("spec.nodeName={node_name}"));
        spawn::<Pod>(Watch::Pods, own_pods, Event::Pod, &pool, &monitor, &events);
    }
    let origin = format!("cluster {}", pool.origin());
    Ok((origin, Events::start(pool, node_name)))
}

fn spawn<K>(
    watch: Watch,
    config: Config,
    wrap: fn(Change<K>) -> Event,
    pool: &Arc<Pool>,
    monitor: &Arc<Monitor>,
    events: &Sender,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let follower = Follower {
        watch,
        config,
        wrap,
        pool: Arc::clone(pool),
        monitor: Arc::clone(monitor),
        events: events.clone(),
    };
    tokio::spawn(async move {
        // Ends only with the agent: nobody takes events any more.
        let Err(Closed) = follower.run().await;
    });
}

type Watching<K> = Pin<Box<dyn Stream<Item = watcher::Result<Watched<Received<K>>>> + Send>>;

/// One watch, for ever.
struct Follower<K> {
    watch: Watch,
    config: Config,
    wrap: fn(Change<K>) -> Event,
    pool: Arc<Pool>,
    monitor: Arc<Monitor>,
    events: Sender,
}

/// Why a watch has to be begun anew.
enum Restart {
    /// Streaming lists are not to be had.
    Listing,
    /// Another server is tried.
    Server,
}

impl<K> Follower<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    async fn run(&self) -> Result<std::convert::Infallible, Closed> {
        let mut streaming = true;
        let mut pause = Pause::default();
        loop {
            let (client, turn) = self.pool.current();
            let config = if streaming {
                self.config.clone().streaming_lists()
            } else {
                self.config.clone()
            };
            let stream = watcher::watcher(Api::<Received<K>>::all(client), config).boxed();
            match self.follow(stream, streaming, turn, &mut pause).await? {
                Restart::Listing => streaming = false,
                Restart::Server => {}
            }
        }
    }

    /// Forwards events until the watch has to be begun anew.
    async fn follow(
        &self,
        mut stream: Watching<K>,
        streaming: bool,
        turn: usize,
        pause: &mut Pause,
    ) -> Result<Restart, Closed> {
        let mut listed = false;
        let mut failing = false;
        loop {
            let patience = if !listed && streaming { STREAM_STALLED } else { SETTLED };
            let Ok(item) = tokio::time::timeout(patience, stream.next()).await else {
                if !listed && streaming && !failing {
                    return Ok(Restart::Listing);
                }
                if listed && failing {
                    failing = false;
                    self.recovered(pause).await?;
                }
                continue;
            };
            match item {
                Some(Ok(event)) => {
                    let done = matches!(event, Watched::InitDone);
                    listed |= done;
                    if done || (failing && listed) {
                        failing = false;
                        self.recovered(pause).await?;
                    }
                    let change = change(event);
                    if let Change::Unreadable(name, why) = &change {
                        let kind = K::kind(&());
                        warn!(%kind, %name, why, "an object cannot be read; what was known of it holds");
                    }
                    self.events.send((self.wrap)(change)).await?;
                }
                Some(Err(error)) if streaming && !listed && client::refuses_streaming(&error) => {
                    return Ok(Restart::Listing);
                }
                Some(Err(error)) if self.watch.is_optional() && client::is_refused(&error) => {
                    if !std::mem::replace(&mut failing, true) {
                        let reason = client::explain(&error);
                        info!(
                            watch = self.watch.name(),
                            reason, "not to be had from this API server; --service-cidr helps"
                        );
                    }
                    tokio::time::sleep(REFUSED).await;
                }
                Some(Err(error)) => {
                    failing = true;
                    self.monitor.failed(self.watch, &error).await?;
                    tokio::time::sleep(pause.next()).await;
                    if self.pool.rotate(turn, &error) {
                        return Ok(Restart::Server);
                    }
                }
                // The stream has no end by itself.
                None => return Ok(Restart::Server),
            }
        }
    }

    async fn recovered(&self, pause: &mut Pause) -> Result<(), Closed> {
        *pause = Pause::default();
        self.monitor.good(self.watch).await
    }
}

fn change<K: Resource>(event: Watched<Received<K>>) -> Change<K> {
    let either = |received: Received<K>, readable: fn(Box<K>) -> Change<K>| {
        let name = ObjectName::of(&received);
        match received.object {
            Ok(object) => readable(object),
            Err(why) => Change::Unreadable(name, why),
        }
    };
    match event {
        Watched::Init => Change::Restart,
        Watched::InitApply(received) => either(received, Change::Listed),
        Watched::InitDone => Change::Complete,
        Watched::Apply(received) => either(received, Change::Applied),
        Watched::Delete(received) => Change::Deleted(ObjectName::of(&received)),
    }
}

/// Growing pauses between attempts.
#[derive(Default)]
struct Pause(u32);

impl Pause {
    fn next(&mut self) -> Duration {
        let whole = PAUSE.0.saturating_mul(1 << self.0.min(10)).min(PAUSE.1);
        self.0 += 1;
        let noise = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |now| now.subsec_nanos() % 1000);
        whole / 2 + whole / 2 * noise / 1000
    }
}

#[cfg(test)]
mod tests;

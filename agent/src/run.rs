//! The agent itself: events in, map writes out, until it is told to stop.

mod engine;
mod model;
mod only;
mod pending;
mod provider;
mod settings;
mod state;
mod sweeper;

pub(crate) use self::state::PodFacts;

use self::engine::{Engine, Sockets};
use self::model::Shared;
use self::only::Only;
use self::provider::Knowledge;
use crate::admin::{Provider, Server};
use crate::cli::{AgentArgs, DsrMode};
use crate::health::{Health, Requests};
use crate::kernel::Scopes;
use crate::net::Watcher;
use crate::scope::Follower;
use crate::source::cluster::Interest;
use crate::source::{self, Receiver, cluster, manifests};
use crate::stuck::HelperSource;
use crate::ui;
use anyhow::{Context, Result};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval_at};
use tracing::{info, warn};

/// Everything is compared with the desired state this often, changed or not.
const RECONCILE: Duration = Duration::from_secs(300);
/// Failed writes are tried again this often; also, how long the first write waits for the Node.
const RETRY: Duration = Duration::from_secs(2);
/// Events taken in before the next write, at most.
const BATCH: usize = 8192;

/// Runs the agent until SIGTERM or SIGINT. The datapath stays in place, whatever ends the agent.
///
/// Fails when it cannot begin: no bpffs, programs that the kernel refuses, no source, another agent in its place.
pub async fn run(args: &AgentArgs, helper: Option<HelperSource>) -> Result<()> {
    let begun = Instant::now();
    let node = args.node_name()?;
    let mut signals = Signals::new()?;
    info!(
        node,
        version = env!("CARGO_PKG_VERSION"),
        abi = ferrogate_common::ABI_VERSION,
        "starting"
    );
    let _only = Only::of_this_node()?;
    make_run_dir(&args.run_dir)?;
    let server = Server::bind(&args.admin_socket())?;
    // What options can be wrong about comes first: then nothing is attached.
    settings::config(args, false)?;
    let sockets = Sockets::find(args)?;
    let (sender, events) = source::queue();
    let requests = Requests::default();
    let health = Health::new(settings::health(args), requests.clone());
    let (origin, reporter) = match &args.manifests {
        Some(dir) => (manifests::start(dir, sender)?, None),
        None => {
            let endpoint = settings::endpoint(args, requests);
            let interest = Interest {
                node_name: &node,
                all_nodes: args.dsr != DsrMode::Off,
                pods: sockets.follow_pods(),
            };
            let (origin, reporter) = cluster::start(&endpoint, interest, sender).await?;
            (origin, Some(reporter))
        }
    };
    let shared = Arc::new(Shared::new(&node, origin.clone(), args));
    let mut engine = tokio::task::block_in_place(|| Engine::open(args, Arc::clone(&shared), Arc::clone(&health)))?;
    engine.report_to(reporter);
    let mut network = Watcher::start(settings::network(args), engine.on_changed_ways())
        .context("cannot follow the node's interfaces")?;
    let interfaces = network.next().await.context("cannot read the node's interfaces")?;
    tokio::task::block_in_place(|| engine.attend_loopback_without(&sockets));
    engine.sync_network(&interfaces);
    let mut scopes = engine.follow_scopes(&sockets, args, helper)?;
    engine.attach_sockets(&sockets)?;
    let sweeper = sweeper::start(&args.state_dir, Arc::clone(&shared), (&args.timeouts).into())?;
    let knowledge = Arc::new(Knowledge::open(
        &args.state_dir,
        settings::config(args, false)?,
        shared,
        Arc::clone(&health),
    )?);
    health.serve(knowledge.clone());
    show_page(args, &health, &knowledge);
    let answers = tokio::spawn(server.serve(knowledge));
    info!(source = origin, took = ?begun.elapsed(), "running");
    follow(&mut engine, &mut network, &mut scopes, events, &mut signals, &health).await;
    sweeper.abort();
    // Takes the socket's file away with it.
    answers.abort();
    if let Err(error) = answers.await
        && !error.is_cancelled()
    {
        warn!(%error, "the admin socket failed");
    }
    info!("stopped; programs and maps stay in place and go on translating (`ferrogate cleanup` removes them)");
    Ok(())
}

/// Opens the page, where there is to be one.
fn show_page(args: &AgentArgs, health: &Arc<Health>, knowledge: &Arc<Knowledge>) {
    let Some(address) = args.page.ui.0 else { return };
    let provider: Arc<dyn Provider> = Arc::clone(knowledge) as _;
    let handler = ui::handler(provider, args.state_dir.clone(), args.run_dir.clone());
    tokio::spawn(Arc::clone(health).keep("--ui", address, handler));
    info!("this node is shown at http://{address}/");
}

/// The loop: whatever happens is taken in, together with all that is queued behind it, and then written at once.
async fn follow(
    engine: &mut Engine,
    network: &mut Watcher,
    scopes: &mut Option<Follower>,
    mut events: Receiver,
    signals: &mut Signals,
    health: &Health,
) {
    let mut reconcile = interval_at(tokio::time::Instant::now() + RECONCILE, RECONCILE);
    let mut retry = interval_at(tokio::time::Instant::now() + RETRY, RETRY);
    reconcile.set_missed_tick_behavior(MissedTickBehavior::Delay);
    retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut network_failed = false;
    loop {
        tokio::select! {
            name = signals.next() => {
                info!(signal = name, "stopping");
                return;
            }
            Some((arrived, event)) = events.recv() => {
                health.set_busy(true);
                engine.take(arrived, &event);
                for _ in 1..BATCH {
                    let Ok((arrived, event)) = events.try_recv() else { break };
                    engine.take(arrived, &event);
                }
                if let Some(addresses) = engine.new_node_addresses() {
                    network.set_node_addresses(addresses);
                }
                if let Some(scopes) = scopes
                    && let Some(wanted) = engine.new_pod_scopes()
                {
                    scopes.set_pods(wanted);
                }
            }
            found = network.next() => match found {
                Ok(found) => {
                    health.set_busy(true);
                    network_failed = false;
                    engine.sync_network(&found);
                }
                Err(error) => {
                    if !std::mem::replace(&mut network_failed, true) {
                        warn!(%error, "cannot read the node's interfaces; the last known ones are kept");
                    }
                }
            },
            scopes = next_scopes(scopes) => engine.set_scopes(scopes),
            _ = reconcile.tick() => {
                health.set_busy(true);
                engine.reconcile();
            }
            _ = retry.tick() => {
                health.set_busy(true);
                engine.retry();
            }
        }
        tokio::task::block_in_place(|| engine.write());
        health.set_busy(false);
    }
}

async fn next_scopes(follower: &mut Option<Follower>) -> Scopes {
    match follower {
        Some(follower) => follower.next().await,
        None => std::future::pending().await,
    }
}

/// The directory of the admin socket, which only root may enter.
fn make_run_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| {
            format!(
                "cannot make the directory {}; choose another with --run-dir",
                path.display()
            )
        })
}

/// The signals that end the agent.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let on = |kind| signal(kind).context("cannot wait for signals");
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

//! What the run loop and the admin socket share.

use super::{settings, state::State};
use crate::admin::{EdgeStatus, InterfaceStatus};
use crate::cli::AgentArgs;
use crate::kernel::NetworkTables;
use ferrogate_control::{Limits, Planner};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What stands for the role of the loopback device, where a program is attached to it.
pub(super) const LOOPBACK_ROLE: &str = "loopback";

/// The agent's knowledge, behind one lock that nobody holds while maps are written.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) node: String,
    pub(super) started: Instant,
    model: Mutex<Model>,
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) state: State,
    pub(super) planner: Planner,
    /// What the source is called.
    pub(super) origin: String,
    /// When [`Model::phase`] changed.
    pub(super) since: Instant,
    pub(super) phase: Phase,
    pub(super) last_apply: Option<Applied>,
    /// What the last plan could not do.
    pub(super) refused: Vec<String>,
    pub(super) edges: Vec<EdgeStatus>,
    pub(super) interfaces: Vec<InterfaceStatus>,
    /// What the tables of the network should hold.
    pub(super) network_tables: Option<NetworkTables>,
    /// What is wrong now, by what it is about.
    pub(super) problems: Problems,
}

/// How far the source is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Syncing,
    Synced,
    Away,
}

/// One thing each that can be wrong.
#[derive(Default, Debug)]
pub(super) struct Problems {
    /// Map writes fail.
    pub(super) writing: Option<String>,
    /// Interfaces cannot be followed.
    pub(super) network: Option<String>,
    /// The first write is held back.
    pub(super) held: Option<String>,
    /// Endpoints whose nodes are not all written.
    pub(super) nodes: Option<String>,
    /// Another proxy's rules are in place.
    pub(super) rival: Option<String>,
    /// Packets are dropped for want of room.
    pub(super) losses: Vec<String>,
    /// Maps that are not as large as the options have them.
    pub(super) sizes: Vec<String>,
}

impl Problems {
    /// What the agent itself cannot do.
    pub(super) fn of_this_agent(&self) -> Vec<String> {
        let own = [&self.held, &self.writing, &self.network];
        own.into_iter().flatten().cloned().collect()
    }

    /// What somebody who looks at the Node should see, each with the reason of its Event.
    pub(super) fn of_the_node(&self) -> Vec<(&'static str, String)> {
        let single = [
            ("MapsNotWritten", &self.writing),
            ("InterfacesNotFollowed", &self.network),
            ("AnotherProxy", &self.rival),
        ];
        let single = single
            .into_iter()
            .filter_map(|(reason, problem)| Some((reason, problem.clone()?)));
        single
            .chain(self.losses.iter().map(|loss| ("PacketsDropped", loss.clone())))
            .collect()
    }

    pub(super) fn all(&self) -> Vec<String> {
        let Self {
            writing,
            network,
            held,
            nodes,
            rival,
            losses,
            sizes,
        } = self;
        let single = [held, writing, network, nodes, rival].into_iter().flatten();
        single.chain(losses).chain(sizes).cloned().collect()
    }
}

/// A write that succeeded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Applied {
    pub(super) generation: u64,
    pub(super) at: Instant,
    /// From the event's arrival to the end of the write.
    pub(super) latency: Duration,
    /// Of that: compiling, planning and writing.
    pub(super) took: Duration,
    pub(super) operations: usize,
}

impl Shared {
    pub(super) fn new(node: &str, origin: String, args: &AgentArgs) -> Self {
        let now = Instant::now();
        let state = State::new(settings::control(node, args));
        let model = Model {
            state: if args.manifests.is_some() {
                state.without_node()
            } else {
                state
            },
            planner: Planner::new(Limits::default()),
            origin,
            since: now,
            phase: Phase::Syncing,
            last_apply: None,
            refused: vec![],
            edges: vec![],
            interfaces: vec![],
            network_tables: None,
            problems: Problems::default(),
        };
        Self {
            node: node.to_owned(),
            started: now,
            model: Mutex::new(model),
        }
    }

    /// The model. A thread that panicked with the lock held has left it usable: each change to it is a single step.
    pub(super) fn lock(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Model {
    /// Follows the source's state.
    pub(super) fn update_phase(&mut self) {
        let phase = match (self.state.away(), self.state.is_synced()) {
            (Some(_), _) => Phase::Away,
            (None, true) => Phase::Synced,
            (None, false) => Phase::Syncing,
        };
        if phase != self.phase {
            self.phase = phase;
            self.since = Instant::now();
        }
    }

    /// Everything a person should look at, each once.
    pub(super) fn all_problems(&self) -> Vec<String> {
        let mut all = self.problems.all();
        all.extend(self.state.unreadable().iter().cloned());
        all.extend(self.state.unreadable_objects());
        all.extend(self.refused.iter().cloned());
        let notices: BTreeSet<String> = self.state.notices().iter().map(ToString::to_string).collect();
        all.extend(notices);
        all
    }
}

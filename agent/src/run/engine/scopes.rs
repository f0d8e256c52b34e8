//! Whom the socket edge serves.

use super::{Engine, Sockets, chain};
use crate::cli::{AgentArgs, SocketEdge};
use crate::kernel::Scopes;
use crate::scope::{Follower, Wanted};
use crate::stuck::{HelperSource, Reaper};
use anyhow::{Context, Result};
use ferrogate_common::cgroup_scope;
use tracing::{info, warn};

impl Engine {
    /// Follows the cgroups of pods from now on, and writes what holds at the start: to be called before the socket edge is
    /// attached. `None` where there is no socket edge.
    pub(in crate::run) fn follow_scopes(
        &mut self,
        sockets: &Sockets,
        args: &AgentArgs,
        helper: Option<HelperSource>,
    ) -> Result<Option<Follower>> {
        let Sockets::Below(cgroup) = sockets else {
            return Ok(None);
        };
        let held = self.datapath.scopes().context("cannot read the map CGROUPS back")?;
        let (follower, first) = Follower::start(cgroup, args.socket_edge == SocketEdge::All, held)?;
        self.datapath
            .set_scopes(&first)
            .context("cannot tell the programs whom the socket edge serves")?;
        let reaper = Reaper::start(&args.state_dir, helper)?;
        // What ended while no agent was there.
        reaper.wake();
        self.reaper = Some(reaper);
        Ok(Some(follower))
    }

    /// Writes whom the socket edge serves. A failure is reported, and tried again.
    pub(in crate::run) fn set_scopes(&mut self, scopes: Scopes) {
        let written = tokio::task::block_in_place(|| self.datapath.set_scopes(&scopes));
        if let Err(error) = written {
            if self.unwritten_scopes.is_none() {
                warn!(error = chain(&error), "the map CGROUPS cannot be written");
            }
            self.unwritten_scopes = Some(scopes);
            return;
        }
        self.unwritten_scopes = None;
        let whom = describe(&scopes);
        info!(whom, "socket edge");
        let mut model = self.shared.lock();
        if let Some(edge) = model.edges.iter_mut().find(|edge| edge.edge == "socket" && edge.on) {
            let place = edge.detail.split("; ").next().unwrap_or_default();
            edge.detail = format!("{place}; {whom}");
        }
    }

    /// What pods ask of the socket edge, when that has changed.
    pub(in crate::run) fn new_pod_scopes(&mut self) -> Option<Wanted> {
        self.shared.lock().state.new_pod_scopes()
    }
}

/// Whom it serves, in words.
pub(super) fn describe(scopes: &Scopes) -> String {
    let count = |number| scopes.cgroups.values().filter(|scope| **scope == number).count();
    let mut whom = if scopes.levels & 1 == 0 {
        "all processes".to_owned()
    } else {
        "the node's processes and the kubelet's pods".to_owned()
    };
    for (number, what) in [
        (cgroup_scope::OFF, "opted out"),
        (cgroup_scope::ONLY, "with this edge only"),
    ] {
        let pods = count(number);
        if pods > 0 {
            whom = format!("{whom}, {pods} pod{} {what}", if pods == 1 { "" } else { "s" });
        }
    }
    whom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_the_socket_edge_serves_is_told_in_words() {
        assert_eq!(describe(&Scopes::default()), "all processes");
        let scopes = Scopes {
            cgroups: [
                (1, cgroup_scope::SERVED),
                (2, cgroup_scope::OFF),
                (3, cgroup_scope::OFF),
            ]
            .into(),
            levels: 1 | 1 << 1 | 1 << 3,
        };
        assert_eq!(
            describe(&scopes),
            "the node's processes and the kubelet's pods, 2 pods opted out"
        );
    }
}

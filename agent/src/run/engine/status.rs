//! What `ferrogate status` tells of interfaces and edges.
use super::Engine;
use crate::admin::{EdgeStatus, InterfaceStatus};
use crate::net::{Link, Network, Role};

/// What stands for the role of the loopback device, where a program is attached to it.
const LOOPBACK_ROLE: &str = "loopback";

impl Engine {
    pub(super) fn interfaces(&self, network: &Network) -> Vec<InterfaceStatus> {
        let attachments = self.datapath.attachments();
        let edge = |role| matches!(role, Role::Pod | Role::Uplink);
        let attended = |link: &Link| attachments.iter().any(|attachment| attachment.ifindex == link.ifindex);
        let links = network
            .interfaces
            .iter()
            .filter(|link| edge(link.role) || attended(link));
        links
            .map(|link| InterfaceStatus {
                name: link.name.clone(),
                ifindex: link.ifindex,
                role: if link.loopback { LOOPBACK_ROLE } else { link.role.name() }.to_owned(),
                hooks: attachments
                    .iter()
                    .filter(|attachment| attachment.ifindex == link.ifindex)
                    .map(|attachment| attachment.program.to_owned())
                    .collect(),
            })
            .collect()
    }

    pub(super) fn edges(&self, interfaces: &[InterfaceStatus]) -> Vec<EdgeStatus> {
        let count = |role: &str| {
            let count = interfaces
                .iter()
                .filter(|one| one.role == role && !one.hooks.is_empty())
                .count();
            format!("{count} {role} interface{}", if count == 1 { "" } else { "s" })
        };
        let xdp = interfaces
            .iter()
            .any(|one| one.hooks.iter().any(|hook| hook.contains("xdp")));
        let uplinks = format!("{}, {}", count("uplink"), if xdp { "XDP and tcx" } else { "tcx" });
        let node_on = self.node_edge && self.uplink_edge;
        let mut nodes = count("uplink");
        if interfaces.iter().any(|one| one.role == LOOPBACK_ROLE) {
            nodes += ", and the loopback device";
        }
        [
            ("pod", self.pod_edge, count("pod")),
            ("uplink", self.uplink_edge, uplinks),
            ("node", node_on, nodes),
        ]
        .into_iter()
        .map(|(edge, on, detail)| EdgeStatus {
            edge: edge.to_owned(),
            on,
            detail: if on { detail } else { "switched off".to_owned() },
        })
        .collect()
    }
}

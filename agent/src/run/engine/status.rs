//! What `ferrogate status` tells of interfaces and edges.
use super::Engine;
use crate::admin::{EdgeStatus, InterfaceStatus};
use crate::kernel::Attachment;
use crate::net::{Link, Network, Role};
use crate::run::model::{LOOPBACK_ROLE, Model};
use ferrogate_common::LOOPBACK;

impl Engine {
    /// Shows the loopback device, which is attended from now on, as the next look at the network will.
    pub(super) fn show_loopback(&self) {
        let of_loopback = |one: &Attachment| one.ifindex == LOOPBACK;
        let Some(attachment) = self.datapath.attachments().into_iter().find(of_loopback) else {
            return;
        };
        let mut model = self.shared.lock();
        model.interfaces.retain(|one| one.ifindex != LOOPBACK);
        let status = InterfaceStatus {
            name: attachment.interface,
            ifindex: LOOPBACK,
            role: LOOPBACK_ROLE.to_owned(),
            hooks: vec![attachment.program.to_owned()],
        };
        model.interfaces.insert(0, status);
        self.show_edges(&mut model);
    }

    /// Shows the edges that these interfaces make; the socket edge has none.
    pub(super) fn show_edges(&self, model: &mut Model) {
        let edges = self.edges(&model.interfaces);
        model.edges.retain(|edge| edge.edge == "socket");
        model.edges.extend(edges);
    }

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

    fn edges(&self, interfaces: &[InterfaceStatus]) -> Vec<EdgeStatus> {
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

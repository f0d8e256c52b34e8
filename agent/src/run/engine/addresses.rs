//! What the engine tells control and the programs of the node's and the cluster's addresses.

use super::{Engine, chain};
use crate::net::Network;
use ferrogate_control::NodeNetwork;
use ipnet::IpNet;
use std::collections::BTreeSet;
use tracing::{info, warn};

/// Where kube-proxy in IPVS mode keeps every ClusterIP: addresses there are no sign that something answers them.
const IPVS_DEVICE: &str = "kube-ipvs0";

impl Engine {
    /// Tells control which addresses are the node's own.
    pub(super) fn take_addresses(&self, network: &Network) {
        let links = network.interfaces.iter().filter(|link| link.name != IPVS_DEVICE);
        let node = NodeNetwork {
            primary: [network.primary4, network.primary6].into_iter().flatten().collect(),
            addresses: links.flat_map(|link| &link.addresses).map(IpNet::addr).collect(),
        };
        for notice in self.shared.lock().state.set_node_network(node) {
            warn!("{notice}");
        }
    }

    /// Makes the programs drop what is sent to addresses of the ServiceCIDRs that no Service has. Not before Services are
    /// programmed, and not before it is known what the API server has to say, if one is asked.
    pub(super) fn write_service_cidrs(&mut self) {
        let known = {
            let model = self.shared.lock();
            let listed = model.state.service_cidrs();
            if model.last_apply.is_none() || (listed.is_none() && self.asks_for_service_cidrs) {
                return;
            }
            listed.unwrap_or_default()
        };
        let wanted: BTreeSet<IpNet> = known.into_iter().chain(self.service_cidrs.iter().copied()).collect();
        if self.written_service_cidrs.as_ref() == Some(&wanted) {
            return;
        }
        let list: Vec<IpNet> = wanted.iter().copied().collect();
        let names: Vec<String> = list.iter().map(IpNet::to_string).collect();
        match self.datapath.set_service_cidrs(&list) {
            Ok(left_out) => {
                info!(networks = names.join(", "), "ServiceCIDRs written");
                if !left_out.is_empty() {
                    let names: Vec<String> = left_out.iter().map(IpNet::to_string).collect();
                    warn!(
                        networks = names.join(", "),
                        "too many ServiceCIDRs: in these, addresses that no Service has are passed on, not dropped"
                    );
                }
                self.written_service_cidrs = Some(wanted);
            }
            Err(error) => warn!(error = chain(&error), "the ServiceCIDRs cannot be written"),
        }
    }

    /// Tells the programs which nodes addresses belong to. Not before Services are programmed: then all endpoints are known.
    pub(super) fn write_nodes(&mut self) {
        let changes = {
            let mut model = self.shared.lock();
            if model.last_apply.is_none() {
                return;
            }
            let Some(changes) = model.state.take_nodes() else {
                return;
            };
            changes
        };
        let problem = match self.datapath.write_nodes(&changes) {
            Ok(()) => None,
            Err(error) => Some(format!(
                "packets for some endpoints cannot be handed to their nodes (--dsr) and are masqueraded: {}",
                chain(&error)
            )),
        };
        let mut model = self.shared.lock();
        if problem.is_some() && model.problems.nodes != problem {
            warn!("{}", problem.as_deref().unwrap_or_default());
        }
        model.problems.nodes = problem;
    }
}

//! Whom no socket edge serves: processes of the node that ask a frontend which is an address of the node itself. Their packets
//! pass the loopback device alone.
use super::{Engine, Sockets, chain};
use ferrogate_common::Protocol;
use ferrogate_control::{Op, Plan};
use tracing::{info, warn};

impl Engine {
    /// Without a socket edge, the loopback device is attended from the start.
    pub(in crate::run) fn attend_loopback_without(&mut self, sockets: &Sockets) {
        if !matches!(sockets, Sockets::Below(_)) {
            self.attend_loopback();
        }
    }

    /// The socket edge has no part in SCTP, whose calls come past none of its hooks.
    pub(super) fn attend_loopback_for(&mut self, plan: &Plan) {
        let is_sctp = |op: &Op| matches!(op, Op::PutFrontend { key, .. } if key.protocol == Protocol::Sctp as u8);
        if !self.loopback && plan.ops.iter().any(is_sctp) {
            self.attend_loopback();
        }
    }

    fn attend_loopback(&mut self) {
        self.loopback = true;
        if !self.node_edge || !self.uplink_edge {
            return;
        }
        match self.datapath.attend_loopback() {
            Ok(()) => {
                self.show_loopback();
                info!("loopback device attended: processes of this node reach its own NodePorts");
            }
            Err(error) => warn!(
                error = chain(&error),
                "processes of this node will not reach its own NodePorts: the loopback device stays as it is"
            ),
        }
    }
}

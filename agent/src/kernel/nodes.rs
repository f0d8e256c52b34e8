//! NODES: which node an address belongs to, for direct server return.

use super::error::{During as _, Result};
use super::tables::{Tables, put_what_fits, reading, writing};
use ferrogate_common::{Address, flow_flags, maps};
use ferrogate_control::NodeChanges;
use std::collections::HashMap;

impl Tables {
    /// Writes what has changed.
    ///
    /// # Errors
    /// [`super::Error::Full`] where there was no room for some: packets for those endpoints are masqueraded.
    pub fn write_nodes(&self, changes: &NodeChanges) -> Result<()> {
        match changes {
            NodeChanges::Some(changes) => {
                for (address, _) in changes.iter().filter(|(_, node)| node.is_none()) {
                    self.nodes.delete(address).during(|| writing(maps::NODES))?;
                }
                let new = changes
                    .iter()
                    .filter_map(|(address, node)| Some((address, node.as_ref()?)));
                put_what_fits(&self.nodes, maps::NODES, new)
            }
            NodeChanges::All(all) => self.make_nodes(all),
        }
    }

    /// Removes what is left of a time with `--dsr`: programs without it can send those flows' packets nowhere. Connections are reset,
    /// and datagrams begin anew.
    pub fn forget_nodes(&self) -> Result<()> {
        let mut held = Vec::new();
        self.nodes
            .for_each(|address, _| {
                held.push(*address);
                true
            })
            .during(|| reading(maps::NODES))?;
        if held.is_empty() {
            return Ok(());
        }
        for (map, spec) in [(&self.flows, maps::FLOWS), (&self.half_open, maps::HALF_OPEN)] {
            let mut handed = Vec::new();
            map.for_each(|tuple, flows| {
                let dsr = flows.iter().any(|flow| flow.flags & flow_flags::DSR != 0);
                handed.extend(dsr.then_some(*tuple));
                true
            })
            .during(|| reading(spec))?;
            map.delete_all(&handed).during(|| writing(spec))?;
        }
        self.nodes.delete_all(&held).during(|| writing(maps::NODES))
    }

    /// Makes the map hold these, and rewrites nothing that is right already.
    fn make_nodes(&self, all: &HashMap<Address, Address>) -> Result<()> {
        let mut held = HashMap::new();
        self.nodes
            .for_each(|address, nodes| {
                held.extend(nodes.first().map(|node| (*address, *node)));
                true
            })
            .during(|| reading(maps::NODES))?;
        for address in held.keys().filter(|address| !all.contains_key(address)) {
            self.nodes.delete(address).during(|| writing(maps::NODES))?;
        }
        let lacking = all.iter().filter(|(address, node)| held.get(address) != Some(node));
        put_what_fits(&self.nodes, maps::NODES, lacking)
    }
}

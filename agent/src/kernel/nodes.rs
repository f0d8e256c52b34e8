//! NODES: which node an address belongs to, for direct server return.

use super::error::{During as _, Result};
use super::read::FlowTable;
use super::tables::{Tables, put_what_fits, reading, writing};
use ferrogate_common::{Address, Config, Dsr, flow_flags, maps};
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
        let held: Vec<Address> = self.held_nodes()?.into_keys().collect();
        if held.is_empty() {
            return Ok(());
        }
        let (mut established, mut half_open) = (Vec::new(), Vec::new());
        self.connections_now(|table, tuple, flow| {
            if flow.flags & flow_flags::DSR != 0 {
                match table {
                    FlowTable::HalfOpen => half_open.push(*tuple),
                    _ => established.push(*tuple),
                }
            }
        })?;
        self.flows.delete_all(&established).during(|| writing(maps::FLOWS))?;
        self.half_open
            .delete_all(&half_open)
            .during(|| writing(maps::HALF_OPEN))?;
        // Last: as long as there are any, the next start looks again.
        self.nodes.delete_all(&held).during(|| writing(maps::NODES))
    }

    /// Makes the map hold these, and rewrites nothing that is right already.
    fn make_nodes(&self, all: &HashMap<Address, Address>) -> Result<()> {
        let held = self.held_nodes()?;
        let gone: Vec<Address> = held.keys().filter(|key| !all.contains_key(key)).copied().collect();
        self.nodes.delete_all(&gone).during(|| writing(maps::NODES))?;
        let lacking = all.iter().filter(|(address, node)| held.get(address) != Some(node));
        put_what_fits(&self.nodes, maps::NODES, lacking)
    }

    /// With `--dsr on`: addresses of this node that it would hand packets over from, and that its Node object does not have.
    pub(crate) fn unknown_sources(&self, config: &Config) -> Result<Vec<Address>> {
        let (nodes, sources) = (self.held_nodes()?, self.sources()?);
        let own = [config.node_source4, config.node_source6].map(u32::from);
        let own = own.iter().filter_map(|index| sources.get(index));
        Ok(own.filter(|own| nodes.get(own) != Some(&Dsr::HERE)).copied().collect())
    }

    fn held_nodes(&self) -> Result<HashMap<Address, Address>> {
        let mut held = HashMap::new();
        self.nodes
            .for_each(|address, nodes| {
                held.insert(*address, nodes[0]);
                true
            })
            .during(|| reading(maps::NODES))?;
        Ok(held)
    }
}

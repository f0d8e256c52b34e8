//! SERVICE_CIDRS and the cluster's networks: what the agent tells the programs of the cluster as a whole.

use super::error::{During as _, Result};
use super::tables::{Tables, reading, writing};
use bytemuck::Zeroable as _;
use ferrogate_common::{Address, Network, NetworkKey, ServiceCidrs, V4_PREFIX, config_flags, maps};
use ipnet::IpNet;
use std::collections::BTreeSet;

impl Tables {
    /// Sets the networks that ClusterIPs are taken from. Returns those there was no room for: an address of theirs that no
    /// Service has is passed on instead of dropped.
    pub fn set_service_cidrs(&self, networks: &[IpNet]) -> Result<Vec<IpNet>> {
        let networks = IpNet::aggregate(&networks.to_vec());
        let mut cidrs = ServiceCidrs::zeroed();
        for (place, net) in cidrs.networks.iter_mut().zip(&networks) {
            let (address, prefix) = parts(*net);
            *place = Network::new(address, prefix);
        }
        let held = self.service_cidrs.get(&0).during(|| reading(maps::SERVICE_CIDRS))?;
        if held.as_deref() != Some(&[cidrs]) {
            self.service_cidrs
                .put(&0, &cidrs)
                .during(|| writing(maps::SERVICE_CIDRS))?;
        }
        Ok(networks.into_iter().skip(ServiceCidrs::ROOM).collect())
    }

    /// Sets the networks whose addresses count as inside the cluster at the uplinks too, and whether there are any.
    pub fn set_cluster_networks(&self, networks: &[IpNet]) -> Result<()> {
        let key = |net: IpNet| {
            let (address, prefix) = parts(net);
            NetworkKey::new(NetworkKey::CLUSTER, address, prefix)
        };
        let wanted: BTreeSet<NetworkKey> = IpNet::aggregate(&networks.to_vec()).into_iter().map(key).collect();
        let held = self.networks_where(|key| key.set == NetworkKey::CLUSTER)?;
        let held: BTreeSet<NetworkKey> = held.into_iter().collect();
        for key in wanted.difference(&held) {
            self.networks.put(key, &0).during(|| writing(maps::NETWORKS))?;
        }
        self.set_flag(config_flags::CLUSTER_CIDRS, !wanted.is_empty())?;
        for key in held.difference(&wanted) {
            self.networks.delete(key).during(|| writing(maps::NETWORKS))?;
        }
        Ok(())
    }

    /// The networks whose addresses count as inside the cluster.
    pub fn cluster_networks(&self) -> Result<Vec<IpNet>> {
        let keys = self.networks_where(|key| key.set == NetworkKey::CLUSTER)?;
        Ok(keys.iter().filter_map(network_of).collect())
    }

    /// Keys of `NETWORKS`.
    pub(super) fn networks_where(&self, wanted: impl Fn(&NetworkKey) -> bool) -> Result<Vec<NetworkKey>> {
        let mut keys = Vec::new();
        self.networks
            .for_each(|key, _| {
                keys.extend(wanted(key).then_some(*key));
                true
            })
            .during(|| reading(maps::NETWORKS))?;
        Ok(keys)
    }
}

/// The network of a key, whatever its set.
fn network_of(key: &NetworkKey) -> Option<IpNet> {
    let prefix = if key.address.is_v4() {
        key.prefix().checked_sub(V4_PREFIX)?
    } else {
        key.prefix()
    };
    IpNet::new(key.address.ip(), u8::try_from(prefix).ok()?).ok()
}

/// Address, and length of the prefix in its 128 bits.
fn parts(net: IpNet) -> (Address, u32) {
    let mapped = if net.addr().is_ipv4() { V4_PREFIX } else { 0 };
    (net.network().into(), mapped + u32::from(net.prefix_len()))
}

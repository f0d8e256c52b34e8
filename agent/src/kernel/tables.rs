//! The datapath's maps, opened from their pins and checked against the ABI.

use super::error::{During as _, Error, Result};
use super::state::StateDir;
use super::sys::{Grace, Map, MapInfo, Mapping, object_get};
use bytemuck::Pod;
use ferrogate_common::maps::{self, MapSpec};
use ferrogate_common::{
    ABI_VERSION, Address, Affinity, AffinityKey, Backend, Config, Flow, FragmentKey, FragmentPorts, Frontend,
    FrontendKey, Interface, NetworkKey, NextHop, NodeAddress, RefusalKey, Service, ServiceCidrs, SnatFlow, SocketPair,
    SocketPairKey, SocketState, TraceSettings, Traffic, Tuple, UdpSocket,
};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// Handles to the maps. Opening them needs a running or a former agent's pins, not its programs, so commands that only
/// read go through this.
#[derive(Debug)]
pub struct Tables {
    pub(super) config: Map<u32, Config>,
    pub(super) frontends: Map<FrontendKey, Frontend>,
    pub(super) services: Mapping<Service>,
    pub(super) slots: Mapping<u32>,
    pub(super) backends: Mapping<Backend>,
    pub(super) active: Mapping<u64>,
    pub(super) addresses: Mapping<u64>,
    /// Bits that were set since it was filled.
    pub(super) filter_news: AtomicU32,
    pub(super) node_addresses: Map<Address, NodeAddress>,
    pub(super) service_cidrs: Map<u32, ServiceCidrs>,
    pub(super) networks: Map<NetworkKey, u32>,
    pub(super) nodes: Map<Address, Address>,
    pub(super) sources: Map<u32, Address>,
    pub(super) interfaces: Map<u32, Interface>,
    pub(super) routes: Arc<Mapping<u32>>,
    pub(super) flows: Map<Tuple, Flow>,
    pub(super) half_open: Map<Tuple, Flow>,
    pub(super) snat_flows: Map<Tuple, SnatFlow>,
    pub(super) affinity: Map<AffinityKey, Affinity>,
    pub(super) fragments: Map<FragmentKey, FragmentPorts>,
    pub(super) socket_pairs: Map<SocketPairKey, SocketPair>,
    pub(super) udp_sockets: Map<u64, UdpSocket>,
    pub(super) cgroups: Map<u64, u32>,
    pub(super) reasons: Map<u32, u64>,
    pub(super) connections: Map<u32, u64>,
    pub(super) socket_connections: Map<u32, u64>,
    pub(super) refusals: Map<RefusalKey, u64>,
    pub(super) traffic: Map<u32, Traffic>,
    /// Entries of `CURSORS`.
    pub(super) cursors: u32,
    pub(super) grace: Arc<Grace>,
}

impl Tables {
    /// Opens the pinned maps below `state`.
    ///
    /// # Errors
    /// [`Error::NoState`] where there are none; [`Error::Layout`] where one is not of this ABI.
    pub fn open(state: &StateDir) -> Result<Self> {
        let cpus = aya::util::nr_cpus()
            .map_err(|(path, error)| io::Error::new(error.kind(), format!("{path}: {error}")))
            .during(|| "cannot count the CPUs".to_owned())?;
        // Maps that only the programs use, opened for the check alone.
        let (_, cursors) = checked::<u32, u64>(state, maps::CURSORS)?;
        checked::<u32, u32>(state, maps::SECOND)?;
        checked::<u32, SocketState>(state, maps::SOCKETS)?;
        checked::<u32, TraceSettings>(state, maps::TRACE)?;
        checked::<u32, u64>(state, maps::TRACE_LOST)?;
        checked::<u32, NextHop>(state, maps::NEXT_HOPS)?;
        Ok(Self {
            config: map(state, maps::CONFIG, 1)?,
            frontends: map(state, maps::FRONTENDS, 1)?,
            services: mapping(state, maps::SERVICES)?,
            slots: mapping(state, maps::SLOTS)?,
            backends: mapping(state, maps::BACKENDS)?,
            active: mapping(state, maps::ACTIVE)?,
            addresses: mapping(state, maps::ADDRESSES)?,
            filter_news: AtomicU32::new(0),
            node_addresses: map(state, maps::NODE_ADDRESSES, 1)?,
            service_cidrs: map(state, maps::SERVICE_CIDRS, 1)?,
            networks: map(state, maps::NETWORKS, 1)?,
            nodes: map(state, maps::NODES, 1)?,
            sources: map(state, maps::SOURCES, 1)?,
            interfaces: map(state, maps::INTERFACES, 1)?,
            routes: Arc::new(mapping(state, maps::ROUTES)?),
            flows: map(state, maps::FLOWS, 1)?,
            half_open: map(state, maps::HALF_OPEN, 1)?,
            snat_flows: map(state, maps::SNAT_FLOWS, 1)?,
            affinity: map(state, maps::AFFINITY, 1)?,
            fragments: map(state, maps::FRAGMENTS, 1)?,
            socket_pairs: map(state, maps::SOCKET_PAIRS, 1)?,
            udp_sockets: map(state, maps::UDP_SOCKETS, 1)?,
            cgroups: map(state, maps::CGROUPS, 1)?,
            reasons: map(state, maps::REASONS, cpus)?,
            connections: map(state, maps::CONNECTIONS, cpus)?,
            socket_connections: map(state, maps::SOCKET_CONNECTIONS, cpus)?,
            refusals: map(state, maps::REFUSALS, cpus)?,
            traffic: map(state, maps::TRAFFIC, cpus)?,
            cursors: cursors.max_entries,
            grace: Arc::new(Grace::new().during(|| "no way to wait for a grace period".to_owned())?),
        })
    }

    /// Waits until no program uses anything it looked up before the call.
    pub fn grace(&self) -> Result<()> {
        self.grace_period()()
    }

    /// The same, to be called from another thread.
    pub fn grace_period(&self) -> impl FnOnce() -> Result<()> + Send + use<> {
        let grace = Arc::clone(&self.grace);
        move || grace.wait().during(|| "cannot wait for a grace period".to_owned())
    }

    /// By what the programs are told that packets may go other ways than before.
    pub fn routes(&self) -> Routes {
        Routes(Arc::clone(&self.routes))
    }

    /// What the programs are told of the node.
    pub fn config(&self) -> Result<Config> {
        let found = self.config.get(&0).during(|| reading(maps::CONFIG))?;
        Ok(found
            .and_then(|copies| copies.first().copied())
            .unwrap_or_else(bytemuck::Zeroable::zeroed))
    }
}

/// The generation of the node's routes, neighbours and devices, by which the programs know what they remember of them to be true.
#[derive(Debug)]
pub struct Routes(Arc<Mapping<u32>>);

impl Routes {
    /// There is a new one: what was remembered is forgotten.
    pub fn changed(&self) {
        self.begin(self.held() & NextHop::BY_DESTINATION);
    }

    /// The same, and from now on ways depend on packets' sources, or do not.
    pub fn go(&self, by_source: bool) {
        self.begin(if by_source { 0 } else { NextHop::BY_DESTINATION });
    }

    fn held(&self) -> u32 {
        self.0.read(0).unwrap_or(0)
    }

    fn begin(&self, bit: u32) {
        let generation = self.held().wrapping_add(1) & !NextHop::BY_DESTINATION;
        // 0 means that nothing is to be remembered.
        self.0.publish(0, 0, generation.max(1) | bit);
    }
}

/// "cannot read NAME".
pub(super) fn reading(spec: MapSpec) -> String {
    format!("cannot read the map {}", spec.name)
}

/// "cannot write NAME".
pub(super) fn writing(spec: MapSpec) -> String {
    format!("cannot write the map {}", spec.name)
}

/// Writes those entries that there is room for.
///
/// # Errors
/// [`Error::Full`] when some were left out; all others are written.
pub(super) fn put_what_fits<'a, K: Pod, V: Pod>(
    map: &Map<K, V>,
    spec: MapSpec,
    entries: impl Iterator<Item = (&'a K, &'a V)>,
) -> Result<()> {
    let mut left_out = 0;
    for (key, value) in entries {
        if !map.put_if_room(key, value).during(|| writing(spec))? {
            left_out += 1;
        }
    }
    if left_out == 0 {
        return Ok(());
    }
    Err(Error::Full {
        map: spec.name,
        entries: map.entries(),
        left_out,
    })
}

/// Opens a pinned map and checks its sizes.
pub(super) fn checked<K: Pod, V: Pod>(state: &StateDir, spec: MapSpec) -> Result<(OwnedFd, MapInfo)> {
    let path = state.map(spec.name);
    let fd = match object_get(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::NoState(state.root().to_owned())),
        result => result.during(|| format!("cannot open the pinned map {}", path.display()))?,
    };
    let info = MapInfo::of(fd.as_fd()).during(|| format!("cannot look at the pinned map {}", path.display()))?;
    let (key, value) = (size_of::<K>() as u32, size_of::<V>() as u32);
    if (info.key_size, info.value_size) != (key, value) {
        return Err(Error::Layout {
            path,
            key,
            value,
            found_key: info.key_size,
            found_value: info.value_size,
            abi: ABI_VERSION,
        });
    }
    Ok((fd, info))
}

fn map<K: Pod, V: Pod>(state: &StateDir, spec: MapSpec, copies: usize) -> Result<Map<K, V>> {
    let (fd, _) = checked::<K, V>(state, spec)?;
    Map::new(fd, copies).during(|| reading(spec))
}

fn mapping<T: Pod>(state: &StateDir, spec: MapSpec) -> Result<Mapping<T>> {
    let (fd, info) = checked::<u32, T>(state, spec)?;
    if info.flags & super::sys::MMAPABLE == 0 {
        return Err(Error::NotMappable(state.map(spec.name)));
    }
    Mapping::new(fd).during(|| format!("cannot map {}", spec.name))
}

/// Checks those pins that exist, before programs are loaded against them.
pub(super) fn check_pins(state: &StateDir) -> Result<()> {
    let checks = [
        checked::<u32, Config>(state, maps::CONFIG),
        checked::<FrontendKey, Frontend>(state, maps::FRONTENDS),
        checked::<u32, Service>(state, maps::SERVICES),
        checked::<u32, u32>(state, maps::SLOTS),
        checked::<u32, Backend>(state, maps::BACKENDS),
        checked::<u32, u64>(state, maps::ACTIVE),
        checked::<u32, u64>(state, maps::CURSORS),
        checked::<u32, u64>(state, maps::ADDRESSES),
        checked::<Address, NodeAddress>(state, maps::NODE_ADDRESSES),
        checked::<u32, ServiceCidrs>(state, maps::SERVICE_CIDRS),
        checked::<NetworkKey, u32>(state, maps::NETWORKS),
        checked::<u32, Address>(state, maps::SOURCES),
        checked::<u32, Interface>(state, maps::INTERFACES),
        checked::<u32, u32>(state, maps::ROUTES),
        checked::<u32, NextHop>(state, maps::NEXT_HOPS),
        checked::<Tuple, Flow>(state, maps::FLOWS),
        checked::<Tuple, Flow>(state, maps::HALF_OPEN),
        checked::<Tuple, SnatFlow>(state, maps::SNAT_FLOWS),
        checked::<AffinityKey, Affinity>(state, maps::AFFINITY),
        checked::<FragmentKey, FragmentPorts>(state, maps::FRAGMENTS),
        checked::<u32, u32>(state, maps::SECOND),
        checked::<u32, SocketState>(state, maps::SOCKETS),
        checked::<SocketPairKey, SocketPair>(state, maps::SOCKET_PAIRS),
        checked::<u64, UdpSocket>(state, maps::UDP_SOCKETS),
        checked::<u64, u32>(state, maps::CGROUPS),
        checked::<u32, u64>(state, maps::REASONS),
        checked::<u32, u64>(state, maps::CONNECTIONS),
        checked::<u32, u64>(state, maps::SOCKET_CONNECTIONS),
        checked::<RefusalKey, u64>(state, maps::REFUSALS),
        checked::<u32, Traffic>(state, maps::TRAFFIC),
        checked::<u32, TraceSettings>(state, maps::TRACE),
        checked::<u32, u64>(state, maps::TRACE_LOST),
    ];
    for check in checks {
        match check {
            Ok(_) | Err(Error::NoState(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The number of entries of a map that is pinned.
pub(super) fn pinned_entries(state: &StateDir, spec: &MapSpec) -> Option<u32> {
    let fd = object_get(&state.map(spec.name)).ok()?;
    Some(MapInfo::of(fd.as_fd()).ok()?.max_entries)
}

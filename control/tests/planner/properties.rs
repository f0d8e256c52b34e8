//! Random changes, with ends in the middle of a plan: every step of every plan leaves tables that hang together, and
//! every finished plan leaves exactly what is desired.

use crate::fixture::{endpoint, frontend, node_port};
use ferrogate_common::{FrontendKey, FrontendKind, Protocol, SlotRange, V4_PREFIX, service_flags};
use ferrogate_control::{
    Changes, DesiredPort, Endpoint, Family, Limits, MemoryTables, Plan, Planner, PortName, ServiceName,
};
use ipnet::IpNet;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::subsequence;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Small enough that every table is full now and then.
const TIGHT: Limits = Limits {
    frontends: 9,
    services: 5,
    slots: 24,
    backends: 14,
    networks: 6,
};

type Desired = BTreeMap<ServiceName, Vec<DesiredPort>>;

#[derive(Clone, Debug)]
enum Step {
    /// These services are now so.
    Change(Vec<Vec<DesiredPort>>, Vec<ServiceName>),
    /// The agent waits for a grace period from here on, if there is a reason to.
    BeginGrace,
    /// The one that began is over.
    EndGrace,
    /// Everything again, as after a list.
    Relist,
    /// The agent ends and starts again.
    Restart,
    /// The same, within the plan of a change: only so many of its writes are made.
    Crash(Vec<Vec<DesiredPort>>, usize),
}

fn service_name(number: usize) -> ServiceName {
    ServiceName::new("default", &format!("s{number}"))
}

/// Few, so that services claim each other's.
fn keys() -> Vec<FrontendKey> {
    let addresses = (1..8).map(|last| frontend(&format!("10.96.0.{last}"), 80));
    addresses
        .chain([node_port(30001), node_port(30002), node_port(30003)])
        .collect()
}

fn frontends() -> impl Strategy<Value = BTreeMap<FrontendKey, FrontendKind>> {
    let kind = |key: FrontendKey, external: bool| match (key.address == key.address.unspecified(), external) {
        (true, _) => FrontendKind::NodePort,
        (false, true) => FrontendKind::LoadBalancer,
        (false, false) => FrontendKind::ClusterIp,
    };
    btree_map(proptest::sample::select(keys()), any::<bool>(), 1..4).prop_map(move |map| {
        map.into_iter()
            .map(|(key, external)| (key, kind(key, external)))
            .collect()
    })
}

fn endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    let all: Vec<usize> = (0..5).collect();
    let local = |number: usize, moved: bool| Endpoint {
        local: number.is_multiple_of(2) != moved,
        ..endpoint(&format!("10.1.0.{number}"))
    };
    (subsequence(all, 0..=5), any::<bool>())
        .prop_map(move |(numbers, moved)| numbers.into_iter().map(|number| local(number, moved)).collect())
}

fn ports(service: usize) -> impl Strategy<Value = Vec<DesiredPort>> {
    let one = move |number: u16| {
        let parts = (frontends(), vips(), endpoints(), 0..4u32, source_ranges());
        parts.prop_map(move |(mut frontends, vips, cluster, flags, source_ranges)| {
            frontends.extend(vips);
            desired_port(service, number, frontends, flags, source_ranges, cluster)
        })
    };
    prop_oneof![
        one(80).prop_map(|port| vec![port]),
        (one(80), one(443)).prop_map(|(a, b)| vec![a, b])
    ]
}

fn desired_port(
    service: usize,
    port: u16,
    frontends: BTreeMap<FrontendKey, FrontendKind>,
    flags: u32,
    source_ranges: BTreeSet<IpNet>,
    cluster: Vec<Endpoint>,
) -> DesiredPort {
    let guard = if source_ranges.is_empty() {
        0
    } else {
        service_flags::SOURCE_RANGES
    };
    DesiredPort {
        name: PortName {
            service: service_name(service),
            port,
            protocol: Protocol::Tcp,
            family: Family::V4,
        },
        created: None,
        frontends,
        flags: flags | guard,
        source_ranges,
        local: cluster
            .iter()
            .filter(|endpoint| flags != 0 && endpoint.local)
            .copied()
            .collect(),
        cluster,
    }
}

/// Addresses as such, which services share.
fn vips() -> impl Strategy<Value = BTreeMap<FrontendKey, FrontendKind>> {
    let key = |last: u8| FrontendKey::address_alone(frontend(&format!("203.0.113.{last}"), 0).address);
    btree_map((1..3u8).prop_map(key), Just(FrontendKind::Vip), 0..3)
}

fn source_ranges() -> impl Strategy<Value = BTreeSet<IpNet>> {
    let range = |n: u8| format!("192.0.{n}.0/24").parse().expect("a network");
    btree_set((1..4u8).prop_map(range), 0..3)
}

fn services() -> impl Strategy<Value = Vec<Vec<DesiredPort>>> {
    vec((0..5usize).prop_flat_map(ports), 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (services(), vec((0..5usize).prop_map(service_name), 0..3))
            .prop_map(|(some, gone)| Step::Change(some, gone)),
        2 => Just(Step::BeginGrace),
        2 => Just(Step::EndGrace),
        1 => Just(Step::Relist),
        1 => Just(Step::Restart),
        2 => (services(), 0..40usize).prop_map(|(some, writes)| Step::Crash(some, writes)),
    ]
}

/// The world that the planner works in.
struct World {
    limits: Limits,
    planner: Planner,
    tables: MemoryTables,
    desired: Desired,
}

impl World {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            planner: Planner::new(limits),
            tables: MemoryTables::new(limits),
            desired: Desired::new(),
        }
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Change(some, gone) => {
                let changes = self.change(some, &gone);
                self.plan(&changes)
            }
            Step::BeginGrace => {
                if self.planner.begin_grace() {
                    self.tables.begin_grace();
                }
                Ok(())
            }
            Step::EndGrace => {
                self.planner.end_grace();
                self.tables.end_grace();
                Ok(())
            }
            Step::Relist => self.plan(&self.everything()),
            Step::Restart => self.restart(),
            Step::Crash(some, writes) => {
                let changes = self.change(some, &[]);
                let plan = self.planner.plan(&changes);
                self.apply(&plan, writes)?;
                self.planner = Planner::restore(self.limits, self.tables.snapshot());
                self.plan(&self.everything())
            }
        }
    }

    fn change(&mut self, some: Vec<Vec<DesiredPort>>, gone: &[ServiceName]) -> Changes {
        let mut changes = Changes::default();
        for ports in some {
            changes.services.insert(ports[0].name.service.clone(), ports);
        }
        for service in gone {
            changes.services.insert(service.clone(), Vec::new());
        }
        self.desired.extend(changes.services.clone());
        self.desired.retain(|_, ports| !ports.is_empty());
        changes
    }

    fn everything(&self) -> Changes {
        Changes {
            full: true,
            services: self.desired.clone(),
        }
    }

    fn restart(&mut self) -> Result<(), TestCaseError> {
        let refused = self.planner.plan(&Changes::default()).refused;
        let before = self.tables.to_string();
        self.planner = Planner::restore(self.limits, self.tables.snapshot());
        self.plan(&self.everything())?;
        if refused.is_empty() {
            prop_assert_eq!(self.tables.to_string(), before, "a restart changed what was right");
        }
        Ok(())
    }

    fn plan(&mut self, changes: &Changes) -> Result<(), TestCaseError> {
        let plan = self.planner.plan(changes);
        self.apply(&plan, usize::MAX)?;
        self.compare(&plan)?;
        let again = self.planner.plan(&self.everything());
        prop_assert!(again.is_empty(), "not at rest: {:#?}\nafter {:#?}", again, plan);
        Ok(())
    }

    fn apply(&mut self, plan: &Plan, writes: usize) -> Result<(), TestCaseError> {
        for (number, op) in plan.ops.iter().take(writes).enumerate() {
            let done = self.tables.apply(op).and_then(|()| self.tables.check());
            prop_assert!(
                done.is_ok(),
                "write {number}: {}\n{:#?}\n{}",
                done.unwrap_err(),
                plan,
                self.tables
            );
        }
        Ok(())
    }

    /// What is not refused is there as it is desired, and nothing else is.
    fn compare(&self, plan: &Plan) -> Result<(), TestCaseError> {
        let refused: BTreeSet<&PortName> = plan.refused.iter().map(|refusal| &refusal.port).collect();
        let mut frontends = 0;
        let mut backends = 0;
        for view in self.planner.ports() {
            let all = self.desired.values().flatten();
            let desired = all.into_iter().find(|port| port.name == *view.name);
            prop_assert!(desired.is_some(), "{} is not desired", view.name);
            prop_assert!(!view.frontends.is_empty(), "{} is kept without a frontend", view.name);
            frontends += view.frontends.len();
            backends += view.backends.len();
            for (key, kind) in view.frontends {
                prop_assert_eq!(self.tables.frontends()[key].service, view.id);
                prop_assert_eq!(desired.and_then(|desired| desired.frontends.get(key)), Some(kind));
            }
        }
        prop_assert_eq!(self.tables.frontends().len(), frontends);
        let all = self.desired.values().flatten();
        let wanted: BTreeSet<&PortName> = all.clone().map(|port| &port.name).collect();
        let served = self.planner.ports().filter(|view| wanted.contains(view.name));
        let used: BTreeSet<u32> = served.map(|view| view.id).collect();
        let strays = self.tables.networks().iter().filter(|key| !used.contains(&key.set));
        prop_assert_eq!(strays.count(), 0, "source ranges of no service");
        let live = self
            .tables
            .backends()
            .values()
            .filter(|backend| backend.generation != 0);
        prop_assert_eq!(live.count(), backends);
        for port in self
            .desired
            .values()
            .flatten()
            .filter(|port| !refused.contains(&port.name))
        {
            self.compare_port(port)?;
        }
        Ok(())
    }

    fn compare_port(&self, port: &DesiredPort) -> Result<(), TestCaseError> {
        let mut ids = BTreeSet::new();
        for (key, kind) in &port.frontends {
            let value = self.tables.frontends().get(key);
            prop_assert!(
                value.is_some_and(|value| value.kind == *kind as u8),
                "{key:?} of {}",
                port.name
            );
            if *kind == FrontendKind::Vip {
                let owner = value.and_then(|value| self.planner.ports().find(|view| view.id == value.service));
                let all = self.desired.values().flatten();
                let sharer = all
                    .into_iter()
                    .find(|other| owner.is_some_and(|owner| *owner.name == other.name));
                prop_assert!(sharer.is_some_and(|sharer| sharer.frontends.contains_key(key)));
            } else {
                ids.extend(value.map(|value| value.service));
            }
        }
        prop_assert_eq!(ids.len(), 1, "one service id a port");
        let set = *ids.first().unwrap_or(&0);
        let own = self.tables.networks().iter().filter(|network| network.set == set);
        let found: BTreeSet<(IpAddr, u32)> = own.map(|key| (key.address.ip(), key.prefix() - V4_PREFIX)).collect();
        let ranges = port.source_ranges.iter();
        let expected: BTreeSet<(IpAddr, u32)> = ranges.map(|net| (net.addr(), net.prefix_len().into())).collect();
        prop_assert_eq!(found, expected);
        let service = self.tables.services()[ids.first().unwrap_or(&0)];
        prop_assert_eq!(service.flags, port.flags);
        let range = SlotRange::unpack(service.range);
        prop_assert_eq!(
            (range.cluster as usize, range.local as usize),
            (port.cluster.len(), port.local.len())
        );
        for (slot, endpoint) in (range.base..).zip(port.cluster.iter().chain(&port.local)) {
            let backend = self.tables.backends()[&self.tables.slots()[&slot]];
            let found = (backend.address, backend.port, backend.flags);
            prop_assert_eq!(found, (endpoint.address, endpoint.port, u16::from(endpoint.local)));
        }
        Ok(())
    }

    /// With everything gone, every table can be filled to its end.
    fn ends_empty(mut self) -> Result<(), TestCaseError> {
        let gone: Vec<ServiceName> = self.desired.keys().cloned().collect();
        let changes = self.change(Vec::new(), &gone);
        self.plan(&changes)?;
        prop_assert_eq!(self.tables.to_string(), "FRONTENDS\nSERVICES\nBACKENDS\n");
        let usable = self.limits.backends as usize - 1;
        let cluster: Vec<Endpoint> = (0..usable).map(|n| endpoint(&format!("10.2.0.{n}"))).collect();
        let name = PortName {
            service: service_name(0),
            port: 80,
            protocol: Protocol::Tcp,
            family: Family::V4,
        };
        let frontends = keys().into_iter().take(self.limits.frontends as usize);
        let filling = DesiredPort {
            name,
            created: None,
            frontends: frontends.map(|key| (key, FrontendKind::LoadBalancer)).collect(),
            flags: 0,
            source_ranges: BTreeSet::new(),
            local: cluster[..(self.limits.slots as usize - usable).min(usable)].to_vec(),
            cluster,
        };
        let changes = self.change(vec![vec![filling]], &[]);
        let plan = self.planner.plan(&changes);
        self.apply(&plan, usize::MAX)?;
        prop_assert_eq!(plan.refused, []);
        self.compare(&Plan::default())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_prefix_of_a_plan_leaves_a_dangling_look_up_and_its_end_is_what_is_desired(
        steps in vec(step(), 1..16),
        tight in any::<bool>(),
    ) {
        let roomy = Limits { frontends: 64, services: 64, slots: 1024, backends: 256, networks: 64 };
        let mut world = World::new(if tight { TIGHT } else { roomy });
        for step in steps {
            world.take(step)?;
        }
        if tight {
            world.ends_empty()?;
        }
    }
}

//! API objects that say anything, in any order, with ends of the agent between two writes of a plan: whatever they hold, no
//! look-up in the tables ever dangles, and every finished plan leaves what is desired.

use arbitrary::{Arbitrary, Result, Unstructured};
use ferrogate_control::{Changes, Index, Limits, MemoryTables, Options, Plan, Planner, set_api_defaults};
use k8s_openapi::api::core::v1::{
    LoadBalancerIngress, LoadBalancerStatus, Service, ServicePort, ServiceSpec, ServiceStatus,
};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Events of one input, at most.
const STEPS: usize = 40;

/// Small enough that every table is full now and then.
const TIGHT: Limits = Limits {
    frontends: 9,
    services: 5,
    slots: 24,
    backends: 14,
    networks: 6,
};

const NAMES: &[&str] = &["a", "b", "c", ""];
const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP", "tcp", ""];
const POLICIES: &[&str] = &["Cluster", "Local", ""];
const ADDRESSES: &[&str] = &[
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "fd00::1",
    "fd00::2",
    "None",
    "",
    "0.0.0.0",
    "::",
    "127.0.0.1",
    "::1",
    "fe80::1",
    "::ffff:10.0.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "203.0.113.1",
    "010.0.0.1",
    "10.0.0.1/32",
    "fe80::1%eth0",
];
const RANGES: &[&str] = &["10.0.0.0/8", "0.0.0.0/0", "::/0", " fd00::/8 ", "10.0.0.0/33", "x", ""];
const NODES: &[&str] = &["node-a", "node-b", ""];

/// Runs what an input asks for.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    // An input that ends in the middle of a step has done what it could.
    let _ = World::new(&mut input).and_then(|mut world| world.steps(&mut input));
}

/// An agent's model and planner, and the tables that it writes.
pub(crate) struct World {
    limits: Limits,
    pub(crate) index: Index,
    planner: Planner,
    tables: MemoryTables,
}

impl World {
    fn new(input: &mut Unstructured<'_>) -> Result<Self> {
        let limits = if input.arbitrary()? { TIGHT } else { Limits::default() };
        Ok(Self::with(limits))
    }

    pub(crate) fn with(limits: Limits) -> Self {
        let options = Options {
            node_name: "node-a".to_owned(),
            external_ips: vec!["203.0.113.0/24".parse().expect("a range")],
            maglev_table_size: 7,
            ..Options::default()
        };
        Self {
            limits,
            index: Index::new(options),
            planner: Planner::new(limits),
            tables: MemoryTables::new(limits),
        }
    }

    fn steps(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        for _ in 0..STEPS {
            match input.int_in_range(0..=15)? {
                0..=4 => drop(self.index.apply_service(&service(input)?)),
                5..=9 => drop(self.index.apply_slice(&slice(input)?)),
                10 => self.index.delete_service("default", &text(input, NAMES)?),
                11 => self.index.delete_slice("default", &text(input, NAMES)?),
                12 => {
                    let services = some(input, 3, service)?;
                    let slices = some(input, 3, slice)?;
                    drop(self.index.replace_all(services, slices));
                }
                13 => {
                    if self.planner.begin_grace() {
                        self.tables.begin_grace();
                    }
                    continue;
                }
                14 => {
                    self.planner.end_grace();
                    self.tables.end_grace();
                    continue;
                }
                _ => {
                    let writes = input.arbitrary::<u8>()?.into();
                    self.end_after(writes);
                    continue;
                }
            }
            self.plan();
        }
        Ok(())
    }

    /// Writes what has changed.
    pub(crate) fn plan(&mut self) {
        let changes = self.index.compile();
        self.finish(&changes);
        for notice in self.index.notices() {
            assert!(!notice.to_string().is_empty());
        }
    }

    fn finish(&mut self, changes: &Changes) {
        let plan = self.planner.plan(changes);
        self.write(&plan, usize::MAX);
        let (_, differences) = self.planner.differences(&self.tables.snapshot());
        assert!(differences.is_empty(), "{differences:#?}\n{}", self.tables);
    }

    /// The agent ends within a plan, and starts again with what it finds.
    fn end_after(&mut self, writes: usize) {
        self.index.mark_all();
        let plan = self.planner.plan(&self.index.compile());
        self.write(&plan, writes);
        self.planner = Planner::restore(self.limits, self.tables.snapshot());
        self.index.mark_all();
        let changes = self.index.compile();
        self.finish(&changes);
    }

    fn write(&mut self, plan: &Plan, writes: usize) {
        for (number, op) in plan.ops.iter().take(writes).enumerate() {
            if let Err(violation) = self.tables.apply(op).and_then(|()| self.tables.check()) {
                panic!("write {number} of {:#?}: {violation}\n{}", plan.ops, self.tables);
            }
        }
    }
}

/// One of these, or now and then anything.
fn text(input: &mut Unstructured<'_>, choices: &[&str]) -> Result<String> {
    if input.ratio(1, 10)? {
        input.arbitrary()
    } else {
        Ok((*input.choose(choices)?).to_owned())
    }
}

/// Something, or nothing.
fn maybe<T>(input: &mut Unstructured<'_>, make: impl FnOnce(&mut Unstructured<'_>) -> Result<T>) -> Result<Option<T>> {
    if input.ratio(3, 4)? {
        make(input).map(Some)
    } else {
        Ok(None)
    }
}

/// Up to so many.
fn some<T>(
    input: &mut Unstructured<'_>,
    most: usize,
    make: impl Fn(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..input.int_in_range(0..=most)?).map(|_| make(input)).collect()
}

fn number(input: &mut Unstructured<'_>) -> Result<i32> {
    if input.ratio(1, 5)? {
        return i32::arbitrary(input);
    }
    Ok(*input.choose(&[80, 443, 30_080, 0, -1, 65_535, 65_536, i32::MAX])?)
}

fn metadata(input: &mut Unstructured<'_>, keys: &[&str]) -> Result<ObjectMeta> {
    let entry = |input: &mut Unstructured<'_>| {
        let key = (*input.choose(keys)?).to_owned();
        Ok((key, text(input, &["a", "b", "maglev", "3", "true", "auto", ""])?))
    };
    Ok(ObjectMeta {
        name: maybe(input, |input| text(input, NAMES))?,
        namespace: maybe(input, |input| text(input, &["default", ""]))?,
        labels: Some(some(input, 3, entry)?.into_iter().collect()),
        annotations: Some(some(input, 3, entry)?.into_iter().collect()),
        ..ObjectMeta::default()
    })
}

fn service(input: &mut Unstructured<'_>) -> Result<Service> {
    let keys = [
        "service.kubernetes.io/headless",
        "service.kubernetes.io/service-proxy-name",
        "service.kubernetes.io/topology-mode",
        "ferrogate.dev/algorithm",
        "ferrogate.dev/weights",
    ];
    let addresses = |input: &mut Unstructured<'_>| some(input, 3, |input| text(input, ADDRESSES));
    let spec = |input: &mut Unstructured<'_>| {
        Ok(ServiceSpec {
            type_: maybe(input, |input| {
                text(input, &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"])
            })?,
            cluster_ip: maybe(input, |input| text(input, ADDRESSES))?,
            cluster_ips: maybe(input, addresses)?,
            external_ips: maybe(input, addresses)?,
            load_balancer_ip: maybe(input, |input| text(input, ADDRESSES))?,
            internal_traffic_policy: maybe(input, |input| text(input, POLICIES))?,
            external_traffic_policy: maybe(input, |input| text(input, POLICIES))?,
            session_affinity: maybe(input, |input| text(input, &["None", "ClientIP"]))?,
            load_balancer_source_ranges: maybe(input, |input| some(input, 3, |input| text(input, RANGES)))?,
            health_check_node_port: maybe(input, number)?,
            traffic_distribution: maybe(input, |input| text(input, &["PreferClose", "PreferSameNode", ""]))?,
            ports: maybe(input, |input| some(input, 3, service_port))?,
            ..ServiceSpec::default()
        })
    };
    let ingress = |input: &mut Unstructured<'_>| {
        Ok(LoadBalancerIngress {
            ip: maybe(input, |input| text(input, ADDRESSES))?,
            hostname: maybe(input, |input| text(input, &["lb.example.com"]))?,
            ip_mode: maybe(input, |input| text(input, &["VIP", "Proxy"]))?,
            ports: None,
        })
    };
    Ok(Service {
        metadata: metadata(input, &keys)?,
        spec: maybe(input, spec)?,
        status: Some(ServiceStatus {
            load_balancer: Some(LoadBalancerStatus {
                ingress: maybe(input, |input| some(input, 3, ingress))?,
            }),
            ..ServiceStatus::default()
        }),
    })
}

fn service_port(input: &mut Unstructured<'_>) -> Result<ServicePort> {
    Ok(ServicePort {
        name: maybe(input, |input| text(input, &["http", ""]))?,
        port: number(input)?,
        node_port: maybe(input, number)?,
        protocol: maybe(input, |input| text(input, PROTOCOLS))?,
        target_port: maybe(input, |input| Ok(IntOrString::Int(number(input)?)))?,
        ..ServicePort::default()
    })
}

fn slice(input: &mut Unstructured<'_>) -> Result<EndpointSlice> {
    let port = |input: &mut Unstructured<'_>| {
        Ok(EndpointPort {
            name: maybe(input, |input| text(input, &["http", ""]))?,
            port: maybe(input, number)?,
            protocol: maybe(input, |input| text(input, PROTOCOLS))?,
            app_protocol: None,
        })
    };
    let mut slice = EndpointSlice {
        metadata: metadata(input, &["kubernetes.io/service-name"])?,
        address_type: text(input, &["IPv4", "IPv6", "FQDN"])?,
        ports: maybe(input, |input| some(input, 3, port))?,
        endpoints: maybe(input, |input| some(input, 5, endpoint))?,
    };
    if input.arbitrary()? {
        set_api_defaults(&mut slice);
    }
    Ok(slice)
}

fn endpoint(input: &mut Unstructured<'_>) -> Result<Endpoint> {
    let (ready, serving, terminating) = input.arbitrary()?;
    let zone = |input: &mut Unstructured<'_>| text(input, &["zone-a", "zone-b"]);
    let hints = |input: &mut Unstructured<'_>| {
        Ok(EndpointHints {
            for_nodes: maybe(input, |input| {
                some(input, 2, |input| {
                    Ok(ForNode {
                        name: text(input, NODES)?,
                    })
                })
            })?,
            for_zones: maybe(input, |input| {
                some(input, 2, |input| Ok(ForZone { name: zone(input)? }))
            })?,
        })
    };
    Ok(Endpoint {
        addresses: some(input, 2, |input| text(input, ADDRESSES))?,
        conditions: Some(EndpointConditions {
            ready,
            serving,
            terminating,
        }),
        node_name: maybe(input, |input| text(input, NODES))?,
        zone: maybe(input, zone)?,
        hints: maybe(input, hints)?,
        ..Endpoint::default()
    })
}

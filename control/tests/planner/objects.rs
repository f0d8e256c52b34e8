//! Objects that say anything: whatever they hold, the plan made of them is sound.

use ferrogate_control::{Index, Limits, MemoryTables, Options, Planner, set_api_defaults};
use k8s_openapi::api::core::v1::{
    LoadBalancerIngress, LoadBalancerStatus, Service, ServicePort, ServiceSpec, ServiceStatus,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

#[derive(Clone, Debug)]
enum Event {
    Service(Box<Service>),
    Slice(Box<EndpointSlice>, bool),
    DeleteService(String),
    DeleteSlice(String),
    Replace(Vec<Service>, Vec<EndpointSlice>),
}

fn text(choices: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop_oneof![9 => select(choices).prop_map(str::to_owned), 1 => any::<String>()]
}

fn address() -> impl Strategy<Value = String> {
    text(&[
        "10.0.0.1",
        "10.0.0.2",
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
        "255.255.255.255",
        "203.0.113.1",
    ])
}

fn number() -> impl Strategy<Value = i32> {
    prop_oneof![
        select(vec![-1, 0, 1, 80, 443, 30080, 65_535, 65_536, i32::MAX]),
        any::<i32>()
    ]
}

fn metadata() -> impl Strategy<Value = ObjectMeta> {
    let label =
        |key| of(text(&["a", "b", "c", ""])).prop_map(move |value| value.map(|value| (String::from(key), value)));
    let labels = (
        label("kubernetes.io/service-name"),
        prop_oneof![9 => Just(None), 1 => label("service.kubernetes.io/headless")],
        prop_oneof![9 => Just(None), 1 => label("service.kubernetes.io/service-proxy-name")],
    );
    (of(text(&["a", "b", "c"])), of(text(&["default", ""])), labels).prop_map(|(name, namespace, labels)| ObjectMeta {
        name,
        namespace,
        labels: Some([labels.0, labels.1, labels.2].into_iter().flatten().collect()),
        ..ObjectMeta::default()
    })
}

fn service() -> impl Strategy<Value = Service> {
    let port = (
        of(text(&["http", ""])),
        number(),
        of(number()),
        of(text(&["TCP", "UDP", "SCTP"])),
    )
        .prop_map(|(name, port, node_port, protocol)| ServicePort {
            name,
            port,
            node_port,
            protocol,
            ..ServicePort::default()
        });
    let policy = || of(text(&["Cluster", "Local"]));
    let spec = (
        of(text(&["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"])),
        (of(address()), of(vec(address(), 0..3)), of(vec(address(), 0..3))),
        (policy(), policy(), of(text(&["None", "ClientIP"]))),
        of(vec(text(&["10.0.0.0/8", "0.0.0.0/0", "::/0", " fd00::/8 ", "x"]), 0..3)),
        of(vec(port, 0..4)),
    );
    let spec = spec.prop_map(|(type_, addresses, policies, ranges, ports)| ServiceSpec {
        type_,
        cluster_ip: addresses.0,
        cluster_ips: addresses.1,
        external_ips: addresses.2,
        internal_traffic_policy: policies.0,
        external_traffic_policy: policies.1,
        session_affinity: policies.2,
        load_balancer_source_ranges: ranges,
        ports,
        ..ServiceSpec::default()
    });
    let ingress = (
        of(address()),
        of(text(&["lb.example.com"])),
        of(text(&["VIP", "Proxy"])),
    )
        .prop_map(|(ip, hostname, ip_mode)| LoadBalancerIngress {
            ip,
            hostname,
            ip_mode,
            ports: None,
        });
    (metadata(), of(spec), of(vec(ingress, 0..3))).prop_map(|(metadata, spec, ingress)| Service {
        metadata,
        spec,
        status: Some(ServiceStatus {
            load_balancer: Some(LoadBalancerStatus { ingress }),
            ..ServiceStatus::default()
        }),
    })
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    let port = (of(text(&["http", ""])), of(number()), of(text(&["TCP", "UDP", "SCTP"]))).prop_map(
        |(name, port, protocol)| EndpointPort {
            name,
            port,
            protocol,
            app_protocol: None,
        },
    );
    let conditions =
        (of(any::<bool>()), of(any::<bool>()), of(any::<bool>())).prop_map(|(ready, serving, terminating)| {
            EndpointConditions {
                ready,
                serving,
                terminating,
            }
        });
    let endpoint = (vec(address(), 0..3), of(conditions), of(text(&["node-a", "node-b"]))).prop_map(
        |(addresses, conditions, node_name)| Endpoint {
            addresses,
            conditions,
            node_name,
            ..Endpoint::default()
        },
    );
    (
        metadata(),
        text(&["IPv4", "IPv6", "FQDN"]),
        of(vec(port, 0..3)),
        of(vec(endpoint, 0..5)),
    )
        .prop_map(|(metadata, address_type, ports, endpoints)| EndpointSlice {
            metadata,
            address_type,
            ports,
            endpoints,
        })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => service().prop_map(|service| Event::Service(Box::new(service))),
        4 => (slice(), any::<bool>()).prop_map(|(slice, defaults)| Event::Slice(Box::new(slice), defaults)),
        1 => text(&["a", "b", "c"]).prop_map(Event::DeleteService),
        1 => text(&["a", "b", "c"]).prop_map(Event::DeleteSlice),
        1 => (vec(service(), 0..4), vec(slice(), 0..4)).prop_map(|(services, slices)| Event::Replace(services, slices)),
    ]
}

proptest! {
    #[test]
    fn whatever_objects_hold_the_plan_is_sound(events in vec(event(), 1..12)) {
        let options = Options {
            node_name: "node-a".to_owned(),
            external_ips: vec!["203.0.113.0/24".parse().expect("a range")],
            ..Options::default()
        };
        let mut index = Index::new(options);
        let limits = Limits::default();
        let mut planner = Planner::new(limits);
        let mut tables = MemoryTables::new(limits);
        for event in events {
            match event {
                Event::Service(service) => drop(index.apply_service(&service)),
                Event::Slice(mut slice, defaults) => {
                    if defaults {
                        set_api_defaults(&mut slice);
                    }
                    index.apply_slice(&slice);
                }
                Event::DeleteService(name) => index.delete_service("default", &name),
                Event::DeleteSlice(name) => index.delete_slice("default", &name),
                Event::Replace(services, slices) => drop(index.replace_all(services, slices)),
            }
            let plan = planner.plan(&index.compile());
            let done = tables.apply_all(&plan.ops);
            prop_assert!(done.is_ok(), "{}\n{plan:#?}\n{tables}", done.unwrap_err());
        }
        // Everything once more says the same.
        index.mark_all();
        prop_assert_eq!(planner.plan(&index.compile()).ops, []);
        for notice in index.notices() {
            prop_assert!(!notice.to_string().is_empty());
        }
    }
}

//! What a model of many Services takes of memory, counted by the allocator.

use cap::Cap;
use ferrogate_control::{Index, Limits, Options, Planner};
use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::alloc::System;
use std::net::Ipv4Addr;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;

/// Bytes for each endpoint, of Services with ten endpoints each: of the model, of what the planner remembers beside it, and of a plan
/// that writes it all. A bound is for what was found and a tenth more.
#[test]
fn what_is_kept_of_an_endpoint_is_small() {
    let endpoints = (SERVICES * ENDPOINTS) as usize;
    let mut index = Index::new(Options::default());
    let start = ALLOCATOR.allocated();
    for number in 0..SERVICES {
        index.apply_service(&service(number));
        index.apply_slice(&slice(number));
    }
    let model = (ALLOCATOR.allocated() - start) / endpoints;
    let changes = index.compile();
    let mut planner = Planner::new(Limits::default());
    let plan = planner.plan(&changes);
    assert!(plan.refused.is_empty(), "{:?}", plan.refused);
    drop((changes, plan));
    let planned = (ALLOCATOR.allocated() - start) / endpoints - model;
    let passing = (ALLOCATOR.max_allocated() - ALLOCATOR.allocated()) / endpoints;
    let found = format!("bytes an endpoint: model {model}, planner {planned}, for a moment {passing}");
    println!("{found}");
    assert!(model < 200 && planned < 87 && passing < 370, "{found}");
}

fn service(number: u32) -> Service {
    Service {
        metadata: ObjectMeta {
            namespace: Some("bench".to_owned()),
            name: Some(format!("service-{number:05}")),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some(Ipv4Addr::from(0x0a60_0000 + number).to_string()),
            ports: Some(vec![ServicePort {
                name: Some("http".to_owned()),
                port: 80,
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn slice(number: u32) -> EndpointSlice {
    let endpoint = |place: u32| Endpoint {
        addresses: vec![Ipv4Addr::from(0x0af4_0000 + number * 16 + place).to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(true),
            serving: Some(true),
            terminating: Some(false),
        }),
        node_name: Some(format!("node-{}", place % 100)),
        zone: Some(format!("zone-{}", place % 3)),
        hints: Some(EndpointHints {
            for_zones: Some(vec![ForZone {
                name: format!("zone-{}", place % 3),
            }]),
            ..EndpointHints::default()
        }),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: Some(format!("deployment-{number:05}-5d4f8c7b9-{place:05}")),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    };
    EndpointSlice {
        address_type: "IPv4".to_owned(),
        metadata: ObjectMeta {
            namespace: Some("bench".to_owned()),
            name: Some(format!("service-{number:05}-abcde")),
            labels: Some([("kubernetes.io/service-name".to_owned(), format!("service-{number:05}"))].into()),
            ..ObjectMeta::default()
        },
        ports: Some(vec![EndpointPort {
            name: Some("http".to_owned()),
            port: Some(8080),
            protocol: Some("TCP".to_owned()),
            ..EndpointPort::default()
        }]),
        endpoints: Some((0..ENDPOINTS).map(endpoint).collect()),
    }
}

//! The pages of `ferrogate explain`, from manifests: `agent/tests/explain/shop.yaml`.

use super::*;
use crate::output;
use crate::scope::PodScope;
use bytemuck::Zeroable as _;
use ferrogate_common::{Address, Port, Protocol, Traffic, config_flags, trace_edge};
use ferrogate_control::{Limits, NodeNetwork, Options};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Deserialize as _;
use serde_yaml_ng::{Deserializer, Value, from_value};

const MANIFESTS: &str = include_str!("../../tests/explain/shop.yaml");

struct World {
    index: Index,
    planner: Planner,
    facts: Facts,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn world() -> World {
    let mut index = Index::new(Options {
        node_name: "n1".to_owned(),
        ..Options::default()
    });
    index.set_node_network(NodeNetwork {
        primary: vec![ip("172.31.0.11")],
        addresses: [ip("172.31.0.11")].into(),
    });
    for document in Deserializer::from_str(MANIFESTS) {
        let object = Value::deserialize(document).expect("YAML");
        match object["kind"].as_str() {
            Some("Service") => {
                index.apply_service(&from_value::<Service>(object).expect("a Service"));
            }
            Some("EndpointSlice") => {
                index.apply_slice(&from_value::<EndpointSlice>(object).expect("an EndpointSlice"));
            }
            _ => index.apply_node(&from_value::<Node>(object).expect("a Node")),
        }
    }
    let mut planner = Planner::new(Limits::default());
    planner.plan(&index.compile());
    let order = planner.ports().find(|port| &*port.name.service.name == "order-service");
    let id = order.expect("it is programmed").id;
    let node_port = FrontendKey::new(Address::UNSPECIFIED_V4, Port::new(31_567), Protocol::Tcp);
    let counted = Counted {
        packet: 4,
        socket: 1200,
        traffic: Traffic {
            packets: [40, 28],
            bytes: [3200, 41_000],
        },
        refusals: [
            ((Reason::SourceRange, trace_edge::UPLINK), 17),
            ((Reason::NoEndpoints, trace_edge::POD), 2),
            ((Reason::NoEndpoints, trace_edge::SOCKET), 1),
            ((Reason::NoLocalEndpoints, trace_edge::UPLINK), 5),
        ]
        .into(),
    };
    let facts = Facts {
        node: "n1".to_owned(),
        config: Some(Config {
            flags: config_flags::POD_EDGE,
            ..Config::zeroed()
        }),
        edges: ["socket", "pod", "uplink", "node"].map(str::to_owned).to_vec(),
        node_addresses: vec![ip("172.31.0.11"), ip("10.244.1.1"), ip("fd00:31::b")],
        counted: [(id, counted)].into(),
        flows: [
            ((node_port, "10.244.1.10:8081".parse().expect("an address")), 2),
            ((node_port, "10.244.1.9:8081".parse().expect("an address")), 1),
        ]
        .into(),
        reasons: [("source_range", 17), ("no_endpoints", 3), ("no_local_endpoints", 5)].into(),
        ..Facts::default()
    };
    World { index, planner, facts }
}

impl World {
    fn ask(&self, service: &str, client: &Client) -> Explained {
        let wanted = Wanted::parse(service);
        match find_service(&self.index, &wanted) {
            Ok(name) => explain(&self.index, &self.planner, &self.facts, (&name, wanted.port), client),
            Err(unknown) => Explained::Unknown(unknown),
        }
    }

    fn explained(&self, service: &str, client: &Client) -> Explanation {
        match self.ask(service, client) {
            Explained::Service(explanation) => *explanation,
            Explained::Unknown(unknown) => panic!("{unknown:?}"),
        }
    }

    fn page(&self, service: &str, client: &Client) -> String {
        let text = output::explain(&self.explained(service, client));
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "wider than 80 columns: {line:?}\n{text}");
        }
        text
    }

    /// What comes of the ways in, for a client: address kind and outcome.
    fn outcomes(&self, service: &str, client: &Client) -> Vec<(String, bool, String)> {
        let ports = self.explained(service, client).ports;
        let ways = ports.into_iter().flat_map(|port| port.ways);
        ways.map(|way| (way.kind, way.works, way.outcome)).collect()
    }
}

fn pod(address: &str) -> Client {
    Client::Pod {
        name: "shop/web-1".to_owned(),
        addresses: vec![ip(address)],
        scope: None,
    }
}

macro_rules! pages {
    ($($test:ident: $service:literal, $client:expr;)*) => {
        $(
            #[test]
            fn $test() {
                insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
                    insta::assert_snapshot!(stringify!($test), world().page($service, &$client));
                });
            }
        )*
    };
}

pages! {
    a_load_balancer_for_any_client: "shop/order-service", Client::Any;
    a_load_balancer_for_an_address_that_source_ranges_exclude: "shop/order-service:http", Client::Outside(Some(ip("10.0.0.7")));
    a_load_balancer_for_a_pod_that_is_an_endpoint_itself: "shop/order-service:80", pod("10.244.1.10");
    a_service_without_a_ready_endpoint: "shop/payment", Client::Any;
    policy_local_without_an_endpoint_here: "shop/edge", Client::Any;
    hints_and_a_port_that_no_pod_has: "shop/cache", Client::Any;
    a_service_whose_address_another_has: "thief", Client::Node;
    a_headless_service: "db", Client::Any;
    an_external_name: "tax", Client::Any;
    a_service_of_another_proxy: "mesh", Client::Any;
}

#[test]
fn json_and_graph_tell_the_same() {
    let explanation = world().explained("shop/order-service", &Client::Any);
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        let json = serde_json::to_string_pretty(&explanation).expect("JSON");
        insta::assert_snapshot!("a_load_balancer_as_json", json);
        insta::assert_snapshot!("a_load_balancer_as_a_graph", output::dot(&explanation));
    });
}

#[test]
fn each_client_has_its_own_edge() {
    let edges = |world: &World, service: &str, client: &Client| -> Vec<String> {
        let ports = world.explained(service, client).ports;
        let ways = ports.into_iter().flat_map(|port| port.ways);
        ways.filter(|way| way.kind == "ClusterIP").map(|way| way.edge).collect()
    };
    let mut world = world();
    let opted_out = Client::Pod {
        name: "shop/vm".to_owned(),
        addresses: vec![],
        scope: Some(PodScope::Off),
    };
    assert_eq!(edges(&world, "cache:resp", &pod("10.244.1.5")), ["socket"]);
    assert_eq!(edges(&world, "payment", &pod("10.244.1.5")), ["pod"], "affinity");
    assert_eq!(edges(&world, "payment", &Client::Node), ["socket"]);
    assert_eq!(edges(&world, "cache:resp", &opted_out), ["pod"]);
    assert_eq!(edges(&world, "cache:resp", &Client::Outside(None)), ["uplink"]);
    world.facts.edges.retain(|edge| edge != "socket");
    assert_eq!(edges(&world, "cache:resp", &Client::Node), ["node"]);
    world.facts.edges.clear();
    let way = &world.explained("cache:resp", &Client::Node).ports[0].ways[0];
    assert!(!way.works && way.outcome.contains("untranslated"), "{way:?}");
}

#[test]
fn what_is_inside_the_cluster_may_use_cluster_ips() {
    let mut world = world();
    let outside = Client::Outside(Some(ip("10.244.9.9")));
    assert!(!world.outcomes("cache:resp", &outside)[0].1);
    world.facts.cluster_networks = vec!["10.244.0.0/16".parse().expect("a network")];
    assert!(world.outcomes("cache:resp", &outside)[0].1, "--cluster-cidr");
    assert!(!world.outcomes("cache:resp", &Client::Outside(None))[0].1);
    if let Some(config) = &mut world.facts.config {
        config.flags |= config_flags::EXTERNAL_CLUSTER_IP;
    }
    assert!(
        world.outcomes("cache:resp", &Client::Outside(None))[0].1,
        "--external-cluster-ip"
    );
}

#[test]
fn clients_are_found_by_what_they_are_called() {
    let world = world();
    let known = |namespace: &str, name: &str| ((namespace, name) == ("shop", "host")).then(host_network);
    let node_addresses = world.facts.node_addresses.as_slice();
    let find = |text: &str| find_client(&world.index, known, ("n1", node_addresses), (text, "shop"));
    assert_eq!(find("node"), Ok(Client::Node));
    assert_eq!(find("outside"), Ok(Client::Outside(None)));
    assert_eq!(find("10.0.0.7"), Ok(Client::Outside(Some(ip("10.0.0.7")))));
    assert_eq!(find("10.244.1.1"), Ok(Client::Node), "an address of the node");
    assert_eq!(find("shop/host"), Ok(Client::Node), "a pod in the node's network");
    let found = find("order-7c9d6-x2x1v").expect("an endpoint's pod");
    assert_eq!(found.to_string(), "pod shop/order-7c9d6-x2x1v (10.244.1.10)");
    let elsewhere = find("order-7c9d6-8lqkp").expect_err("a pod of n2").why;
    assert!(elsewhere.contains("node n2"), "{elsewhere}");
    assert!(find("nobody").expect_err("no pod").why.contains("no pod shop/nobody"));
}

fn host_network() -> crate::run::PodFacts {
    crate::run::PodFacts {
        host_network: true,
        ..Default::default()
    }
}

#[test]
fn a_service_that_is_not_there_is_told_with_names_like_it() {
    let world = world();
    let unknown = |service: &str| match world.ask(service, &Client::Any) {
        Explained::Unknown(unknown) => unknown,
        Explained::Service(found) => panic!("{found:?}"),
    };
    let typo = unknown("shop/ordr-service");
    assert_eq!(
        (typo.why.as_str(), typo.near),
        (
            "there is no Service shop/ordr-service",
            vec!["shop/order-service".to_owned()]
        )
    );
    assert_eq!(unknown("default/cache").near, ["shop/cache"]);
    assert!(unknown("shop/zebra").near.is_empty());
    let port = unknown("shop/cache:6380");
    assert_eq!(port.near, ["shop/cache:6379 (resp)", "shop/cache:9121 (metrics)"]);
    assert!(unknown("edge:30080").why.contains("nodePort of port 8080"));
}

#[test]
fn with_forwarding_redirect_the_way_to_pods_of_this_node_is_told() {
    let mut world = world();
    let client = Client::Outside(Some(ip("198.51.100.7")));
    let page = world.page("shop/order-service:http", &client);
    assert!(!page.contains("--forwarding"));
    if let Some(config) = &mut world.facts.config {
        config.flags |= config_flags::REDIRECT;
    }
    let page = world.page("shop/order-service:http", &client);
    let words: Vec<&str> = page.split_whitespace().filter(|word| *word != "|").collect();
    assert!(
        words
            .join(" ")
            .contains("past its stack, and back by their pod_ingress (--forwarding redirect)"),
        "{page}"
    );
}

#[test]
fn with_dsr_pods_elsewhere_see_their_clients() {
    let mut world = world();
    let client = Client::Outside(Some(ip("198.51.100.7")));
    let masqueraded = world.page("shop/order-service:http", &client);
    assert!(!masqueraded.contains("--dsr"));
    if let Some(config) = &mut world.facts.config {
        config.flags |= config_flags::DSR;
    }
    let handed = world.page("shop/order-service:http", &client);
    assert!(handed.contains("(--dsr)"), "{handed}");
}

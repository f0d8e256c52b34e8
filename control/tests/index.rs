//! What makes a service dirty, and what the index says about the objects it is shown.

use ferrogate_common::{Address, Dsr, service_flags};
use ferrogate_control::{Changes, Endpoint, Index, NodeChanges, NodeNetwork, NoticeKind, Options, ServiceName};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

fn yaml<T: DeserializeOwned>(text: &str) -> T {
    serde_yaml_ng::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn index() -> Index {
    Index::new(Options {
        node_name: "node-a".to_owned(),
        ..Options::default()
    })
}

fn service(name: &str, cluster_ip: &str) -> Service {
    yaml(&format!(
        "{{metadata: {{namespace: default, name: {name}}}, spec: {{clusterIP: {cluster_ip}, ports: [{{port: 80}}]}}}}"
    ))
}

/// Of a service, with endpoints as YAML.
fn slice(name: &str, service: &str, endpoints: &str) -> EndpointSlice {
    yaml(&format!(
        "{{metadata: {{namespace: default, name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}, \
         addressType: IPv4, ports: [{{name: '', port: 8080}}], endpoints: [{endpoints}]}}"
    ))
}

fn node(name: &str, zone: &str) -> Node {
    yaml(&format!(
        "{{metadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}}}"
    ))
}

/// Names of the services that changed.
fn dirty(changes: &Changes) -> Vec<&str> {
    changes.services.keys().map(|name| &*name.name).collect()
}

fn cluster<'a>(changes: &'a Changes, service: &str) -> &'a [Endpoint] {
    &changes.services[&ServiceName::new("default", service)][0].cluster
}

#[test]
fn only_what_changed_is_compiled() {
    let mut index = index();
    index.apply_service(&service("a", "10.96.0.1"));
    index.apply_service(&service("b", "10.96.0.2"));
    assert_eq!(dirty(&index.compile()), ["a", "b"]);
    assert!(!index.is_dirty());
    index.apply_slice(&slice("b-1", "b", "{addresses: [10.1.0.1]}"));
    assert_eq!(dirty(&index.compile()), ["b"]);
}

#[test]
fn an_object_that_comes_again_changes_nothing() {
    let mut index = index();
    let mut service = service("a", "10.96.0.1");
    let slice = slice("a-1", "a", "{addresses: [10.1.0.1]}");
    index.apply_service(&service);
    index.apply_slice(&slice);
    index.compile();
    service.metadata.resource_version = Some("2".to_owned());
    service.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
    index.apply_service(&service);
    index.apply_slice(&slice);
    index.delete_slice("default", "no-such-slice");
    index.delete_service("default", "no-such-service");
    assert!(index.compile().is_empty());
}

#[test]
fn slices_may_come_before_their_service() {
    let mut index = index();
    index.apply_slice(&slice("a-1", "a", "{addresses: [10.1.0.1]}"));
    assert!(!index.is_dirty());
    index.apply_service(&service("a", "10.96.0.1"));
    assert_eq!(cluster(&index.compile(), "a").len(), 1);
}

#[test]
fn a_deleted_service_has_no_ports_and_its_slices_wait_for_its_return() {
    let mut index = index();
    index.apply_service(&service("a", "10.96.0.1"));
    index.apply_slice(&slice("a-1", "a", "{addresses: [10.1.0.1]}"));
    index.compile();
    index.delete_service("default", "a");
    assert_eq!(index.compile().services[&ServiceName::new("default", "a")], []);
    index.apply_service(&service("a", "10.96.0.9"));
    assert_eq!(cluster(&index.compile(), "a").len(), 1);
}

#[test]
fn a_service_that_becomes_headless_or_another_proxys_is_removed() {
    let mut index = index();
    index.apply_service(&service("a", "10.96.0.1"));
    index.compile();
    index.apply_service(&service("a", "None"));
    assert_eq!(index.compile().services[&ServiceName::new("default", "a")], []);
    let mut foreign = service("a", "10.96.0.1");
    index.apply_service(&foreign);
    index.compile();
    foreign.metadata.labels = Some([("service.kubernetes.io/service-proxy-name".to_owned(), "mesh".to_owned())].into());
    index.apply_service(&foreign);
    assert_eq!(index.compile().services[&ServiceName::new("default", "a")], []);
}

#[test]
fn a_proxy_with_a_name_takes_the_services_with_that_name_only() {
    let mut index = Index::new(Options {
        proxy_name: Some("mesh".to_owned()),
        ..Options::default()
    });
    let mut ours = service("ours", "10.96.0.1");
    ours.metadata.labels = Some([("service.kubernetes.io/service-proxy-name".to_owned(), "mesh".to_owned())].into());
    index.apply_service(&ours);
    index.apply_service(&service("default-proxys", "10.96.0.2"));
    assert_eq!(dirty(&index.compile()), ["ours"]);
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_old_one() {
    let mut index = index();
    index.apply_service(&service("a", "10.96.0.1"));
    index.apply_service(&service("b", "10.96.0.2"));
    index.apply_slice(&slice("moving", "a", "{addresses: [10.1.0.1]}"));
    index.compile();
    index.apply_slice(&slice("moving", "b", "{addresses: [10.1.0.1]}"));
    let changes = index.compile();
    assert_eq!(dirty(&changes), ["a", "b"]);
    assert_eq!((cluster(&changes, "a").len(), cluster(&changes, "b").len()), (0, 1));
}

#[test]
fn after_a_list_what_is_not_in_it_is_gone() {
    let mut index = index();
    for name in ["a", "b"] {
        index.apply_service(&service(name, "10.96.0.1"));
        index.apply_slice(&slice(&format!("{name}-1"), name, "{addresses: [10.1.0.1]}"));
    }
    index.compile();
    index.replace_all(
        [service("a", "10.96.0.1")],
        [slice("a-2", "a", "{addresses: [10.1.0.2]}, {addresses: [10.1.0.3]}")],
    );
    let changes = index.compile();
    assert!(changes.full);
    assert_eq!(dirty(&changes), ["a"]);
    assert_eq!(cluster(&changes, "a").len(), 2);
}

#[test]
fn the_zone_of_our_node_decides_and_other_nodes_do_not() {
    let mut index = index();
    index.apply_service(&service("hinted", "10.96.0.1"));
    index.apply_service(&service("plain", "10.96.0.2"));
    let hints = "{addresses: [10.1.0.1], hints: {forZones: [{name: x}]}}, \
                 {addresses: [10.1.0.2], hints: {forZones: [{name: y}]}}";
    index.apply_slice(&slice("hinted-1", "hinted", hints));
    index.apply_slice(&slice("plain-1", "plain", "{addresses: [10.1.0.3]}"));
    assert_eq!(cluster(&index.compile(), "hinted").len(), 2);
    index.apply_node(&node("node-b", "x"));
    assert!(!index.is_dirty());
    index.apply_node(&node("node-a", "y"));
    let changes = index.compile();
    assert_eq!(dirty(&changes), ["hinted"]);
    assert_eq!(cluster(&changes, "hinted")[0].address.to_string(), "10.1.0.2");
    index.apply_node(&node("node-a", "y"));
    assert!(!index.is_dirty());
}

#[test]
fn a_notice_is_given_once_and_stands_until_its_cause_is_gone() {
    let mut index = index();
    let mut object = service("a", "10.96.0.1");
    object.spec.get_or_insert_default().external_ips = Some(vec!["198.51.100.1".to_owned()]);
    let first = index.apply_service(&object);
    assert!(
        matches!(first[..], [ref one] if matches!(one.kind, NoticeKind::ExternalIpRefused { .. })),
        "{first:?}"
    );
    assert_eq!(
        first[0].to_string(),
        "service default/a: externalIPs 198.51.100.1 is in no range that is allowed for external IPs: refused \
         (CVE-2020-8554)"
    );
    assert_eq!(index.apply_service(&object), []);
    assert_eq!(index.notices(), first);
    object.spec.get_or_insert_default().external_ips = None;
    assert_eq!(index.apply_service(&object), []);
    assert_eq!(index.notices(), []);
}

#[test]
fn objects_without_a_name_are_ignored_and_said() {
    let mut index = index();
    assert!(matches!(
        index.apply_service(&Service::default())[0].kind,
        NoticeKind::Unnamed
    ));
    assert!(matches!(
        index.apply_slice(&EndpointSlice::default())[0].kind,
        NoticeKind::Unnamed
    ));
    assert!(!index.is_dirty());
}

#[test]
fn a_slice_from_a_file_can_leave_out_what_the_api_server_fills_in() {
    let mut index = index();
    index.apply_service(&service("a", "10.96.0.1"));
    let mut object = slice("a-1", "a", "{addresses: [10.1.0.1]}");
    object.ports = yaml("[{port: 8080}]");
    assert_eq!(index.apply_slice(&object).len(), 1);
    assert_eq!(cluster(&index.compile(), "a"), []);
    ferrogate_control::set_api_defaults(&mut object);
    assert_eq!(index.apply_slice(&object), []);
    assert_eq!(cluster(&index.compile(), "a").len(), 1);
}

fn load_balancer(name: &str, cluster_ip: &str, address: &str) -> Service {
    yaml(&format!(
        "{{metadata: {{namespace: default, name: {name}}}, \
         spec: {{type: LoadBalancer, clusterIP: {cluster_ip}, ports: [{{port: 80}}], \
         loadBalancerSourceRanges: [192.0.2.0/24]}}, \
         status: {{loadBalancer: {{ingress: [{{ip: {address}}}]}}}}}}"
    ))
}

fn node_network(primary: &str, addresses: &[&str]) -> NodeNetwork {
    NodeNetwork {
        primary: vec![primary.parse().expect("an address")],
        addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
    }
}

/// Frontends of the first port of a service, as text.
fn frontends(changes: &Changes, service: &str) -> Vec<String> {
    let port = &changes.services[&ServiceName::new("default", service)][0];
    let frontends = port.frontends.iter();
    frontends
        .map(|(key, kind)| format!("{}:{} {}", key.address, key.port, kind.name()))
        .collect()
}

#[test]
fn a_cluster_ip_that_the_node_has_itself_is_left_alone_while_it_has_it() {
    let mut index = index();
    index.apply_service(&service("dns", "10.96.0.10"));
    index.apply_service(&service("other", "10.96.0.11"));
    index.compile();
    let notices = index.set_node_network(node_network("192.0.2.1", &["192.0.2.1", "10.96.0.10"]));
    assert!(matches!(notices[..], [ref one] if matches!(one.kind, NoticeKind::LocalClusterIp { .. })));
    let changes = index.compile();
    assert_eq!(dirty(&changes), ["dns"]);
    assert_eq!(frontends(&changes, "dns"), ["10.96.0.10:0 foreign"]);
    assert_eq!(index.notices().len(), 1);
    // The object comes again: nothing new.
    assert_eq!(index.apply_service(&service("dns", "10.96.0.10")), []);
    assert!(!index.is_dirty());
    index.set_node_network(node_network("192.0.2.1", &["192.0.2.1"]));
    assert_eq!(
        frontends(&index.compile(), "dns"),
        ["10.96.0.10:0 address", "10.96.0.10:80 ClusterIP"]
    );
    assert_eq!(index.notices(), []);
}

#[test]
fn a_load_balancer_address_is_pinged_for_where_the_node_does_not_have_it() {
    let mut index = index();
    index.apply_service(&load_balancer("lb", "10.96.0.10", "203.0.113.1"));
    assert!(frontends(&index.compile(), "lb").contains(&"203.0.113.1:0 VIP".to_owned()));
    index.set_node_network(node_network("192.0.2.1", &["203.0.113.1"]));
    let found = frontends(&index.compile(), "lb");
    assert!(!found.contains(&"203.0.113.1:0 VIP".to_owned()), "{found:?}");
    assert!(found.contains(&"203.0.113.1:80 LoadBalancer".to_owned()), "{found:?}");
}

#[test]
fn a_node_in_the_source_ranges_lets_itself_and_the_address_in() {
    let mut index = index();
    index.apply_service(&load_balancer("lb", "10.96.0.10", "203.0.113.1"));
    let guard = |changes: &Changes| {
        let port = &changes.services[&ServiceName::new("default", "lb")][0];
        let ranges: Vec<String> = port.source_ranges.iter().map(ToString::to_string).collect();
        (port.flags, ranges.join(" "))
    };
    let guarded = service_flags::SOURCE_RANGES;
    assert_eq!(guard(&index.compile()), (guarded, "192.0.2.0/24".to_owned()));
    index.set_node_network(node_network("192.0.2.1", &["192.0.2.1"]));
    let (allowed, both) = (guarded | service_flags::NODE_ALLOWED, "192.0.2.0/24 203.0.113.1/32");
    assert_eq!(guard(&index.compile()), (allowed, both.to_owned()));
    index.set_node_network(node_network("198.51.100.1", &["198.51.100.1"]));
    assert_eq!(guard(&index.compile()), (guarded, "192.0.2.0/24".to_owned()));
}

fn node_at(name: &str, addresses: &[(&str, &str)]) -> Node {
    let address = |(kind, address): &(&str, &str)| format!("{{type: {kind}, address: '{address}'}}");
    let addresses: Vec<String> = addresses.iter().map(address).collect();
    yaml(&format!(
        "{{metadata: {{name: {name}}}, status: {{addresses: [{}]}}}}",
        addresses.join(", ")
    ))
}

/// What is written, with text for addresses; HERE is told from them by its own name.
fn written(changes: Option<NodeChanges>) -> BTreeMap<String, String> {
    let value = |node: Address| {
        if node == Dsr::HERE {
            "here".to_owned()
        } else {
            node.to_string()
        }
    };
    match changes.expect("changes") {
        NodeChanges::All(all) => all
            .into_iter()
            .map(|(address, node)| (address.to_string(), value(node)))
            .collect(),
        NodeChanges::Some(some) => some
            .into_iter()
            .map(|(address, node)| (address.to_string(), node.map_or_else(|| "gone".to_owned(), value)))
            .collect(),
    }
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pair = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    pairs.iter().map(pair).collect()
}

#[test]
fn addresses_of_endpoints_and_nodes_lead_to_their_nodes() {
    let mut index = Index::new(Options {
        node_name: "node-a".to_owned(),
        dsr: true,
        ..Options::default()
    });
    index.apply_node(&node_at(
        "node-a",
        &[("InternalIP", "192.0.2.1"), ("Hostname", "node-a")],
    ));
    index.apply_node(&node_at(
        "node-b",
        &[
            ("ExternalIP", "198.51.100.2"),
            ("InternalIP", "192.0.2.2"),
            ("InternalIP", "2001:db8::2"),
        ],
    ));
    index.apply_service(&service("a", "10.96.0.1"));
    let endpoints = "{addresses: [10.1.0.1], nodeName: node-a}, {addresses: [10.2.0.1], nodeName: node-b}, \
                     {addresses: [10.3.0.1], nodeName: node-c}, {addresses: [192.0.2.2], nodeName: node-c}, \
                     {addresses: [10.4.0.1]}";
    index.apply_slice(&slice("a-1", "a", endpoints));
    let all = pairs(&[
        ("192.0.2.1", "here"),
        ("192.0.2.2", "192.0.2.2"),
        ("198.51.100.2", "198.51.100.2"),
        ("2001:db8::2", "2001:db8::2"),
        ("10.2.0.1", "192.0.2.2"),
    ]);
    assert_eq!(
        written(index.take_nodes()),
        all,
        "not of ours, not of an unknown node, and a node's own address is its own whatever a slice says"
    );
    assert!(index.take_nodes().is_none());

    index.apply_slice(&slice("a-2", "a", "{addresses: [10.2.0.2], nodeName: node-b}"));
    assert_eq!(written(index.take_nodes()), pairs(&[("10.2.0.2", "192.0.2.2")]));
    index.apply_slice(&slice("a-2", "a", "{addresses: [10.2.0.2], nodeName: node-c}"));
    assert_eq!(written(index.take_nodes()), pairs(&[("10.2.0.2", "gone")]));

    // A Node that comes, moves or goes takes all that runs there with it.
    index.apply_node(&node_at("node-c", &[("InternalIP", "192.0.2.3")]));
    let with_c = written(index.take_nodes());
    assert_eq!(with_c["10.3.0.1"], "192.0.2.3");
    assert_eq!(with_c["10.2.0.2"], "192.0.2.3");
    index.delete_node("node-c");
    assert_eq!(written(index.take_nodes()), all);

    // What is gone is forgotten when everything is compared.
    index.delete_slice("default", "a-1");
    assert!(index.take_nodes().is_none());
    index.mark_all();
    assert!(!written(index.take_nodes()).contains_key("10.2.0.1"));
}

#[test]
fn without_dsr_nobody_asks_where_endpoints_are() {
    let mut index = index();
    index.apply_node(&node_at("node-b", &[("InternalIP", "192.0.2.2")]));
    index.apply_slice(&slice("a-1", "a", "{addresses: [10.2.0.1], nodeName: node-b}"));
    index.mark_all();
    assert!(index.take_nodes().is_none());
}

#[test]
fn with_dsr_every_service_has_its_local_set() {
    for dsr in [false, true] {
        let mut index = Index::new(Options {
            node_name: "node-a".to_owned(),
            dsr,
            ..Options::default()
        });
        index.apply_service(&service("a", "10.96.0.1"));
        index.apply_slice(&slice("a-1", "a", "{addresses: [10.1.0.1], nodeName: node-a}"));
        let changes = index.compile();
        let port = &changes.services[&ServiceName::new("default", "a")][0];
        assert_eq!(port.local.len(), usize::from(dsr));
    }
}

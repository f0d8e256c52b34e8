//! Manifests in, a readable dump of the tables out: `manifests/<name>.yaml` -> `snapshots/goldens__<name>.snap`.

use ferrogate_control::{Index, Limits, MemoryTables, Notice, Options, Planner};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Deserialize;
use serde_yaml_ng::{Deserializer, Value, from_value};
use std::fmt::Write;

/// On node-a, with external IPs allowed in 203.0.113.0/24.
fn options() -> Options {
    Options {
        node_name: "node-a".to_owned(),
        // Small, so that a table can be looked at.
        maglev_table_size: 11,
        external_ips: vec!["203.0.113.0/24".parse().expect("a range")],
        ..Options::default()
    }
}

fn apply(index: &mut Index, document: Value) -> Vec<Notice> {
    match document["kind"].as_str() {
        Some("Service") => index.apply_service(&from_value::<Service>(document).expect("a Service")),
        Some("EndpointSlice") => index.apply_slice(&from_value::<EndpointSlice>(document).expect("an EndpointSlice")),
        Some("Node") => {
            index.apply_node(&from_value::<Node>(document).expect("a Node"));
            Vec::new()
        }
        other => panic!("no test knows the kind {other:?}"),
    }
}

/// The tables after one plan, which port each service of them is, and all that the operator is told.
fn dump(manifest: &str) -> String {
    let path = format!("{}/tests/manifests/{manifest}.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut index = Index::new(options());
    let mut notices = Vec::new();
    for document in Deserializer::from_str(&text) {
        let value = Value::deserialize(document).expect("YAML");
        notices.extend(apply(&mut index, value));
    }
    let mut planner = Planner::new(Limits::default());
    let plan = planner.plan(&index.compile());
    notices.extend(plan.notices);
    let mut tables = MemoryTables::new(Limits::default());
    if let Err(violation) = tables.apply_all(&plan.ops) {
        panic!("{violation}\n{tables}");
    }
    let mut dump = String::from("PORTS\n");
    for port in planner.ports() {
        writeln!(dump, "  {}: service {}", port.name, port.id).expect("a string takes all");
    }
    write!(dump, "{tables}").expect("a string takes all");
    if !notices.is_empty() {
        dump.push_str("NOTICES\n");
    }
    for notice in notices {
        writeln!(dump, "  {notice}").expect("a string takes all");
    }
    dump
}

macro_rules! goldens {
    ($($test:ident: $manifest:literal;)*) => {
        $(
            #[test]
            fn $test() {
                let manifest = concat!("manifests/", $manifest, ".yaml");
                insta::with_settings!({ description => manifest, omit_expression => true }, {
                    insta::assert_snapshot!($manifest, dump($manifest));
                });
            }
        )*
    };
}

goldens! {
    order_service_as_cluster_ip: "order-service-clusterip";
    order_service_as_node_port: "order-service-nodeport";
    order_service_as_load_balancer: "order-service-loadbalancer";
    a_dual_stack_service_is_a_port_in_each_family: "dual-stack";
    headless_and_foreign_services_are_left_alone: "headless";
    external_names_and_services_without_an_address_are_left_alone: "external-name";
    a_local_set_exists_where_a_policy_uses_it: "policies";
    hints_choose_the_endpoints_of_our_node_or_zone: "hints";
    terminating_endpoints_are_the_last_resort: "terminating";
    duplicates_collapse_and_the_older_of_two_holders_wins: "duplicates";
    what_cannot_be_used_is_refused_and_said: "refused";
    annotations_choose_algorithm_and_weights: "selection";
    source_ranges_guard_the_load_balancer_addresses_of_their_family: "source-ranges";
}

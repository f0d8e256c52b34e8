use super::*;
use crate::scope::PodScope;
use ferrogate_common::FrontendKey;
use ferrogate_control::{Limits, MemoryTables, Planner};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::json;

fn service(name: &str, address: &str) -> Service {
    let object = json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80, "protocol": "TCP"}]},
    });
    serde_json::from_value(object).expect("a Service")
}

fn slice(service: &str, address: &str) -> EndpointSlice {
    let object = json!({
        "metadata": {
            "name": format!("{service}-1"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]}],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    });
    serde_json::from_value(object).expect("an EndpointSlice")
}

fn name(name: &str) -> ObjectName {
    ObjectName {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

/// State, planner and tables, with the run loop's rule: nothing is written before the state is synced.
struct Rig {
    state: State,
    planner: Planner,
    tables: MemoryTables,
}

impl Rig {
    fn new() -> Self {
        let limits = Limits::default();
        let options = Options {
            node_name: "node-1".to_owned(),
            ..Options::default()
        };
        Self {
            state: State::new(options),
            planner: Planner::new(limits),
            tables: MemoryTables::new(limits),
        }
    }

    /// The agent ends and starts again; the tables stay.
    fn restart(self) -> Self {
        let snapshot = self.tables.snapshot();
        Self {
            tables: self.tables,
            planner: Planner::restore(Limits::default(), snapshot),
            ..Self::new()
        }
    }

    fn take(&mut self, events: Vec<Event>) {
        for event in events {
            self.state.take(&event);
            if self.state.is_synced() && self.state.is_dirty() {
                let plan = self.planner.plan(&self.state.compile());
                self.tables.apply_all(&plan.ops).expect("a plan that holds");
            }
        }
    }

    /// Addresses with a port; each ClusterIP is there once more for its other ports.
    fn addresses(&self) -> Vec<String> {
        let keys = self.tables.frontends().keys();
        keys.filter(|key: &&FrontendKey| key.port.get() != 0)
            .map(|key| key.address.to_string())
            .collect()
    }
}

fn service_list(services: Vec<Service>) -> Vec<Event> {
    let changes = services.into_iter().map(|service| Change::Listed(Box::new(service)));
    std::iter::once(Change::Restart)
        .chain(changes)
        .chain([Change::Complete])
        .map(Event::Service)
        .collect()
}

fn slice_list(slices: Vec<EndpointSlice>) -> Vec<Event> {
    let changes = slices.into_iter().map(|slice| Change::Listed(Box::new(slice)));
    std::iter::once(Change::Restart)
        .chain(changes)
        .chain([Change::Complete])
        .map(Event::Slice)
        .collect()
}

#[test]
fn nothing_is_written_before_services_and_slices_are_both_synced() {
    let mut rig = Rig::new();
    rig.take(service_list(vec![service("web", "10.0.0.1")]));
    assert!(rig.addresses().is_empty());
    let mut slices = slice_list(vec![slice("web", "10.1.0.1")]);
    let complete = slices.pop().expect("the end of the list");
    rig.take(slices);
    assert!(rig.addresses().is_empty());
    rig.take(vec![complete]);
    assert_eq!(rig.addresses(), ["10.0.0.1"]);
    assert_eq!(
        rig.tables
            .backends()
            .values()
            .filter(|backend| backend.generation != 0)
            .count(),
        1
    );
}

#[test]
fn after_a_restart_nothing_is_deleted_before_both_are_synced_and_then_what_is_gone_is() {
    let mut rig = Rig::new();
    rig.take(service_list(vec![
        service("web", "10.0.0.1"),
        service("old", "10.0.0.2"),
    ]));
    rig.take(slice_list(vec![slice("web", "10.1.0.1"), slice("old", "10.1.0.2")]));
    let before = rig.tables.frontends().clone();
    let mut rig = rig.restart();
    rig.take(slice_list(vec![slice("web", "10.1.0.1")]));
    let mut services = service_list(vec![service("web", "10.0.0.1")]);
    let complete = services.pop().expect("the end of the list");
    rig.take(services);
    assert_eq!(
        rig.tables.frontends(),
        &before,
        "a list that is not complete changes nothing"
    );
    rig.take(vec![complete]);
    assert_eq!(rig.addresses(), ["10.0.0.1"]);
}

#[test]
fn a_new_list_removes_what_it_does_not_name_at_its_end_and_not_before() {
    let mut rig = Rig::new();
    rig.take(service_list(vec![
        service("web", "10.0.0.1"),
        service("old", "10.0.0.2"),
    ]));
    rig.take(slice_list(vec![]));
    assert_eq!(rig.addresses().len(), 2);
    let mut again = service_list(vec![service("new", "10.0.0.3"), service("web", "10.0.0.1")]);
    let complete = again.pop().expect("the end of the list");
    rig.take(again);
    assert_eq!(rig.addresses(), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    rig.take(vec![complete]);
    assert_eq!(rig.addresses(), ["10.0.0.1", "10.0.0.3"]);
}

#[test]
fn a_list_that_breaks_off_and_begins_again_removes_nothing_by_mistake() {
    let mut rig = Rig::new();
    rig.take(service_list(vec![
        service("web", "10.0.0.1"),
        service("api", "10.0.0.2"),
    ]));
    rig.take(slice_list(vec![]));
    rig.take(vec![
        Event::Service(Change::Restart),
        Event::Service(Change::Listed(Box::new(service("web", "10.0.0.1")))),
    ]);
    rig.take(service_list(vec![
        service("web", "10.0.0.1"),
        service("api", "10.0.0.2"),
    ]));
    assert_eq!(rig.addresses(), ["10.0.0.1", "10.0.0.2"]);
}

#[test]
fn single_changes_are_applied_and_deletions_take_effect_at_once() {
    let mut rig = Rig::new();
    rig.take(service_list(vec![]));
    rig.take(slice_list(vec![]));
    rig.take(vec![Event::Service(Change::Applied(Box::new(service(
        "web", "10.0.0.1",
    ))))]);
    assert_eq!(rig.addresses(), ["10.0.0.1"]);
    rig.take(vec![Event::Service(Change::Deleted(name("web")))]);
    assert!(rig.addresses().is_empty());
    rig.take(vec![Event::Service(Change::Deleted(name("web")))]);
}

#[test]
fn a_source_that_goes_away_changes_nothing() {
    let mut rig = Rig::new();
    rig.take(service_list(vec![service("web", "10.0.0.1")]));
    rig.take(slice_list(vec![]));
    rig.take(vec![Event::Health(Health::Away("connection refused".to_owned()))]);
    assert_eq!(rig.state.away(), Some("connection refused"));
    assert_eq!(rig.addresses(), ["10.0.0.1"]);
    rig.take(vec![Event::Health(Health::Good)]);
    assert_eq!(rig.state.away(), None);
}

#[test]
fn only_our_own_node_gives_addresses() {
    let node = |name: &str, address: &str| -> Event {
        let object = json!({
            "metadata": {"name": name},
            "status": {"addresses": [
                {"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address},
            ]},
        });
        Event::Node(Change::Applied(Box::new(
            serde_json::from_value(object).expect("a Node"),
        )))
    };
    let mut rig = Rig::new();
    rig.take(vec![node("node-2", "192.0.2.2")]);
    assert_eq!(rig.state.node_addresses(), None);
    rig.take(vec![node("node-1", "192.0.2.1")]);
    assert_eq!(
        rig.state.node_addresses(),
        Some(&["192.0.2.1".parse().expect("an address")][..])
    );
}

#[test]
fn an_object_that_cannot_be_read_keeps_what_was_known_of_it() {
    let mut rig = Rig::new();
    rig.take(service_list(vec![
        service("web", "10.0.0.1"),
        service("api", "10.0.0.2"),
    ]));
    rig.take(slice_list(vec![]));
    let unreadable = || Event::Service(Change::Unreadable(name("web"), "no ports".to_owned()));
    rig.take(vec![
        Event::Service(Change::Restart),
        unreadable(),
        Event::Service(Change::Complete),
    ]);
    assert_eq!(rig.addresses(), ["10.0.0.1"], "listed all the same");
    let problems = rig.state.unreadable_objects();
    assert!(
        matches!(&problems[..], [one] if one.contains("default/web") && one.contains("no ports")),
        "{problems:?}"
    );
    rig.take(vec![Event::Service(Change::Applied(Box::new(service(
        "web", "10.0.0.3",
    ))))]);
    assert_eq!(rig.addresses(), ["10.0.0.3"]);
    assert!(rig.state.unreadable_objects().is_empty());
    rig.take(vec![unreadable(), Event::Service(Change::Deleted(name("web")))]);
    assert!(rig.addresses().is_empty() && rig.state.unreadable_objects().is_empty());
}

fn node(spec: serde_json::Value, deleted: bool) -> Box<Node> {
    let mut object = json!({"metadata": {"name": "node-1"}, "spec": spec});
    if deleted {
        object["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:00Z".into();
    }
    serde_json::from_value(object).expect("a Node")
}

#[test]
fn a_node_is_eligible_unless_it_is_known_to_go_or_to_be_gone() {
    let mut state = Rig::new().state;
    let mut after = |change: Change<Node>| {
        state.take(&Event::Node(change));
        state.node_is_eligible()
    };
    assert!(after(Change::Restart), "nobody has looked yet");
    assert!(!after(Change::Complete), "there is none");
    assert!(after(Change::Applied(node(json!({}), false))));
    let taint = |key: &str| json!({"taints": [{"key": key, "effect": "NoSchedule"}]});
    assert!(after(Change::Applied(node(taint("example.com/other"), false))));
    assert!(!after(Change::Applied(node(taint(TO_BE_DELETED), false))));
    assert!(after(Change::Applied(node(json!({}), false))), "the taint is gone");
    assert!(!after(Change::Applied(node(json!({}), true))), "it is being deleted");
    assert!(after(Change::Applied(node(json!({}), false))), "made anew");
    let name = ObjectName::of(node(json!({}), false).as_ref());
    assert!(!after(Change::Deleted(name)));
    after(Change::Restart);
    assert!(after(Change::Listed(node(json!({}), false))));
    assert!(after(Change::Complete));
    after(Change::Restart);
    assert!(!after(Change::Complete), "gone while nobody watched");
}

#[test]
fn a_machine_without_a_cluster_needs_no_node() {
    let mut state = Rig::new().state.without_node();
    for change in [Change::Restart, Change::Complete] {
        state.take(&Event::Node(change));
        assert!(state.node_is_eligible());
    }
    state.take(&Event::Node(Change::Applied(node(json!({}), true))));
    assert!(!state.node_is_eligible(), "one that is there counts");
}

#[test]
fn service_cidrs_are_known_once_they_are_listed_and_follow_their_objects() {
    let cidr = |name: &str, networks: &[&str]| -> Box<ServiceCIDR> {
        let object = json!({"metadata": {"name": name}, "spec": {"cidrs": networks}});
        Box::new(serde_json::from_value(object).expect("a ServiceCIDR"))
    };
    let found = |rig: &Rig| -> Option<Vec<String>> {
        let known = rig.state.service_cidrs()?;
        Some(known.iter().map(ToString::to_string).collect())
    };
    let mut rig = Rig::new();
    let first = cidr("kubernetes", &["10.96.0.0/16", "fd00:96::/112"]);
    rig.take(vec![
        Event::ServiceCidr(Change::Restart),
        Event::ServiceCidr(Change::Listed(first)),
    ]);
    assert_eq!(found(&rig), None);
    rig.take(vec![Event::ServiceCidr(Change::Complete)]);
    assert_eq!(found(&rig).expect("listed"), ["10.96.0.0/16", "fd00:96::/112"]);
    rig.take(vec![Event::ServiceCidr(Change::Applied(cidr(
        "more",
        &["10.97.0.0/16", "x"],
    )))]);
    assert_eq!(found(&rig).expect("listed").len(), 3);
    rig.take(vec![Event::ServiceCidr(Change::Deleted(name("kubernetes")))]);
    assert_eq!(found(&rig).expect("listed"), ["10.97.0.0/16"]);
}

#[test]
fn what_pods_ask_of_the_socket_edge_is_told_once_all_are_known_and_at_each_change() {
    let pod = |name: &str, node: &str, value: Option<&str>| {
        let object = json!({
            "metadata": {"name": name, "namespace": "default", "uid": format!("u-{name}"),
                "annotations": value.map(|value| json!({"ferrogate.dev/socket-edge": value}))},
            "spec": {"nodeName": node, "containers": []},
        });
        Box::new(serde_json::from_value::<Pod>(object).expect("a Pod"))
    };
    let mut state = Rig::new().state;
    let mut take = |change| {
        state.take(&Event::Pod(change));
        state.new_pod_scopes()
    };
    let wanted = |pods: &[(&str, PodScope)]| -> Option<Wanted> {
        Some(pods.iter().map(|(uid, scope)| ((*uid).to_owned(), *scope)).collect())
    };
    assert_eq!(take(Change::Restart), None);
    assert_eq!(
        take(Change::Listed(pod("a", "node-1", Some("off")))),
        None,
        "not all are known"
    );
    assert_eq!(take(Change::Listed(pod("b", "node-2", Some("off")))), None);
    assert_eq!(take(Change::Complete), wanted(&[("u-a", PodScope::Off)]));
    assert_eq!(
        take(Change::Applied(pod("c", "node-1", None))),
        None,
        "it asks for nothing"
    );
    let both = [("u-a", PodScope::Off), ("u-c", PodScope::Only)];
    assert_eq!(take(Change::Applied(pod("c", "node-1", Some("only")))), wanted(&both));
    assert_eq!(
        take(Change::Applied(pod("c", "node-1", Some("maybe")))),
        wanted(&both[..1])
    );
    assert_eq!(take(Change::Deleted(name("a"))), wanted(&[]));
    let problems = state.unreadable_objects();
    assert!(
        problems
            .iter()
            .any(|problem| problem.contains("default/c") && problem.contains("maybe"))
    );
}

//! Tables that are full.

use crate::fixture::{Fixture, frontend, port, removed, update};
use ferrogate_common::FrontendKind;
use ferrogate_control::{Limits, Planner};

#[test]
fn every_table_says_that_it_is_full() {
    let one =
        |name: &str, address: &str| port(name, &[(frontend(address, 80), FrontendKind::ClusterIp)], &["10.1.0.1"]);
    let roomy = Limits {
        frontends: 9,
        services: 9,
        slots: 9,
        backends: 9,
        networks: 9,
    };
    for (limits, expected) in [
        (Limits { frontends: 1, ..roomy }, "FRONTENDS is full (1 entries)"),
        (Limits { services: 1, ..roomy }, "SERVICES is full (1 entries)"),
        (Limits { slots: 1, ..roomy }, "SLOTS has no 1 free entries"),
        (Limits { backends: 2, ..roomy }, "BACKENDS is full (2 entries)"),
    ] {
        let mut fixture = Fixture::new(limits);
        fixture.plan(&update(vec![one("a", "10.96.0.1")]));
        assert_eq!(fixture.plan(&update(vec![one("b", "10.96.0.2")])), []);
        let text = fixture.refused[0].to_string();
        assert!(
            text.starts_with("service default/b:80/TCP IPv4: ") && text.contains(expected),
            "{text}"
        );
    }
}

#[test]
fn a_refusal_is_news_once_and_so_is_its_end() {
    let one =
        |name: &str, address: &str| port(name, &[(frontend(address, 80), FrontendKind::ClusterIp)], &["10.1.0.1"]);
    let mut planner = Planner::new(Limits {
        services: 1,
        ..Limits::default()
    });
    assert!(planner.plan(&update(vec![one("a", "10.96.0.1")])).notices.is_empty());
    let plan = planner.plan(&update(vec![one("b", "10.96.0.2")]));
    let said: Vec<String> = plan.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        ["service default/b: port 80 (IPv4): SERVICES is full (1 entries): the port is not programmed"]
    );
    assert_eq!(plan.refused[0].reason.full_map(), Some("SERVICES"));
    let plan = planner.plan(&update(vec![one("b", "10.96.0.2")]));
    assert_eq!((plan.notices.len(), plan.refused.len()), (0, 1));
    let plan = planner.plan(&removed("a"));
    assert_eq!((plan.notices.len(), plan.refused.len()), (0, 0));
    assert_eq!(plan.completed.len(), 1);
    assert_eq!(&*plan.completed[0].service.name, "b");
}

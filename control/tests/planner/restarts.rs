//! What a planner makes of tables that an earlier run left.

use crate::fixture::{Fixture, backend_of, frontend, node_port, port, removed, update};
use ferrogate_common::{Frontend, FrontendKind};
use ferrogate_control::{Changes, Limits, Op, Planner};

#[test]
fn a_restart_changes_nothing_that_is_right() {
    let mut fixture = Fixture::new(Limits::default());
    let key = |last: u8| (frontend(&format!("10.96.0.{last}"), 80), FrontendKind::ClusterIp);
    let desired = update(vec![
        port(
            "a",
            &[key(1), (node_port(30001), FrontendKind::NodePort)],
            &["10.1.0.1", "10.1.0.2"],
        ),
        port("b", &[key(2)], &["10.1.0.2"]),
        port("c", &[key(3)], &[]),
    ]);
    fixture.plan(&desired);
    fixture.plan(&removed("b"));
    let full = Changes {
        full: true,
        ..update(desired.services.values().flatten().cloned().collect())
    };
    fixture.plan(&full);
    let before = fixture.tables.to_string();
    fixture.restart();
    assert_eq!(fixture.plan(&full), []);
    assert_eq!(fixture.tables.to_string(), before);
}

#[test]
fn a_restarted_agent_removes_what_nobody_claims_only_when_it_knows_everything() {
    let mut fixture = Fixture::new(Limits::default());
    let a = port(
        "a",
        &[(frontend("10.96.0.1", 80), FrontendKind::ClusterIp)],
        &["10.1.0.1"],
    );
    let b = port(
        "b",
        &[(frontend("10.96.0.2", 80), FrontendKind::ClusterIp)],
        &["10.1.0.1"],
    );
    fixture.plan(&update(vec![a.clone(), b]));
    fixture.restart();
    assert_eq!(fixture.plan(&update(vec![a.clone()])), []);
    assert_eq!(fixture.tables.frontends().len(), 2);
    fixture.plan(&Changes {
        full: true,
        ..update(vec![a])
    });
    assert_eq!(fixture.tables.frontends().len(), 1);
}

#[test]
fn a_generation_is_not_given_out_twice_over_a_restart() {
    let mut fixture = Fixture::new(Limits::default());
    let frontends = [(frontend("10.96.0.1", 80), FrontendKind::ClusterIp)];
    fixture.plan(&update(vec![port("a", &frontends, &["10.1.0.1"])]));
    fixture.plan(&update(vec![port("a", &frontends, &[])]));
    fixture.restart();
    let ops = fixture.plan(&update(vec![port("a", &frontends, &["10.1.0.1"])]));
    // What the last run freed it may not have waited for.
    assert_eq!(ops[0], Op::Grace);
    assert_eq!(
        ops[1],
        Op::WriteBackend {
            id: 1,
            value: backend_of("10.1.0.1", 0, 2)
        }
    );
}

#[test]
fn after_a_restart_two_claimants_get_back_what_each_had() {
    let mut fixture = Fixture::new(Limits::default());
    let shared = (node_port(30080), FrontendKind::NodePort);
    let own = |last: u8| (frontend(&format!("10.96.0.{last}"), 80), FrontendKind::ClusterIp);
    fixture.plan(&update(vec![port("z", &[own(1), shared], &["10.1.0.1"])]));
    let a = port("a", &[own(2), shared], &["10.1.0.2"]);
    fixture.plan(&update(vec![a.clone()]));
    fixture.restart();
    let full = Changes {
        full: true,
        ..update(vec![a, port("z", &[own(1), shared], &["10.1.0.1"])])
    };
    assert_eq!(fixture.plan(&full), []);
    assert_eq!(fixture.refused.len(), 1);
}

#[test]
fn tables_that_do_not_hang_together_are_put_right() {
    let mut fixture = Fixture::new(Limits::default());
    let desired = update(vec![port(
        "a",
        &[(frontend("10.96.0.1", 80), FrontendKind::ClusterIp)],
        &["10.1.0.1"],
    )]);
    fixture.plan(&desired);
    let mut snapshot = fixture.tables.snapshot();
    snapshot.slots.clear();
    snapshot.frontends.push((
        frontend("10.96.0.9", 80),
        Frontend {
            service: u32::MAX,
            kind: 77,
            reserved: [0; 3],
        },
    ));
    let plan = Planner::restore(Limits::default(), snapshot).plan(&Changes { full: true, ..desired });
    assert!(
        plan.ops
            .iter()
            .any(|op| matches!(op, Op::Flip { id: 0, range } if range.cluster == 1))
    );
    assert!(plan.ops.contains(&Op::DeleteFrontend {
        key: frontend("10.96.0.9", 80)
    }));
}

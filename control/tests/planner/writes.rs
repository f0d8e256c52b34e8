//! What a plan holds, write by write.

use crate::fixture::{Fixture, backend_of, endpoint, frontend, node_port, port, removed, update};
use ferrogate_common::{
    Frontend, FrontendKey, FrontendKind, NetworkKey, SlotRange, V4_PREFIX, backend_flags, service_flags,
};
use ferrogate_control::{Changes, Endpoint, Limits, MemoryTables, Op, Planner, RefusalReason};
use ipnet::IpNet;

#[test]
fn a_new_port_is_written_from_its_backends_outwards() {
    let mut fixture = Fixture::new(Limits::default());
    let key = frontend("10.96.0.1", 80);
    let ops = fixture.plan(&update(vec![port(
        "a",
        &[(key, FrontendKind::ClusterIp)],
        &["10.1.0.1", "10.1.0.2"],
    )]));
    let range = SlotRange {
        base: 0,
        cluster: 2,
        local: 0,
    };
    let expected = [
        Op::WriteBackend {
            id: 1,
            value: backend_of("10.1.0.1", 0, 1),
        },
        Op::WriteBackend {
            id: 2,
            value: backend_of("10.1.0.2", 0, 1),
        },
        Op::PublishBackend { id: 1, generation: 1 },
        Op::PublishBackend { id: 2, generation: 1 },
        Op::WriteSlots {
            base: 0,
            ids: vec![1, 2],
        },
        Op::ResetCounters { id: 0 },
        Op::WriteServiceFlags { id: 0, flags: 0 },
        Op::Flip { id: 0, range },
        Op::PutFrontend {
            key,
            value: Frontend::new(0, FrontendKind::ClusterIp),
        },
    ];
    assert_eq!(ops, expected);
}

#[test]
fn an_unchanged_service_is_not_touched() {
    let mut fixture = Fixture::new(Limits::default());
    let desired = vec![port("a", &[(node_port(30000), FrontendKind::NodePort)], &["10.1.0.1"])];
    fixture.plan(&update(desired.clone()));
    assert_eq!(fixture.plan(&update(desired.clone())), []);
    assert_eq!(
        fixture.plan(&Changes {
            full: true,
            ..update(desired)
        }),
        []
    );
}

#[test]
fn changed_frontends_touch_frontends_only() {
    let mut fixture = Fixture::new(Limits::default());
    let (old, new) = (frontend("10.96.0.1", 80), frontend("203.0.113.1", 80));
    fixture.plan(&update(vec![port(
        "a",
        &[(old, FrontendKind::ClusterIp)],
        &["10.1.0.1"],
    )]));
    let both = [(old, FrontendKind::ClusterIp), (new, FrontendKind::LoadBalancer)];
    let value = Frontend::new(0, FrontendKind::LoadBalancer);
    let ops = fixture.plan(&update(vec![port("a", &both, &["10.1.0.1"])]));
    assert_eq!(ops, [Op::PutFrontend { key: new, value }]);
    let ops = fixture.plan(&update(vec![port("a", &both[1..], &["10.1.0.1"])]));
    assert_eq!(ops, [Op::DeleteFrontend { key: old }]);
}

#[test]
fn nobody_waits_for_a_grace_period_as_long_as_there_is_something_else_to_give_out() {
    let limits = Limits {
        backends: 4,
        ..Limits::default()
    };
    let mut planner = Planner::new(limits);
    let mut tables = MemoryTables::new(limits);
    let key = (frontend("10.96.0.1", 80), FrontendKind::ClusterIp);
    let plan = |planner: &mut Planner, tables: &mut MemoryTables, ip: &str| {
        let plan = planner.plan(&update(vec![port("a", &[key], &[ip])]));
        tables.apply_all(&plan.ops).expect("nothing is used again too early");
        assert!(plan.refused.is_empty());
        plan.ops.contains(&Op::Grace)
    };
    // Three backend ids: the third change finds one that was never used, the fourth has to wait.
    let waits = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"].map(|ip| plan(&mut planner, &mut tables, ip));
    assert_eq!(waits, [false, false, false, true]);
    // Where the periods pass meanwhile, no plan waits.
    for number in 5..50 {
        assert!(planner.begin_grace(), "the backend before has gone");
        tables.begin_grace();
        assert!(!planner.begin_grace(), "one at a time");
        assert!(!plan(&mut planner, &mut tables, &format!("10.1.0.{number}")));
        planner.end_grace();
        tables.end_grace();
    }
}

#[test]
fn changed_policies_touch_flags_only() {
    let mut fixture = Fixture::new(Limits::default());
    let mut desired = port(
        "a",
        &[(frontend("10.96.0.1", 80), FrontendKind::ClusterIp)],
        &["10.1.0.1"],
    );
    fixture.plan(&update(vec![desired.clone()]));
    desired.flags = service_flags::EXTERNAL_LOCAL;
    let ops = fixture.plan(&update(vec![desired]));
    assert_eq!(
        ops,
        [Op::WriteServiceFlags {
            id: 0,
            flags: service_flags::EXTERNAL_LOCAL
        }]
    );
}

#[test]
fn a_replaced_endpoint_goes_after_the_flip_and_its_range_after_the_grace_period() {
    let mut fixture = Fixture::new(Limits::default());
    let frontends = [(frontend("10.96.0.1", 80), FrontendKind::ClusterIp)];
    fixture.plan(&update(vec![port("a", &frontends, &["10.1.0.1", "10.1.0.2"])]));
    let ops = fixture.plan(&update(vec![port("a", &frontends, &["10.1.0.2", "10.1.0.3"])]));
    let range = SlotRange {
        base: 2,
        cluster: 2,
        local: 0,
    };
    let expected = [
        Op::WriteBackend {
            id: 3,
            value: backend_of("10.1.0.3", 0, 1),
        },
        Op::PublishBackend { id: 3, generation: 1 },
        Op::WriteSlots {
            base: 2,
            ids: vec![2, 3],
        },
        Op::Flip { id: 0, range },
        Op::RetireBackend { id: 1 },
    ];
    assert_eq!(ops, expected);
    // Id and range are free again, and the id's generation has grown.
    let ops = fixture.plan(&update(vec![port(
        "b",
        &[(frontend("10.96.0.2", 80), FrontendKind::ClusterIp)],
        &["10.1.0.9"],
    )]));
    assert_eq!(
        ops[0],
        Op::WriteBackend {
            id: 1,
            value: backend_of("10.1.0.9", 1, 2)
        }
    );
    assert_eq!(ops[2], Op::WriteSlots { base: 0, ids: vec![1] });
}

#[test]
fn a_removed_service_is_taken_down_from_its_frontends_inwards() {
    let mut fixture = Fixture::new(Limits::default());
    let key = node_port(30080);
    fixture.plan(&update(vec![port(
        "a",
        &[(key, FrontendKind::NodePort)],
        &["10.1.0.1"],
    )]));
    let expected = [
        Op::DeleteFrontend { key },
        Op::Flip {
            id: 0,
            range: SlotRange::default(),
        },
        Op::RetireBackend { id: 1 },
        Op::SetNodePorts { min: 0, max: 0 },
    ];
    assert_eq!(fixture.plan(&removed("a")), expected);
    assert_eq!(fixture.plan(&removed("a")), []);
}

#[test]
fn the_node_port_span_is_wide_enough_at_every_step() {
    let mut fixture = Fixture::new(Limits::default());
    let with = |name: &str, number| port(name, &[(node_port(number), FrontendKind::NodePort)], &[]);
    fixture.plan(&update(vec![with("a", 30100)]));
    let ops = fixture.plan(&update(vec![with("b", 30200)]));
    let span = ops
        .iter()
        .position(|op| *op == Op::SetNodePorts { min: 30100, max: 30200 });
    let put = ops.iter().position(|op| matches!(op, Op::PutFrontend { .. }));
    assert!(span.is_some() && span < put, "{ops:?}");
    let ops = fixture.plan(&update(vec![with("a", 30300)]));
    assert_eq!(ops.last(), Some(&Op::SetNodePorts { min: 30200, max: 30300 }));
}

#[test]
fn a_frontend_moves_between_services_over_a_grace_period() {
    let mut fixture = Fixture::new(Limits::default());
    let (moving, first, second) = (
        frontend("203.0.113.1", 80),
        frontend("10.96.0.1", 80),
        frontend("10.96.0.2", 80),
    );
    let (inside, outside) = (FrontendKind::ClusterIp, FrontendKind::LoadBalancer);
    fixture.plan(&update(vec![
        port("a", &[(first, inside), (moving, outside)], &[]),
        port("b", &[(second, inside)], &[]),
    ]));
    let ops = fixture.plan(&update(vec![
        port("a", &[(first, inside)], &[]),
        port("b", &[(second, inside), (moving, outside)], &[]),
    ]));
    let value = Frontend::new(1, outside);
    assert_eq!(
        ops,
        [
            Op::DeleteFrontend { key: moving },
            Op::Grace,
            Op::PutFrontend { key: moving, value }
        ]
    );
}

#[test]
fn two_services_can_swap_their_only_frontends_and_keep_their_ids() {
    let mut fixture = Fixture::new(Limits::default());
    let (x, y) = (
        (frontend("10.96.0.1", 80), FrontendKind::ClusterIp),
        (frontend("10.96.0.2", 80), FrontendKind::ClusterIp),
    );
    fixture.plan(&update(vec![
        port("a", &[x], &["10.1.0.1"]),
        port("b", &[y], &["10.1.0.2"]),
    ]));
    let ops = fixture.plan(&update(vec![
        port("a", &[y], &["10.1.0.1"]),
        port("b", &[x], &["10.1.0.2"]),
    ]));
    assert_eq!(ops.len(), 5, "{ops:?}");
    assert_eq!(fixture.tables.frontends()[&y.0].service, 0);
    assert_eq!(fixture.tables.frontends()[&x.0].service, 1);
}

#[test]
fn a_frontend_that_changes_its_kind_is_never_overwritten() {
    let mut fixture = Fixture::new(Limits::default());
    let key = frontend("203.0.113.1", 80);
    fixture.plan(&update(vec![port("a", &[(key, FrontendKind::ExternalIp)], &[])]));
    let ops = fixture.plan(&update(vec![port("a", &[(key, FrontendKind::LoadBalancer)], &[])]));
    let value = Frontend::new(0, FrontendKind::LoadBalancer);
    assert_eq!(
        ops,
        [Op::DeleteFrontend { key }, Op::Grace, Op::PutFrontend { key, value }]
    );
}

#[test]
fn of_two_claims_the_holder_wins_and_the_other_is_told_once() {
    let mut fixture = Fixture::new(Limits::default());
    let shared = (node_port(30080), FrontendKind::NodePort);
    let own = (frontend("10.96.0.2", 80), FrontendKind::ClusterIp);
    fixture.plan(&update(vec![port("z", &[shared], &["10.1.0.1"])]));
    fixture.plan(&update(vec![port("a", &[shared, own], &["10.1.0.2"])]));
    assert_eq!(fixture.notices.len(), 1);
    assert!(matches!(fixture.refused[..], [ref one] if matches!(one.reason, RefusalReason::FrontendTaken { .. })));
    assert_eq!(fixture.tables.frontends()[&shared.0].service, 0);
    assert_eq!(fixture.tables.frontends()[&own.0].service, 1);
    // Nothing new: no write and no notice, but the refusal stands.
    assert_eq!(fixture.plan(&Changes::default()), []);
    assert_eq!((fixture.notices.len(), fixture.refused.len()), (0, 1));
    // The holder gives it up: the other has it in the same plan.
    fixture.plan(&removed("z"));
    assert_eq!(fixture.tables.frontends()[&shared.0].service, 1);
    assert_eq!(fixture.refused, []);
}

#[test]
fn a_full_table_refuses_loudly_keeps_what_works_and_takes_the_rest_when_there_is_room() {
    let mut fixture = Fixture::new(Limits {
        frontends: 8,
        services: 8,
        slots: 8,
        backends: 5,
        networks: 8,
    });
    let with = |name: &str, address: &str, endpoints: &[&str]| {
        port(name, &[(frontend(address, 80), FrontendKind::ClusterIp)], endpoints)
    };
    fixture.plan(&update(vec![with("a", "10.96.0.1", &["10.1.0.1", "10.1.0.2"])]));
    let a_works = fixture.tables.to_string();
    assert_eq!(
        fixture.plan(&update(vec![with(
            "b",
            "10.96.0.2",
            &["10.2.0.1", "10.2.0.2", "10.2.0.3"]
        )])),
        []
    );
    assert!(matches!(
        fixture.refused[0].reason,
        RefusalReason::BackendsFull { limit: 5, wanted: 3 }
    ));
    assert_eq!(fixture.tables.to_string(), a_works);
    // One plan makes the room and uses it.
    fixture.plan(&removed("a"));
    assert_eq!(fixture.refused, []);
    assert_eq!(fixture.tables.frontends().len(), 1);
    assert_eq!(
        fixture
            .tables
            .backends()
            .values()
            .filter(|backend| backend.generation != 0)
            .count(),
        3
    );
}

#[test]
fn more_endpoints_than_a_range_can_count_are_refused() {
    let mut fixture = Fixture::new(Limits::default());
    let mut desired = port("a", &[(frontend("10.96.0.1", 80), FrontendKind::ClusterIp)], &[]);
    desired.cluster = (0..65_536u32)
        .map(|n| endpoint(&std::net::Ipv4Addr::from(0x0a01_0000 + n).to_string()))
        .collect();
    fixture.plan(&update(vec![desired]));
    assert!(matches!(
        fixture.refused[0].reason,
        RefusalReason::TooManyEndpoints { endpoints: 65_536 }
    ));
    assert!(fixture.tables.frontends().is_empty());
}

#[test]
fn a_port_that_loses_its_last_frontend_to_a_holder_is_taken_down() {
    let mut fixture = Fixture::new(Limits::default());
    let (mine, theirs) = (frontend("10.96.0.1", 80), frontend("10.96.0.2", 80));
    let kind = FrontendKind::ClusterIp;
    fixture.plan(&update(vec![
        port("a", &[(mine, kind)], &["10.1.0.1"]),
        port("b", &[(theirs, kind)], &[]),
    ]));
    fixture.plan(&update(vec![port("a", &[(theirs, kind)], &["10.1.0.1"])]));
    assert_eq!(fixture.planner.ports().count(), 1);
    assert_eq!(fixture.tables.backends()[&1].generation, 0);
    fixture.plan(&removed("b"));
    assert_eq!((fixture.planner.ports().count(), fixture.refused.len()), (1, 0));
}

#[test]
fn an_endpoint_that_stays_in_the_local_set_alone_is_marked_in_place() {
    let mut fixture = Fixture::new(Limits::default());
    let frontends = [(node_port(30000), FrontendKind::NodePort)];
    let near = Endpoint {
        local: true,
        ..endpoint("10.1.0.1")
    };
    let mut desired = port("a", &frontends, &["10.1.0.2"]);
    desired.cluster.insert(0, near);
    desired.local = vec![near];
    fixture.plan(&update(vec![desired.clone()]));
    let mark = |ops: Vec<Op>| {
        let marks = ops.into_iter().filter_map(|op| match op {
            Op::WriteBackendFlags { id, port, flags } => Some((id, port, flags)),
            Op::WriteBackend { .. } | Op::RetireBackend { .. } => panic!("{op:?}"),
            _ => None,
        });
        marks.collect::<Vec<_>>()
    };
    let gone = desired.cluster.remove(0);
    let flags = backend_flags::LOCAL | backend_flags::LOCAL_ONLY;
    assert_eq!(
        mark(fixture.plan(&update(vec![desired.clone()]))),
        [(1, near.port, flags)]
    );
    assert_eq!(mark(fixture.plan(&update(vec![desired.clone()]))), []);
    desired.cluster.insert(0, gone);
    let unmarked = [(1, near.port, backend_flags::LOCAL)];
    assert_eq!(mark(fixture.plan(&update(vec![desired]))), unmarked);
}

#[test]
fn source_ranges_are_there_before_the_flag_and_go_after_it() {
    let mut fixture = Fixture::new(Limits::default());
    let mut desired = port(
        "a",
        &[(frontend("203.0.113.1", 80), FrontendKind::LoadBalancer)],
        &["10.1.0.1"],
    );
    let open = desired.clone();
    fixture.plan(&update(vec![open.clone()]));
    let range = |text: &str| -> IpNet { text.parse().expect("a network") };
    let key = |text: &str| {
        let net = range(text);
        NetworkKey::new(0, net.addr().into(), V4_PREFIX + u32::from(net.prefix_len()))
    };
    let [first, second, third] = ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/25"];
    desired.flags = service_flags::SOURCE_RANGES;
    desired.source_ranges = [range(first), range(second)].into();
    let (id, flags) = (0, service_flags::SOURCE_RANGES);
    assert_eq!(
        fixture.plan(&update(vec![desired.clone()])),
        [
            Op::PutNetwork { key: key(first) },
            Op::PutNetwork { key: key(second) },
            Op::WriteServiceFlags { id, flags },
        ]
    );
    desired.source_ranges = [range(second), range(third)].into();
    assert_eq!(
        fixture.plan(&update(vec![desired.clone()])),
        [
            Op::PutNetwork { key: key(third) },
            Op::DeleteNetwork { key: key(first) }
        ]
    );
    fixture.restart();
    let full = |port| Changes {
        full: true,
        ..update(vec![port])
    };
    assert_eq!(fixture.plan(&full(desired)), []);
    let ops = fixture.plan(&full(open));
    let flags = 0;
    let expected = [
        Op::Grace,
        Op::WriteServiceFlags { id, flags },
        Op::DeleteNetwork { key: key(second) },
        Op::DeleteNetwork { key: key(third) },
    ];
    assert_eq!(ops, expected);
}

#[test]
fn source_ranges_without_room_are_refused_and_admit_nobody_new() {
    let mut fixture = Fixture::new(Limits {
        networks: 1,
        ..Limits::default()
    });
    let mut desired = port("a", &[(frontend("203.0.113.1", 80), FrontendKind::LoadBalancer)], &[]);
    desired.flags = service_flags::SOURCE_RANGES;
    desired.source_ranges = ["192.0.2.0/24", "198.51.100.0/24"]
        .map(|text| text.parse().expect("a network"))
        .into();
    fixture.plan(&update(vec![desired]));
    assert!(matches!(
        fixture.refused[0].reason,
        RefusalReason::NetworksFull { limit: 1, wanted: 2 }
    ));
    assert!(fixture.tables.networks().is_empty());
    assert_eq!(fixture.tables.services()[&0].flags, service_flags::SOURCE_RANGES);
}

#[test]
fn services_share_an_address_as_such_and_the_next_one_takes_it_over() {
    let mut fixture = Fixture::new(Limits::default());
    let vip = FrontendKey::address_alone(frontend("203.0.113.1", 80).address);
    let with = |name: &str, number| {
        let own = (frontend("203.0.113.1", number), FrontendKind::LoadBalancer);
        port(name, &[own, (vip, FrontendKind::Vip)], &[])
    };
    fixture.plan(&update(vec![with("a", 80), with("b", 81), with("c", 82)]));
    assert_eq!((fixture.refused.len(), fixture.notices.len()), (0, 0));
    assert_eq!(fixture.tables.frontends()[&vip].service, 0);
    let ops = fixture.plan(&removed("a"));
    let value = Frontend::new(1, FrontendKind::Vip);
    assert_eq!(ops.last(), Some(&Op::PutFrontend { key: vip, value }));
    fixture.restart();
    let full = Changes {
        full: true,
        ..update(vec![with("b", 81), with("c", 82)])
    };
    assert_eq!(fixture.plan(&full), []);
    // One that keeps its own address but not this one.
    let own = [(frontend("203.0.113.1", 81), FrontendKind::LoadBalancer)];
    fixture.plan(&update(vec![port("b", &own, &[])]));
    assert_eq!(fixture.tables.frontends()[&vip].service, 2);
    fixture.plan(&removed("c"));
    assert!(!fixture.tables.frontends().contains_key(&vip));
}

use super::*;
use crate::admin::{ApplyStatus, EdgeStatus, InterfaceStatus, MapStatus, ReasonCount, SourceStatus};

fn sample() -> Status {
    Status {
        node: "node-1".to_owned(),
        version: "0.1.0".to_owned(),
        abi: 1,
        pid: Some(4242),
        uptime_seconds: Some(7_300),
        source: Some(SourceStatus {
            origin: "cluster https://10.0.0.1:6443".to_owned(),
            state: SourceState::Away,
            since_seconds: 75,
            detail: Some("services: connection refused".to_owned()),
        }),
        services: Some(3),
        last_apply: Some(ApplyStatus {
            generation: 7,
            ago_seconds: 300,
            latency_microseconds: 21_500,
            apply_microseconds: 180,
            operations: 12,
        }),
        edges: vec![EdgeStatus {
            edge: "socket".to_owned(),
            on: false,
            detail: "no cgroup2 is mounted".to_owned(),
        }],
        interfaces: vec![InterfaceStatus {
            name: "eth0".to_owned(),
            ifindex: 2,
            role: "uplink".to_owned(),
            hooks: vec!["uplink_ingress".to_owned(), "uplink_egress".to_owned()],
        }],
        maps: vec![MapStatus {
            name: "FLOWS".to_owned(),
            purpose: "flows".to_owned(),
            used: Some(10),
            limit: 100,
        }],
        reasons: vec![ReasonCount {
            reason: "no_endpoints".to_owned(),
            count: 5,
            drop: true,
            description: "The Service has no usable endpoint: refused.".to_owned(),
        }],
        problems: vec!["something is wrong".to_owned()],
    }
}

fn assert_fits(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= usize::from(WIDTH), "too wide: {line}");
    }
}

#[test]
fn the_status_page_says_everything_in_a_hundred_columns() {
    let text = status(&sample());
    assert_fits(&text);
    let expected = "\
Node       node-1
Version    0.1.0, ABI 1, pid 4242, up 2 h
Source     cluster https://10.0.0.1:6443, away: the last known state is served (for 75 s)
           services: connection refused
Services   3 ports programmed
Applied    #7 5 min ago: 12 writes in 180 µs, 21.5 ms after the event

EDGE    STATE  WHERE
socket  off    no cgroup2 is mounted

INTERFACE  INDEX  ROLE    PROGRAMS
eth0           2  uplink  uplink_ingress uplink_egress

MAP    USED  LIMIT        PURPOSE
FLOWS    10    100  10 %  flows

REASON        COUNT        MEANING
no_endpoints      5  drop  The Service has no usable endpoint: refused.

PROBLEMS
- something is wrong
";
    assert_eq!(text, expected);
}

#[test]
fn a_crowd_of_problems_is_cut_short_and_says_where_the_rest_is() {
    let mut crowded = sample();
    crowded.problems = (0..=PROBLEMS).map(|number| format!("problem {number}")).collect();
    let text = status(&crowded);
    assert!(
        text.contains("- problem 99\n- and 1 more: `ferrogate status --output json`") && !text.contains("problem 100")
    );
    crowded.problems.pop();
    assert!(status(&crowded).ends_with("- problem 99\n"));
}

#[test]
fn services_show_their_addresses_and_counts_and_on_request_their_endpoints() {
    let row = ServiceRow {
        namespace: "default".to_owned(),
        name: "order-service".to_owned(),
        port: 80,
        protocol: "TCP".to_owned(),
        family: "IPv4".to_owned(),
        kind: "NodePort".to_owned(),
        id: 1,
        frontends: vec![
            FrontendRow {
                kind: "ClusterIP".to_owned(),
                address: Some([10, 96, 0, 10].into()),
                port: 80,
            },
            FrontendRow {
                kind: "NodePort".to_owned(),
                address: None,
                port: 30080,
            },
        ],
        endpoints: vec![
            EndpointRow {
                address: ([10, 1, 0, 1], 8080).into(),
                local: true,
            },
            EndpointRow {
                address: ([10, 1, 1, 2], 8080).into(),
                local: false,
            },
        ],
        connections: 300,
        refused: 7,
    };
    let text = services(std::slice::from_ref(&row), false);
    assert_fits(&text);
    let expected = "\
SERVICE                   PROTO  TYPE      ADDRESSES                  READY (HERE)  NEW CONNS
default/order-service:80  TCP    NodePort  10.96.0.10:80 (ClusterIP)         2 (1)        300
                                           *:30080 (NodePort)
";
    assert_eq!(text, expected);
    let text = services(&[row], true);
    assert_fits(&text);
    assert!(
        text.contains("ENDPOINTS") && text.contains("10.1.0.1:8080 here"),
        "{text}"
    );
    assert_eq!(services(&[], false), "No services.\n");
}

#[test]
fn flows_fit_even_with_long_addresses_and_say_when_the_list_was_cut() {
    let address = |tail: u16| -> std::net::SocketAddr {
        (
            std::net::Ipv6Addr::new(0x2001, 0xdb8, 0x1111, 0x2222, 0x3333, 0x4444, 0x5555, tail),
            40_000,
        )
            .into()
    };
    let flow = FlowEntry {
        protocol: "TCP".to_owned(),
        client: address(1),
        frontend: address(2),
        backend: address(3),
        snat: Some(address(4)),
        service: Some("default/order-service:80".to_owned()),
        state: "established".to_owned(),
        marks: vec!["transit".to_owned()],
        idle_seconds: 3,
    };
    let text = flows(&FlowsPage {
        flows: vec![flow],
        truncated: true,
    });
    assert_fits(&text);
    assert!(text.contains("--limit"));
    assert_eq!(flows(&FlowsPage::default()), "No flows.\n");
}

#[test]
fn ages_use_one_unit() {
    let ages: Vec<String> = [0, 119, 120, 7_200, 172_800].map(age).to_vec();
    assert_eq!(ages, ["0 s", "119 s", "2 min", "2 h", "2 d"]);
}

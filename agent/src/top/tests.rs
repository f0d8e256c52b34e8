use super::page::{HEAD, Look, number, page};
use super::*;
use crate::admin::{ReasonCount, ServiceCounters};

fn service(name: &str, id: u32, (connections, refused): (u64, u64), endpoints: usize) -> ServiceCounters {
    ServiceCounters {
        service: name.to_owned(),
        protocol: "TCP".to_owned(),
        family: "IPv4".to_owned(),
        id,
        connections,
        refused,
        traffic: None,
        endpoints,
        local: 1,
    }
}

fn reason(label: &str, count: u64) -> ReasonCount {
    let reason = Reason::ALL.iter().find(|reason| reason.label() == label);
    ReasonCount {
        reason: label.to_owned(),
        count,
        drop: reason.is_some_and(|reason| reason.is_drop()),
        description: String::new(),
    }
}

fn moment(seconds: u64, services: Vec<ServiceCounters>, reasons: Vec<ReasonCount>) -> Counters {
    let maps = [("FLOWS", 1), ("HALF_OPEN", 0), ("FRONTENDS", 995)];
    let map = |(name, used): (&str, u64)| MapStatus {
        name: name.to_owned(),
        purpose: String::new(),
        used: Some(used),
        limit: 1000,
    };
    Counters {
        node: "n1".to_owned(),
        at_nanos: seconds * 1_000_000_000,
        services,
        reasons,
        maps: maps.map(map).to_vec(),
        backends: vec![],
    }
}

fn rates() -> Rates {
    let before = moment(
        10,
        vec![
            service("shop/web:80", 1, (100, 0), 3),
            service("shop/api:80", 2, (50, 9), 2),
        ],
        vec![
            reason("new_flow", 150),
            reason("no_endpoints", 7),
            reason("left_to_tcx", 0),
        ],
    );
    let after = moment(
        14,
        vec![
            service("shop/web:80", 1, (120, 6), 3),
            service("shop/api:80", 2, (90, 9), 2),
            // Its id was another's, whose counter it does not go on with.
            service("shop/new:80", 3, (4, 1), 0),
        ],
        vec![
            reason("new_flow", 214),
            reason("no_endpoints", 9),
            reason("source_range", 4),
            reason("left_to_tcx", 99),
            reason("not_service", 8),
        ],
    );
    Rates::between(&before, after)
}

#[test]
fn rates_are_differences_of_two_moments_and_a_counter_that_was_begun_anew_counts_from_zero() {
    let rates = rates();
    let of = |name: &str| {
        let row = rates.services.iter().find(|row| row.service.starts_with(name));
        row.map(|row| row.rate)
    };
    assert_eq!(
        (of("shop/web"), of("shop/api"), of("shop/new")),
        (Some(5.0), Some(10.0), Some(1.0))
    );
    assert_eq!((rates.connections, rates.translated, rates.passed), (16.0, 16.0, 2.0));
    assert_eq!(rates.refused, 1.5);
    let refused: Vec<_> = rates
        .services
        .iter()
        .map(|row| (row.refused_rate, row.refused))
        .collect();
    assert_eq!(refused, [(1.5, 6), (0.0, 9), (0.25, 1)]);
    let drops: Vec<_> = rates.drops.iter().map(|one| (one.reason.as_str(), one.rate)).collect();
    assert_eq!(drops, [("source_range", 1.0), ("no_endpoints", 0.5)]);
    let fallen = Rates::between(
        &moment(1, vec![service("a/b:1", 1, (70, 7), 1)], vec![]),
        moment(2, vec![service("a/b:1", 1, (3, 0), 1)], vec![]),
    );
    assert_eq!(fallen.services[0].rate, 3.0);
}

#[test]
fn services_are_sorted_by_what_was_asked_for_and_the_other_way_round() {
    let mut rates = rates();
    for (sort, expected) in [
        (Sort::Rate, ["api", "web", "new"]),
        (Sort::Total, ["web", "api", "new"]),
        (Sort::Refused, ["web", "new", "api"]),
        (Sort::Endpoints, ["new", "api", "web"]),
        (Sort::Name, ["api", "new", "web"]),
    ] {
        let order = |rates: &Rates| -> Vec<String> {
            let name = |row: &ServiceRate| row.service["shop/".len()..row.service.len() - 3].to_owned();
            rates.services.iter().map(name).collect()
        };
        rates.sort(sort, false);
        assert_eq!(order(&rates), expected, "{sort:?}");
        rates.sort(sort, true);
        let reversed: Vec<_> = expected.into_iter().rev().collect();
        assert_eq!(order(&rates), reversed, "{sort:?}");
    }
}

#[test]
fn a_page_fits_its_terminal_and_says_everything_without_colours() {
    let mut rates = rates();
    rates.services[0].service = format!("namespace-{}/end:80", "x".repeat(90));
    rates.backends = vec![BackendFlows {
        address: ([10, 0, 0, 1], 8080).into(),
        local: true,
        flows: 12,
    }];
    rates.sort(Sort::Rate, false);
    for width in [80, 100, 200] {
        let look = Look {
            width,
            rows: Some(24 - HEAD - 1),
            cursor: Some(1),
            open: Some(2),
            ..Look::whole(Sort::Rate, false)
        };
        let lines = page(&rates, &look);
        assert!(
            lines.len() < 24 && lines.iter().all(|line| line.chars().count() <= width),
            "{lines:#?}"
        );
        assert!(
            lines[1].contains("connections 16.0, translated 16.0, passed on 2.0, socket calls 0"),
            "{}",
            lines[1]
        );
        assert!(lines[2].contains("1.5/s, source_range 1.0/s (4)"), "{}", lines[2]);
        assert!(
            lines[3].contains("FLOWS <1%, HALF_OPEN 0%, FRONTENDS 99%"),
            "{}",
            lines[3]
        );
        assert!(lines[HEAD].starts_with("  shop/api:80"), "{lines:#?}");
        assert!(
            lines[HEAD + 1].contains("10.0.0.1:8080") && lines[HEAD + 1].contains("12 flows"),
            "{lines:#?}"
        );
        assert!(
            lines[HEAD + 2].starts_with("> ") && lines[HEAD + 2].contains("x/end:80"),
            "{lines:#?}"
        );
        assert!(
            lines[HEAD - 1].ends_with("CONNS REFUSED/S READY(HERE)"),
            "nothing is cut off: {lines:#?}"
        );
        assert!(lines[HEAD].ends_with("2 (1)"), "{lines:#?}");
        assert!(!lines.concat().contains('\u{1b}'));
    }
    let scrolled = Look {
        rows: Some(1),
        first: 3,
        ..Look::whole(Sort::Rate, false)
    };
    assert_eq!(page(&rates, &scrolled).len(), HEAD, "past the end there is nothing");
}

#[test]
fn bytes_are_shown_and_sorted_by_where_they_are_counted() {
    let carried = |name: &str, id: u32, request_bytes: u64, reply_bytes: u64| ServiceCounters {
        traffic: Some(TrafficCount {
            request_packets: 1,
            request_bytes,
            reply_packets: 1,
            reply_bytes,
        }),
        ..service(name, id, (7, 0), 1)
    };
    let before = moment(1, vec![carried("shop/web:80", 1, 1_000, 5_000)], vec![]);
    let after = moment(
        3,
        vec![
            carried("shop/web:80", 1, 2_000, 45_000),
            carried("shop/api:80", 2, 100_000, 0),
            service("shop/idle:80", 3, (0, 0), 1),
        ],
        vec![],
    );
    let mut rates = Rates::between(&before, after);
    let web = rates.services[0].traffic.expect("counted");
    assert_eq!(
        (web.request_bytes, web.reply_bytes, web.reply_packets),
        (500.0, 20_000.0, 0.0)
    );
    rates.sort(Sort::Bytes, false);
    let look = Look {
        width: 80,
        ..Look::whole(Sort::Bytes, false)
    };
    let lines = page(&rates, &look);
    assert!(lines[0].ends_with("by bytes/s, over 2.0 s"), "{}", lines[0]);
    assert!(
        lines[HEAD - 1].ends_with("BYTES/S REFUSED/S READY(HERE)"),
        "{}",
        lines[HEAD - 1]
    );
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let shown: Vec<_> = lines[HEAD..]
        .iter()
        .map(|line| words(line))
        .map(|words| (words[0].clone(), words[4].clone()))
        .collect();
    let expected = [
        ("shop/api:80", "50.0k"),
        ("shop/web:80", "20.5k"),
        ("shop/idle:80", "0"),
    ];
    assert_eq!(shown, expected.map(|(name, bytes)| (name.to_owned(), bytes.to_owned())));
}

#[test]
fn numbers_keep_to_their_column() {
    for (value, text) in [
        (0.0, "0"),
        (0.04, "0"),
        (0.05, "0.1"),
        (99.94, "99.9"),
        (99.95, "100"),
        (9_999.4, "9999"),
        (9_999.5, "10.0k"),
        (1e6, "1.0M"),
        (2.5e9, "2.5G"),
    ] {
        assert_eq!(number(value), text, "{value}");
    }
}

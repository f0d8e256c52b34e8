use super::*;
use crate::admin::{FrontendRow, NamedFrontend};
use bytemuck::Zeroable;
use ferrogate_common::{Port, Tuple};
use std::net::Ipv4Addr;

const SECOND: u64 = 1_000_000_000;

fn names() -> Names {
    let named = |service: &str, address: Option<IpAddr>, port| NamedFrontend {
        service: service.to_owned(),
        protocol: "TCP".to_owned(),
        family: "IPv4".to_owned(),
        frontend: FrontendRow {
            kind: "ClusterIP".to_owned(),
            address,
            port,
        },
    };
    Names {
        frontends: vec![
            named("shop/web:80", Some([10, 96, 0, 10].into()), 80),
            named("shop/api:80", None, 30_080),
        ],
        pod: vec![],
    }
}

fn event(edge: u8, destination: [u8; 4], port: u16, reason: Reason) -> TraceEvent {
    let mut event = TraceEvent::zeroed();
    event.nanos = 7 * SECOND;
    event.edge = edge;
    event.reason = reason as u8;
    event.ifindex = 3;
    event.tuple = Tuple {
        source: Ipv4Addr::new(10, 244, 1, 9).into(),
        destination: Ipv4Addr::from(destination).into(),
        source_port: Port::new(40_000),
        destination_port: Port::new(port),
        protocol: Protocol::Tcp as u8,
        ..Tuple::zeroed()
    };
    event
}

fn reader() -> Reader {
    let now = "2026-03-01T12:00:10Z".parse().expect("a time");
    let sources = BTreeMap::from([(1, Ipv4Addr::new(192, 0, 2, 1).into())]);
    Reader::new(10 * SECOND, now, sources, &names())
}

fn line(event: &TraceEvent) -> Line {
    let name = |ifindex: u32| (ifindex == 3).then(|| "eth0".to_owned());
    let caller = (event.edge == trace_edge::SOCKET).then(|| ("curl[7]".to_owned(), Some([10, 244, 1, 9].into())));
    reader().line(event, name, caller).expect("a line")
}

#[test]
fn a_line_has_the_addresses_before_and_after_and_the_time_of_this_node_s_clock() {
    let mut new = event(trace_edge::UPLINK, [192, 0, 2, 1], 30_080, Reason::NewFlow);
    new.flow.address = Ipv4Addr::new(10, 244, 2, 8).into();
    new.flow.port = Port::new(8080);
    new.flow.generation = 1;
    new.flow.source = 1;
    new.flow.source_port = Port::new(24_001);
    new.flow.flags = flow_flags::SNAT;
    assert_eq!(
        line(&new).text(),
        "12:00:07.000 uplink/eth0 TCP 10.244.1.9:40000 -> 192.0.2.1:30080 => 10.244.2.8:8080 as 192.0.2.1:24001  shop/api:80"
    );
    new.flow.flags = 0;
    assert!(
        line(&new).text().contains("=> 10.244.2.8:8080  shop/api:80"),
        "{}",
        line(&new).text()
    );
    let refused = event(trace_edge::SOCKET, [10, 96, 0, 10], 80, Reason::NoEndpoints);
    assert_eq!(
        line(&refused).text(),
        "12:00:07.000 socket TCP 10.244.1.9 curl[7] -> 10.96.0.10:80 REFUSED no_endpoints  shop/web:80"
    );
    assert!(line(&refused).refused && line(&refused).backend.is_none());
    let unknown = event(trace_edge::POD, [10, 96, 0, 99], 80, Reason::UnknownClusterIp);
    assert_eq!(line(&unknown).service, None);
}

#[test]
fn filters_take_what_has_the_service_or_one_of_the_addresses() {
    let web = line(&event(trace_edge::POD, [10, 96, 0, 10], 80, Reason::NoEndpoints));
    let takes = |service: Option<&str>, addresses: &[[u8; 4]]| {
        let filter = Filter {
            service: service.map(str::to_owned),
            addresses: addresses.iter().map(|address| IpAddr::from(*address)).collect(),
        };
        filter.takes(&web)
    };
    assert!(takes(None, &[]) && takes(Some("web"), &[]) && takes(Some("shop/web"), &[[10, 244, 1, 9]]));
    assert!(takes(None, &[[1, 1, 1, 1], [10, 96, 0, 10]]));
    assert!(!takes(Some("api"), &[]) && !takes(Some("web"), &[[1, 1, 1, 1]]));
}

#[test]
fn verdicts_and_reasons_choose_what_is_told() {
    let bit = |reason: Reason| 1u64 << reason as u8;
    let new = bit(Reason::NewFlow) | bit(Reason::SocketTranslated);
    assert_eq!(reasons(Some(Verdict::New), &[]), new);
    assert_eq!(reasons(Some(Verdict::New), &[Reason::NoEndpoints]), 0);
    assert_eq!(reasons(None, &[Reason::NoEndpoints]), bit(Reason::NoEndpoints));
    let refused = reasons(Some(Verdict::Refused), &[]);
    assert_eq!(reasons(None, &[]), refused | new);
    assert_eq!(refused & (bit(Reason::NotService) | bit(Reason::Translated) | new), 0);
}

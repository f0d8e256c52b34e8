//! Endpoints, each with why it is used or not.

use super::View;
use crate::admin::EndpointExplanation;
use crate::views;
use ferrogate_control::{EndpointExplained, Outside, Place};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Those that the API has, then those that only connections from before still go to.
pub(super) fn endpoints(view: &View<'_>, flows: &BTreeMap<SocketAddr, u64>) -> Vec<EndpointExplanation> {
    let mut flows = flows.clone();
    let mut rows: Vec<EndpointExplanation> = Vec::new();
    for one in &view.port.endpoints {
        let address = views::socket(one.endpoint.address, one.endpoint.port);
        rows.push(EndpointExplanation {
            address,
            pod: one.pod.clone(),
            node: one.node.clone(),
            zone: one.zone.clone(),
            local: one.endpoint.local,
            state: state(one).to_owned(),
            weight: one.weight,
            cluster: one.cluster.is_in() && !one.drained,
            local_set: one.local.map(Place::is_in),
            verdict: verdict(view, one),
            flows: flows.remove(&address).unwrap_or_default(),
            gone: false,
        });
    }
    rows.extend(flows.into_iter().map(|(address, flows)| EndpointExplanation {
        address,
        pod: None,
        node: None,
        zone: None,
        local: false,
        state: "gone".to_owned(),
        weight: 0,
        cluster: false,
        local_set: None,
        verdict: "no: no endpoint any more; its connections live on".to_owned(),
        flows,
        gone: true,
    }));
    rows
}

/// By its conditions.
pub(super) fn state(one: &EndpointExplained) -> &'static str {
    match (one.ready, one.terminating) {
        (true, _) => "ready",
        (false, true) => "terminating",
        (false, false) => "not ready",
    }
}

fn verdict(view: &View<'_>, one: &EndpointExplained) -> String {
    if view
        .programmed
        .is_none_or(|port| !port.backends.contains_key(&one.endpoint))
        && one.cluster.is_in()
        && !one.drained
    {
        return "no: it is not programmed (yet)".to_owned();
    }
    let local_only = one.local.is_some_and(Place::is_in);
    match one.cluster {
        _ if one.drained => "no: weight 0".to_owned(),
        Place::Ready if one.local == Some(Place::Out(Outside::NotLocal)) => {
            "yes, but not for policy Local: not on this node".to_owned()
        }
        Place::Ready => "yes".to_owned(),
        Place::LastResort => "yes: none is ready, and it still serves".to_owned(),
        // Topology does not apply to the Local set, and each set has a last resort of its own.
        Place::Out(why) if local_only => format!("only for policy Local; else {}", reason(one, why)),
        Place::Out(why) => format!("no: {}", reason(one, why)),
    }
}

fn reason(one: &EndpointExplained, why: Outside) -> String {
    match why {
        Outside::NotReady => "it is not ready".to_owned(),
        Outside::Terminating => "it is terminating, and others are ready".to_owned(),
        Outside::Ended => "it is terminating and serves no more".to_owned(),
        Outside::OtherZone => format!("hints give it to zone {}", one.zone_hints.join(", ")),
        Outside::OtherNode => "hints give it to other nodes".to_owned(),
        Outside::NotLocal => "it is not on this node".to_owned(),
    }
}

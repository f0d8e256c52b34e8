//! Metrics that are looked up when they are asked for: in the maps, in the model, in /proc.

use super::spec::{Kind, Spec};
use super::{by_family, process, spec};
use crate::admin::MapStatus;
use crate::kernel::Counted;
use ferrogate_common::{Reason, Traffic, trace_edge};
use ferrogate_control::{Family, PortName};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What is looked up. Called on a thread that may block.
pub(crate) trait Observe: fmt::Debug + Send + Sync + 'static {
    fn observe(&self) -> Observation;
}

/// The state of the source, for its label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SourceLabel {
    Syncing,
    Synced,
    Away,
}

/// What was counted of a Service port.
pub(crate) type ServiceCounted = (PortName, Counted);

/// The agent and its maps at one moment. What could not be read is left out.
#[derive(Clone, Debug)]
pub(crate) struct Observation {
    /// By label of the reason.
    pub(crate) reasons: Vec<(&'static str, u64)>,
    pub(crate) services: Vec<ServiceCounted>,
    pub(crate) maps: Vec<MapStatus>,
    /// What Service ports are not given, by the map that has no room.
    pub(crate) refused: BTreeMap<&'static str, u64>,
    /// Service ports without an endpoint here that their policy Local asks for, by policy and family.
    pub(crate) no_local: BTreeMap<(&'static str, Family), u64>,
    pub(crate) pending_services: usize,
    pub(crate) pending_slices: usize,
    pub(crate) service_ports: usize,
    /// Those without a usable endpoint.
    pub(crate) without_endpoints: usize,
    pub(crate) source: SourceLabel,
    /// For how long the source has been away; zero while it is not.
    pub(crate) away: Duration,
    pub(crate) problems: usize,
}

#[derive(Debug)]
pub(super) struct Observer {
    observe: Arc<dyn Observe>,
    /// Service ports to list, at most.
    services: usize,
}

impl Observer {
    pub(super) fn new(observe: Arc<dyn Observe>, services: usize) -> Self {
        Self { observe, services }
    }
}

impl Collector for Observer {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let found = self.observe.observe();
        let mut out = Out(&mut encoder);
        out.single(&spec::SERVICE_PENDING, found.pending_services as f64)?;
        out.single(&spec::ENDPOINT_PENDING, found.pending_slices as f64)?;
        let policies = ["internal", "external"].into_iter();
        let no_local = policies.flat_map(|policy| Family::ALL.map(|family| (policy, family)));
        let no_local = no_local.map(|(policy, family)| {
            let [family_label] = by_family(family);
            let count = found.no_local.get(&(policy, family)).copied().unwrap_or(0);
            ([("traffic_policy", policy), family_label], count as f64)
        });
        out.gauge(&spec::NO_LOCAL, no_local)?;
        let packets = found
            .reasons
            .iter()
            .map(|(reason, count)| ([("reason", *reason)], *count));
        out.counter(&spec::PACKETS, packets)?;
        self.connections(&found.services, &mut out)?;
        self.refusals(&found.services, &mut out)?;
        self.traffic(&found.services, &mut out)?;
        maps(&found.maps, &mut out)?;
        let refused = found
            .refused
            .iter()
            .map(|(map, count)| ([("map", *map)], *count as f64));
        out.gauge(&spec::REFUSED, refused)?;
        out.single(&spec::SERVICE_PORTS, found.service_ports as f64)?;
        out.single(&spec::WITHOUT_ENDPOINTS, found.without_endpoints as f64)?;
        let states = [
            (SourceLabel::Syncing, "syncing"),
            (SourceLabel::Synced, "synced"),
            (SourceLabel::Away, "away"),
        ];
        let states = states.map(|(state, label)| ([("state", label)], f64::from(u8::from(state == found.source))));
        out.gauge(&spec::SOURCE, states)?;
        out.single(&spec::SOURCE_AWAY, found.away.as_secs_f64())?;
        out.single(&spec::PROBLEMS, found.problems as f64)?;
        let build = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("abi", ferrogate_common::ABI_VERSION.to_string()),
        ];
        out.gauge(&spec::BUILD, [(build, 1.0)])?;
        processes(&mut out)
    }
}

impl Observer {
    fn connections(&self, services: &[ServiceCounted], out: &mut Out<'_, '_>) -> fmt::Result {
        let (shown, omitted) = self.most(services, Counted::connections);
        let rows = shown.iter().flat_map(|(port, counted)| {
            let edges = [("packet", counted.packet), ("socket", counted.socket)];
            let counted = edges.into_iter().filter(|(_, count)| *count > 0);
            counted.map(|(edge, count)| ((port_labels(port), [("edge", edge)]), count))
        });
        out.counter(&spec::CONNECTIONS, rows)?;
        out.single(&spec::CONNECTIONS_OMITTED, omitted as f64)
    }

    fn refusals(&self, services: &[ServiceCounted], out: &mut Out<'_, '_>) -> fmt::Result {
        let (shown, omitted) = self.most(services, |counted| counted.refused(None));
        let rows = shown.iter().flat_map(|(port, counted)| {
            let labels = |reason: Reason, edge| [("reason", reason.label()), ("edge", trace_edge::name(edge))];
            let refusals = counted.refusals.iter();
            refusals.map(move |((reason, edge), count)| ((port_labels(port), labels(*reason, *edge)), *count))
        });
        out.counter(&spec::REFUSALS, rows)?;
        out.single(&spec::REFUSALS_OMITTED, omitted as f64)
    }

    fn traffic(&self, services: &[ServiceCounted], out: &mut Out<'_, '_>) -> fmt::Result {
        let (shown, _) = self.most(services, |counted| counted.traffic.bytes.iter().sum());
        for (spec, of) in [
            (
                &spec::SERVICE_PACKETS,
                (|traffic| traffic.packets) as fn(&Traffic) -> [u64; 2],
            ),
            (&spec::SERVICE_BYTES, |traffic| traffic.bytes),
        ] {
            let rows = shown.iter().flat_map(|(port, counted)| {
                let both = ["request", "reply"].into_iter().zip(of(&counted.traffic));
                both.map(|(direction, count)| ((port_labels(port), [("direction", direction)]), count))
            });
            out.counter(spec, rows)?;
        }
        Ok(())
    }

    /// Those with the most, as many as may be listed, and how many more have any.
    fn most<'a>(
        &self,
        services: &'a [ServiceCounted],
        of: impl Fn(&Counted) -> u64,
    ) -> (Vec<&'a ServiceCounted>, usize) {
        let mut some: Vec<&ServiceCounted> = services.iter().filter(|(_, counted)| of(counted) > 0).collect();
        some.sort_by(|(one, a), (other, b)| of(b).cmp(&of(a)).then_with(|| one.cmp(other)));
        let omitted = some.len().saturating_sub(self.services);
        some.truncate(self.services);
        (some, omitted)
    }
}

fn port_labels(port: &PortName) -> [(&'static str, String); 5] {
    [
        ("namespace", port.service.namespace.to_string()),
        ("service", port.service.name.to_string()),
        ("port", port.port.to_string()),
        ("protocol", port.protocol.name().to_owned()),
        ("ip_family", port.family.to_string()),
    ]
}

fn maps(maps: &[MapStatus], out: &mut Out<'_, '_>) -> fmt::Result {
    let used: Vec<(&MapStatus, u64)> = maps.iter().filter_map(|map| Some((map, map.used?))).collect();
    let label = |map: &MapStatus| [("map", map.name.clone())];
    out.gauge(
        &spec::MAP_ENTRIES,
        used.iter().map(|(map, used)| (label(map), *used as f64)),
    )?;
    out.gauge(&spec::MAP_MAX, maps.iter().map(|map| (label(map), map.limit as f64)))?;
    let pressure = used.iter().filter(|(map, _)| map.limit > 0);
    out.gauge(
        &spec::MAP_PRESSURE,
        pressure.map(|(map, used)| (label(map), *used as f64 / map.limit as f64)),
    )?;
    let flows = used.iter().filter_map(|(map, used)| {
        let table = match map.name.as_str() {
            "FLOWS" => "established",
            "HALF_OPEN" => "half-open",
            "SNAT_FLOWS" => "snat",
            _ => return None,
        };
        Some(([("table", table)], *used as f64))
    });
    out.gauge(&spec::FLOWS, flows)
}

fn processes(out: &mut Out<'_, '_>) -> fmt::Result {
    let found = process::read();
    for (spec, value) in [
        (&spec::PROCESS_CPU, found.cpu_seconds),
        (&spec::PROCESS_RESIDENT, found.resident_bytes),
        (&spec::PROCESS_VIRTUAL, found.virtual_bytes),
        (&spec::PROCESS_FDS, found.open_fds),
        (&spec::PROCESS_MAX_FDS, found.max_fds),
        (&spec::PROCESS_START, found.start_seconds),
    ] {
        value.map_or(Ok(()), |value| out.single(spec, value))?;
    }
    Ok(())
}

/// Metrics by their specification; without values, without a word.
struct Out<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Out<'_, '_> {
    /// A metric without labels.
    fn single(&mut self, spec: &Spec, value: f64) -> fmt::Result {
        let mut encoder = self
            .0
            .encode_descriptor(spec.family(), spec.help, None, spec.kind.encoded())?;
        match spec.kind {
            Kind::Counter => encoder.encode_counter::<NoLabelSet, f64, f64>(&value, None),
            Kind::Gauge | Kind::Histogram => encoder.encode_gauge(&value),
        }
    }

    fn gauge<L: EncodeLabelSet>(&mut self, spec: &Spec, values: impl IntoIterator<Item = (L, f64)>) -> fmt::Result {
        self.family(spec, values, |mut encoder, value| encoder.encode_gauge(&value))
    }

    fn counter<L: EncodeLabelSet>(&mut self, spec: &Spec, values: impl IntoIterator<Item = (L, u64)>) -> fmt::Result {
        self.family(spec, values, |mut encoder, value| {
            encoder.encode_counter::<NoLabelSet, u64, f64>(&value, None)
        })
    }

    fn family<L: EncodeLabelSet, N>(
        &mut self,
        spec: &Spec,
        values: impl IntoIterator<Item = (L, N)>,
        write: impl Fn(MetricEncoder<'_>, N) -> fmt::Result,
    ) -> fmt::Result {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let kind = spec.kind.encoded();
        let mut encoder = self.0.encode_descriptor(spec.family(), spec.help, None, kind)?;
        values.try_for_each(|(labels, value)| write(encoder.encode_family(&labels)?, value))
    }
}

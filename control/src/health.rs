//! What load balancers ask of a node: whether a Service has endpoints there.

use crate::ingest::{ServiceModel, SliceModel};
use crate::names::Family;
use std::collections::{BTreeMap, BTreeSet};

/// `spec.healthCheckNodePort` of a Service of type LoadBalancer with externalTrafficPolicy Local, and the answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthCheck {
    /// Host order.
    pub port: u16,
    /// Endpoints on this node that are ready, each address once, for each family that the Service has a ClusterIP of.
    ///
    /// Endpoints that are terminating and still serve do not count: connections go on to them, but a load balancer should
    /// look for another node. Source: `EndpointsMap.LocalReadyEndpoints` in Kubernetes' `pkg/proxy`.
    pub ready: BTreeMap<Family, usize>,
}

impl HealthCheck {
    pub(crate) fn of<'a>(model: &ServiceModel, slices: impl Iterator<Item = &'a SliceModel>) -> Option<Self> {
        let port = model.health_check_node_port?;
        let mut addresses: BTreeMap<Family, BTreeSet<_>> = BTreeMap::new();
        // A slice without a port leads nowhere.
        for slice in slices.filter(|slice| !slice.ports.is_empty()) {
            let here = slice.endpoints.iter().filter(|one| one.local && one.ready);
            addresses
                .entry(slice.family)
                .or_default()
                .extend(here.map(|one| one.address));
        }
        let families = Family::ALL.into_iter().filter(|family| model.has(*family));
        Some(Self {
            port,
            ready: families
                .map(|family| (family, addresses.get(&family).map_or(0, BTreeSet::len)))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::{Family, Index, Options, ServiceName};
    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use serde::de::DeserializeOwned;

    fn read<T: DeserializeOwned>(text: &str) -> T {
        serde_yaml_ng::from_str(text).expect("a manifest")
    }

    fn service(rest: &str) -> Service {
        read(&format!(
            "metadata: {{name: web, namespace: shop}}
spec: {{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], ports: [{{port: 80, protocol: TCP}}], {rest}}}"
        ))
    }

    fn slice(name: &str, family: &str, endpoints: &str) -> EndpointSlice {
        read(&format!(
            "metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: {family}
ports: [{{name: '', port: 8080, protocol: TCP}}, {{name: more, port: 8081, protocol: TCP}}]
endpoints: [{endpoints}]"
        ))
    }

    const ASKED: &str = "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 32000";
    const TERMINATING: &str =
        "{addresses: [10.1.0.3], nodeName: n1, conditions: {ready: false, serving: true, terminating: true}}";

    fn index() -> Index {
        Index::new(Options {
            node_name: "n1".to_owned(),
            ..Options::default()
        })
    }

    fn ready(index: &Index) -> Option<(u16, Vec<usize>)> {
        let check = index.health_check(&ServiceName::new("shop", "web"))?;
        Some((
            check.port,
            Family::ALL
                .iter()
                .filter_map(|family| check.ready.get(family).copied())
                .collect(),
        ))
    }

    #[test]
    fn only_ready_endpoints_of_this_node_count_and_each_address_once_in_its_family() {
        let mut index = index();
        index.apply_service(&service(ASKED));
        assert_eq!(ready(&index), Some((32_000, vec![0, 0])), "no slice yet");
        let other = "{addresses: [10.1.0.2], nodeName: n2}";
        let not_ready = "{addresses: [10.1.0.4], nodeName: n1, conditions: {ready: false}}";
        index.apply_slice(&slice("a", "IPv4", &format!("{other}, {TERMINATING}, {not_ready}")));
        assert_eq!(ready(&index), Some((32_000, vec![0, 0])));
        let one = "{addresses: [10.1.0.1], nodeName: n1}";
        index.apply_slice(&slice("b", "IPv4", one));
        index.apply_slice(&slice(
            "c",
            "IPv4",
            &format!("{one}, {{addresses: [10.1.0.5], nodeName: n1}}"),
        ));
        assert_eq!(ready(&index), Some((32_000, vec![2, 0])));
        index.apply_slice(&slice("d", "IPv6", "{addresses: ['fd01::1'], nodeName: n1}"));
        assert_eq!(ready(&index), Some((32_000, vec![2, 1])));
        index.delete_slice("shop", "b");
        index.delete_slice("shop", "c");
        assert_eq!(ready(&index), Some((32_000, vec![0, 1])));
    }

    #[test]
    fn only_a_load_balancer_of_policy_local_is_asked_about() {
        let mut index = index();
        for rest in [
            "type: LoadBalancer, externalTrafficPolicy: Cluster, healthCheckNodePort: 32000",
            "type: NodePort, externalTrafficPolicy: Local, healthCheckNodePort: 32000",
            "type: LoadBalancer, externalTrafficPolicy: Local",
        ] {
            index.apply_service(&service(rest));
            assert_eq!(ready(&index), None, "{rest}");
        }
        let news = index.apply_service(&service(
            "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 70000",
        ));
        assert!(
            news.iter()
                .any(|notice| notice.to_string().contains("healthCheckNodePort 70000")),
            "{news:?}"
        );
    }

    #[test]
    fn a_service_is_marked_by_its_changes_until_it_is_compiled() {
        let mut index = index();
        index.apply_service(&service(ASKED));
        assert!(index.is_marked("shop", "web"));
        index.compile();
        index.apply_service(&service(ASKED));
        assert!(!index.is_marked("shop", "web"), "nothing is different");
        index.apply_service(&service(
            "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 32001",
        ));
        assert!(index.is_marked("shop", "web"), "the port is");
    }
}

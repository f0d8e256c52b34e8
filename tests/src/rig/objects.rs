//! The Kubernetes objects of a rig, as the JSON that the API and manifests share.
use std::net::IpAddr;

use serde_json::{Value, json};

use super::addresses::{self, Family, Pair};
use crate::wire::Protocol;

/// The namespace of everything that does not say otherwise.
pub const NAMESPACE: &str = "default";

/// One port of a [`ServiceSpec`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub protocol: Protocol,
    pub port: u16,
    pub target_port: u16,
    pub node_port: Option<u16>,
}

/// A dual-stack Service that selects the pods with label `app: <app>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    pub namespace: String,
    pub name: String,
    pub app: String,
    pub cluster_ip: Pair,
    pub ports: Vec<ServicePort>,
    /// Merged into `spec` last: policies, affinity, and whatever else a test needs.
    pub spec: Value,
}

impl ServiceSpec {
    /// A Service without ports; `cluster_ip` is the number of its address (see [`addresses::cluster_ip`]).
    pub fn new(name: &str, app: &str, cluster_ip: u16) -> Self {
        Self {
            namespace: NAMESPACE.to_owned(),
            name: name.to_owned(),
            app: app.to_owned(),
            cluster_ip: addresses::cluster_ip(cluster_ip),
            ports: Vec::new(),
            spec: json!({}),
        }
    }

    /// Adds a port; with a node port the Service becomes one of type NodePort.
    pub fn port(mut self, protocol: Protocol, port: u16, target_port: u16, node_port: Option<u16>) -> Self {
        self.ports.push(ServicePort {
            protocol,
            port,
            target_port,
            node_port,
        });
        self
    }

    pub fn namespace(self, namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            ..self
        }
    }

    /// Adds fields to `spec`.
    pub fn spec(self, spec: Value) -> Self {
        Self { spec, ..self }
    }

    pub(crate) fn object(&self) -> Value {
        let node_ports = self.ports.iter().any(|port| port.node_port.is_some());
        let ports: Vec<_> = self.ports.iter().map(service_port).collect();
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": self.namespace, "name": self.name, "labels": {"app": self.app}},
            "spec": {
                "type": if node_ports { "NodePort" } else { "ClusterIP" },
                "clusterIP": self.cluster_ip.v4,
                "clusterIPs": self.cluster_ip.both(),
                "ipFamilies": ["IPv4", "IPv6"],
                "ipFamilyPolicy": "RequireDualStack",
                "selector": {"app": self.app},
                "ports": ports,
            }
        });
        if let (Some(spec), Some(more)) = (object["spec"].as_object_mut(), self.spec.as_object()) {
            spec.extend(more.clone());
        }
        object
    }

    /// The EndpointSlice of one family that the endpointslice controller would make.
    pub(crate) fn slice(&self, family: Family, endpoints: &[Endpoint]) -> Value {
        let (suffix, kind) = match family {
            Family::V4 => ("ipv4", "IPv4"),
            Family::V6 => ("ipv6", "IPv6"),
        };
        let endpoints: Vec<_> = endpoints.iter().map(|endpoint| endpoint.object(family)).collect();
        let ports: Vec<_> = self
            .ports
            .iter()
            .map(|p| json!({"name": port_name(p), "protocol": p.protocol.kubernetes(), "port": p.target_port}))
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": self.namespace,
                "name": format!("{}-{suffix}", self.name),
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "addressType": kind,
            "endpoints": endpoints,
            "ports": ports,
        })
    }
}

fn service_port(port: &ServicePort) -> Value {
    let mut object = json!({
        "name": port_name(port),
        "protocol": port.protocol.kubernetes(),
        "port": port.port,
        "targetPort": port.target_port,
    });
    if let Some(node_port) = port.node_port {
        object["nodePort"] = node_port.into();
    }
    object
}

fn port_name(port: &ServicePort) -> String {
    format!("{}-{}", port.protocol.kubernetes().to_lowercase(), port.port)
}

/// A pod as the endpoints of its Services see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) pod: String,
    pub(crate) node: String,
    pub(crate) addresses: Pair,
    pub(crate) ready: bool,
    pub(crate) terminating: bool,
}

impl Endpoint {
    fn object(&self, family: Family) -> Value {
        json!({
            "addresses": [self.addresses.get(family)],
            "conditions": {
                "ready": self.ready && !self.terminating,
                "serving": self.ready,
                "terminating": self.terminating,
            },
            "nodeName": self.node,
            "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": self.pod},
        })
    }
}

pub(crate) fn node(name: &str, index: u8) -> Value {
    let (v4, v6) = addresses::pod_ranges(index);
    let lan = addresses::lan(addresses::NODE_BASE + index);
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name,
            "topology.kubernetes.io/zone": format!("zone-{index}"),
        }},
        "spec": {"podCIDR": v4, "podCIDRs": [v4.to_string(), v6.to_string()]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": lan.v4},
                {"type": "InternalIP", "address": lan.v6},
                {"type": "Hostname", "address": name},
            ],
            "conditions": [condition("Ready", true)],
        },
    })
}

/// A Pod bound to its node, with the status that a kubelet would report.
pub(crate) fn pod(endpoint: &Endpoint, namespace: &str, app: &str, host_network: bool, host: IpAddr) -> Value {
    let ready = endpoint.ready;
    let ips: Vec<_> = endpoint.addresses.both().iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": endpoint.pod, "labels": {"app": app}},
        "spec": {
            "nodeName": endpoint.node,
            "hostNetwork": host_network,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "testpod", "image": "testpod"}],
        },
        "status": {
            "phase": "Running",
            "hostIP": host,
            "podIP": endpoint.addresses.v4,
            "podIPs": ips,
            "conditions": [condition("Ready", ready), condition("ContainersReady", ready)],
        },
    })
}

fn condition(kind: &str, status: bool) -> Value {
    json!({"type": kind, "status": if status { "True" } else { "False" }})
}

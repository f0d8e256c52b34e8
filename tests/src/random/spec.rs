//! What a sequence works on: Services and their EndpointSlices as the generator sees them, and the objects they become.
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::pool::{self, Backend};
use crate::rig::{Family, NAMESPACE, addresses};
use crate::wire::Protocol;

/// Services of a lane.
pub(super) const SERVICES: usize = 3;
/// Further addresses of a lane: the first half for load balancers, the second for externalIPs.
pub(super) const EXTRA_ADDRESSES: u8 = 8;
/// Room for a healthCheckNodePort for each ClusterIP of the lanes.
const HEALTH_PORTS: u16 = 700;
/// The label of Services and slices that belong to another proxy (KEP-2447).
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    ClusterIp,
    NodePort,
    LoadBalancer,
    /// `clusterIP: None`.
    Headless,
    ExternalName,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) node_port: u16,
}

/// An entry of `status.loadBalancer.ingress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ingress {
    /// One of the lane's addresses, by number and family; with `ipMode: Proxy` where `proxied`.
    Address {
        number: u8,
        family: Family,
        proxied: bool,
    },
    Hostname,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) name: String,
    /// Whether the object exists; its slices can stand without it.
    pub(super) present: bool,
    pub(super) kind: Kind,
    /// In the order of `spec.ipFamilies`.
    pub(super) families: Vec<Family>,
    /// Number of the ClusterIP ([`addresses::cluster_ip`]).
    pub(super) cluster_ip: u16,
    pub(super) ports: Vec<Port>,
    pub(super) internal_local: bool,
    pub(super) external_local: bool,
    /// sessionAffinity ClientIP with this timeout, in seconds.
    pub(super) affinity: Option<u32>,
    pub(super) ingress: Vec<Ingress>,
    /// `allocateLoadBalancerNodePorts`.
    pub(super) lb_node_ports: bool,
    pub(super) external_ips: Vec<(u8, Family)>,
    /// loadBalancerSourceRanges.
    pub(super) source_ranges: Vec<&'static str>,
    pub(super) foreign: bool,
    pub(super) headless_label: bool,
    pub(super) slices: Vec<Slice>,
}

/// How a slice names its Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attachment {
    Label,
    /// The label, and the one of headless Services: for nobody's proxy.
    Headless,
    /// No label at all.
    Nothing,
    /// The label of a Service that does not exist.
    Stranger,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) name: String,
    pub(super) family: Family,
    pub(super) attachment: Attachment,
    /// Holds names, for nobody's proxy.
    pub(super) fqdn: bool,
    pub(super) ports: Vec<SlicePort>,
    pub(super) endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlicePort {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    /// No number: all ports, which is none to a proxy.
    pub(super) port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) backend: Backend,
    /// Whether it says its node.
    pub(super) with_node: bool,
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
    pub(super) zones: Vec<u8>,
    pub(super) nodes: Vec<u8>,
}

/// The Services of one sequence, and the numbers that are its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lane {
    pub(super) number: u8,
    pub(super) services: Vec<Service>,
    /// Slices that lost their Service's label, by name, each with the number of its Service: kube-proxy does not notice
    /// ([`super::rules::Rule::RelabelledSlice`]).
    pub(super) relabelled: BTreeMap<String, usize>,
}

impl Lane {
    /// A further address of this lane.
    pub(super) fn address(&self, number: u8, family: Family) -> IpAddr {
        let host = self.number * EXTRA_ADDRESSES + number;
        match family {
            Family::V4 => Ipv4Addr::new(198, 51, 100, host).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 0x51, 0, 0, 0, 0, 0, host.into()).into(),
        }
    }

    /// Remembers the slices that had their Service's label before and have another one now.
    pub(super) fn note_relabelled(&mut self, before: &Lane) {
        for (index, (now, then)) in self.services.iter().zip(&before.services).enumerate() {
            let labelled = |slice: &&Slice| slice.attachment == Attachment::Label;
            for old in then.slices.iter().filter(labelled) {
                let new = now.slices.iter().find(|slice| slice.name == old.name);
                if new.is_some_and(|slice| matches!(slice.attachment, Attachment::Nothing | Attachment::Stranger)) {
                    self.relabelled.insert(old.name.clone(), index);
                }
            }
        }
    }

    /// What makes kube-proxy forget the slices that it did not see leave: created with their label, then deleted.
    pub(super) fn forgetting(&self) -> Vec<Value> {
        let object = |(name, index): (&String, &usize)| {
            let slice = Slice {
                name: name.clone(),
                family: if name.contains("-v4-") { Family::V4 } else { Family::V6 },
                attachment: Attachment::Label,
                fqdn: false,
                ports: Vec::new(),
                endpoints: Vec::new(),
            };
            slice.object(&self.services[*index].name)
        };
        self.relabelled.iter().map(object).collect()
    }

    /// Every object, by kind and name.
    pub(super) fn objects(&self) -> BTreeMap<String, Value> {
        let mut objects = BTreeMap::new();
        for service in &self.services {
            if service.present {
                objects.insert(format!("Service {}", service.name), self.service(service));
            }
            for slice in &service.slices {
                objects.insert(format!("EndpointSlice {}", slice.name), slice.object(&service.name));
            }
        }
        objects
    }

    fn service(&self, service: &Service) -> Value {
        let mut spec = json!({
            "type": match service.kind {
                Kind::ClusterIp | Kind::Headless => "ClusterIP",
                Kind::NodePort => "NodePort",
                Kind::LoadBalancer => "LoadBalancer",
                Kind::ExternalName => "ExternalName",
            },
            "ports": service.ports.iter().map(|port| service.port(port)).collect::<Vec<_>>(),
        });
        if service.kind == Kind::ExternalName {
            spec["externalName"] = "elsewhere.example".into();
        } else {
            self.addresses(service, &mut spec);
        }
        match service.affinity {
            Some(seconds) => {
                spec["sessionAffinity"] = "ClientIP".into();
                spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
            }
            None => spec["sessionAffinity"] = "None".into(),
        }
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": NAMESPACE, "name": service.name, "labels": service.labels()},
            "spec": spec,
        });
        if service.kind == Kind::LoadBalancer {
            let entries: Vec<_> = service.ingress.iter().map(|entry| self.ingress(*entry)).collect();
            object["status"] = json!({"loadBalancer": {"ingress": entries}});
        }
        object
    }

    fn addresses(&self, service: &Service, spec: &mut Value) {
        let ips = service.families.iter().map(|f| service.cluster_address(*f).to_string());
        let ips = if service.kind == Kind::Headless {
            vec!["None".to_owned()]
        } else {
            ips.collect()
        };
        let policy = if service.families.len() == 1 {
            "SingleStack"
        } else {
            "RequireDualStack"
        };
        let names: Vec<_> = service.families.iter().map(|family| family_name(*family)).collect();
        spec["clusterIP"] = ips[0].clone().into();
        spec["clusterIPs"] = ips.into();
        spec["ipFamilies"] = names.into();
        spec["ipFamilyPolicy"] = policy.into();
        let local = |local| if local { "Local" } else { "Cluster" };
        spec["internalTrafficPolicy"] = local(service.internal_local).into();
        let external: Vec<_> = service
            .external_ips
            .iter()
            .map(|&(number, family)| self.address(number, family).to_string())
            .collect();
        if service.is_externally_accessible() {
            spec["externalTrafficPolicy"] = local(service.external_local).into();
        }
        spec["externalIPs"] = external.into();
        if service.kind == Kind::LoadBalancer {
            spec["allocateLoadBalancerNodePorts"] = service.lb_node_ports.into();
            if !service.source_ranges.is_empty() {
                spec["loadBalancerSourceRanges"] = service.source_ranges.clone().into();
            }
            if service.external_local {
                // Left to the API server it could be a node port of another lane.
                let number = 32_000 + service.cluster_ip % HEALTH_PORTS;
                spec["healthCheckNodePort"] = number.into();
            }
        }
    }

    fn ingress(&self, entry: Ingress) -> Value {
        match entry {
            Ingress::Hostname => json!({"hostname": "balancer.example"}),
            Ingress::Address {
                number,
                family,
                proxied,
            } => json!({
                "ip": self.address(number, family),
                "ipMode": if proxied { "Proxy" } else { "VIP" },
            }),
        }
    }
}

impl Service {
    pub(super) fn cluster_address(&self, family: Family) -> IpAddr {
        addresses::cluster_ip(self.cluster_ip).get(family)
    }

    /// Whether proxies are to program it in this family.
    pub(super) fn is_programmed(&self, family: Family) -> bool {
        self.is_programmed_but_for_headless(family) && !self.headless_label
    }

    /// The same without a look at the label of headless Services.
    pub(super) fn is_programmed_but_for_headless(&self, family: Family) -> bool {
        self.present
            && !matches!(self.kind, Kind::Headless | Kind::ExternalName)
            && !self.foreign
            && self.families.contains(&family)
    }

    pub(super) fn has_node_ports(&self) -> bool {
        self.kind == Kind::NodePort || (self.kind == Kind::LoadBalancer && self.lb_node_ports)
    }

    /// What the API server calls so: where externalTrafficPolicy means something.
    pub(super) fn is_externally_accessible(&self) -> bool {
        match self.kind {
            Kind::NodePort | Kind::LoadBalancer => true,
            Kind::ClusterIp => !self.external_ips.is_empty(),
            Kind::Headless | Kind::ExternalName => false,
        }
    }

    fn port(&self, port: &Port) -> Value {
        let mut object = json!({"protocol": port.protocol.kubernetes(), "port": port.port, "targetPort": port.port});
        if !port.name.is_empty() {
            object["name"] = port.name.clone().into();
        }
        if self.has_node_ports() {
            object["nodePort"] = port.node_port.into();
        }
        object
    }

    fn labels(&self) -> Value {
        let mut labels = json!({"random": "yes"});
        if self.foreign {
            labels[PROXY_NAME] = "somebody-else".into();
        }
        if self.headless_label {
            labels[HEADLESS] = "".into();
        }
        labels
    }
}

impl Slice {
    fn object(&self, service: &str) -> Value {
        let mut labels = json!({"random": "yes"});
        match self.attachment {
            Attachment::Label => labels["kubernetes.io/service-name"] = service.into(),
            Attachment::Headless => {
                labels["kubernetes.io/service-name"] = service.into();
                labels[HEADLESS] = "".into();
            }
            Attachment::Stranger => labels["kubernetes.io/service-name"] = format!("{service}-stranger").into(),
            Attachment::Nothing => {}
        }
        let ports = self.ports.iter().map(|port| {
            let mut object = json!({"name": port.name, "protocol": port.protocol.kubernetes()});
            if let Some(number) = port.port {
                object["port"] = number.into();
            }
            object
        });
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"namespace": NAMESPACE, "name": self.name, "labels": labels},
            "addressType": if self.fqdn { "FQDN" } else { family_name(self.family) },
            "ports": ports.collect::<Vec<_>>(),
            "endpoints": self.endpoints.iter().map(|endpoint| self.endpoint(endpoint)).collect::<Vec<_>>(),
        })
    }

    fn endpoint(&self, endpoint: &Endpoint) -> Value {
        let address = if self.fqdn {
            format!("{}.pods.example", endpoint.backend.name())
        } else {
            endpoint.backend.addresses().get(self.family).to_string()
        };
        let mut conditions = json!({});
        for (name, value) in [
            ("ready", endpoint.ready),
            ("serving", endpoint.serving),
            ("terminating", endpoint.terminating),
        ] {
            if let Some(value) = value {
                conditions[name] = value.into();
            }
        }
        let mut object = json!({"addresses": [address], "conditions": conditions});
        if let (true, Some(node)) = (endpoint.with_node, endpoint.backend.node()) {
            object["nodeName"] = pool::node_name(node).into();
        }
        let mut hints = json!({});
        if !endpoint.zones.is_empty() {
            hints["forZones"] = endpoint
                .zones
                .iter()
                .map(|zone| json!({"name": pool::zone_name(*zone)}))
                .collect();
        }
        if !endpoint.nodes.is_empty() {
            hints["forNodes"] = endpoint
                .nodes
                .iter()
                .map(|node| json!({"name": pool::node_name(*node)}))
                .collect();
        }
        if hints != json!({}) {
            object["hints"] = hints;
        }
        object
    }
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

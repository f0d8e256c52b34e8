//! From the short form of a Service to the objects that an API server takes.
use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::addresses::{Public, fill_in};
use crate::rig::addresses::{NODE_BASE, lan};
use crate::rig::{Family, Pair};

/// A pod that stands, by its name.
#[derive(Clone, Debug)]
pub struct Standing {
    pub addresses: Pair,
    /// Its node, counted from 1.
    pub node: u8,
    /// On the network of its node.
    pub host: bool,
}

pub type Pods = BTreeMap<String, Standing>;

/// A Service and what belongs to it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Definition {
    /// Fields of `spec`, beside those that follow from the others.
    spec: Map<String, Value>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    /// Service ports; without any, 80 to 8080 over TCP and over UDP.
    ports: Option<Vec<Value>>,
    /// What the load balancer says: `{vip: 1}` is address 1 of both families, anything else stays as it is.
    ingress: Option<Vec<Value>>,
    /// Endpoints of slices that the case writes itself, one slice a family.
    endpoints: Option<Vec<Endpoint>>,
    /// Such slices one by one, when one a family will not do.
    slices: BTreeMap<String, Slice>,
    /// Pods whose slices the endpoint slice controller writes.
    pods: BTreeMap<String, Pod>,
    /// Leave the selector out although there are pods.
    no_selector: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Endpoint {
    Name(String),
    Full(FullEndpoint),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct FullEndpoint {
    pod: String,
    /// Instead of the pod's address.
    address: Option<String>,
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
    zones: Option<Vec<String>>,
    nodes: Option<Vec<String>>,
    /// An endpoint without `nodeName`.
    nowhere: bool,
    /// Addresses after the first one.
    also: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Slice {
    family: Family,
    endpoints: Vec<Endpoint>,
    /// As in the API; without any, those of the Service.
    ports: Option<Vec<Value>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Pod {
    /// The pod whose network it has: the API server's Pod is a name of its own for it.
    pub(super) on: String,
    #[serde(default = "yes")]
    pub(super) ready: bool,
    /// Being deleted, with a grace period that nobody ends.
    #[serde(default)]
    pub(super) terminating: bool,
    /// Container ports by name.
    #[serde(default)]
    pub(super) ports: BTreeMap<String, u16>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

/// What the API server is to hold for one Service.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub all: Vec<Value>,
    /// Pods that are being deleted.
    pub dying: Vec<Value>,
    /// (address, ready) that the controller's slices must come to, when it writes them.
    pub promised: Option<Vec<(String, bool)>>,
}

/// The objects of a Service in the namespace of its case.
pub fn objects(pods: &Pods, case: u16, namespace: &str, name: &str, written: &Value) -> Result<Objects> {
    let mut written = written.clone();
    fill_in(&mut written, case);
    let definition: Definition = serde_json::from_value(written).with_context(|| format!("Service {name}"))?;
    let meta = |name: &str| json!({"namespace": namespace, "name": name});
    let mut objects = Objects::default();
    let ports = definition.ports.clone().unwrap_or_else(usual_ports);
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": meta(name),
        "spec": spec(&definition, name, &ports),
    });
    service["metadata"]["labels"] = json!(definition.labels);
    service["metadata"]["annotations"] = json!(definition.annotations);
    if let Some(ingress) = &definition.ingress {
        let ingress: Vec<_> = ingress.iter().flat_map(|entry| entries(entry, case)).collect();
        service["status"] = json!({"loadBalancer": {"ingress": ingress}});
    }
    objects.all.push(service);
    let mut slices = definition.slices.clone();
    if let Some(endpoints) = &definition.endpoints {
        for (suffix, family) in [("v4", Family::V4), ("v6", Family::V6)] {
            let slice = Slice {
                family,
                endpoints: endpoints.clone(),
                ports: None,
            };
            slices.insert(suffix.to_owned(), slice);
        }
    }
    for (suffix, slice) in &slices {
        let mut object = slice.object(pods, &ports)?;
        object["metadata"] = meta(&format!("{name}-{suffix}"));
        object["metadata"]["labels"] = json!({"kubernetes.io/service-name": name});
        objects.all.push(object);
    }
    for (pod_name, pod) in &definition.pods {
        let mut object = pod.object(pods, name)?;
        object["metadata"]["namespace"] = namespace.into();
        object["metadata"]["name"] = pod_name.as_str().into();
        if pod.terminating {
            objects.dying.push(object.clone());
        }
        objects.all.push(object);
    }
    if !definition.pods.is_empty() && !definition.no_selector {
        objects.promised = Some(promise(&definition, pods)?);
    }
    Ok(objects)
}

fn spec(definition: &Definition, name: &str, ports: &[Value]) -> Value {
    let mut spec = json!({"ports": ports});
    let given = |field: &str| definition.spec.contains_key(field);
    let external_name = definition.spec.get("type").is_some_and(|kind| kind == "ExternalName");
    if definition.ingress.is_some() && !given("type") {
        spec["type"] = "LoadBalancer".into();
    }
    let families = definition.spec.get("ipFamilies").and_then(Value::as_array);
    if !given("ipFamilyPolicy") && families.is_none_or(|families| families.len() == 2) && !external_name {
        spec["ipFamilyPolicy"] = "RequireDualStack".into();
    }
    if !definition.pods.is_empty() && !definition.no_selector {
        spec["selector"] = json!({"app": name});
    }
    for (field, value) in &definition.spec {
        spec[field] = value.clone();
    }
    spec
}

fn usual_ports() -> Vec<Value> {
    ["TCP", "UDP"]
        .iter()
        .map(|protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": 80, "targetPort": 8080}))
        .collect()
}

/// `{vip: N}` stands for an entry of each family; its other fields go along.
fn entries(entry: &Value, case: u16) -> Vec<Value> {
    let Some(vip) = entry["vip"].as_u64() else {
        return vec![entry.clone()];
    };
    let one = |family| {
        let mut entry = entry.clone();
        if let Some(fields) = entry.as_object_mut() {
            fields.remove("vip");
        }
        entry["ip"] = Public::LoadBalancer.address(case, vip as u8, family).to_string().into();
        entry
    };
    Family::BOTH.map(one).to_vec()
}

impl Slice {
    fn object(&self, pods: &Pods, service_ports: &[Value]) -> Result<Value> {
        let kind = match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        let ports = self.ports.clone().unwrap_or_else(|| {
            let target = |port: &Value| json!({"name": port["name"].as_str().unwrap_or(""), "protocol": port["protocol"], "port": port["targetPort"]});
            service_ports.iter().map(target).collect()
        });
        let endpoints: Vec<_> = self
            .endpoints
            .iter()
            .map(|endpoint| endpoint.object(self.family, pods))
            .collect::<Result<_>>()?;
        Ok(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "addressType": kind, "endpoints": endpoints, "ports": ports,
        }))
    }
}

impl Endpoint {
    fn object(&self, family: Family, pods: &Pods) -> Result<Value> {
        let full = match self {
            Endpoint::Name(pod) => FullEndpoint {
                pod: pod.clone(),
                ..FullEndpoint::default()
            },
            Endpoint::Full(full) => full.clone(),
        };
        let pod = standing(pods, &full.pod)?;
        let first = full.address.unwrap_or_else(|| pod.addresses.get(family).to_string());
        let mut addresses = vec![first];
        for other in &full.also {
            addresses.push(standing(pods, other)?.addresses.get(family).to_string());
        }
        let mut endpoint = json!({"addresses": addresses, "zone": format!("zone-{}", pod.node)});
        if !full.nowhere {
            endpoint["nodeName"] = format!("n{}", pod.node).into();
        }
        let conditions = [
            ("ready", full.ready),
            ("serving", full.serving),
            ("terminating", full.terminating),
        ];
        for (name, value) in conditions {
            if let Some(value) = value {
                endpoint["conditions"][name] = value.into();
            }
        }
        for (field, names) in [("forZones", &full.zones), ("forNodes", &full.nodes)] {
            if let Some(names) = names {
                let names: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
                endpoint["hints"][field] = names.into();
            }
        }
        Ok(endpoint)
    }
}

impl Pod {
    fn object(&self, pods: &Pods, app: &str) -> Result<Value> {
        let pod = standing(pods, &self.on)?;
        let condition = |kind| json!({"type": kind, "status": if self.ready { "True" } else { "False" }});
        let ips: Vec<_> = pod.addresses.both().iter().map(|ip| json!({"ip": ip})).collect();
        let ports: Vec<_> = ["TCP", "UDP"]
            .iter()
            .flat_map(|protocol| {
                let port = move |(name, port): (&String, &u16)| json!({"name": format!("{name}-{}", protocol.to_lowercase()), "containerPort": port, "protocol": protocol});
                self.ports.iter().map(port)
            })
            .collect();
        let mut labels = self.labels.clone();
        labels.entry("app".to_owned()).or_insert_with(|| app.to_owned());
        Ok(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"labels": labels},
            "spec": {
                "nodeName": format!("n{}", pod.node),
                "hostNetwork": pod.host,
                "terminationGracePeriodSeconds": 600,
                "containers": [{"name": "testpod", "image": "testpod", "ports": ports}],
            },
            "status": {
                "phase": "Running", "hostIP": lan(NODE_BASE + pod.node).v4, "podIP": pod.addresses.v4, "podIPs": ips,
                "conditions": [condition("Ready"), condition("ContainersReady")],
            },
        }))
    }
}

pub fn standing<'a>(pods: &'a Pods, name: &str) -> Result<&'a Standing> {
    pods.get(name).with_context(|| format!("no pod {name} in the rig"))
}

/// The addresses that the controller's slices will name, with the condition ready.
fn promise(definition: &Definition, pods: &Pods) -> Result<Vec<(String, bool)>> {
    let spec = &definition.spec;
    let families: Vec<Family> = match spec.get("ipFamilies").and_then(Value::as_array) {
        Some(families) => families
            .iter()
            .map(|family| if family == "IPv6" { Family::V6 } else { Family::V4 })
            .collect(),
        None if spec.get("ipFamilyPolicy").is_some_and(|policy| policy == "SingleStack") => vec![Family::V4],
        None => Family::BOTH.to_vec(),
    };
    let publish = spec.get("publishNotReadyAddresses").is_some_and(|value| value == true);
    let mut promised = Vec::new();
    let chosen = definition.pods.values().filter(|pod| !pod.labels.contains_key("app"));
    for pod in chosen {
        let ready = publish || (pod.ready && !pod.terminating);
        for family in &families {
            promised.push((standing(pods, &pod.on)?.addresses.get(*family).to_string(), ready));
        }
    }
    promised.sort();
    Ok(promised)
}
